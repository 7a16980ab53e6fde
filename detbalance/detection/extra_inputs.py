"""What a head gives a loss beside logits and labels: the inputs it asks for, the normalizer.

Letters: N images in the batch, A rows of the whole batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from detbalance.detection.crowd import Target
from detbalance.losses import ClassificationLoss
from detbalance.losses.statistics import num_processes, sum_over_ranks

IMAGE_LISTS = {"negative_labels": 1, "not_exhaustive_labels": -1}
"""Keys of a target that list classes for the whole image, and their mark in `image_labels`."""


def extra_inputs(
    loss: ClassificationLoss,
    targets: list[Target],
    labels: list[Tensor],
    quality: Callable[[], Tensor],
) -> dict[str, Tensor]:
    """Gather the arguments that a loss takes beside logits and labels; no others are computed."""
    inputs = {}
    if "quality" in loss.extra_inputs:
        with torch.no_grad():
            inputs["quality"] = quality()
    if "image_index" in loss.extra_inputs:
        inputs["image_index"] = image_index(labels)
    if "image_labels" in loss.extra_inputs:
        inputs["image_labels"] = image_labels(targets, loss.num_classes, labels[0].device)
    return inputs


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
    return sum_over_ranks(count.float()).clamp(min=1) / num_processes()
