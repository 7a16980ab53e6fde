"""Arguments of `build_detector`: checked, and completed by what is usual for the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from detbalance.detection.backbones import MOBILENET, TINY, TORCHVISION_BACKBONES

Detector = Literal["retinanet", "fcos", "fasterrcnn"]
Norm = Literal["none", "group", "batch"]

BUILT_IN = ("none", "default", "offline")
"""What `weights` may be instead of a file."""
OFFLINE_BACKBONE = "tf_efficientnet_lite0"
ANCHOR_STRIDES = {"retinanet": 4.0, "fcos": 1.0, "fasterrcnn": 8.0}
"""Torchvision's smallest anchor on a level, in strides of the level."""
TINY_ANCHOR_STRIDES = {"retinanet": 2.0, "fcos": 1.0, "fasterrcnn": 3.0}


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


def usual(detector: Detector, backbone: str) -> DetectorDefaults:
    """Give what torchvision does, and what suits the tiny backbone."""
    one_stage, tiny = detector != "fasterrcnn", backbone == TINY
    second = backbone.endswith("_fpn_v2")
    smallest, largest = {TINY: (128, 256), f"{MOBILENET}_320_fpn": (320, 640)}.get(
        backbone, (800, 1333)
    )
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


def usual_anchor_sizes(plan: DetectorDefaults, strides: Sequence[int]) -> list[list[float]]:
    """Give the anchor sizes that are usual on each level of a pyramid."""
    if plan.detector == "fasterrcnn" and list(strides[:2]) == [32, 32]:
        # Torchvision's MobileNet Faster R-CNN has coarse maps only, so all sizes on each.
        return [[32.0, 64.0, 128.0, 256.0, 512.0] for _ in strides]
    factors = TINY_ANCHOR_STRIDES if plan.backbone == TINY else ANCHOR_STRIDES
    bases = [int(stride * factors[plan.detector]) for stride in strides]
    if plan.detector != "retinanet":
        return [[base] for base in bases]
    return [[base, int(base * 2 ** (1 / 3)), int(base * 2 ** (2 / 3))] for base in bases]


def usual_anchor_ratios(detector: Detector) -> tuple[float, ...]:
    """Give the anchors' usual height / width."""
    return (1.0,) if detector == "fcos" else (0.5, 1.0, 2.0)


def check_arguments(plan: DetectorDefaults, **given: Any) -> None:
    """Refuse arguments of `build_detector` that are wrong whatever the backbone turns out to be."""
    if plan.detector not in get_args(Detector):
        raise _wrong("detector", f'"{plan.detector}"', "retinanet, fcos or fasterrcnn")
    if given["num_classes"] < 2:
        raise _wrong("num_classes", given["num_classes"], "At least 2 (background and one class)")
    if not 0 < plan.min_size <= plan.max_size:
        raise _wrong("min_size", plan.min_size, f"1 to max_size ({plan.max_size})")
    strides = given["strides"]
    if strides is not None and (not strides or strides != sorted(set(strides))):
        raise _wrong("strides", strides, "Ascending strides in pixels")
    if plan.extra_levels not in (0, 1, 2):
        raise _wrong("extra_levels", plan.extra_levels, "0, 1 or 2")
    for name, low, high in (
        ("fpn_channels", 1, 8192),
        ("head_convs", 0, 64),
        ("regions_per_image", 1, 2**16),
        ("max_size", 1, 2**16),
    ):
        if not low <= getattr(plan, name) <= high:
            raise _wrong(name, getattr(plan, name), f"{low}-{high}")
    if plan.head_norm not in get_args(Norm):
        raise _wrong("head_norm", f'"{plan.head_norm}"', "none, group or batch")
    for name in ("score_threshold", "nms_threshold"):
        if not 0 <= given[name] <= 1:
            raise _wrong(name, given[name], "A number in 0-1")
    for name in ("detections_per_image", "topk_candidates"):
        if not 1 <= given[name] <= 10**6:
            raise _wrong(name, given[name], "1-1000000")
    ratios, sizes = given["anchor_ratios"], given["anchor_sizes"]
    if ratios is not None and (not ratios or min(ratios) <= 0):
        raise _wrong("anchor_ratios", ratios, "Numbers above 0 (height / width)")
    if plan.detector == "fcos" and ratios not in (None, [1.0]):
        raise _wrong("anchor_ratios", ratios, "[1.0], as FCOS has one square anchor per place,")
    if sizes is not None:
        levels = len(plan.strides) + plan.extra_levels
        if len(sizes) != levels or len({len(level) for level in sizes}) != 1:
            raise _wrong(
                "anchor_sizes", sizes, f"{levels} lists of one length, one per pyramid level,"
            )
        if not sizes[0] or min(min(level) for level in sizes) <= 0:
            raise _wrong("anchor_sizes", sizes, "Sizes above 0 in pixels")
        if plan.detector == "fcos" and len(sizes[0]) > 1:
            raise _wrong("anchor_sizes", sizes, "One size per level, as FCOS has one anchor,")
    _check_weights(plan, given["weights"], given["frozen_norm"], given["trainable_layers"])


def _check_weights(
    plan: DetectorDefaults, weights: str, frozen_norm: bool | None, trainable_layers: int | None
) -> None:
    if weights == "offline" and plan.backbone != OFFLINE_BACKBONE:
        raise ValueError(
            f'build_detector(): weights "offline" are those of {OFFLINE_BACKBONE}, backbone is'
            f' "{plan.backbone}". Set backbone to {OFFLINE_BACKBONE}.'
        )
    if weights == "default" and plan.backbone == TINY:
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
        most = 6 if plan.backbone.startswith(MOBILENET) else 5
        if weights == "none" or plan.backbone not in TORCHVISION_BACKBONES:
            raise ValueError(
                f"build_detector(): trainable_layers is {trainable_layers}, which needs a"
                " torchvision backbone with weights. Without them all layers train. Leave it out."
            )
        if not 0 <= trainable_layers <= most:
            raise _wrong("trainable_layers", trainable_layers, f"0-{most}")


def _wrong(name: str, value: object, expected: str) -> ValueError:
    return ValueError(
        f"build_detector(): {name} is {value}. {expected} is expected. Correct {name}."
    )
