"""The standard augmentation: flips, scale and colour."""

from __future__ import annotations

import logging
import os
import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.contract import Image, Target, check_range, check_scale, take_rows

_FILL = (124, 116, 104)  # what an image shrinks away from: ImageNet's mean colour
_logger = logging.getLogger(__name__)


class StandardAugmentation:
    """Flips, scales and recolours; the size of the image stays.

    Scaling is about the middle of the image: a larger image is cut, a smaller one gets a border.
    Boxes are cut with it, `areas` shrink in proportion to their box, and boxes of which too little
    remains are dropped. What remains of a crowd region always stays: dropped, it would be taught as
    background. Objects can be pickled and sent to spawned workers. OpenCV's thread count is left
    alone; with several workers, call `cv2.setNumThreads(0)` in each.

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
        self._moves = bool(horizontal_flip or vertical_flip or self.scale != (1, 1))
        if not self._moves and not color:
            _logger.warning("StandardAugmentation: everything is turned off, it changes no image.")
        self._pipeline: Any = self._build()

    def __getstate__(self) -> dict[str, Any]:
        # Rebuilt where it is used: pickles stay small and free of another library's insides.
        return {**self.__dict__, "_pipeline": None}

    def __call__(
        self, image: Image, target: Target, generator: np.random.Generator
    ) -> tuple[Image, Target]:
        """Return the changed image and target, as `Augmentation.__call__` describes."""
        if self._pipeline is None:
            self._pipeline = self._build()
        # Albumentations draws from both kinds of generator. Setting them takes 7 us, its own
        # `set_random_seed` seven times as long.
        python_generator = random.Random(int(generator.integers(2**63)))
        self._pipeline.set_random_state(generator, python_generator)
        if not self._moves:
            return np.ascontiguousarray(self._pipeline(image=image)["image"]), target
        boxes = target["boxes"]
        result = self._pipeline(image=image, bboxes=boxes, rows=np.arange(len(boxes)))
        rows = np.asarray(result["rows"], np.int64)
        moved = np.asarray(result["bboxes"], np.float32).reshape(-1, 4)
        factor = 1.0
        for _, parameters in result["applied_transforms"]:
            if "scale" in parameters:
                factor = parameters["scale"]["x"] * parameters["scale"]["y"]
        whole = _area(boxes[rows]) * factor
        remaining = _area(moved) / np.maximum(whole, 1e-9)
        kept = (remaining > 0) & ((remaining >= self.min_visibility) | target["is_crowd"][rows])
        rows = rows[kept]
        changed = take_rows(target, rows)
        changed["boxes"] = moved[kept]
        changed["areas"] = changed["areas"] * factor * np.minimum(remaining[kept], 1)
        return np.ascontiguousarray(result["image"]), changed

    def _build(self) -> Any:
        albumentations, constant_border = _import_albumentations()
        steps = []
        if self.horizontal_flip:
            steps.append(albumentations.HorizontalFlip(p=self.horizontal_flip))
        if self.vertical_flip:
            steps.append(albumentations.VerticalFlip(p=self.vertical_flip))
        if self.scale != (1, 1):
            steps.append(
                albumentations.Affine(
                    scale=self.scale, keep_ratio=True, border_mode=constant_border, fill=_FILL, p=1
                )
            )
        if self.color:
            span = (1 - self.color, 1 + self.color)
            hue = (-self.color / 10, self.color / 10)
            steps.append(
                albumentations.ColorJitter(
                    brightness=span, contrast=span, saturation=span, hue=hue, p=1
                )
            )
        if not self._moves:  # with boxes, albumentations would warn that no step moves them
            return albumentations.Compose(steps)
        # The boxes carry their row number: it says which labels, areas and flags go with them.
        # They are cut to the image once, at the end: after each step takes a fifth more time.
        boxes = albumentations.BboxParams(
            format="pascal_voc", label_fields=["rows"], clip=True, check_each_transform=False
        )
        return albumentations.Compose(
            steps, bbox_params=boxes, is_check_shapes=False, save_applied_params=True
        )


def _area(boxes: NDArray[Any]) -> NDArray[np.float64]:
    sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
    return np.asarray(sides.prod(axis=1))


def _import_albumentations() -> tuple[Any, int]:
    """Import albumentations without letting it ask the network for a newer version."""
    name = "NO_ALBUMENTATIONS_UPDATE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        import albumentations
        import cv2
    except ImportError as error:
        raise ImportError(
            "detbalance.augmentation needs albumentations and OpenCV. Install them with:"
            ' pip install "detbalance[train]"'
        ) from error
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
    return albumentations, cv2.BORDER_CONSTANT
