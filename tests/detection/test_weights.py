"""Weights from a file: what is kept of a trained detector, and files that are none."""

from __future__ import annotations

import io

import pytest
import safetensors.torch as safetensors
import torch
from squares import make_data, write_config
from untrained import untrained_checkpoint

from detbalance.data import Categories
from detbalance.detection import weights as weights_module
from detbalance.detection.heads import set_classification_loss
from detbalance.detection.models import build_detector
from detbalance.losses import LOSSES
from detbalance.training.config import load_config
from detbalance.training.setup import build_model

CHECKPOINT = {"names": ["ant", "bee", "cat"]}
DETECTORS = ["retinanet", "fcos", "fasterrcnn"]


def save(tmp_path, state):
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    return str(path)


def trained(detector, loss, classes=4):
    """A detector all of whose tensors differ from those of a new one."""
    model = build_detector(classes, detector=detector, backbone="tiny")
    set_classification_loss(model, loss)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    return model


def loaded(model, path, names=("ant", "bee", "cat")):
    weights_module.load_file(model, path, names)
    return model


@pytest.mark.parametrize(
    ("detector", "loss"),
    [(d, name) for d in DETECTORS for name in (None, "focal", "equalization_v2")]
    + [("fasterrcnn", name) for name in ("ldam", "seesaw", "group_softmax")],
)
@pytest.mark.parametrize("earlier", [False, True])
def test_the_class_layer_of_the_same_classes_and_loss_is_kept(
    detector, loss, earlier, tmp_path, caplog
):
    def built():
        return None if loss is None else LOSSES[loss]([0, 9, 5, 1])

    source = trained(detector, built())
    state = source.state_dict()
    if earlier:  # the name of the loss was in a dict
        names = {k: {"loss": LOSSES[loss].__name__} for k in state if k.endswith("_extra_state")}
        state = {**state, **names}
    path = save(tmp_path, {"model": state, "categories": CHECKPOINT})
    model = build_detector(4, detector=detector, backbone="tiny")
    model = loaded(set_classification_loss(model, built()), path)
    theirs = dict(source.named_parameters())
    assert all(torch.equal(value, theirs[name]) for name, value in model.named_parameters())
    assert not caplog.text


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize(
    ("names", "classes", "loss", "reason"),
    [
        (
            ["ant", "cat", "bee"],
            4,
            "focal",
            'other classes (class 2 is "bee", of this one "cat")',
        ),
        (["ant", "bee"], 3, "focal", "another number of classes (3, this one has 2)"),
        (["ant", "bee", "cat"], 4, "equalized_focal", "SigmoidFocalLoss, this one has Equal"),
        (["ant", "bee", "cat"], 4, None, "SigmoidFocalLoss, this one has torchvision's own loss"),
        (
            ["a", "bee", "cat"],
            4,
            None,
            '"a") and with SigmoidFocalLoss, this one has torchvision',
        ),
    ],
)
def test_the_class_layer_of_other_classes_or_another_loss_is_left_out_for_that(
    detector, names, classes, loss, reason, tmp_path, caplog
):
    source = trained(detector, LOSSES["focal"]([0, 9, 5, 1]))
    path = save(tmp_path, {"model": source.state_dict(), "categories": CHECKPOINT})
    model = build_detector(classes, detector=detector, backbone="tiny")
    if loss is not None:
        set_classification_loss(model, LOSSES[loss](range(classes)))
    before = {name: value.clone() for name, value in model.named_parameters()}
    loaded(model, path, names)
    changed = {n for n, v in model.named_parameters() if not torch.equal(v, before[n])}
    layers = {"cls_logits", "cls_score"}
    layers |= {"bbox_pred"} if names != CHECKPOINT["names"] else set()
    for name in before:
        inside = name.split(".")[-2] in layers and "rpn" not in name
        assert inside == (name not in changed), name
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert len(record.getMessage().splitlines()) == 1


def test_columns_of_other_groups_are_another_loss(tmp_path, caplog):
    source = trained("fasterrcnn", LOSSES["group_softmax"]([0, 9, 50, 1]))
    path = save(tmp_path, {"model": source.state_dict(), "categories": CHECKPOINT})
    model = build_detector(4, detector="fasterrcnn", backbone="tiny")
    loaded(set_classification_loss(model, LOSSES["group_softmax"]([0, 50, 9, 1])), path)
    assert "trained with GroupSoftmaxLoss with the groups" in caplog.text
    with pytest.raises(ValueError, match=r"GroupSoftmaxLoss with the groups .*The same loss is"):
        model.load_state_dict(source.state_dict())


def broken_files():
    """Weights of a detector with something wrong."""
    state = build_detector(4, backbone="tiny").state_dict()
    first = next(iter(state))
    whole = io.BytesIO()
    torch.save(state, whole)
    for content in (whole.getvalue(), safetensors.save(state)):
        for place in (0, 1, 40, 200, 3000, len(content) - 30):
            yield content[:place] + b"\x85R0.(cos\nsystem\n(S'" + content[place + 20 :]
            yield content[:place]
    values = [
        "text",
        3,
        None,
        [state[first]],
        {"a": 1},
        state[first].to_sparse(),
        state[first] * 1j,
    ]
    values += [state[first].to("meta"), torch.zeros(3), torch.zeros(0)]
    for value in values:
        yield {**state, first: value}
    yield from ({}, [], None, "text", {"model": {}}, {"model": 3}, {3: 4}, {None: state[first]})
    yield torch.nn.Linear(2, 2)  # needs a class, which weights_only refuses


def test_every_malformed_file_of_weights_ends_in_one_line_of_ours(tmp_path):
    for i, content in enumerate(broken_files()):
        for suffix in ("pt", "safetensors"):
            path = tmp_path / f"{i}.{suffix}"
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                torch.save(content, path)
            model = build_detector(4, backbone="tiny")
            try:
                weights_module.load_file(model, str(path), ["a", "b", "c"])
            except ValueError as error:
                message = str(error)
                assert message.startswith(str(path))
                assert message.endswith(("Correct weights.", "Correct weights or backbone."))
                assert "weights_only" not in message
                assert "\n" not in message


@pytest.mark.parametrize("names", [("red", "green"), ("green", "red")])
def test_a_run_goes_on_from_the_whole_of_another_run_of_the_same_classes(names, tmp_path, caplog):
    file = write_config(make_data(tmp_path / "data"), tmp_path)
    checkpoint = untrained_checkpoint(file, tmp_path / "data/train.json", tmp_path / "last.pt")
    classes, counts = Categories((1, 2), names), [0, 8, 2]
    model = build_model(load_config(file, [f"model.weights={checkpoint}"]), classes, counts)
    key = "head.classification_head.cls_logits.weight"
    saved = torch.load(checkpoint, weights_only=True)["model"][key]
    assert torch.equal(model.state_dict()[key], saved) == (names == ("red", "green"))
    said = 'was trained on other classes (class 1 is "red", of this one "green")' in caplog.text
    assert said == (names != ("red", "green"))
