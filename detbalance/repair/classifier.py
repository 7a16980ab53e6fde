"""The last layer of a detector's classifier, and the vectors that it sees of each region.

Letters: A regions of an image, S slots, D outputs per region, F features, K classes.

A slot is a linear classifier of its own: each of the anchors that a RetinaNet has at a place has
one, an FCOS and an R-CNN have one for all regions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet

from detbalance.losses import ClassificationLoss

Target = dict[str, Tensor]


@dataclass(frozen=True)
class ImageRegions:
    """All regions that a detector classifies in one image."""

    labels: Tensor
    objects: Tensor
    logits: Tensor
    boxes: Tensor
    slots: Tensor
    background: int
    features: Callable[[Tensor], Tensor]


class Classifier(ABC):
    """The linear classifier of one detector."""

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        self.model, self.num_classes = model, num_classes

    @property
    @abstractmethod
    def loss(self) -> ClassificationLoss | None:
        """The detector's classification loss; None for torchvision's own."""

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
    from detbalance.detection.one_stage import BalancedOneStageHead
    from detbalance.detection.rcnn import BalancedRoIHeads
    from detbalance.repair.one_stage import OneStageClassifier
    from detbalance.repair.two_stage import TwoStageClassifier

    if isinstance(model, (RetinaNet, FCOS)) and isinstance(model.head, BalancedOneStageHead):
        return OneStageClassifier(model)
    if isinstance(model, FasterRCNN) and isinstance(model.roi_heads, BalancedRoIHeads):
        return TwoStageClassifier(model)
    raise TypeError(
        f"classifier_of(): the model is of type {type(model).__name__}. torchvision's RetinaNet,"
        " FCOS or an R-CNN, adapted by set_classification_loss(), is expected. Call"
        " set_classification_loss(model, None) on it first; it changes no result."
    )


def output_classes(classifier: Classifier) -> NDArray[np.int64]:
    """Find the class that each output speaks for: the one class whose score rises with it."""
    _, bias = classifier.weights()
    outputs = bias.shape[1]
    steps = torch.cat([torch.zeros(1, outputs), torch.eye(outputs)]).to(bias)
    scores = classifier.scores(steps)[:, 1:]
    rises = scores[1:] > scores[0]
    single = rises.sum(dim=1) == 1
    found = torch.where(single, rises.int().argmax(dim=1) + 1, 0)
    return found.cpu().numpy().astype(np.int64)


def feature_maps(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """Run a detector's backbone."""
    maps = model.backbone(pixels)
    return {"0": maps} if isinstance(maps, Tensor) else maps
