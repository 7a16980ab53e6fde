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
    """All regions that a detector classifies in one image.

    Attributes:
        labels: int64 [A], 1..K, 0 background, -1 to be ignored.
        objects: int64 [A], the row of the target that a region shows, -1 for none.
        logits: float [A, D].
        boxes: float [A, 4], xyxy in pixels of the image as it was given.
        slots: int64 [A].
        background: how many background regions count in the detector's own training.
        features: gives float [n, F] of some of the regions, by row.
    """

    labels: Tensor
    objects: Tensor
    logits: Tensor
    boxes: Tensor
    slots: Tensor
    background: int
    features: Callable[[Tensor], Tensor]


class Classifier(ABC):
    """The linear classifier of one detector.

    Args:
        model: a detector that `set_classification_loss` has been called on.

    Attributes:
        model: the detector.
        num_classes: K + 1.
    """

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
        """Put other weights into the layer.

        Args:
            weight: float [S, D, F].
            bias: float [S, D]; not used by a layer without one.
        """

    @abstractmethod
    def regions(self, images: list[Tensor], targets: list[Target]) -> list[ImageRegions]:
        """Look at images as at inference, and match the regions to objects as in training.

        The model must be in eval mode. It is not changed, and no gradient is kept.

        Args:
            images: float [3, H, W] each.
            targets: `boxes` and `labels` of each image; -1 marks crowd regions.
        """

    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits into what the detector scores by, float [A, K + 1] in 0..1.

        Args:
            logits: float [A, D].
        """
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
    """Find the classifier of a detector.

    Args:
        model: torchvision's RetinaNet, FCOS or an R-CNN, as `build_detector` or `load_detector`
            gives it, or after `set_classification_loss`.

    Raises:
        TypeError: if the model is none of them.

    Example:
        >>> from detbalance.detection.models import build_detector
        >>> weight, bias = classifier_of(build_detector(3, backbone="tiny")).weights()
        >>> weight.shape, bias.shape  # nine anchors; two classes and a column for background
        (torch.Size([9, 3, 576]), torch.Size([9, 3]))
    """
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
    """Find the class that each output speaks for: the one class whose score rises with it.

    Args:
        classifier: of a detector.

    Returns:
        int64 [D], 1..K; 0 for outputs of background, objectness and the like.
    """
    _, bias = classifier.weights()
    outputs = bias.shape[1]
    steps = torch.cat([torch.zeros(1, outputs), torch.eye(outputs)]).to(bias)
    scores = classifier.scores(steps)[:, 1:]
    rises = scores[1:] > scores[0]
    single = rises.sum(dim=1) == 1
    found = torch.where(single, rises.int().argmax(dim=1) + 1, 0)
    return found.cpu().numpy().astype(np.int64)


def feature_maps(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """Run a detector's backbone.

    Args:
        model: a torchvision detector.
        pixels: float [N, 3, H, W], scaled.

    Returns:
        float [N, channels, H, W] of each level; also of a backbone that gives one map alone.
    """
    maps = model.backbone(pixels)
    return {"0": maps} if isinstance(maps, Tensor) else maps
