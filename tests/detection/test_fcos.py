"""FCOS with an exchanged classification loss: what differs from RetinaNet."""

from __future__ import annotations

import pytest
import torch
from detectors import (
    COUNTS,
    K,
    assert_same,
    batch,
    captured_head_loss,
    detections_of,
    fcos,
    gradients_of,
    last_layer,
    losses_of,
    with_crowd,
)

from detbalance.detection.heads import detector_classes, set_classification_loss
from detbalance.losses import SigmoidFocalLoss


def without_background_column(stock, ours):
    """Give a stock FCOS and one with K outputs the same weights; background never scores."""
    with torch.no_grad():
        last_layer(stock).bias[0] = -100.0
        last_layer(stock).weight[0] = 0.0
        last_layer(ours).weight.copy_(last_layer(stock).weight[1:])
        last_layer(ours).bias.copy_(last_layer(stock).bias[1:])


def test_focal_loss_is_torchvisions_fcos_loss():
    images, targets = batch()
    stock, ours = fcos(), set_classification_loss(fcos(), SigmoidFocalLoss(COUNTS))
    assert detector_classes(ours) == K + 1
    without_background_column(stock, ours)
    for a, b in zip(detections_of(stock, images), detections_of(ours, images), strict=True):
        assert len(a["scores"]) > 0
        torch.testing.assert_close(a, b)
    a, b = losses_of(stock, images, targets), losses_of(ours, images, targets)
    assert list(a) == list(b) == ["classification", "bbox_regression", "bbox_ctrness"]
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_image_normaliser_is_the_mean_of_the_losses_of_each_image():
    images, targets = batch()
    images = [image[:, :, :96] for image in images]
    model = set_classification_loss(fcos(), SigmoidFocalLoss(COUNTS), normalizer="image")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    _, seen = captured_head_loss(model, images, targets)
    together = model.head.compute_loss(*seen.values())
    one_by_one = [
        model.head.compute_loss(
            seen["targets"][i : i + 1],
            {name: out[i : i + 1] for name, out in seen["outputs"].items()},
            seen["anchors"][i : i + 1],
            seen["matched"][i : i + 1],
        )
        for i in range(3)
    ]
    for name, value in together.items():
        torch.testing.assert_close(value, torch.stack([part[name] for part in one_by_one]).mean())


def test_scores_are_the_geometric_mean_of_class_and_centerness():
    class HalfScores(SigmoidFocalLoss):
        def scores(self, logits):
            return super().scores(logits) / 2

    images, _ = batch()
    plain = set_classification_loss(fcos(), SigmoidFocalLoss(COUNTS))
    half = set_classification_loss(fcos(), HalfScores(COUNTS))
    copy_weights(plain, half)
    for model in (plain, half):
        model.score_thresh = 0.0
    for a, b in zip(detections_of(plain, images), detections_of(half, images), strict=True):
        torch.testing.assert_close(a["scores"] / 2**0.5, b["scores"])
        assert torch.equal(a["labels"], b["labels"])


def copy_weights(source, target):
    with torch.no_grad():
        for a, b in zip(source.parameters(), target.parameters(), strict=True):
            b.copy_(a)


@pytest.mark.parametrize("loss", [None, SigmoidFocalLoss(COUNTS)], ids=["stock", "focal"])
def test_a_crowd_box_inside_an_object_takes_no_location_from_it(loss):
    """FCOS gives a location to the smallest box around it, which would be the crowd's."""
    images, _ = batch()
    model = set_classification_loss(fcos(), loss)
    target = {"boxes": torch.tensor([[20.0, 20, 70, 70]]), "labels": torch.tensor([2])}
    mixed = with_crowd(target, [40.0, 40.0, 50.0, 50.0])
    plain = gradients_of(model, images[:1], [target])
    assert_same(plain, gradients_of(model, images[:1], [mixed]))
