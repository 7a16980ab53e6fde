"""Albumentations pipelines that take boxes, flags and masks along; the standard augmentation.

Albumentations cuts boxes to the image, so that nobody knows how much of them is left. Here the
corners of the boxes travel as its keypoints, which it leaves uncut.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.transform import (
    FILL,
    Image,
    Target,
    check_range,
    check_scale,
    corners,
    fill_color,
    is_bilevel,
    prepared,
    settle,
)
from detbalance.data.messages import needs

_STRAIGHT = {
    "Affine", "CenterCrop", "Crop", "CropAndPad", "D4", "HorizontalFlip", "LongestMaxSize", "NoOp",
    "Pad", "PadIfNeeded", "Perspective", "RandomCrop", "RandomCropFromBorders", "RandomResizedCrop",
    "RandomRotate90", "RandomScale", "RandomSizedCrop", "Resize", "Rotate", "SafeRotate",
    "ShiftScaleRotate", "SmallestMaxSize", "SquareSymmetry", "Transpose", "VerticalFlip",
}  # fmt: skip
"""Transforms that keep lines straight, so that a box's corners tell where all of it goes."""

_RESIZING = {
    "CropAndPad", "LongestMaxSize", "RandomResizedCrop", "RandomScale", "RandomSizedCrop", "Resize",
    "SmallestMaxSize",
}  # fmt: skip
"""Those that stretch pixels from the edge of the image, but keypoints from the first centre."""

_HALF_PIXEL = np.array([0.5, 0.5, 0, 0, 0], np.float32)

_RETYPING = {"FromFloat", "Normalize", "ToFloat"}


class BoxPipeline:
    """Runs albumentations transforms on an image and its target."""

    def __init__(
        self,
        owner: str,
        steps: Sequence[Any],
        *,
        min_visibility: float,
        recolor_bilevel: bool = False,
    ) -> None:
        albumentations, cv2 = import_albumentations()
        compositions = albumentations.BaseCompose
        leaves = list(_leaves(steps, compositions))
        for leaf in leaves:
            _check(owner, leaf, albumentations, cv2)
            if type(leaf).__name__ in _RESIZING:
                leaf.apply_to_keypoints = partial(_by_edges, leaf.apply_to_keypoints)
        moving = [
            step
            for step in steps
            if not all(
                isinstance(leaf, albumentations.ImageOnlyTransform)
                for leaf in _leaves([step], compositions)
            )
        ]
        self.moves = bool(moving)
        self.min_visibility = min_visibility
        self._nearest = cv2.INTER_NEAREST
        # Without processors: their conversions of keypoints cost more than the geometry.
        settings = {
            "is_check_shapes": False,
            "mask_interpolation": cv2.INTER_NEAREST,
            "additional_targets": {"corners": "keypoints"},
        }
        self._every = albumentations.Compose(steps, **settings)
        self._bilevel = (
            self._every if recolor_bilevel else albumentations.Compose(moving, **settings)
        )
        self._adapted = [
            (leaf, name, getattr(leaf, name))
            for leaf in leaves
            for name in ("fill", "interpolation")
            if hasattr(leaf, name)
        ]

    def __call__(
        self, image: Image, target: Target, generator: np.random.Generator
    ) -> tuple[Image, Target]:
        """Return the changed image and target, as `Augmentation.__call__` describes."""
        bilevel = is_bilevel(image)
        pipeline = self._bilevel if bilevel else self._every
        # Albumentations draws from both kinds of generator. Setting them takes 7 us, its own
        # `set_random_seed` seven times as long.
        pipeline.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        deep = image.dtype == np.uint16
        data: dict[str, Any] = {"image": image / np.float32(65535) if deep else image}
        fill = fill_color(image)
        self._adapt(image.dtype == np.uint16, fill if bilevel else None)
        number = len(target["boxes"])
        if not self.moves or not number:
            moved = _restore(pipeline(**data)["image"], image)
            if "masks" in target and not number:
                target = {**target, "masks": np.zeros((0, *moved.shape[:2]), np.bool_)}
            return moved, target
        before = corners(target["boxes"], *image.shape[:2])
        # Keypoints are x, y, z, angle, scale; of pixel i they see the centre, at i, not its edge.
        points = np.zeros((4 * number, 5), np.float32)
        points[:, :2] = before.reshape(-1, 2) - 0.5
        data["corners"] = points
        if "masks" in target:
            data["masks"] = target["masks"].astype(np.uint8)
        result = pipeline(**data)
        moved = _restore(result["image"], image)
        if moved.shape == image.shape and np.array_equal(result["corners"], points):
            return moved, target
        after = result["corners"][:, :2].reshape(-1, 4, 2).astype(np.float64) + 0.5
        return settle(
            moved,
            target,
            before,
            after,
            masks=result["masks"].astype(np.bool_) if "masks" in target else None,
            min_visibility=self.min_visibility,
            fill=fill,
        )

    def _adapt(self, deep: bool, fill: NDArray[np.int64] | None) -> None:
        """Set border colours and interpolation for this kind of image."""
        for leaf, name, value in self._adapted:
            if name == "interpolation":
                value = value if fill is None else self._nearest
            elif fill is not None:
                value = tuple((fill / (65535 if deep else 1)).tolist())
            elif deep:
                value = tuple((np.broadcast_to(value, 3) / 255).tolist())
            setattr(leaf, name, value)


