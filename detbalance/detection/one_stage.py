"""Heads of one-stage detectors that take any sigmoid loss and ignore crowd regions.

Letters: N images in the batch, A anchors of an image, D outputs per anchor, K classes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detbalance.detection.adapter import LossStateGuard, Mixin, full_precision, not_scripted
from detbalance.detection.targets import (
    Normalizer,
    Target,
    extra_inputs,
    ignored_in_crowd,
    over_ranks,
    paired_iou,
)
from detbalance.losses.statistics import outside_graphs

IGNORED = -2
"""Torchvision's mark in `matched_idxs` for anchors that are neither object nor background; -1 is
background."""


class BalancedOneStageHead(Mixin):
    """All heads together: crowd regions, and the normalisation of the losses."""

    normalizer: Normalizer
    classification_head: BalancedClassificationHead

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Predict for all levels, in float32 also under autocast."""
        outputs: dict[str, Tensor] = {}
        for name, out in self.stock_forward(x).items():
            outputs[name] = full_precision(out)
        return outputs

    # Each batch has another number of matched anchors: a compiler gains nothing here.
    @outside_graphs
    @not_scripted
    def compute_loss(
        self,
        targets: list[Target],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Compute all losses; the classification loss is called once for the whole batch."""
        matched_idxs = [
            ignored_in_crowd(target, boxes, matched, IGNORED)
            for target, boxes, matched in zip(targets, anchors, matched_idxs, strict=True)
        ]
        loss = self.classification_head.classification_loss
        if loss is None:
            return self.stock_losses(targets, head_outputs, anchors, matched_idxs)
        outputs = {name: full_precision(out) for name, out in head_outputs.items()}
        logits = outputs["cls_logits"]
        with torch.autocast(logits.device.type, enabled=False):
            num_matched = torch.stack([(matched >= 0).sum() for matched in matched_idxs])
            at_least_one = num_matched.clamp(min=1).to(logits.dtype)
            if self.normalizer == "image":
                normalizer = at_least_one * len(targets)
                by_row = normalizer.repeat_interleave(logits.shape[1])
            else:
                normalizer = by_row = over_ranks(num_matched.sum())
            labels = [
                anchor_labels(t, matched) for t, matched in zip(targets, matched_idxs, strict=True)
            ]
            further = extra_inputs(
                loss,
                targets,
                labels,
                lambda: self._quality(targets, outputs["bbox_regression"], anchors, matched_idxs),
            )
            losses = {
                "classification": loss(
                    logits.flatten(0, 1), torch.cat(labels), normalizer=by_row, **further
                )
            }
            # One image at a time: its sums over max(1, num_matched), which is taken back here.
            by_image = [
                self.box_losses(
                    targets[i],
                    {name: out[i : i + 1] for name, out in outputs.items()},
                    anchors[i],
                    matched_idxs[i],
                )
                for i in range(len(targets))
            ]
            for name in by_image[0]:
                values = torch.stack([image[name] for image in by_image])
                losses[name] = (values * at_least_one / normalizer).sum()
        return losses

    def stock_losses(
        self,
        targets: list[Target],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Compute torchvision's own losses; the arguments are those of `compute_loss`."""
        return self.stock_compute_loss(targets, head_outputs, anchors, matched_idxs)  # type: ignore[no-any-return]

    def box_losses(
        self, target: Target, head_outputs: dict[str, Tensor], anchors: Tensor, matched: Tensor
    ) -> dict[str, Tensor]:
        """Compute torchvision's losses of one image, save that for the classes."""
        raise NotImplementedError

    def decoded(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        """Turn predicted offsets into boxes."""
        raise NotImplementedError

    def _quality(
        self,
        targets: list[Target],
        offsets: Tensor,
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> Tensor:
        """IoU of each matched anchor's predicted box with its object, else 0; float [N * A]."""
        quality = offsets.new_zeros(offsets.shape[:2])
        for i, matched in enumerate(matched_idxs):
            rows = torch.where(matched >= 0)[0]
            boxes = self.decoded(offsets[i, rows], anchors[i][rows])
            quality[i, rows] = paired_iou(boxes, targets[i]["boxes"][matched[rows]])
        return quality.flatten()


class BalancedClassificationHead(LossStateGuard):
    """The classification head: width by the loss, K + 1 columns at inference."""

    class_layer = "cls_logits"

    num_classes: int
    num_anchors: int
    cls_logits: nn.Conv2d

    def forward(self, x: list[Tensor]) -> Tensor:
        """Predict the logits of all levels."""
        logits: Tensor = self.stock_forward(x)
        if self.classification_loss is None or self.training:
            return logits
        scores = self.classification_loss.scores(full_precision(logits.flatten(0, 1)))
        classes = F.pad(torch.logit(scores[:, 1:]), [1, 0], value=-math.inf)
        return classes.view(logits.shape[0], logits.shape[1], -1)


def anchor_labels(target: Target, matched: Tensor) -> Tensor:
    """Tell the label of each anchor."""
    labels = torch.where(matched == IGNORED, -1, 0)
    foreground = matched >= 0
    labels[foreground] = target["labels"][matched[foreground]]
    return labels


class BalancedRetinaNetHead(BalancedOneStageHead):
    """Both heads of a RetinaNet together."""

    regression_head: Any

    def box_losses(
        self, target: Target, head_outputs: dict[str, Tensor], anchors: Tensor, matched: Tensor
    ) -> dict[str, Tensor]:
        """Compute the box loss of one image; see `BalancedOneStageHead`."""
        loss = self.regression_head.compute_loss([target], head_outputs, [anchors], [matched])
        return {"bbox_regression": loss}

    def decoded(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        """Turn predicted offsets into boxes; see `BalancedOneStageHead`."""
        return self.regression_head.box_coder.decode_single(offsets, anchors)  # type: ignore[no-any-return]


SILENT = -100.0
"""A logit at which torchvision's focal loss of background is 0 to the last bit."""


class BalancedFCOSHead(BalancedOneStageHead):
    """The heads for classes, boxes and centerness together."""

    box_coder: Any

    def stock_losses(
        self,
        targets: list[Target],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Compute torchvision's own losses, which know no locations to ignore, without those."""
        if any(len(target["crowd"]) for target in targets):
            ignored = (torch.stack(matched_idxs) == IGNORED).unsqueeze(2)
            logits = head_outputs["cls_logits"].masked_fill(ignored, SILENT)
            head_outputs = {**head_outputs, "cls_logits": logits}
        return super().stock_losses(targets, head_outputs, anchors, matched_idxs)

    def box_losses(
        self, target: Target, head_outputs: dict[str, Tensor], anchors: Tensor, matched: Tensor
    ) -> dict[str, Tensor]:
        """Compute the box and centerness losses of one image; see `BalancedOneStageHead`."""
        # Torchvision's function does all three losses. One column of constant logits makes the one
        # for the classes, which is not wanted, cheap.
        labels = torch.zeros_like(target["labels"])
        logits = torch.zeros_like(head_outputs["bbox_ctrness"])
        losses = super().stock_losses(
            [{"boxes": target["boxes"], "labels": labels}],
            {**head_outputs, "cls_logits": logits},
            [anchors],
            [matched],
        )
        return {name: loss for name, loss in losses.items() if name != "classification"}

    def decoded(self, offsets: Tensor, anchors: Tensor) -> Tensor:
        """Turn predicted distances into boxes; see `BalancedOneStageHead`."""
        return self.box_coder.decode(offsets, anchors)  # type: ignore[no-any-return]
