"""Crowd regions in the training of a detector."""

from __future__ import annotations

import copy

import pytest
import torch
from detectors import (
    BUILDERS,
    COUNTS,
    ONE_STAGE,
    assert_same,
    batch,
    captured_head_loss,
    gradients_of,
    losses_of,
    rcnn,
    with_crowd,
)

from detbalance.detection.heads import set_classification_loss
from detbalance.detection.targets import covered
from detbalance.losses import SigmoidFocalLoss, SoftmaxCrossEntropyLoss


def test_covered_is_the_share_of_the_box_itself():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10.1], [20, 20, 30, 30], [-5, 0, 5, 2]])
    crowd = torch.tensor([[0.0, 0, 10, 5.01], [0, 0, 3, 3]])
    assert covered(boxes, crowd).tolist() == [True, False, False, False]


@pytest.mark.parametrize("loss", [None, SigmoidFocalLoss(COUNTS)], ids=["stock", "focal"])
@pytest.mark.parametrize("name", ONE_STAGE)
def test_one_stage_detectors_learn_nothing_inside_a_crowd_region(name, loss):
    model = set_classification_loss(BUILDERS[name](), copy.deepcopy(loss))
    image = [torch.rand(3, 96, 96)]
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    logits = {}

    def keep(module, args, output):
        output["cls_logits"].retain_grad()
        logits["of"] = output["cls_logits"]

    model.head.register_forward_hook(keep)
    losses, seen = captured_head_loss(model, image, [with_crowd(empty, [20.0, 10.0, 80.0, 70.0])])
    losses["classification"].backward()
    touched = logits["of"].grad[0].abs().sum(1) > 0
    inside = covered(seen["anchors"][0], seen["targets"][0]["crowd"])
    assert 10 < inside.sum() < len(inside) - 10
    assert torch.equal(touched, ~inside)
    assert all(value == 0 for part, value in losses.items() if part != "classification")


@pytest.mark.parametrize("loss", [None, SigmoidFocalLoss(COUNTS)], ids=["stock", "focal"])
@pytest.mark.parametrize("name", ONE_STAGE)
def test_objects_inside_a_crowd_region_still_count(name, loss):
    images, targets = batch()
    model = set_classification_loss(BUILDERS[name](), copy.deepcopy(loss))
    plain, seen = captured_head_loss(model, images[:1], targets[:1])
    # The crowd row comes first, so that rows of boxes shift.
    crowd = with_crowd({k: v[:0] for k, v in targets[0].items()}, [0.0, 0.0, 112.0, 112.0])
    mixed = {k: torch.cat([crowd[k], targets[0][k]]) for k in crowd}
    around, again = captured_head_loss(model, images[:1], [mixed])
    assert torch.equal(seen["matched"][0], again["matched"][0])
    assert torch.equal(seen["targets"][0]["boxes"], again["targets"][0]["boxes"])
    for part in plain.keys() - {"classification"}:
        assert plain[part] == around[part] > 0
    # Nearly all background is ignored.
    assert 0 < around["classification"] < plain["classification"]


def test_a_replaced_transform_is_named():
    images, targets = batch()
    model = BUILDERS["retinanet"]()
    transform = copy.deepcopy(model.transform)
    set_classification_loss(model, SigmoidFocalLoss(COUNTS))
    model.transform = transform
    with pytest.raises(ValueError, match=r"If model\.transform was replaced, call set_class"):
        losses_of(model, images, targets)


def test_proposal_network_takes_no_background_from_a_crowd_region():
    model = set_classification_loss(rcnn(), None)
    boxes = torch.tensor([[10.0, 10, 30, 30], [60, 60, 84, 84], [12, 12, 30, 30], [2, 2, 12, 12]])
    target = {"boxes": torch.tensor([[10.0, 10, 30, 30]]), "labels": torch.tensor([2])}
    plain, _ = model.rpn.assign_targets_to_anchors([boxes], [target])
    assert plain[0].tolist() == [1, 0, 1, 0]
    mixed = with_crowd(target, [50.0, 50.0, 96.0, 96.0], [0.0, 0.0, 31.0, 31.0])
    labels, matched = model.rpn.assign_targets_to_anchors([boxes], [mixed])
    assert labels[0].tolist() == [1, -1, 1, -1]
    assert torch.equal(matched[0][0], target["boxes"][0])


def test_second_stage_samples_nothing_inside_a_crowd_region():
    model = set_classification_loss(rcnn(), SoftmaxCrossEntropyLoss(COUNTS))
    crowd = [50.0, 50.0, 96.0, 96.0]
    target = {
        "boxes": torch.tensor([crowd, [10.0, 10, 30, 30]]),
        "labels": torch.tensor([-1, 3]),
    }
    proposals = torch.tensor([[60.0, 60, 84, 84], [12, 10, 30, 30], [40, 2, 60, 12]])
    proposals, rows, labels, _ = model.roi_heads.select_training_samples([proposals], [target])
    kept = {tuple(p.tolist()): int(n) for p, n in zip(proposals[0], labels[0], strict=True)}
    assert kept == {(12.0, 10, 30, 30): 3, (40.0, 2, 60, 12): 0, (10.0, 10, 30, 30): 3}
    assert set(rows[0][labels[0] > 0].tolist()) == {1}


def test_a_crowd_box_is_no_proposal_even_where_it_overlaps_an_object():
    model = set_classification_loss(rcnn(), None)
    target = {
        "boxes": torch.tensor([[10.0, 10, 30, 30], [10.0, 10, 31, 30]]),
        "labels": torch.tensor([3, -1]),
    }
    proposals, _, labels, _ = model.roi_heads.select_training_samples(
        [torch.tensor([[50.0, 50, 80, 80]])], [target]
    )
    assert [10.0, 10, 31, 30] not in proposals[0].tolist()
    assert sorted(labels[0].tolist()) == [0, 3]


@pytest.mark.parametrize("loss", [None, SigmoidFocalLoss(COUNTS), SoftmaxCrossEntropyLoss(COUNTS)])
@pytest.mark.parametrize("name", BUILDERS)
def test_a_batch_that_is_all_crowd_has_finite_losses(name, loss):
    if name in ONE_STAGE and isinstance(loss, SoftmaxCrossEntropyLoss):
        pytest.skip("softmax losses are refused by one-stage detectors")
    model = set_classification_loss(BUILDERS[name](), copy.deepcopy(loss))
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    target = with_crowd(empty, [-200.0, -200.0, 400.0, 400.0])
    losses = losses_of(model, [torch.rand(3, 96, 96)], [target])
    total = sum(losses.values())
    assert total == 0
    total.backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", BUILDERS)
def test_crowd_rows_change_no_loss_outside_of_them(name):
    """A crowd box in a corner without anchors or regions changes nothing at all."""
    images, targets = batch()
    model = set_classification_loss(BUILDERS[name](), None)
    mixed = [with_crowd(t, [95.0, 95.0, 95.5, 95.5]) for t in targets]
    plain = gradients_of(model, images, targets)
    if name in ONE_STAGE:
        assert_same(plain, gradients_of(model, images, mixed))
    else:
        torch.testing.assert_close(
            losses_of(model, images, targets)["loss_objectness"],
            losses_of(model, images, mixed)["loss_objectness"],
        )
