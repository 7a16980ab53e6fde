"""Exchange the classification loss of a torchvision detector."""

from __future__ import annotations

from typing import TypeVar, get_args

from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead

from detbalance.detection.adapter import (
    FullPrecisionAnchors,
    FullPrecisionPool,
    FullPrecisionProposalHead,
    adapt,
)
from detbalance.detection.crowd import CrowdAwareProposals, SplitCrowdTargets
from detbalance.detection.extra_inputs import Normalizer
from detbalance.detection.head_layers import fit_convolution, fit_linear
from detbalance.detection.one_stage import (
    BalancedClassificationHead,
    BalancedFCOSHead,
    BalancedRetinaNetHead,
)
from detbalance.detection.rcnn import BalancedRoIHeads
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
