"""Weights that were trained with one loss, loaded into a model with another."""

from __future__ import annotations

import io

import pytest
import torch
from detectors import BUILDERS, COUNTS, assert_same, batch, detections_of, losses_of, rcnn
from every_loss import SIGMOID, build

from detbalance.detection.heads import set_classification_loss
from detbalance.losses import LOSSES, SigmoidFocalLoss, SoftmaxCrossEntropyLoss

OTHERS = [name for name in SIGMOID if name != "focal"]


def with_loss(name, loss):
    return set_classification_loss(BUILDERS[name](), loss)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("name", BUILDERS)
def test_weights_of_another_loss_are_refused(name, other, strict):
    """Of equal width or not: shapes do not hide the reason."""
    state = with_loss(name, build(other)).state_dict()
    message = rf"trained with {LOSSES[other].__name__}, this one has SigmoidFocalLoss\. The same"
    with pytest.raises(ValueError, match=message):
        with_loss(name, SigmoidFocalLoss(COUNTS)).load_state_dict(state, strict=strict)


@pytest.mark.parametrize("loss", ["cross_entropy", "equalization_v2", "ldam", "seesaw"])
def test_weights_of_an_rcnn_with_another_loss_are_refused(loss):
    state = with_loss("fasterrcnn", build(loss)).state_dict()
    message = rf"trained with {LOSSES[loss].__name__}, this one has BalancedSoftmaxLoss\."
    with pytest.raises(ValueError, match=message):
        with_loss("fasterrcnn", build("balanced_softmax")).load_state_dict(state)


@pytest.mark.parametrize("name", BUILDERS)
def test_weights_of_a_loss_are_refused_by_a_model_without_one(name):
    state = with_loss(name, SigmoidFocalLoss(COUNTS)).state_dict()
    message = r"trained with SigmoidFocalLoss, this one has torchvision's own loss\. .*set_class"
    with pytest.raises(ValueError, match=message):
        with_loss(name, None).load_state_dict(state)


@pytest.mark.parametrize("name", BUILDERS)
def test_stock_weights_are_refused_by_a_model_with_a_loss(name):
    state = BUILDERS[name]().state_dict()
    message = r"trained with torchvision's own loss, this one has SigmoidFocalLoss\. The same"
    with pytest.raises(ValueError, match=message):
        with_loss(name, SigmoidFocalLoss(COUNTS)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"this one has SoftmaxCrossEntropyLoss"):
        with_loss("fasterrcnn", SoftmaxCrossEntropyLoss(COUNTS)).load_state_dict(
            rcnn().state_dict()
        )


@pytest.mark.parametrize("name", BUILDERS)
def test_a_part_of_a_state_is_loaded_as_ever(name):
    state = BUILDERS[name](seed=3).state_dict()
    part = {key: value for key, value in state.items() if key.startswith("backbone")}
    model = with_loss(name, SigmoidFocalLoss(COUNTS))
    missing, unexpected = model.load_state_dict(part, strict=False)
    assert missing
    assert not unexpected
    assert_same(part, {key: model.state_dict()[key] for key in part})
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict(part)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({f"module.{key}": value for key, value in state.items()})


@pytest.mark.parametrize("name", BUILDERS)
def test_the_state_survives_a_file_and_works_on(name):
    images, targets = batch()
    model = with_loss(name, build("equalization_v2"))
    losses_of(model, images, targets)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = with_loss(name, build("equalization_v2"))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same(losses_of(model, images, targets), losses_of(other, images, targets))
    for a, b in zip(detections_of(model, images), detections_of(other, images), strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_state_of_an_earlier_version_is_read(name):
    """The name of the loss was in a dict."""
    model = with_loss(name, SigmoidFocalLoss(COUNTS))
    state = model.state_dict()
    (key,) = (key for key in state if key.endswith("_extra_state"))
    state[key] = {"loss": "SigmoidFocalLoss"}
    other = with_loss(name, SigmoidFocalLoss(COUNTS))
    other.load_state_dict(state)
    assert_same(model.state_dict(), other.state_dict())
    with pytest.raises(ValueError, match=r"with SigmoidFocalLoss, this one has BalancedSigmoid"):
        with_loss(name, build("balanced_sigmoid")).load_state_dict(state)
    with pytest.raises(ValueError, match=r"with SigmoidFocalLoss, this one has torchvision's"):
        with_loss(name, None).load_state_dict(state)


@pytest.mark.parametrize("broken", [{}, {"loss": 3}, torch.zeros(2), torch.zeros(1, 3).byte(), 7])
def test_a_damaged_name_of_the_loss_is_refused(broken):
    model = with_loss("retinanet", SigmoidFocalLoss(COUNTS))
    state = model.state_dict()
    (key,) = (key for key in state if key.endswith("_extra_state"))
    with pytest.raises(ValueError, match="The same loss is expected"):
        model.load_state_dict({**state, key: broken})
