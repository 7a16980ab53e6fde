"""Every loss in every detector that can take it."""

from __future__ import annotations

import pytest
import torch
from detectors import (
    ONE_STAGE,
    K,
    assert_same,
    batch,
    detections_of,
    fcos,
    full_batch,
    losses_of,
    rcnn,
    retinanet,
)
from every_loss import SIGMOID, build

from detbalance.detection.heads import set_classification_loss
from detbalance.losses import LOSSES

DETECTORS = {
    "retinanet": retinanet,
    "fcos": fcos,
    "faster": rcnn,
    "mask": lambda seed=0: rcnn(seed, "mask"),
    "keypoint": lambda seed=0: rcnn(seed, "keypoint"),
}
PAIRS = [
    (detector, loss)
    for detector in DETECTORS
    for loss in LOSSES
    if loss in SIGMOID or detector not in ONE_STAGE
]


def listed_batch():
    """With the lists of LVIS, too."""
    images, targets = full_batch()
    for target in targets:
        target["negative_labels"] = torch.tensor([1])
        target["not_exhaustive_labels"] = torch.tensor([], dtype=torch.int64)
    return images, targets


@pytest.mark.parametrize(("detector", "loss"), PAIRS)
def test_every_loss_trains_detects_and_is_saved(detector, loss):
    images, targets = listed_batch()
    normalizer = "image" if detector in ("fcos", "faster") else "batch"
    model = DETECTORS[detector]()
    set_classification_loss(model, build(loss), normalizer=normalizer)
    losses = losses_of(model, images, targets)
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    layer = {
        n: p.grad for n, p in model.named_parameters() if "cls_logits.w" in n or "score.w" in n
    }
    assert all(g.abs().sum() > 0 for g in layer.values())
    (model if detector in ONE_STAGE else model.roi_heads).score_thresh = 1e-5
    before = detections_of(model, images)
    found = torch.cat([detection["labels"] for detection in before])
    assert len(found) > 0
    assert set(found.tolist()) <= set(range(1, K + 1))
    assert all(((d["scores"] > 0) & (d["scores"] <= 1)).all() for d in before)

    other = set_classification_loss(DETECTORS[detector](seed=1), build(loss), normalizer=normalizer)
    other.load_state_dict(model.state_dict())
    (other if detector in ONE_STAGE else other.roi_heads).score_thresh = 1e-5
    for a, b in zip(before, detections_of(other, images), strict=True):
        assert_same(a, b)
    torch.manual_seed(7)  # the federated loss draws classes
    again = losses_of(model, images, targets)
    assert_same(again, losses_of(other, images, targets))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_starts_low(loss):
    """What a new last layer starts from is no shock: a sampled region costs a few nats at most."""
    images, targets = listed_batch()
    model = set_classification_loss(rcnn(), build(loss))
    assert losses_of(model, images, targets)["loss_classifier"] < 10


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_nothing_in_eval_mode(loss):
    images, targets = listed_batch()
    model = set_classification_loss(rcnn(), build(loss))
    losses_of(model, images, targets)
    before = state_of_loss(model)
    detections_of(model, images)
    assert_same(before, state_of_loss(model))


def state_of_loss(model):
    return {
        key: value.clone()
        for key, value in model.state_dict().items()
        if "classification_loss" in key and isinstance(value, torch.Tensor)
    }


# A warning of PyTorch about its own tracing, of any model.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    ("loss", "backend"), [("focal", "aot_eager"), ("equalized_focal", "eager")]
)
def test_a_compiled_model_trains_like_the_plain_one(loss, backend):
    images, targets = (part[:1] for part in batch())
    results = []
    for compiled in (False, True):
        torch.compiler.reset()
        model = set_classification_loss(retinanet(), build(loss))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        call = torch.compile(model, backend=backend) if compiled else model
        model.train()
        for _ in range(2):
            optimizer.zero_grad()
            losses = call(images, targets)
            sum(losses.values()).backward()
            optimizer.step()
        results.append((losses, model.state_dict()))
    (losses, state), (again, other) = results
    torch.testing.assert_close(losses, again, rtol=1e-4, atol=1e-6)
    for key, value in state.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, other[key], rtol=1e-4, atol=1e-5, msg=key)
