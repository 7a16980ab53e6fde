"""Exchange the classification loss of a torchvision detector, and the last layer where it must be.

A layer stays where its outputs can mean what the new loss takes them for: their number, the kind of
layer, and sigmoid or softmax are the same. What has been learned then stays too. Only a bias that
is still exactly what the loss before, or torchvision's RetinaNet and FCOS, started from becomes the
start of the new loss: it has learned nothing yet.

Letters: A rows, D outputs.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead

from detbalance.detection.adapter import (
    FullPrecisionAnchors,
    FullPrecisionPool,
    FullPrecisionProposalHead,
    adapt,
    full_precision,
)
from detbalance.detection.one_stage import (
    BalancedClassificationHead,
    BalancedFCOSHead,
    BalancedRetinaNetHead,
)
from detbalance.detection.rcnn import BalancedRoIHeads
from detbalance.detection.targets import CrowdAwareProposals, Normalizer, SplitCrowdTargets
from detbalance.losses import LOSSES, ClassificationLoss

D = TypeVar("D", bound=nn.Module)


def set_classification_loss(
    model: D, loss: ClassificationLoss | None, *, normalizer: Normalizer = "batch"
) -> D:
    """Give a detector another classification loss, in place.

    The heads of this one model become subclasses of what they were; parameters, `state_dict` keys
    and the model's own class stay. The last layer is replaced where it cannot serve the loss: where
    the number of outputs, the kind of layer, or sigmoid and softmax differ. A new layer starts from
    the loss's `initial_bias`, and so does one that stays, as long as its bias is still the one that
    RetinaNet, FCOS or the loss before started from; what was trained is kept. So call this before
    making the optimizer, and before moving a model into `DistributedDataParallel`.

    Call it before loading a `state_dict` that was trained with the loss, too. The name of the loss
    is in there, and the weights of another one are refused; those of torchvision's own loss are
    loaded before this call, or after it with None.

    In every adapted model, target rows with the label -1 are crowd regions: they match nothing, and
    anchors and proposals more than half inside of one that match no object are ignored. Losses,
    anchors and boxes are computed in float32 under autocast.

    `torch.onnx.export`, `torch.jit.script` and `.half()` take an adapted model in eval mode; what
    comes out detects, and is not trained.

    Normalisation of the losses of RetinaNet and FCOS, and of sigmoid losses in an R-CNN:

    - "batch": the sum over the batch (over all processes) / max(1, rows that count). An image
      without objects weighs as much as its rows do.
    - "image": each image's sum / max(1, its rows that count), averaged over images, as
      torchvision's RetinaNet does. An image without objects then weighs as much as one with all its
      objects.

    In RetinaNet and FCOS the anchors with an object count; in an R-CNN the sampled regions that the
    loss itself counts, those with an object or all. Softmax losses in an R-CNN are divided by all
    sampled regions: of this process with "image", as in torchvision, on average over all processes
    with "batch". The box losses of RetinaNet and FCOS are divided like the classification loss, an
    R-CNN's box loss is torchvision's in every case. The loss is called once per forward pass.

    Target keys `negative_labels` and `not_exhaustive_labels`, int64, the classes that are verified
    absent from the image and those that are not all annotated, go to the losses that ask for them.

    Args:
        model: torchvision's RetinaNet, FCOS, FasterRCNN, MaskRCNN or KeypointRCNN (or a subclass),
            stock or adapted before.
        loss: what to put in; it becomes a submodule. None puts torchvision's own loss back, equal
            to the bit; the last layer then has its stock width and kind again.
        normalizer: see above; no effect without a loss.

    Returns:
        The same model.

    Raises:
        TypeError: if the model is none of the five, has heads of an unknown kind, or `loss` is no
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
    if isinstance(model, (RetinaNet, FCOS)):
        _set_one_stage(model, loss, normalizer)
    elif isinstance(model, FasterRCNN):
        _set_rcnn(model, loss, normalizer)
    else:
        raise TypeError(
            f"set_classification_loss(): the model is of type {type(model).__name__}. torchvision's"
            " RetinaNet, FCOS, FasterRCNN, MaskRCNN and KeypointRCNN are supported. Pass one of"
            " them, not wrapped in another module."
        )
    return model


def detector_classes(model: nn.Module) -> int:
    """Tell how many classes a detector knows."""
    if isinstance(model, (RetinaNet, FCOS)):
        head = model.head.classification_head
        return int(getattr(head, "detector_classes", head.num_classes))
    if isinstance(model, FasterRCNN):
        heads = model.roi_heads
        return int(
            getattr(heads, "detector_classes", 0) or heads.box_predictor.cls_score.out_features
        )
    raise TypeError(
        f"detector_classes(): the model is of type {type(model).__name__}. torchvision's RetinaNet,"
        " FCOS or an R-CNN is expected. Pass one of them."
    )


