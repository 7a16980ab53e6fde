"""Exchange the classification loss of a torchvision detector."""

from __future__ import annotations

import math
from typing import TypeVar, get_args

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead

from detbalance.detection.adapter import (
    FullPrecisionAnchors,
    FullPrecisionProposalHead,
    adapt,
)
from detbalance.detection.crowd import CrowdAwareProposals
from detbalance.detection.normalizer import Normalizer
from detbalance.detection.rcnn import BalancedRoIHeads
from detbalance.detection.retinanet import BalancedClassificationHead, BalancedRetinaNetHead
from detbalance.losses import LOSSES, ClassificationLoss

D = TypeVar("D", bound=nn.Module)

STOCK_PRIOR = 0.01
"""The probability that torchvision's RetinaNet starts from."""


def set_classification_loss(
    model: D, loss: ClassificationLoss | None, *, normalizer: Normalizer = "batch"
) -> D:
    """Give a detector another classification loss, in place.

    The heads of this one model become subclasses of what they were; parameters, `state_dict` keys
    and the model's own class stay. The last layer is replaced, and starts from the loss's
    `initial_bias`, only where the loss needs another number of outputs than it has. So call this
    before making the optimizer, before moving a model into `DistributedDataParallel`, and before
    loading a `state_dict` that was trained with the loss.

    In every adapted model, target rows with the label -1 are crowd regions: they match nothing, and
    anchors and proposals more than half inside of one that match no object are ignored. Losses,
    anchors and boxes are computed in float32 under autocast.

    Normalisation of RetinaNet's losses, and of sigmoid losses in an R-CNN:

    - "batch": the sum over the batch (over all processes) / max(1, foreground anchors or sampled
      foreground regions). An image without objects weighs as much as its anchors do.
    - "image": each image's sum / max(1, its foreground), averaged over images, as torchvision's
      RetinaNet does. An image without objects then weighs as much as one with all its objects.

    Softmax losses in an R-CNN are divided by the number of sampled regions: of this process with
    "image", as in torchvision, on average over all processes with "batch". An R-CNN's box loss is
    torchvision's in every case.

    Args:
        model: torchvision's RetinaNet, FasterRCNN, MaskRCNN or KeypointRCNN (or a subclass), stock
            or adapted before.
        loss: what to put in; it becomes a submodule. None puts torchvision's own loss back, equal
            to the bit; the last layer then has its stock width again.
        normalizer: see above; no effect without a loss.

    Returns:
        The same model.

    Raises:
        TypeError: if the model is none of the four, has heads of an unknown kind, or `loss` is no
            `ClassificationLoss`.
        ValueError: if the loss does not fit the detector, or has another number of classes.

    Source: the normaliser "batch" is that of Lin et al., 2017, arXiv:1708.02002, sec. 4.1, read
    for a batch. Differs: counted over all processes.
    """
    if loss is not None and not isinstance(loss, ClassificationLoss):
        raise TypeError(
            f"set_classification_loss(): loss is of type {type(loss).__name__}. A"
            " detbalance.losses.ClassificationLoss or None is expected. Build one of:"
            f" {', '.join(LOSSES)}."
        )
    if normalizer not in get_args(Normalizer):
        raise ValueError(
            f'set_classification_loss(): normalizer is "{normalizer}". Known: batch, image. Choose'
            " one of them."
        )
    if isinstance(model, RetinaNet):
        _set_retinanet(model, loss, normalizer)
    elif isinstance(model, FasterRCNN):
        _set_rcnn(model, loss, normalizer)
    else:
        raise TypeError(
            f"set_classification_loss(): the model is of type {type(model).__name__}. torchvision's"
            " RetinaNet, FasterRCNN, MaskRCNN and KeypointRCNN are supported. Pass one of them, not"
            " wrapped in another module."
        )
    return model


def detector_classes(model: nn.Module) -> int:
    """Tell how many classes a detector knows.

    Args:
        model: a RetinaNet or R-CNN, stock or adapted.

    Returns:
        K + 1, background included.

    Raises:
        TypeError: if the model is neither.
    """
    if isinstance(model, RetinaNet):
        head = model.head.classification_head
        return int(getattr(head, "detector_classes", head.num_classes))
    if isinstance(model, FasterRCNN):
        heads = model.roi_heads
        return int(
            getattr(heads, "detector_classes", 0) or heads.box_predictor.cls_score.out_features
        )
    raise TypeError(
        f"detector_classes(): the model is of type {type(model).__name__}. torchvision's RetinaNet"
        " or an R-CNN is expected. Pass one of them."
    )


