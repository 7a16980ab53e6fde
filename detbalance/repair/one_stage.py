"""The classifier of a RetinaNet or FCOS: a 3x3 convolution, seen as a linear layer on patches."""

from __future__ import annotations

from functools import partial
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detbalance.detection.crowd import ignored_in_crowd, is_crowd
from detbalance.detection.heads import detector_classes
from detbalance.detection.one_stage import IGNORED, anchor_labels
from detbalance.losses import ClassificationLoss
from detbalance.repair.classifier import Classifier, ImageRegions, Target, feature_maps

SIDE = 3
"""Of the last convolution's kernel."""


class OneStageClassifier(Classifier):
    """The last convolution of a one-stage head; its regions are the anchors."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, detector_classes(model))
        self._head = model.head.classification_head
        self.slots: int = self._head.num_anchors

    @property
    def loss(self) -> ClassificationLoss | None:
        """See `Classifier`."""
        return self._head.classification_loss  # type: ignore[no-any-return]

    def weights(self) -> tuple[Tensor, Tensor]:
        """See `Classifier`; F is channels x 3 x 3."""
        layer = self._head.cls_logits
        weight = layer.weight.detach().clone().view(self.slots, -1, layer.weight[0].numel())
        return weight, layer.bias.detach().clone().view(self.slots, -1)

    @torch.no_grad()
    def write(self, weight: Tensor, bias: Tensor) -> None:
        """See `Classifier`."""
        layer = self._head.cls_logits
        layer.weight.copy_(weight.view_as(layer.weight))
        layer.bias.copy_(bias.view_as(layer.bias))

    @torch.no_grad()
    def regions(self, images: list[Tensor], targets: list[Target]) -> list[ImageRegions]:
        """See `Classifier`."""
        model: Any = self.model
        sizes = [image.shape[-2:] for image in images]
        given = [torch.where(~is_crowd(target))[0] for target in targets]
        batch, targets = model.transform(images, targets)
        maps = list(feature_maps(model, batch.tensors).values())
        towers = [self._head.conv(level) for level in maps]
        anchors = model.anchor_generator(batch, maps)
        per_level = [tower.shape[2] * tower.shape[3] * self.slots for tower in towers]
        matched = matched_anchors(model, targets, anchors, per_level)
        logits = torch.cat([self._logits(tower) for tower in towers], dim=1)
        found = []
        for i, (target, size) in enumerate(zip(targets, sizes, strict=True)):
            rows = ignored_in_crowd(target, anchors[i], matched[i], IGNORED)
            labels = anchor_labels(target, rows)
            objects = torch.full_like(rows, -1)
            objects[rows >= 0] = given[i][rows[rows >= 0]]
            height, width = batch.image_sizes[i]
            scale = anchors[i].new_tensor([size[1] / width, size[0] / height]).repeat(2)
            found.append(
                ImageRegions(
                    labels=labels,
                    objects=objects,
                    logits=logits[i],
                    boxes=anchors[i] * scale,
                    slots=torch.arange(len(labels), device=labels.device) % self.slots,
                    background=int((labels == 0).sum()),
                    features=partial(patches, [tower[i] for tower in towers], self.slots),
                )
            )
        return found

    def _logits(self, tower: Tensor) -> Tensor:
        """Logits of a level in the order of its anchors, float [N, H W S, D]."""
        out = self._head.cls_logits(tower)
        n, _, height, width = out.shape
        by_slot: Tensor = out.view(n, self.slots, -1, height, width).permute(0, 3, 4, 1, 2)
        return by_slot.reshape(n, height * width * self.slots, -1)


def patches(towers: list[Tensor], slots: int, rows: Tensor) -> Tensor:
    """Read the patches below some anchors of one image."""
    places = rows // slots
    starts = [0, *accumulate(tower.shape[1] * tower.shape[2] for tower in towers)]
    found = towers[0].new_empty(len(rows), towers[0].shape[0], SIDE, SIDE)
    for tower, start, stop in zip(towers, starts[:-1], starts[1:], strict=True):
        here = torch.where((places >= start) & (places < stop))[0]
        top = (places[here] - start) // tower.shape[2]
        left = (places[here] - start) % tower.shape[2]
        steps = torch.arange(SIDE, device=rows.device)
        padded = F.pad(tower, (1, 1, 1, 1))
        down = (top[:, None] + steps)[:, :, None]
        across = (left[:, None] + steps)[:, None, :]
        found[here] = padded[:, down, across].movedim(0, 1)
    return found.flatten(1)


def matched_anchors(
    model: Any, targets: list[Target], anchors: list[Tensor], per_level: list[int]
) -> list[Tensor]:
    """Match anchors to objects by torchvision's own rules."""
    recorder: Any = _Recorder(model)
    if hasattr(model, "center_sampling_radius"):
        return type(model).compute_loss(recorder, targets, {}, anchors, per_level)  # type: ignore[no-any-return]
    return type(model).compute_loss(recorder, targets, {}, anchors)  # type: ignore[no-any-return]


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