def _set_one_stage(
    model: RetinaNet | FCOS, loss: ClassificationLoss | None, normalizer: Normalizer
) -> None:
    name, stock, mixin = (
        ("RetinaNet", RetinaNetHead, BalancedRetinaNetHead)
        if isinstance(model, RetinaNet)
        else ("FCOS", FCOSHead, BalancedFCOSHead)
    )
    if not isinstance(model.head, stock):
        raise TypeError(
            "set_classification_loss(): the model's head is of type"
            f" {type(model.head).__name__}. torchvision's {stock.__name__} or a subclass is"
            " expected. Build the model with one."
        )
    _check_possible(loss, name)
    classes = detector_classes(model)
    _check_classes(loss, classes)
    head = adapt(model.head, mixin)
    head.normalizer = normalizer
    classifier = adapt(model.head.classification_head, BalancedClassificationHead)
    classifier.detector_classes = classes
    adapt(model.transform, SplitCrowdTargets)
    adapt(model.anchor_generator, FullPrecisionAnchors)
    outputs = classes if loss is None else loss.num_outputs
    before = getattr(classifier, "classification_loss", None)
    classifier.cls_logits = fit_convolution(
        classifier.cls_logits, classifier.num_anchors, outputs, before, loss
    )
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
    for pool in (heads.box_roi_pool, heads.mask_roi_pool, heads.keypoint_roi_pool):
        if pool is not None:
            adapt(pool, FullPrecisionPool)
    outputs = classes if loss is None else loss.num_outputs
    before = getattr(heads, "classification_loss", None)
    predictor.cls_score = fit_linear(predictor.cls_score, outputs, before, loss)
    heads.classification_loss = _beside(loss, predictor.cls_score)


def _check_possible(loss: ClassificationLoss | None, detector: str) -> None:
    """Refuse a loss that only an R-CNN can take."""
    if loss is None or (loss.activation, loss.last_layer) == ("sigmoid", "linear"):
        return
    own = [f' ("{name}")' for name, kind in LOSSES.items() if kind is type(loss)]
    possible = [
        name
        for name, kind in LOSSES.items()
        if (kind.activation, kind.last_layer) == ("sigmoid", "linear")
    ]
    wrong = (
        f"works on {loss.activation} scores, {detector} uses sigmoid"
        if loss.activation != "sigmoid"
        else f"needs a {loss.last_layer} last layer, {detector} ends in a convolution"
    )
    raise ValueError(
        f"set_classification_loss(): {type(loss).__name__}{''.join(own)} {wrong}. A sigmoid loss is"
        f" expected. Choose one of: {', '.join(possible)}; or a Faster, Mask or Keypoint R-CNN,"
        " which take every loss."
    )


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


STOCK_PRIOR = 0.01
"""The probability that torchvision's RetinaNet and FCOS start from."""
WEIGHT_STD = 0.01
"""The spread of the weights that a last layer starts from, as in torchvision's one-stage heads."""


class CosineLinear(nn.Module):
    """Cosines of the angles between a row's features and the weights of each output."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(
            torch.empty(out_features, in_features, device=device, dtype=dtype)
        )
        nn.init.normal_(self.weight, std=WEIGHT_STD)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the cosines, in float32 also under autocast."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self._cosines(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._cosines(x)

    def _cosines(self, x: Tensor) -> Tensor:
        rows = F.normalize(full_precision(x), dim=1)
        outputs = F.normalize(full_precision(self.weight), dim=1)
        return F.linear(rows, outputs).clamp(-1.0, 1.0)


def fit_convolution(
    layer: nn.Conv2d,
    anchors: int,
    outputs: int,
    before: ClassificationLoss | None,
    after: ClassificationLoss | None,
) -> nn.Conv2d:
    """Give the last layer of a one-stage head for a loss."""
    start = _start(after, outputs).repeat(anchors)
    if layer.out_channels == len(start):
        _restart(layer.bias, _start(before, outputs).repeat(anchors), start)
        return layer
    new = nn.Conv2d(
        layer.in_channels,
        len(start),
        kernel_size=3,
        padding=1,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    _initialise(new, start)
    return new


def fit_linear(
    layer: nn.Linear | CosineLinear,
    outputs: int,
    before: ClassificationLoss | None,
    after: ClassificationLoss | None,
) -> nn.Linear | CosineLinear:
    """Give the last layer of a two-stage head for a loss."""
    cosine = after is not None and after.last_layer == "cosine"
    fits = layer.out_features == outputs and isinstance(layer, CosineLinear) == cosine
    if fits and _activation(before) == _activation(after):
        if isinstance(layer, nn.Linear) and before is not None and after is not None:
            _restart(layer.bias, before.initial_bias(), after.initial_bias())
        return layer
    place: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    if cosine:
        return CosineLinear(layer.in_features, outputs, **place)
    new = nn.Linear(layer.in_features, outputs, **place)
    if after is not None:
        _initialise(new, after.initial_bias())
    return new


def _activation(loss: ClassificationLoss | None) -> str:
    return "softmax" if loss is None else loss.activation


def _start(loss: ClassificationLoss | None, outputs: int) -> Tensor:
    """The bias that the head of a one-stage detector starts from, float [D]."""
    if loss is not None:
        return loss.initial_bias()
    return torch.full((outputs,), -math.log((1 - STOCK_PRIOR) / STOCK_PRIOR))


@torch.no_grad()
def _restart(bias: Tensor | None, before: Tensor, after: Tensor) -> None:
    if bias is not None and torch.equal(bias, before.to(bias)):
        bias.copy_(after)


@torch.no_grad()
def _initialise(layer: nn.Conv2d | nn.Linear, bias: Tensor) -> None:
    nn.init.normal_(layer.weight, std=WEIGHT_STD)
    assert layer.bias is not None
    layer.bias.copy_(bias)
