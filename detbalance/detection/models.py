"""Build a torchvision detector from plain arguments.

The keyword-only arguments of `build_detector` are the keys of a configuration's model section.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.misc import Conv2dNormActivation

from detbalance.detection.backbones import MOBILENET, TORCHVISION_BACKBONES, Pyramid, build_body
from detbalance.detection.defaults import (
    OFFLINE_BACKBONE,
    DetectorDefaults,
    Norm,
    check_arguments,
    default_anchor_ratios,
    default_anchor_sizes,
    detector_defaults,
    usual_weights,
)
from detbalance.detection.heads import WEIGHT_STD, set_classification_loss
from detbalance.detection.weights import load_default, load_file, load_offline


def build_detector(
    num_classes: int,
    load_weights: bool = True,
    *,
    detector: Literal["retinanet", "fcos", "fasterrcnn"] = "retinanet",
    backbone: str = OFFLINE_BACKBONE,
    weights: str | None = None,
    frozen_norm: bool | None = None,
    trainable_layers: int | None = None,
    min_size: int | None = None,
    max_size: int | None = None,
    strides: list[int] | None = None,
    extra_levels: int | None = None,
    fpn_channels: int | None = None,
    head_convs: int | None = None,
    head_norm: Literal["none", "group", "batch"] | None = None,
    regions_per_image: int | None = None,
    anchor_sizes: list[list[float]] | None = None,
    anchor_ratios: list[float] | None = None,
    score_threshold: float = 0.001,
    nms_threshold: float = 0.5,
    detections_per_image: int = 300,
    topk_candidates: int = 1000,
) -> nn.Module:
    """Build a RetinaNet, FCOS or Faster R-CNN.

    With a backbone that torchvision has a builder for, and nothing else given, layers, anchors and
    `state_dict` keys are those of torchvision's model (`retinanet_resnet50_fpn_v2`, ...). The score
    threshold is lower and the number of detections higher than there: rare classes score low, and
    what is cut off here is lost to every evaluation. The model ignores crowd regions in training,
    see `set_classification_loss`.

    Args:
        num_classes: K + 1, background included.
        load_weights: False builds the same model without fetching the weights, for a `state_dict`
            that follows.
        detector: RetinaNet and FCOS have one stage and sigmoid scores, Faster R-CNN two stages and
            softmax scores. FCOS has one place to look from where RetinaNet has nine anchors.
        backbone: torchvision's (`resnet18_fpn`, `resnet50_fpn`, `resnet50_fpn_v2`,
            `mobilenet_v3_large_fpn`, `mobilenet_v3_large_320_fpn`, ...); the name of a timm model,
            which gets a feature pyramid; or `tiny`, to train from scratch on small images.
        weights: `none`; `default`, torchvision's COCO weights of that very detector where they
            exist, else the ImageNet weights of the backbone, over the network; `offline`, ImageNet
            weights of `tf_efficientnet_lite0` from an installed package; or the path of a file. By
            default offline where that backbone and package are, else none.
        frozen_norm: keep the backbone's batch normalisation at its loaded statistics, as small
            batches need. By default wherever weights are loaded, save for `_v2` backbones.
        trainable_layers: with weights and a torchvision backbone: how many of its blocks train,
            from the last on, 0-5 (MobileNet 0-6). By default 3.
        min_size: the shorter side of an image is scaled to this many pixels ...
        max_size: ... but the longer side never beyond this. By default 800 and 1333; 320 and 640
            with `mobilenet_v3_large_320_fpn`; 384 and 640 with `tf_efficientnet_lite0`, which is
            made for small images; 128 and 256 with `tiny`.
        strides: of the backbone's feature maps, ascending, in pixels. By default 8, 16, 32
            (RetinaNet, FCOS), 4, 8, 16, 32 (Faster R-CNN; two of 32 with a MobileNet), 8, 16
            (`tiny`).
        extra_levels: coarser maps put on top of the pyramid, 0-2. By default 2 (RetinaNet,
            FCOS), 1 (Faster R-CNN), 0 (`tiny`).
        fpn_channels: of the pyramid and the heads. By default 256, `tiny` 64.
        head_convs: 3x3 convolutions before the outputs of a RetinaNet or FCOS, or in a Faster
            R-CNN's box head (0 there: two linear layers). By default torchvision's for the
            backbone; `tiny` 1 and 0.
        head_norm: after these convolutions. By default torchvision's (of an FCOS always group);
            group in a RetinaNet on `tiny` or a timm backbone.
        regions_per_image: Faster R-CNN: sampled in training, a quarter of them with objects at
            most. By default 512, `tiny` 32.
        anchor_sizes: one list per pyramid level, finest first, in pixels of the scaled image; lists
            of one length. By default three sizes from 4 strides on (RetinaNet; `tiny` from 2
            strides) or one of 8 strides (Faster R-CNN; `tiny` 3; with a MobileNet all sizes on all
            levels). FCOS: one size per level, by default the stride; a level looks for objects that
            reach 4 to 8 sizes from the place that finds them, the outer levels beyond.
        anchor_ratios: height / width. By default 0.5, 1, 2; 1 for FCOS, which takes no other.
        score_threshold: detections below are dropped, 0-1.
        nms_threshold: of two boxes of a class with a higher IoU, the better stays, 0-1.
        detections_per_image: at most so many are kept.
        topk_candidates: RetinaNet and FCOS: at most so many per level go into the NMS.

    Returns:
        `torchvision.models.detection.RetinaNet`, `FCOS` or `FasterRCNN`, in training mode.

    Raises:
        ValueError: if an argument is out of its range or does not fit the others, the backbone is
            unknown, or weights cannot be read or do not fit; all but the last before building.
        ImportError: if timm or the package of the offline weights is needed and missing.

    Example:
        >>> model = build_detector(11, backbone="tiny")
        >>> type(model).__name__, round(sum(p.numel() for p in model.parameters()) / 1e6, 1)
        ('RetinaNet', 0.5)
    """
    if weights is None:
        weights = usual_weights(backbone)
    defaults = _completed(
        detector_defaults(detector, backbone),
        min_size=min_size,
        max_size=max_size,
        strides=None if strides is None else tuple(strides),
        extra_levels=extra_levels,
        fpn_channels=fpn_channels,
        head_convs=head_convs,
        head_norm=head_norm,
        regions_per_image=regions_per_image,
    )
    check_arguments(
        defaults,
        num_classes=num_classes,
        strides=strides,
        weights=weights,
        frozen_norm=frozen_norm,
        trainable_layers=trainable_layers,
        anchor_sizes=anchor_sizes,
        anchor_ratios=anchor_ratios,
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        detections_per_image=detections_per_image,
        topk_candidates=topk_candidates,
    )
    loads = weights != "none"
    body = build_body(
        backbone,
        strides,
        default_strides=defaults.strides,
        pretrained=load_weights and weights == "default",
        frozen_norm=(loads and not defaults.second_recipe) if frozen_norm is None else frozen_norm,
        trainable_layers=3 if loads and trainable_layers is None else trainable_layers,
    )
    one_stage = detector != "fasterrcnn"
    pyramid = Pyramid(
        body,
        defaults.fpn_channels,
        defaults.extra_levels,
        from_body=defaults.second_recipe and one_stage,
        norm_layer=nn.BatchNorm2d if defaults.second_recipe and not one_stage else None,
    )
    levels = body.strides + [body.strides[-1] * 2 ** (i + 1) for i in range(defaults.extra_levels)]
    sizes = anchor_sizes or default_anchor_sizes(defaults, levels)
    ratios = tuple(anchor_ratios or default_anchor_ratios(detector))
    anchors = AnchorGenerator(tuple(tuple(level) for level in sizes), (ratios,) * len(sizes))
    image = {
        "min_size": defaults.min_size,
        "max_size": defaults.max_size,
        "image_mean": list(body.mean),
        "image_std": list(body.std),
    }
    if one_stage:
        kind, head = (RetinaNet, retinanet_head) if detector == "retinanet" else (FCOS, fcos_head)
        model: nn.Module = kind(
            pyramid,
            num_classes,
            anchor_generator=anchors,
            head=head(defaults, num_classes, anchors),
            score_thresh=score_threshold,
            nms_thresh=nms_threshold,
            detections_per_img=detections_per_image,
            topk_candidates=topk_candidates,
            **image,
        )
    else:
        model = FasterRCNN(
            pyramid,
            rpn_anchor_generator=anchors,
            rpn_head=proposal_head(defaults, anchors),
            box_roi_pool=MultiScaleRoIAlign(
                pyramid.names, output_size=defaults.pooled, sampling_ratio=2
            ),
            box_head=box_head(defaults),
            box_predictor=FastRCNNPredictor(defaults.representation, num_classes),
            box_batch_size_per_image=defaults.regions_per_image,
            box_score_thresh=score_threshold,
            box_nms_thresh=nms_threshold,
            box_detections_per_img=detections_per_image,
            **_proposal_limits(backbone),
            **image,
        )
    if load_weights and weights not in ("none", "default"):
        if weights == "offline":
            load_offline(model)
        else:
            load_file(model, weights)
    if weights == "default" and backbone in TORCHVISION_BACKBONES:
        load_default(model, detector, backbone, fetch=load_weights)
    return set_classification_loss(model, None)


def _completed(defaults: DetectorDefaults, **arguments: Any) -> DetectorDefaults:
    """The defaults with the arguments that were given in their place."""
    chosen = {name: value for name, value in arguments.items() if value is not None}
    if "min_size" in chosen and "max_size" not in chosen:
        # A larger image than usual keeps the usual shape of its longest side.
        usual_shape = defaults.max_size / defaults.min_size
        chosen["max_size"] = max(defaults.max_size, round(chosen["min_size"] * usual_shape))
    return replace(defaults, **chosen)


def _proposal_limits(backbone: str) -> dict[str, float]:
    """What torchvision's MobileNet builders change, for speed."""
    limits: dict[str, float] = {}
    if backbone.startswith(MOBILENET):
        limits["rpn_score_thresh"] = 0.05
    if backbone == f"{MOBILENET}_320_fpn":
        limits |= {"rpn_pre_nms_top_n_test": 150, "rpn_post_nms_top_n_test": 150}
    return limits


