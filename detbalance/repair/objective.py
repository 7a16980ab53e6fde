"""The loss of single regions, by which a classifier is refitted.

Letters: n regions, D outputs, K classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torchvision.ops import sigmoid_focal_loss

from detbalance.repair.classifier import Classifier


class Objective:
    """A detector's own classification loss, with a weight for each region."""

    def __init__(self, classifier: Classifier) -> None:
        self._loss = classifier.loss
        self._sigmoid = classifier.sigmoid
        self._classes = classifier.num_classes
        if self._loss is not None:
            self._loss.eval()

    def __call__(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Compute the weighted sum of the regions' losses, a scalar."""
        if self._loss is not None:
            return self._loss(logits, labels, normalizer=1.0 / weights, **self._wanted(labels))  # type: ignore[no-any-return]
        if not self._sigmoid:
            return (cross_entropy(logits, labels, reduction="none") * weights).sum()
        # Torchvision's RetinaNet and FCOS have an output for background, which is never positive.
        targets = one_hot(labels, self._classes).to(logits)
        targets[:, 0] = 0.0
        rows: Tensor = sigmoid_focal_loss(logits, targets).sum(dim=1)
        return (rows * weights).sum()

    def _wanted(self, labels: Tensor) -> dict[str, Any]:
        assert self._loss is not None
        given: dict[str, Any] = {}
        if "quality" in self._loss.wants:
            given["quality"] = (labels > 0).float()
        if "image_index" in self._loss.wants:
            given["image_index"] = torch.zeros_like(labels)
        if "image_labels" in self._loss.wants:
            given["image_labels"] = torch.zeros(
                1, self._loss.num_classes, dtype=torch.int8, device=labels.device
            )
        return given
