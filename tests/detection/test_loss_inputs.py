"""What the heads hand to a classification loss."""

from __future__ import annotations

import pytest
import torch
from detectors import (
    BUILDERS,
    COUNTS,
    ONE_STAGE,
    K,
    batch,
    captured_head_loss,
    losses_of,
    rcnn,
    with_crowd,
)
from torchvision.ops import box_iou

from detbalance.detection.heads import set_classification_loss
from detbalance.detection.targets import CROWD_LABEL, over_ranks, paired_iou
from detbalance.losses import SigmoidFocalLoss, SoftmaxCrossEntropyLoss


class Spy(SigmoidFocalLoss):
    """Keeps what it is called with."""

    extra_inputs = frozenset({"quality", "image_index", "image_labels"})

    def __init__(self, counts, extra_inputs=extra_inputs, normalized_by="foreground"):
        super().__init__(counts)
        self.extra_inputs, self.normalized_by, self.calls = extra_inputs, normalized_by, []

    def forward(self, logits, labels, *, normalizer=None, **further):
        self.calls.append({"logits": logits, "labels": labels, "normalizer": normalizer, **further})
        return super().forward(logits, labels, normalizer=normalizer)


def seen_by_loss(model, images, targets):
    losses_of(model, images, targets)
    loss = next(module for module in model.modules() if isinstance(module, Spy))
    (call,) = loss.calls
    return call


@pytest.mark.parametrize("extra_inputs", [set(), {"quality"}, {"image_index"}, {"image_labels"}])
@pytest.mark.parametrize("normalizer", ["batch", "image"])
@pytest.mark.parametrize("name", BUILDERS)
def test_a_loss_is_called_once_and_given_what_it_wants(name, normalizer, extra_inputs):
    images, targets = batch()
    model = set_classification_loss(
        BUILDERS[name](), Spy(COUNTS, extra_inputs), normalizer=normalizer
    )
    call = seen_by_loss(model, images, targets)
    assert call.keys() == {"logits", "labels", "normalizer", *extra_inputs}
    assert len(call["logits"]) == len(call["labels"])


@pytest.mark.parametrize("name", BUILDERS)
def test_rows_are_numbered_by_image(name):
    images, targets = batch()
    call = seen_by_loss(set_classification_loss(BUILDERS[name](), Spy(COUNTS)), images, targets)
    index, labels = call["image_index"], call["labels"]
    assert index.dtype == torch.int64
    assert (index.diff() >= 0).all()
    assert set(index.tolist()) == {0, 1, 2}
    for image, target in enumerate(targets):
        found = labels[(index == image) & (labels > 0)]
        assert set(found.tolist()) <= set(target["labels"].tolist())


@pytest.mark.parametrize("name", BUILDERS)
def test_lists_of_an_image_become_a_table(name):
    images, targets = batch()
    targets[0]["negative_labels"] = torch.tensor([1, 4])
    targets[2]["negative_labels"] = torch.tensor([], dtype=torch.int64)
    targets[2]["not_exhaustive_labels"] = torch.tensor([2])
    call = seen_by_loss(set_classification_loss(BUILDERS[name](), Spy(COUNTS)), images, targets)
    assert call["image_labels"].dtype == torch.int8
    assert call["image_labels"].tolist() == [[0, 1, 0, 0, 1], [0] * 5, [0, 0, -1, 0, 0]]


@pytest.mark.parametrize("name", ONE_STAGE)
def test_quality_is_the_overlap_of_the_predicted_box_with_its_object(name):
    images, targets = batch()
    targets[2] = with_crowd(targets[2], [0.0, 0.0, 20.0, 20.0])
    model = set_classification_loss(BUILDERS[name](), Spy(COUNTS))
    torch.nn.init.normal_(model.head.regression_head.bbox_reg.weight, std=0.1)
    _, seen = captured_head_loss(model, images, targets)
    call = model.head.classification_head.classification_loss.calls[0]
    expected = []
    for i, matched in enumerate(seen["matched"]):
        offsets = seen["outputs"]["bbox_regression"][i]
        decode = model.box_coder.decode
        if name == "retinanet":
            decode = model.box_coder.decode_single
        boxes, objects = decode(offsets, seen["anchors"][i]), seen["targets"][i]["boxes"]
        for row, index in enumerate(matched.tolist()):
            value = box_iou(boxes[row, None], objects[index, None]).item() if index >= 0 else 0.0
            expected.append(value)
    assert sum(value > 0 for value in expected) > 3
    assert not call["quality"].requires_grad
    torch.testing.assert_close(call["quality"], torch.tensor(expected))