def retinanet_head(
    defaults: DetectorDefaults, num_classes: int, anchors: AnchorGenerator
) -> RetinaNetHead:
    """Build both heads of a RetinaNet."""
    channels = defaults.fpn_channels
    norm = _norm_layer(defaults.head_norm, channels)
    per_place = anchors.num_anchors_per_location()[0]
    head = RetinaNetHead(channels, per_place, num_classes, norm_layer=norm)
    for part in (head.classification_head, head.regression_head):
        if defaults.head_convs != len(part.conv):
            layers = [
                Conv2dNormActivation(channels, channels, norm_layer=norm)
                for _ in range(defaults.head_convs)
            ]
            for layer in layers:
                nn.init.normal_(layer[0].weight, std=WEIGHT_STD)
                if layer[0].bias is not None:
                    nn.init.zeros_(layer[0].bias)
            part.conv = nn.Sequential(*layers)
    if defaults.second_recipe:
        # Torchvision's own v2 builder has no public way either.
        head.regression_head._loss_type = "giou"
    return head


def fcos_head(defaults: DetectorDefaults, num_classes: int, anchors: AnchorGenerator) -> FCOSHead:
    """Build the heads of an FCOS."""
    channels, convs = defaults.fpn_channels, defaults.head_convs
    per_place = anchors.num_anchors_per_location()[0]
    # For torchvision, None is a group norm of 32 groups.
    norm = _norm_layer(defaults.head_norm, channels) or nn.Identity
    head = FCOSHead(channels, per_place, num_classes, num_convs=0)
    head.classification_head = FCOSClassificationHead(
        channels, per_place, num_classes, convs, norm_layer=norm
    )
    head.regression_head = FCOSRegressionHead(channels, per_place, convs, norm_layer=norm)
    return head


def proposal_head(defaults: DetectorDefaults, anchors: AnchorGenerator) -> RPNHead:
    """Build the head of a region proposal network."""
    per_place = anchors.num_anchors_per_location()[0]
    return RPNHead(defaults.fpn_channels, per_place, conv_depth=2 if defaults.second_recipe else 1)


def box_head(defaults: DetectorDefaults) -> TwoMLPHead | FastRCNNConvFCHead:
    """Build the part of a second stage between the pooled features and the last layers."""
    channels = defaults.fpn_channels
    if defaults.head_convs == 0:
        return TwoMLPHead(channels * defaults.pooled**2, defaults.representation)
    return FastRCNNConvFCHead(
        (channels, defaults.pooled, defaults.pooled),
        [channels] * defaults.head_convs,
        [defaults.representation],
        norm_layer=_norm_layer(defaults.head_norm, channels),
    )


def _norm_layer(norm: Norm, channels: int) -> Callable[..., nn.Module] | None:
    if norm == "group":
        return partial(nn.GroupNorm, math.gcd(32, channels))
    return nn.BatchNorm2d if norm == "batch" else None
