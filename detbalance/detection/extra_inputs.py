"""What a head gives a loss beside logits and labels, and the part of a head that holds the loss.

Letters: N images in the batch, A rows of the whole batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from detbalance.detection.adapter import Mixin
from detbalance.detection.crowd import Target
from detbalance.losses.loss import other_loss, saved_name

if TYPE_CHECKING:
    from detbalance.losses import ClassificationLoss


class LossStateGuard(Mixin):
    """A head that refuses the weights of a model with another loss, also where not strict."""

    class_layer: ClassVar[str]
    """Name of the last layer, below the head."""

    classification_loss: ClassificationLoss | None
    detector_classes: int

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *others: Any, **named: Any
    ) -> None:
        saved = saved_name(state_dict.get(f"{prefix}classification_loss._extra_state"))
        own = self.classification_loss
        # A part of a state_dict, without the last layer, says nothing of the loss.
        has_layer = f"{prefix}{self.class_layer}.weight" in state_dict
        if (saved is None) != (own is None) and (saved is not None or has_layer):
            other = other_loss(saved, None if own is None else own.identity())
            raise ValueError(
                f"load_state_dict(): the model was trained {other}. The same loss is expected."
                " Before loading, call set_classification_loss() with the loss that it was trained"
                " with, None for torchvision's own."
            )
        super()._load_from_state_dict(state_dict, prefix, *others, **named)


IMAGE_LISTS = {"negative_labels": 1, "not_exhaustive_labels": -1}
"""Keys of a target that list classes for the whole image, and their mark in `image_labels`."""


def extra_inputs(
    loss: ClassificationLoss,
    targets: list[Target],
    labels: list[Tensor],
    quality: Callable[[], Tensor],
) -> dict[str, Tensor]:
    """Gather the arguments that a loss takes beside logits and labels; no others are computed."""
    given = {}
    if "quality" in loss.extra_inputs:
        with torch.no_grad():
            given["quality"] = quality()
    if "image_index" in loss.extra_inputs:
        given["image_index"] = image_index(labels)
    if "image_labels" in loss.extra_inputs:
        given["image_labels"] = image_labels(targets, loss.num_classes, labels[0].device)
    return given


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
    total, processes = count.float(), 1
    if dist.is_available() and dist.is_initialized():
        total, processes = total.clone(), dist.get_world_size()
        dist.all_reduce(total)
    return total.clamp(min=1) / processes