def _by_edges(apply: Any, points: Any, **parameters: Any) -> Any:
    """Move keypoints as pixels are: by their edges."""
    moved = apply(points + _HALF_PIXEL, **parameters)
    return moved - _HALF_PIXEL


def _restore(pixels: Any, image: Image) -> Image:
    """Bring the pixels back to the type of the image that they were made from."""
    if image.dtype == np.uint16:
        pixels = np.rint(np.clip(pixels, 0, 1) * np.float32(65535)).astype(np.uint16)
    return np.ascontiguousarray(pixels)


def _leaves(steps: Sequence[Any], compositions: Any) -> Iterator[Any]:
    """Walk over the transforms inside compositions."""
    for step in steps:
        if isinstance(step, compositions):
            yield from _leaves(step.transforms, compositions)
        else:
            yield step


def _check(owner: str, leaf: Any, albumentations: Any, cv2: Any) -> None:
    name = type(leaf).__name__
    problem = None
    if isinstance(leaf, albumentations.ImageOnlyTransform):
        if name in _RETYPING:
            problem = "changes the type of the pixels. Transforms that keep it are expected, as the"
            problem += " detector scales pixels itself"
        elif leaf.targets_as_params:
            problem = f"needs {', '.join(leaf.targets_as_params)} beside the image. Transforms that"
            problem += " need the image alone are expected"
    elif name not in _STRAIGHT:
        problem = (
            "is a transform that boxes cannot follow exactly, as it bends lines, hides objects"
        )
        problem += " or needs more than the image. Expected one that changes values only, or one of"
        problem += f" {', '.join(sorted(_STRAIGHT))}"
    elif getattr(leaf, "border_mode", None) not in (
        None,
        cv2.BORDER_CONSTANT,
        cv2.BORDER_REPLICATE,
    ):
        problem = (
            f"has border_mode {leaf.border_mode}, which mirrors objects into the border, where"
        )
        problem += f" no box marks them. Expected {cv2.BORDER_CONSTANT} (constant)"
    if problem:
        raise ValueError(f"{owner}: {name} {problem}. Change it or leave it out.")


def import_albumentations() -> tuple[Any, Any]:
    """Import albumentations, without letting it ask the network for a newer version, and OpenCV."""
    name = "NO_ALBUMENTATIONS_UPDATE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        import albumentations
        import cv2
    except ImportError as error:
        raise needs("detbalance.augmentation", "albumentations and OpenCV", "train") from error
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
    return albumentations, cv2


_logger = logging.getLogger(__name__)


