"""Heads of one-stage detectors that take any sigmoid loss and ignore crowd regions.

Letters: N images in the batch, A anchors of an image, D outputs per anchor, K classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detbalance.detection.adapter import Mixin, full_precision, not_scripted
from detbalance.detection.crowd import Target, ignored_in_crowd
from detbalance.detection.holder import LossHolder
from detbalance.detection.normalizer import Normalizer, over_ranks
from detbalance.detection.wanted import paired_iou, wanted
from detbalance.losses.compiling import outside_graphs

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
            found = torch.stack([(matched >= 0).sum() for matched in matched_idxs])
            at_least_one = found.clamp(min=1).to(logits.dtype)
            if self.normalizer == "image":
                normalizer = at_least_one * len(targets)
                by_row = normalizer.repeat_interleave(logits.shape[1])
            else:
                normalizer = by_row = over_ranks(found.sum())
            labels = [
                anchor_labels(t, matched) for t, matched in zip(targets, matched_idxs, strict=True)
            ]
            further = wanted(
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
            # One image at a time: its sums over max(1, found), which is taken back here.
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
            found = torch.where(matched >= 0)[0]
            boxes = self.decoded(offsets[i, found], anchors[i][found])
            quality[i, found] = paired_iou(boxes, targets[i]["boxes"][matched[found]])
        return quality.flatten()


class BalancedClassificationHead(LossHolder):
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
    found = matched >= 0
    labels[found] = target["labels"][matched[found]]
    return labels
