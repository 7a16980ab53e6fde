"""Crowd regions: ignored where a detector would learn background from them.

A crowd row of a target has the label -1. It never is an object to find, and what lies inside it is
neither object nor background.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from detbalance.detection.adapter import Mixin, not_scripted
from detbalance.losses import ClassificationLoss
from detbalance.losses.statistics import num_processes, sum_over_ranks

CROWD_LABEL = -1
COVERED = 0.5
"""The part of an anchor or proposal that must lie inside one crowd box to be ignored."""

Target = dict[str, Tensor]


def is_crowd(target: Target) -> Tensor:
    """Tell which rows of a target are crowd regions."""
    return target["labels"] == CROWD_LABEL


def covered(boxes: Tensor, crowd: Tensor) -> Tensor:
    """Tell which boxes lie inside a crowd region."""
    low = torch.maximum(boxes[:, None, :2], crowd[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], crowd[None, :, 2:])
    inside = (high - low).clamp(min=0).prod(dim=2).amax(dim=1)
    return inside > COVERED * (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)


class SplitCrowdTargets(Mixin):
    """The transform of a one-stage detector, which takes crowd rows out of the targets."""

    def forward(
        self, images: list[Tensor], targets: list[Target] | None = None
    ) -> tuple[ImageList, list[Target] | None]:
        """Scale and batch; see torchvision's `GeneralizedRCNNTransform`."""
        batch, scaled = self.stock_forward(images, targets)
        return batch, None if scaled is None else _apart(scaled)


@not_scripted
def _apart(targets: list[Target]) -> list[Target]:
    return [_objects_apart(target) for target in targets]


def _objects_apart(target: Target) -> Target:
    if "labels" not in target:
        return target
    boxes, labels, crowd = target["boxes"], target["labels"], is_crowd(target)
    if not crowd.any():
        return {**target, "crowd": boxes[:0]}
    return {**target, "boxes": boxes[~crowd], "labels": labels[~crowd], "crowd": boxes[crowd]}


def ignored_in_crowd(target: Target, anchors: Tensor, matched: Tensor, mark: int) -> Tensor:
    """Mark the anchors that match nothing and lie inside a crowd region."""
    if "crowd" not in target:
        raise ValueError(
            "targets: have not been through the transform that set_classification_loss() adapted."
            " Crowd regions taken apart are expected. If model.transform was replaced, call"
            " set_classification_loss() again."
        )
    if not len(target["crowd"]):
        return matched
    return matched.masked_fill((matched < 0) & covered(anchors, target["crowd"]), mark)


class CrowdAwareProposals(Mixin):
    """Region proposal network that takes no background from crowd regions."""

    @not_scripted
    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Label anchors 1 (object), 0 (background) or -1 (ignored); see torchvision."""
        crowds = [is_crowd(target) for target in targets]
        objects = [{"boxes": t["boxes"][~c]} for t, c in zip(targets, crowds, strict=True)]
        labels, matched = self.stock_assign_targets_to_anchors(anchors, objects)
        for i, (target, crowd) in enumerate(zip(targets, crowds, strict=True)):
            if crowd.any():
                inside = covered(anchors[i], target["boxes"][crowd])
                labels[i] = labels[i].masked_fill(inside & (labels[i] < 1), -1.0)
        return labels, matched

    @not_scripted
    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Compute both losses; 0, not NaN, where crowd regions leave no anchor to learn from."""
        if not any(bool((label >= 0).any()) for label in labels):
            return objectness.sum() * 0, pred_bbox_deltas.sum() * 0
        return self.stock_compute_loss(  # type: ignore[no-any-return]
            objectness, pred_bbox_deltas, labels, regression_targets
        )


IMAGE_LISTS = {"negative_labels": 1, "not_exhaustive_labels": -1}
"""Keys of a target that list classes for the whole image, and their mark in `image_labels`."""


def extra_inputs(
    loss: ClassificationLoss,
    targets: list[Target],
    labels: list[Tensor],
    quality: Callable[[], Tensor],
) -> dict[str, Tensor]:
    """Gather the arguments that a loss takes beside logits and labels; no others are computed."""
    inputs = {}
    if "quality" in loss.extra_inputs:
        with torch.no_grad():
            inputs["quality"] = quality()
    if "image_index" in loss.extra_inputs:
        inputs["image_index"] = image_index(labels)
    if "image_labels" in loss.extra_inputs:
        inputs["image_labels"] = image_labels(targets, loss.num_classes, labels[0].device)
    return inputs


def image_index(labels: list[Tensor]) -> Tensor:
    """Number the rows by their image."""
    return torch.cat([torch.full_like(label, image) for image, label in enumerate(labels)])


def image_labels(targets: list[Target], num_classes: int, device: torch.device) -> Tensor:
    """Read what the lists of each image say of each class."""
    table = torch.zeros(len(targets), num_classes, dtype=torch.int8, device=device)
    for row, target in zip(table, targets, strict=True):
        for name, mark in IMAGE_LISTS.items():
            if name in target:
                row[target[name]] = mark
    return table


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Compute the IoU of each box with the other of its row."""
    low = torch.maximum(boxes[:, :2], others[:, :2])
    high = torch.minimum(boxes[:, 2:], others[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    areas = [(part[:, 2:] - part[:, :2]).prod(dim=1) for part in (boxes, others)]
    return shared / (areas[0] + areas[1] - shared)


Normalizer = Literal["batch", "image"]


def over_ranks(count: Tensor) -> Tensor:
    """Average a count over all processes, so that all divide by the same number, at least 1."""
    return sum_over_ranks(count.float()).clamp(min=1) / num_processes()
