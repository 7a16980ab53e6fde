"""The classifier of an R-CNN: the linear layer on the box head's output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from detbalance.detection.heads import detector_classes
from detbalance.detection.last_layer import CosineLinear
from detbalance.losses import ClassificationLoss
from detbalance.repair.classifier import Classifier, ImageRegions, Target, feature_maps


class TwoStageClassifier(Classifier):
    """The class scores' layer of a second stage; its regions are proposals and annotated boxes."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, detector_classes(model))
        self._heads = model.roi_heads

    @property
    def loss(self) -> ClassificationLoss | None:
        """See `Classifier`."""
        return self._heads.classification_loss  # type: ignore[no-any-return]

    def weights(self) -> tuple[Tensor, Tensor]:
        """See `Classifier`; one slot."""
        layer = self._heads.box_predictor.cls_score
        weight = layer.weight.detach().clone()
        cosine = isinstance(layer, CosineLinear)
        bias = weight.new_zeros(len(weight)) if cosine else layer.bias.detach().clone()
        return weight[None], bias[None]

    @torch.no_grad()
    def write(self, weight: Tensor, bias: Tensor) -> None:
        """See `Classifier`."""
        layer = self._heads.box_predictor.cls_score
        layer.weight.copy_(weight[0])
        if not isinstance(layer, CosineLinear):
            layer.bias.copy_(bias[0])

    @torch.no_grad()
    def regions(self, images: list[Tensor], targets: list[Target]) -> list[ImageRegions]:
        """See `Classifier`."""
        model: Any = self.model
        heads = self._heads
        sizes = [image.shape[-2:] for image in images]
        batch, targets = model.transform(images, targets)
        maps = feature_maps(model, batch.tensors)
        proposals, _ = model.rpn(batch, maps)
        boxes = [target["boxes"] for target in targets]
        proposals = heads.add_gt_proposals(proposals, boxes)
        matched, labels = heads.assign_targets_to_proposals(
            proposals, boxes, [target["labels"] for target in targets]
        )
        pooled = heads.box_roi_pool(maps, proposals, batch.image_sizes)
        features = heads.box_head(pooled)
        logits = heads.box_predictor(features)[0]
        counts = [len(p) for p in proposals]
        found = []
        for i, (rows, of_logits, size) in enumerate(
            zip(features.split(counts), logits.split(counts), sizes, strict=True)
        ):
            height, width = batch.image_sizes[i]
            scale = boxes[i].new_tensor([size[1] / width, size[0] / height]).repeat(2)
            positives = int((labels[i] > 0).sum())
            sampled = heads.fg_bg_sampler.batch_size_per_image - positives
            found.append(
                ImageRegions(
                    labels=labels[i],
                    objects=torch.where(labels[i] > 0, matched[i], -1),
                    logits=of_logits,
                    boxes=proposals[i] * scale,
                    slots=torch.zeros_like(labels[i]),
                    background=max(1, min(sampled, int((labels[i] == 0).sum()))),
                    features=rows.__getitem__,
                )
            )
        return found