class StandardAugmentation:
    """Flips, scales and recolours; the size of the image stays.

    Scaling is about the middle of the image: a larger image is cut, a smaller one gets a border.
    Boxes are cut with it, `areas` shrink in proportion to their box, and boxes of which too little
    remains are dropped; what remains of their objects is painted over. What remains of a crowd
    region always stays: dropped, it would be taught as background. Masks move along. Bi-level
    images keep their two values: they are not recoloured, and scaled by nearest pixel. Objects can
    be pickled and sent to spawned workers. OpenCV's thread count is left alone; with several
    workers, call `cv2.setNumThreads(0)` in each.

    Args:
        horizontal_flip: probability of mirroring left and right; 0 for text, digits and signs.
        vertical_flip: probability of turning upside down.
        scale: smallest and largest factor, > 0; (1, 1) turns scaling off.
        color: strength in 0..1: brightness, contrast and saturation change by up to this fraction,
            the hue by a tenth of it (of the whole circle); 0 turns it off.
        min_visibility: fraction in 0..1 of a box's scaled area that must be left in the image.

    Raises:
        ValueError: if a value is out of its range.
        ImportError: if albumentations is missing.

    Example:
        >>> from detbalance.augmentation import StandardAugmentation
        >>> augmentation = StandardAugmentation(horizontal_flip=1, scale=(1, 1), color=0)
        >>> target = {
        ...     "boxes": np.array([[10, 20, 30, 40]], np.float32),
        ...     "labels": np.array([1]),
        ...     "areas": np.array([400.0]),
        ...     "is_crowd": np.array([False]),
        ... }
        >>> image = np.zeros((64, 100, 3), np.uint8)
        >>> _, flipped = augmentation(image, target, np.random.default_rng(0))
        >>> flipped["boxes"].round(3)
        array([[70., 20., 90., 40.]], dtype=float32)
    """

    def __init__(
        self,
        *,
        horizontal_flip: float = 0.5,
        vertical_flip: float = 0.0,
        scale: tuple[float, float] = (0.8, 1.25),
        color: float = 0.3,
        min_visibility: float = 0.3,
    ) -> None:
        for name, value in (
            ("horizontal_flip", horizontal_flip),
            ("vertical_flip", vertical_flip),
            ("color", color),
            ("min_visibility", min_visibility),
        ):
            check_range("StandardAugmentation", name, value, 0, 1)
        self.horizontal_flip = horizontal_flip
        self.vertical_flip = vertical_flip
        self.scale = check_scale("StandardAugmentation", scale)
        self.color = color
        self.min_visibility = min_visibility
        if not (horizontal_flip or vertical_flip or color) and self.scale == (1, 1):
            _logger.warning("StandardAugmentation: everything is turned off, it changes no image.")
        self._pipeline: BoxPipeline | None = self._build()

    def __getstate__(self) -> dict[str, Any]:
        # Rebuilt where it is used: pickles stay small and free of another library's insides.
        return {**self.__dict__, "_pipeline": None}

    def __call__(
        self, image: Image, target: Target, generator: np.random.Generator
    ) -> tuple[Image, Target]:
        """Return the changed image and target, as `Augmentation.__call__` describes."""
        image, target = prepared("StandardAugmentation", image, target)
        if self._pipeline is None:
            self._pipeline = self._build()
        return self._pipeline(image, target, generator)

    def _build(self) -> BoxPipeline:
        albumentations, _ = import_albumentations()
        steps = []
        if self.horizontal_flip:
            steps.append(albumentations.HorizontalFlip(p=self.horizontal_flip))
        if self.vertical_flip:
            steps.append(albumentations.VerticalFlip(p=self.vertical_flip))
        if self.scale != (1, 1):
            steps.append(albumentations.Affine(scale=self.scale, keep_ratio=True, fill=FILL, p=1))
        if self.color:
            span = (1 - self.color, 1 + self.color)
            hue = (-self.color / 10, self.color / 10)
            steps.append(
                albumentations.ColorJitter(
                    brightness=span, contrast=span, saturation=span, hue=hue, p=1
                )
            )
        return BoxPipeline("StandardAugmentation", steps, min_visibility=self.min_visibility)
