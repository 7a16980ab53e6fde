"""The standard augmentation: flips, scale and colour."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from detbalance.augmentation.contract import Image, Target, check_range, check_scale, prepared
from detbalance.augmentation.geometry import FILL
from detbalance.augmentation.pipeline import BoxPipeline, import_albumentations

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
