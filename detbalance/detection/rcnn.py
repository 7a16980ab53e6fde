"""R-CNN heads that take any classification loss and ignore crowd regions.

Letters: R sampled regions of the batch, D outputs per region, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import (
    fastrcnn_loss,
    keypointrcnn_loss,
    maskrcnn_loss,
)
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from detbalance.detection.adapter import Mixin, full_precision
from detbalance.detection.crowd import CROWD_LABEL, Target, covered
from detbalance.detection.normalizer import Normalizer, over_ranks

if TYPE_CHECKING:
    from detbalance.losses import ClassificationLoss

IGNORED = -1
"""Torchvision's label of regions that are never sampled."""


class BalancedRoIHeads(Mixin):
    """The second stage of Faster, Mask and Keypoint R-CNN.

    Attributes:
        classification_loss: None for torchvision's own.
        detector_classes: K + 1.
        normalizer: "batch" or "image"; used where a loss was set.
    """

    classification_loss: ClassificationLoss | None
    detector_classes: int
    normalizer: Normalizer
    box_roi_pool: nn.Module
    box_head: nn.Module
    box_predictor: nn.Module
    box_coder: Any
    score_thresh: float
    nms_thresh: float
    detections_per_img: int

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Match regions to objects; regions inside a crowd box that match none are ignored.

        Args:
            proposals: float [regions, 4] of each image.
            gt_boxes: float [n, 4] of each image.
            gt_labels: int64 [n] of each image; -1 marks crowd rows.

        Returns:
            Of each image: the matched row int64 [regions] of `gt_boxes`, and the label, int64
            [regions], 0 for background and -1 for ignored regions.
        """
        kept = [torch.where(labels != CROWD_LABEL)[0] for labels in gt_labels]
        rows, labels = super().assign_targets_to_proposals(
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
        """Classify regions and refine their boxes; see torchvision's `RoIHeads`.

        Args:
            features: float [N, channels, H, W] of each level.
            proposals: float [regions, 4] of each image.
            image_shapes: height and width of each image.
            targets: needed in training.

        Returns:
            Detections of each image (empty in training) and losses (empty in eval mode).

        Raises:
            TypeError: if boxes are not floating point or labels not int64.
        """
        if not self.training:
            return super().forward(features, proposals, image_shapes, targets)  # type: ignore[no-any-return]
        for target in targets or []:
            if not target["boxes"].is_floating_point() or target["labels"].dtype != torch.int64:
                raise TypeError(
                    f"targets: boxes are {target['boxes'].dtype} and labels"
                    f" {target['labels'].dtype}. Floating point boxes and int64 labels are"
                    " expected. Convert them in the dataset."
                )
        proposals, matched, labels, offsets = self.select_training_samples(proposals, targets)
        if not any(len(label) for label in labels):
            return [], self._no_regions()
        x = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        logits, boxes = (full_precision(out) for out in self.box_predictor(x))
        with torch.autocast(logits.device.type, enabled=False):
            losses = self._box_losses(logits, boxes, labels, offsets)
        losses.update(
            self._branch_losses(features, proposals, image_shapes, targets or [], matched, labels)
        )
        return [], losses

    def _box_losses(
        self, logits: Tensor, boxes: Tensor, labels: list[Tensor], offsets: list[Tensor]
    ) -> dict[str, Tensor]:
        if self.classification_loss is None:
            classes, regression = fastrcnn_loss(logits, boxes, labels, offsets)
            return {"loss_classifier": classes, "loss_box_reg": regression}
        # Torchvision's function does both; of all-equal logits its first part is worthless, but
        # has no gradient. The second is the one to keep.
        zeros = logits.new_zeros(len(logits), self.detector_classes)
        regression = fastrcnn_loss(zeros, boxes, labels, offsets)[1]
        return {
            "loss_classifier": self._classification(logits, labels),
            "loss_box_reg": regression,
        }

    def _classification(self, logits: Tensor, labels: list[Tensor]) -> Tensor:
        loss = self.classification_loss
        assert loss is not None
        if loss.activation == "softmax":
            if self.normalizer == "image":
                return loss(logits, torch.cat(labels))  # type: ignore[no-any-return]
            rows = over_ranks(logits.new_tensor(len(logits)))
            return loss(logits, torch.cat(labels), normalizer=rows)  # type: ignore[no-any-return]
        if self.normalizer == "batch":
            joined = torch.cat(labels)
            return loss(logits, joined, normalizer=over_ranks((joined > 0).sum()))  # type: ignore[no-any-return]
        parts = zip(torch.split(logits, [len(label) for label in labels]), labels, strict=True)
        return torch.stack(
            [loss(part, label, normalizer=(label > 0).sum().clamp(min=1)) for part, label in parts]
        ).mean()

    def _no_regions(self) -> dict[str, Tensor]:
        """Zero losses that reach every parameter, for a batch in which all is ignored."""
        zero = torch.stack([p.sum() * 0 for p in self.parameters() if p.requires_grad]).sum()
        names = ["loss_classifier", "loss_box_reg"]
        names += ["loss_mask"] if self.has_mask() else []
        names += ["loss_keypoint"] if self.has_keypoint() else []
        return dict.fromkeys(names, zero)

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
        found = [torch.where(label > 0)[0] for label in labels]
        regions = [p[f] for p, f in zip(proposals, found, strict=True)]
        rows = [m[f] for m, f in zip(matched, found, strict=True)]
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
        """Turn outputs into detections by the loss's own scores.

        Args:
            class_logits: float [R, D].
            box_regression: float [R, 4 (K + 1)].
            proposals: float [regions, 4] of each image, R in all.
            image_shapes: height and width of each image.

        Returns:
            Boxes, scores (descending) and labels of each image.
        """
        class_logits, box_regression = map(full_precision, (class_logits, box_regression))
        if self.classification_loss is None:
            return super().postprocess_detections(  # type: ignore[no-any-return]
                class_logits, box_regression, proposals, image_shapes
            )
        regions = [len(boxes) for boxes in proposals]
        all_boxes = self.box_coder.decode(box_regression, proposals).split(regions)
        all_scores = torch.split(self.classification_loss.scores(class_logits), regions)
        results: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for boxes, scores, shape in zip(all_boxes, all_scores, image_shapes, strict=True):
            rows, classes = torch.where(scores[:, 1:] > self.score_thresh)
            labels = classes + 1
            # Selecting first: with many classes nearly all boxes fall below the threshold.
            chosen = clip_boxes_to_image(boxes[rows, labels], shape)
            values = scores[rows, labels]
            large = remove_small_boxes(chosen, min_size=1e-2)
            chosen, values, labels = chosen[large], values[large], labels[large]
            keep = batched_nms(chosen, values, labels, self.nms_thresh)[: self.detections_per_img]
            for part, tensor in zip(results, (chosen, values, labels), strict=True):
                part.append(tensor[keep])
        return results
