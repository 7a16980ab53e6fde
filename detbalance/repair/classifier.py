"""The last layer of a detector's classifier, and the vectors that it sees of each region.

Letters: A regions of an image, S slots, D outputs per region, F features, K classes.

A slot is a linear classifier of its own: each of the anchors that a RetinaNet has at a place has
one, an FCOS and an R-CNN have one for all regions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet

from detbalance.data.arrays import Int64
from detbalance.detection.heads import CosineLinear, detector_classes
from detbalance.detection.one_stage import IGNORED, BalancedOneStageHead, anchor_labels
from detbalance.detection.rcnn import BalancedRoIHeads
from detbalance.detection.targets import ignored_in_crowd, is_crowd
from detbalance.losses import ClassificationLoss

Target = dict[str, Tensor]


@dataclass(frozen=True)
class ImageRegions:
    """All regions that a detector classifies in one image."""

    labels: Tensor  # int64 [A], -1 for ignored ones
    objects: Tensor  # int64 [A], rows of the target, -1 for none
    logits: Tensor  # float [A, D]
    boxes: Tensor  # float [A, 4], in pixels of the image as it came
    slots: Tensor  # int64 [A]
    background: int  # how many regions of background a training step would learn from
    features: Callable[[Tensor], Tensor]  # from rows [n] to float [n, F]


class Classifier(ABC):
    """The linear classifier of one detector."""

    def __init__(self, model: nn.Module, head: Any) -> None:
        self.model, self.head, self.num_classes = model, head, detector_classes(model)

    @property
    def loss(self) -> ClassificationLoss | None:
        """The detector's classification loss; None for torchvision's own."""
        return self.head.classification_loss  # type: ignore[no-any-return]

    @abstractmethod
    def weights(self) -> tuple[Tensor, Tensor]:
        """Copy the layer: weight float [S, D, F] and bias float [S, D] (0 where it has none)."""

    @abstractmethod
    def write(self, weight: Tensor, bias: Tensor) -> None:
        """Put other weights into the layer."""

    @abstractmethod
    def regions(self, images: list[Tensor], targets: list[Target]) -> list[ImageRegions]:
        """Look at images as at inference, and match the regions to objects as in training."""

    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits into what the detector scores by, float [A, K + 1] in 0..1."""
        if self.loss is not None:
            return self.loss.scores(logits)
        return torch.sigmoid(logits) if self.sigmoid else torch.softmax(logits, dim=1)

    @property
    def sigmoid(self) -> bool:
        """Whether each output speaks for itself; else they share one softmax."""
        if self.loss is not None:
            return self.loss.activation == "sigmoid"
        return not isinstance(self.model, FasterRCNN)


def classifier_of(model: nn.Module) -> Classifier:
    """Find the classifier of a detector."""
    if isinstance(model, (RetinaNet, FCOS)) and isinstance(model.head, BalancedOneStageHead):
        return OneStageClassifier(model)
    if isinstance(model, FasterRCNN) and isinstance(model.roi_heads, BalancedRoIHeads):
        return TwoStageClassifier(model)
    raise TypeError(
        f"classifier_of(): the model is of type {type(model).__name__}. torchvision's RetinaNet,"
        " FCOS or an R-CNN, adapted by set_classification_loss(), is expected. Call"
        " set_classification_loss(model, None) on it first; it changes no result."
    )


def output_classes(classifier: Classifier) -> Int64:
    """Find the class that each output speaks for: the one class whose score rises with it."""
    _, bias = classifier.weights()
    outputs = bias.shape[1]
    steps = torch.cat([torch.zeros(1, outputs), torch.eye(outputs)]).to(bias)
    scores = classifier.scores(steps)[:, 1:]
    rises = scores[1:] > scores[0]
    single = rises.sum(dim=1) == 1
    classes = torch.where(single, rises.int().argmax(dim=1) + 1, 0)
    return classes.cpu().numpy().astype(np.int64)