def test_quality_in_an_rcnn_is_that_of_the_labels_own_box():
    images, targets = batch()
    model = set_classification_loss(rcnn(), Spy(COUNTS))
    seen = {}
    model.roi_heads.box_predictor.register_forward_hook(lambda *a: seen.update(out=a[-1]))
    select = model.roi_heads.select_training_samples
    model.roi_heads.select_training_samples = lambda *a: seen.setdefault("drawn", select(*a))
    model.transform.register_forward_hook(lambda *a: seen.update(targets=a[-1][1]))
    call = seen_by_loss(model, images, targets)
    proposals, matched, labels, _ = seen["drawn"]
    decoded = model.roi_heads.box_coder.decode(seen["out"][1], proposals)
    expected, row = [], 0
    for i, label in enumerate(labels):
        for region, value in enumerate(label.tolist()):
            box = decoded[row, value, None]
            if value > 0:
                its = seen["targets"][i]["boxes"][matched[i][region], None]
                expected.append(box_iou(box, its).item())
            else:
                expected.append(0.0)
            row += 1
    assert sum(value > 0 for value in expected) > 3
    torch.testing.assert_close(call["quality"], torch.tensor(expected))


def test_paired_iou_is_the_diagonal_of_all_pairs():
    corners = torch.rand(2, 40, 2) * 20
    a, b = (torch.cat([c, c + 1 + torch.rand(40, 2) * 30], 1) for c in corners)
    torch.testing.assert_close(paired_iou(a, b), box_iou(a, b).diagonal())
    assert paired_iou(torch.zeros(2, 4), b[:2]).tolist() == [0.0, 0.0]


# What the sum is divided by


@pytest.mark.parametrize("name", ONE_STAGE)
def test_one_stage_detectors_divide_by_the_anchors_with_an_object(name):
    images, targets = batch()
    targets[2] = {key: value[:1] for key, value in targets[2].items()}
    for normalizer in ("batch", "image"):
        model = set_classification_loss(
            BUILDERS[name](), Spy(COUNTS, normalized_by="rows"), normalizer=normalizer
        )
        call = seen_by_loss(model, images, targets)
        found = call["labels"].view(3, -1).gt(0).sum(1)
        assert found[1] == 0
        assert found[0] != found[2]
        if normalizer == "batch":
            assert call["normalizer"] == found.sum()
        else:
            expected = found.clamp(min=1)[call["image_index"]] * 3
            assert torch.equal(call["normalizer"], expected.float())


@pytest.mark.parametrize("by", ["foreground", "rows"])
def test_an_rcnn_divides_by_the_regions_that_the_loss_counts(by):
    images, targets = batch()
    for normalizer in ("batch", "image"):
        model = set_classification_loss(
            rcnn(), Spy(COUNTS, normalized_by=by), normalizer=normalizer
        )
        call = seen_by_loss(model, images, targets)
        counts = (call["labels"] > 0) if by == "foreground" else (call["labels"] >= 0)
        if normalizer == "batch":
            assert call["normalizer"] == counts.sum()
        else:
            of_image = torch.bincount(call["image_index"], counts.double()).clamp(min=1)
            expected = of_image[call["image_index"]] * 3
            assert torch.equal(call["normalizer"].double(), expected)


def test_counts_are_at_least_one():
    assert over_ranks(torch.tensor(0)) == 1


# A batch without a region to learn from


@pytest.mark.parametrize("normalizer", ["batch", "image"])
@pytest.mark.parametrize("kind", ["faster", "mask", "keypoint"])
def test_a_loss_is_called_also_where_all_regions_are_ignored(kind, normalizer):
    """Other processes may wait for this one in the sums of a loss."""
    model = set_classification_loss(rcnn(kind=kind), Spy(COUNTS), normalizer=normalizer)
    target = {
        "boxes": torch.tensor([[-200.0, -200, 400, 400]]),
        "labels": torch.tensor([CROWD_LABEL]),
        "masks": torch.ones(1, 96, 96, dtype=torch.uint8),
        "keypoints": torch.ones(1, 3, 3),
    }
    images = [torch.rand(3, 96, 96)] * 2
    losses = losses_of(model, images, [target] * 2)
    (call,) = model.roi_heads.classification_loss.calls
    assert call["logits"].shape == (0, K)
    assert call["logits"].requires_grad
    assert call["labels"].shape == call["quality"].shape == call["image_index"].shape == (0,)
    assert call["image_labels"].shape == (2, K + 1)
    assert len(losses) == {"faster": 4, "mask": 5, "keypoint": 5}[kind]
    total = sum(losses.values())
    assert total == 0
    total.backward()
    assert all(p.grad is not None for p in model.roi_heads.parameters())


def test_a_softmax_loss_is_called_where_all_regions_are_ignored():
    calls = []

    class Counting(SoftmaxCrossEntropyLoss):
        def forward(self, logits, labels, *, normalizer=None):
            calls.append(logits.shape)
            return super().forward(logits, labels, normalizer=normalizer)

    target = {"boxes": torch.tensor([[-200.0, -200, 400, 400]]), "labels": torch.tensor([-1])}
    for normalizer in ("batch", "image"):
        model = set_classification_loss(rcnn(), Counting(COUNTS), normalizer=normalizer)
        assert losses_of(model, [torch.rand(3, 96, 96)], [target])["loss_classifier"] == 0
    assert calls == [(0, K + 1)] * 2
