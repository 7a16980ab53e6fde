"""RetinaNet heads that take any sigmoid loss and ignore crowd regions.

Letters: N images in the batch, A anchors of an image, D outputs per anchor, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from detbalance.detection.adapter import Mixin, full_precision
from detbalance.detection.crowd import Target, covered, is_crowd
from detbalance.detection.normalizer import Normalizer, over_ranks

if TYPE_CHECKING:
    from detbalance.losses import ClassificationLoss

BACKGROUND, IGNORED = -1, -2
"""Torchvision's marks in `matched_idxs`: below the low threshold, between the thresholds."""


class BalancedRetinaNetHead(Mixin):
    """Both heads together: matching with crowd regions, and the normalisation of the losses.

    Attributes:
        proposal_matcher: the model's own matcher.
        normalizer: "batch" or "image"; used where a loss was set.
    """

    proposal_matcher: Any
    normalizer: Normalizer
    classification_head: BalancedClassificationHead
    regression_head: Any

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Predict for all levels, in float32 also under autocast.

        Args:
            x: float [N, channels, H, W] of each level.

        Returns:
            `cls_logits` float [N, A, D] (K + 1 columns in eval mode) and `bbox_regression`
            float [N, A, 4].
        """
        return {name: full_precision(out) for name, out in super().forward(x).items()}

    def compute_loss(
        self,
        targets: list[Target],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Compute both losses.

        Args:
            targets: `boxes` and `labels` of each image; crowd rows have the label -1.
            head_outputs: what `forward` gave.
            anchors: float [A, 4] of each image.
            matched_idxs: int64 [A] of each image, torchvision's matching (crowd rows included).

        Returns:
            The scalars `classification` and `bbox_regression`.
        """
        matched_idxs = [
            self._match_around_crowd(target, boxes, matched)
            for target, boxes, matched in zip(targets, anchors, matched_idxs, strict=True)
        ]
        if self.classification_head.classification_loss is None:
            return super().compute_loss(  # type: ignore[no-any-return]
                targets, head_outputs, anchors, matched_idxs
            )
        head_outputs = {name: full_precision(out) for name, out in head_outputs.items()}
        with torch.autocast(head_outputs["cls_logits"].device.type, enabled=False):
            found = torch.stack([(matched >= 0).sum() for matched in matched_idxs])
            labels = [_labels(t, matched) for t, matched in zip(targets, matched_idxs, strict=True)]
            boxes = torch.stack(
                [
                    # One image at a time: its sum over max(1, found), which is taken back below.
                    self.regression_head.compute_loss(
                        [targets[i]],
                        {"bbox_regression": head_outputs["bbox_regression"][i : i + 1]},
                        [anchors[i]],
                        [matched_idxs[i]],
                    )
                    for i in range(len(targets))
                ]
            )
            if self.normalizer == "image":
                classes = self._classes_by_image(head_outputs["cls_logits"], labels, found)
                return {"classification": classes, "bbox_regression": boxes.mean()}
            total = over_ranks(found.sum())
            logits = head_outputs["cls_logits"].flatten(0, 1)
            loss = self.classification_head.classification_loss
            return {
                "classification": loss(logits, torch.cat(labels), normalizer=total),
                "bbox_regression": (boxes * found.clamp(min=1)).sum() / total,
            }

    def _classes_by_image(self, logits: Tensor, labels: list[Tensor], found: Tensor) -> Tensor:
        loss = self.classification_head.classification_loss
        assert loss is not None
        by_image = [
            loss(logits[i], labels[i], normalizer=found[i].clamp(min=1)) for i in range(len(labels))
        ]
        return torch.stack(by_image).mean()

    def _match_around_crowd(self, target: Target, anchors: Tensor, matched: Tensor) -> Tensor:
        """The matching without the crowd rows; uncertain inside of them."""
        crowd = is_crowd(target)
        if not crowd.any():
            return matched
        kept = torch.where(~crowd)[0]
        if len(kept):
            among_kept = self.proposal_matcher(box_iou(target["boxes"][kept], anchors))
            rows = kept[among_kept.clamp(min=0)]
            matched = torch.where(among_kept >= 0, rows, among_kept)
        else:
            matched = torch.full_like(matched, BACKGROUND)
        inside = covered(anchors, target["boxes"][crowd])
        return matched.masked_fill(inside & (matched < 0), IGNORED)


class BalancedClassificationHead(Mixin):
    """The classification head: width by the loss, K + 1 columns at inference.

    Attributes:
        classification_loss: None for torchvision's own.
        detector_classes: K + 1.
        num_classes: D, the columns per anchor (torchvision's forward reads this).
    """

    classification_loss: ClassificationLoss | None
    detector_classes: int
    num_classes: int
    num_anchors: int
    cls_logits: nn.Conv2d

    def forward(self, x: list[Tensor]) -> Tensor:
        """Predict the logits of all levels.

        Args:
            x: float [N, channels, H, W] of each level.

        Returns:
            float [N, A, D] in training. In eval mode float [N, A, K + 1] whose sigmoid is the
            loss's score, so that torchvision's postprocessing fits: a background that has no score
            is -inf and never detected.
        """
        logits: Tensor = super().forward(x)
        if self.training or self.classification_loss is None:
            return logits
        scores = self.classification_loss.scores(full_precision(logits.flatten(0, 1)))
        return torch.logit(scores).view(*logits.shape[:2], -1)


def _labels(target: Target, matched: Tensor) -> Tensor:
    """The label of each anchor, int64 [A]: 0 background, 1..K, -1 ignored."""
    labels = torch.where(matched == IGNORED, -1, 0)
    found = matched >= 0
    labels[found] = target["labels"][matched[found]]
    return labels