def _feature_maps(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    maps = model.backbone(pixels)
    return {"0": maps} if isinstance(maps, Tensor) else maps


def _in_pixels(boxes: Tensor, size: torch.Size, resized: tuple[int, int]) -> Tensor:
    """Boxes in an image as it came, from those in the resized one; sizes are height and width."""
    (height, width), (new_height, new_width) = size, resized
    return boxes * boxes.new_tensor([width / new_width, height / new_height]).repeat(2)


class TwoStageClassifier(Classifier):
    """The class scores' layer of a second stage; its regions are proposals and annotated boxes."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, model.roi_heads)

    def weights(self) -> tuple[Tensor, Tensor]:
        """See `Classifier`; one slot."""
        layer = self.head.box_predictor.cls_score
        weight = layer.weight.detach().clone()
        cosine = isinstance(layer, CosineLinear)
        bias = weight.new_zeros(len(weight)) if cosine else layer.bias.detach().clone()
        return weight[None], bias[None]

    @torch.no_grad()
    def write(self, weight: Tensor, bias: Tensor) -> None:
        """See `Classifier`."""
        layer = self.head.box_predictor.cls_score
        layer.weight.copy_(weight[0])
        if not isinstance(layer, CosineLinear):
            layer.bias.copy_(bias[0])

    @torch.no_grad()
    def regions(self, images: list[Tensor], targets: list[Target]) -> list[ImageRegions]:
        """See `Classifier`."""
        model: Any = self.model
        heads = self.head
        sizes = [image.shape[-2:] for image in images]
        batch, targets = model.transform(images, targets)
        maps = _feature_maps(model, batch.tensors)
        proposals, _ = model.rpn(batch, maps)
        boxes = [target["boxes"] for target in targets]
        proposals = heads.add_gt_proposals(proposals, boxes)
        matched, labels = heads.assign_targets_to_proposals(
            proposals, boxes, [target["labels"] for target in targets]
        )
        features = heads.box_head(heads.box_roi_pool(maps, proposals, batch.image_sizes))
        logits = heads.box_predictor(features)[0]
        counts = [len(p) for p in proposals]
        regions = []
        for i, (own_features, own_logits) in enumerate(
            zip(features.split(counts), logits.split(counts), strict=True)
        ):
            positive = labels[i] > 0
            sampled = heads.fg_bg_sampler.batch_size_per_image - int(positive.sum())
            regions.append(
                ImageRegions(
                    labels=labels[i],
                    objects=torch.where(positive, matched[i], -1),
                    logits=own_logits,
                    boxes=_in_pixels(proposals[i], sizes[i], batch.image_sizes[i]),
                    slots=torch.zeros_like(labels[i]),
                    background=max(1, min(sampled, int((labels[i] == 0).sum()))),
                    features=own_features.__getitem__,
                )
            )
        return regions


_SIDE = 3  # of the last convolution's kernel


class OneStageClassifier(Classifier):
    """The last convolution of a one-stage head; its regions are the anchors."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, model.head.classification_head)
        self.slots: int = self.head.num_anchors

    def weights(self) -> tuple[Tensor, Tensor]:
        """See `Classifier`; F is channels x 3 x 3."""
        layer = self.head.cls_logits
        weight = layer.weight.detach().clone().view(self.slots, -1, layer.weight[0].numel())
        return weight, layer.bias.detach().clone().view(self.slots, -1)

    @torch.no_grad()
    def write(self, weight: Tensor, bias: Tensor) -> None:
        """See `Classifier`."""
        layer = self.head.cls_logits
        layer.weight.copy_(weight.view_as(layer.weight))
        layer.bias.copy_(bias.view_as(layer.bias))

    @torch.no_grad()
    def regions(self, images: list[Tensor], targets: list[Target]) -> list[ImageRegions]:
        """See `Classifier`."""
        model: Any = self.model
        sizes = [image.shape[-2:] for image in images]
        real_rows = [torch.where(~is_crowd(target))[0] for target in targets]
        batch, targets = model.transform(images, targets)
        maps = list(_feature_maps(model, batch.tensors).values())
        towers = [self.head.conv(level) for level in maps]
        anchors = model.anchor_generator(batch, maps)
        per_level = [tower.shape[2] * tower.shape[3] * self.slots for tower in towers]
        matched = _matched_anchors(model, targets, anchors, per_level)
        logits = torch.cat([self._logits(tower) for tower in towers], dim=1)
        regions = []
        for i, target in enumerate(targets):
            rows = ignored_in_crowd(target, anchors[i], matched[i], IGNORED)
            labels = anchor_labels(target, rows)
            objects = torch.full_like(rows, -1)
            objects[rows >= 0] = real_rows[i][rows[rows >= 0]]
            regions.append(
                ImageRegions(
                    labels=labels,
                    objects=objects,
                    logits=logits[i],
                    boxes=_in_pixels(anchors[i], sizes[i], batch.image_sizes[i]),
                    slots=torch.arange(len(labels), device=labels.device) % self.slots,
                    background=int((labels == 0).sum()),
                    features=partial(patches, [tower[i] for tower in towers], self.slots),
                )
            )
        return regions

    def _logits(self, tower: Tensor) -> Tensor:
        """Logits of a level in the order of its anchors, float [N, H W S, D]."""
        out = self.head.cls_logits(tower)
        n, _, height, width = out.shape
        by_slot: Tensor = out.view(n, self.slots, -1, height, width).permute(0, 3, 4, 1, 2)
        return by_slot.reshape(n, height * width * self.slots, -1)


def patches(towers: list[Tensor], slots: int, rows: Tensor) -> Tensor:
    """Read the patches below some anchors of one image, float [n, F]."""
    places = rows // slots
    starts = [0, *accumulate(tower.shape[1] * tower.shape[2] for tower in towers)]
    values = towers[0].new_empty(len(rows), towers[0].shape[0], _SIDE, _SIDE)
    for tower, start, stop in zip(towers, starts[:-1], starts[1:], strict=True):
        here = torch.where((places >= start) & (places < stop))[0]
        top = (places[here] - start) // tower.shape[2]
        left = (places[here] - start) % tower.shape[2]
        steps = torch.arange(_SIDE, device=rows.device)
        padded = F.pad(tower, (1, 1, 1, 1))
        down = (top[:, None] + steps)[:, :, None]
        across = (left[:, None] + steps)[:, None, :]
        values[here] = padded[:, down, across].movedim(0, 1)
    return values.flatten(1)


def _matched_anchors(
    model: Any, targets: list[Target], anchors: list[Tensor], per_level: list[int]
) -> list[Tensor]:
    """Match anchors to objects by torchvision's own rules."""
    levels = (per_level,) if isinstance(model, FCOS) else ()
    matched: list[Tensor] = type(model).compute_loss(
        _Recorder(model), targets, {}, anchors, *levels
    )
    return matched


class _Recorder:
    """Stands in for a model and its head: gives the matching back where losses were computed."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.head = self

    def compute_loss(
        self, targets: Any, head_outputs: Any, anchors: Any, matched: list[Tensor]
    ) -> list[Tensor]:
        return matched

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