def _set_retinanet(
    model: RetinaNet, loss: ClassificationLoss | None, normalizer: Normalizer
) -> None:
    if not isinstance(model.head, RetinaNetHead):
        raise TypeError(
            "set_classification_loss(): the model's head is of type"
            f" {type(model.head).__name__}. torchvision's RetinaNetHead or a subclass is expected."
            " Build the model with one."
        )
    if loss is not None and loss.activation != "sigmoid":
        possible = [name for name, kind in LOSSES.items() if kind.activation == "sigmoid"]
        raise ValueError(
            f"set_classification_loss(): {type(loss).__name__} works on softmax scores, RetinaNet"
            f" uses sigmoid. A sigmoid loss is expected. Choose one of: {', '.join(possible)}."
        )
    classes = detector_classes(model)
    _check_classes(loss, classes)
    head = adapt(model.head, BalancedRetinaNetHead)
    head.proposal_matcher = model.proposal_matcher
    head.normalizer = normalizer
    classifier = adapt(model.head.classification_head, BalancedClassificationHead)
    classifier.detector_classes = classes
    adapt(model.anchor_generator, FullPrecisionAnchors)
    outputs = classes if loss is None else loss.num_outputs
    if classifier.num_classes != outputs:
        bias = _stock_bias(outputs) if loss is None else loss.initial_bias()
        classifier.cls_logits = _new_conv(classifier.cls_logits, bias, classifier.num_anchors)
        classifier.num_classes = outputs
    classifier.classification_loss = _beside(loss, classifier.cls_logits)


def _set_rcnn(model: FasterRCNN, loss: ClassificationLoss | None, normalizer: Normalizer) -> None:
    predictor = model.roi_heads.box_predictor
    if not isinstance(predictor, FastRCNNPredictor):
        raise TypeError(
            "set_classification_loss(): the model's box predictor is of type"
            f" {type(predictor).__name__}. torchvision's FastRCNNPredictor or a subclass is"
            " expected. Build the model with one."
        )
    classes = detector_classes(model)
    _check_classes(loss, classes)
    heads = adapt(model.roi_heads, BalancedRoIHeads)
    heads.detector_classes = classes
    heads.normalizer = normalizer
    adapt(model.rpn, CrowdAwareProposals)
    adapt(model.rpn.head, FullPrecisionProposalHead)
    adapt(model.rpn.anchor_generator, FullPrecisionAnchors)
    outputs = classes if loss is None else loss.num_outputs
    if predictor.cls_score.out_features != outputs:
        predictor.cls_score = _new_linear(predictor.cls_score, outputs, loss)
    heads.classification_loss = _beside(loss, predictor.cls_score)


def _check_classes(loss: ClassificationLoss | None, classes: int) -> None:
    if loss is not None and loss.num_classes != classes:
        raise ValueError(
            f"set_classification_loss(): the loss has {loss.num_classes} classes, background"
            f" included, the model has {classes}. The same number is expected. Build the loss from"
            f" {classes} class counts (index 0 is background)."
        )


def _beside(loss: ClassificationLoss | None, layer: nn.Module) -> ClassificationLoss | None:
    """The loss on the device of the layer that it judges."""
    return None if loss is None else loss.to(next(layer.parameters()).device)


def _new_conv(old: nn.Conv2d, bias: Tensor, anchors: int) -> nn.Conv2d:
    """A last layer of `anchors` times len(bias) channels, initialised as torchvision does it."""
    new = nn.Conv2d(
        old.in_channels,
        anchors * len(bias),
        kernel_size=3,
        padding=1,
        device=old.weight.device,
        dtype=old.weight.dtype,
    )
    nn.init.normal_(new.weight, std=0.01)
    with torch.no_grad():
        assert new.bias is not None
        new.bias.copy_(bias.repeat(anchors))
    return new


def _new_linear(old: nn.Linear, outputs: int, loss: ClassificationLoss | None) -> nn.Linear:
    new = nn.Linear(old.in_features, outputs, device=old.weight.device, dtype=old.weight.dtype)
    if loss is not None:
        nn.init.normal_(new.weight, std=0.01)
        with torch.no_grad():
            new.bias.copy_(loss.initial_bias())
    return new


def _stock_bias(outputs: int) -> Tensor:
    return torch.full((outputs,), -math.log((1 - STOCK_PRIOR) / STOCK_PRIOR))
