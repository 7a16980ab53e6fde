"""R-CNN heads that take any classification loss and ignore crowd regions.

Letters: R sampled regions of the batch, D outputs per region, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import (
    fastrcnn_loss,
    keypointrcnn_loss,
    maskrcnn_loss,
)
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from detbalance.detection.adapter import LossStateGuard, full_precision, not_scripted
from detbalance.detection.targets import (
    CROWD_LABEL,
    Normalizer,
    Target,
    covered,
    extra_inputs,
    image_index,
    over_ranks,
    paired_iou,
)

IGNORED = -1
"""Torchvision's label of regions that are never sampled."""


class BalancedRoIHeads(LossStateGuard):
    """The second stage of Faster, Mask and Keypoint R-CNN."""

    class_layer = "box_predictor.cls_score"

    normalizer: Normalizer
    box_roi_pool: nn.Module
    box_head: nn.Module
    box_predictor: nn.Module
    box_coder: Any
    score_thresh: float
    nms_thresh: float
    detections_per_img: int

    @not_scripted
    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Match regions to objects; regions inside a crowd box that match none are ignored."""
        kept = [torch.where(labels != CROWD_LABEL)[0] for labels in gt_labels]
        rows, labels = self.stock_assign_targets_to_proposals(
            proposals,
            [boxes[k] for boxes, k in zip(gt_boxes, kept, strict=True)],
            [values[k] for values, k in zip(gt_labels, kept, strict=True)],
        )
        for i, boxes in enumerate(gt_boxes):
            if len(kept[i]) == len(boxes):
                continue
            crowd = boxes[gt_labels[i] == CROWD_LABEL]
            # Torchvision adds all annotated boxes to the proposals. A crowd box is no object, even
            # where it happens to overlap one.
            added = (proposals[i][:, None] == crowd[None]).all(dim=2).any(dim=1)
            ignored = added | (covered(proposals[i], crowd) & (labels[i] == 0))
            labels[i] = labels[i].masked_fill(ignored, IGNORED)
            if len(kept[i]):
                rows[i] = kept[i][rows[i]]
        return rows, labels

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Classify regions and refine their boxes; see torchvision's `RoIHeads`."""
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets)
        return self.stock_forward(features, proposals, image_shapes, targets)  # type: ignore[no-any-return]

    @not_scripted
    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None,
    ) -> dict[str, Tensor]:
        for target in targets or []:
            if not target["boxes"].is_floating_point() or target["labels"].dtype != torch.int64:
                raise TypeError(
                    f"targets: boxes are {target['boxes'].dtype} and labels"
                    f" {target['labels'].dtype}. Floating point boxes and int64 labels are"
                    " expected. Convert them in the dataset."
                )
        proposals, matched, labels, offsets = self.select_training_samples(proposals, targets)
        targets = targets or []
        if not any(len(label) for label in labels):
            return self._no_regions(targets, labels)
        x = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, boxes = (full_precision(out) for out in self.box_predictor(x))

        def quality() -> Tensor:
            return self._quality(boxes, proposals, targets, matched, labels)

        with torch.autocast(logits.device.type, enabled=False):
            if self.classification_loss is None:
                classes, regression = fastrcnn_loss(logits, boxes, labels, offsets)
            else:
                classes = self._classification(logits, targets, labels, quality)
                # Torchvision's function does both; of all-equal logits its first part is worthless,
                # but has no gradient. The second is the one to keep.
                zeros = logits.new_zeros(len(logits), self.detector_classes)
                regression = fastrcnn_loss(zeros, boxes, labels, offsets)[1]
        losses = {"loss_classifier": classes, "loss_box_reg": regression}
        losses.update(
            self._branch_losses(features, proposals, image_shapes, targets, matched, labels)
        )
        return losses

    def _classification(
        self,
        logits: Tensor,
        targets: list[Target],
        labels: list[Tensor],
        quality: Callable[[], Tensor],
    ) -> Tensor:
        loss = self.classification_loss
        assert loss is not None
        joined = torch.cat(labels)
        normalizer: Tensor | None = None
        if self.normalizer == "batch":
            normalizer = over_ranks(loss.counted_rows(joined))
        elif loss.activation == "sigmoid":
            counts = torch.stack([loss.counted_rows(label).clamp(min=1) for label in labels])
            normalizer = (counts * len(labels)).to(logits.dtype)[image_index(labels)]
        further = extra_inputs(loss, targets, labels, quality)
        return loss(logits, joined, normalizer=normalizer, **further)  # type: ignore[no-any-return]

    def _quality(
        self,
        offsets: Tensor,
        proposals: list[Tensor],
        targets: list[Target],
        matched: list[Tensor],
        labels: list[Tensor],
    ) -> Tensor:
        """IoU of each foreground region's predicted box with its object, else 0; float [R]."""
        quality = offsets.new_zeros(len(offsets))
        joined = torch.cat(labels)
        foreground = torch.where(joined > 0)[0]
        by_class = offsets.reshape(len(offsets), -1, 4)[foreground, joined[foreground]]
        boxes = self.box_coder.decode_single(by_class, torch.cat(proposals)[foreground])
        # An image without objects has no row to point at, and no foreground.
        objects = [
            target["boxes"][rows[label > 0]]
            for target, rows, label in zip(targets, matched, labels, strict=True)
        ]
        quality[foreground] = paired_iou(boxes, torch.cat(objects).to(boxes))
        return quality

    def _no_regions(self, targets: list[Target], labels: list[Tensor]) -> dict[str, Tensor]:
        """Zero losses that reach every parameter, for a batch in which all is ignored."""
        zero = torch.stack([p.sum() * 0 for p in self.parameters() if p.requires_grad]).sum()
        names = ["loss_classifier", "loss_box_reg"]
        names += ["loss_mask"] if self.has_mask() else []
        names += ["loss_keypoint"] if self.has_keypoint() else []
        losses = dict.fromkeys(names, zero)
        if self.classification_loss is not None:
            # Other processes may have regions, and wait for this one where counts are summed.
            none = zero + zero.new_zeros(0, self.classification_loss.num_outputs)
            classes = self._classification(none, targets, labels, lambda: none.new_zeros(0))
            losses["loss_classifier"] = zero + classes
        return losses

    def _branch_losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target],
        matched: list[Tensor],
        labels: list[Tensor],
    ) -> dict[str, Tensor]:
        """Losses of the mask and keypoint branches, which learn from foreground regions only."""
        losses: dict[str, Tensor] = {}
        foreground = [torch.where(label > 0)[0] for label in labels]
        regions = [p[f] for p, f in zip(proposals, foreground, strict=True)]
        rows = [m[f] for m, f in zip(matched, foreground, strict=True)]
        if self.has_mask():
            x = self.mask_head(self.mask_roi_pool(features, regions, image_shapes))
            losses["loss_mask"] = maskrcnn_loss(
                self.mask_predictor(x),
                regions,
                [target["masks"] for target in targets],
                [target["labels"] for target in targets],
                rows,
            )
        if self.has_keypoint():
            x = self.keypoint_head(self.keypoint_roi_pool(features, regions, image_shapes))
            keypoints = [target["keypoints"] for target in targets]
            losses["loss_keypoint"] = keypointrcnn_loss(
                self.keypoint_predictor(x), regions, keypoints, rows
            )
        return losses

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Turn outputs into detections by the loss's own scores."""
        class_logits, box_regression = full_precision(class_logits), full_precision(box_regression)
        if self.classification_loss is None:
            return self.stock_postprocess_detections(  # type: ignore[no-any-return]
                class_logits, box_regression, proposals, image_shapes
            )
        regions = [boxes.shape[0] for boxes in proposals]
        decoded = self.box_coder.decode(box_regression, proposals)
        scored = self.classification_loss.scores(class_logits)
        all_boxes, all_scores = torch.split(decoded, regions), torch.split(scored, regions)
        detections = [
            self._detections_of(all_boxes[i], all_scores[i], image_shapes[i])
            for i in range(len(regions))
        ]
        return [d[0] for d in detections], [d[1] for d in detections], [d[2] for d in detections]

    def _detections_of(
        self, boxes: Tensor, scores: Tensor, shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and labels of an image, from those of all regions and classes."""
        rows, classes = torch.where(scores[:, 1:] > self.score_thresh)
        labels = classes + 1
        # Selecting first: with many classes nearly all boxes fall below the threshold.
        boxes, scores = clip_boxes_to_image(boxes[rows, labels], shape), scores[rows, labels]
        large = remove_small_boxes(boxes, min_size=1e-2)
        boxes, scores, labels = boxes[large], scores[large], labels[large]
        keep = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return boxes[keep], scores[keep], labels[keep]
