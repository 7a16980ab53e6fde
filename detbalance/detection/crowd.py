"""Crowd regions: ignored where a detector would learn background from them.

A crowd row of a target has the label -1. It never is an object to find, and what lies inside it is
neither object nor background.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from detbalance.detection.adapter import Mixin, not_scripted

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
