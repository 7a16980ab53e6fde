"""Crops around objects of rare classes, which they never cut.

Letters: H, W height and width of the image, N boxes, T windows tried, C classes with background.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.donor_choice import wanted_labels
from detbalance.augmentation.transform import (
    Image,
    Target,
    check_range,
    corners,
    fill_color,
    is_bilevel,
    prepared,
    settle,
)
from detbalance.data import Annotations
from detbalance.data.frequency import class_frequency
from detbalance.data.images import import_cv2

_CONTEXT = 0.2  # as a fraction of the box's sides, on each side, where there is room for it
_logger = logging.getLogger(__name__)


class RareCrop:
    """Enlarges a part of the image around an object of a rare class; the image's size stays.

    One object of the chosen classes is drawn, rarer classes more often, and a window around it that
    holds all of it. Windows that cut another object of these classes, or leave less than
    `min_visibility` of any object, are drawn again; where none is without fault, the one with the
    fewest is taken, and what is left of the objects with too little left is painted over. An object
    too large for the zoom lowers it. Images without such objects stay as they are.

    Args:
        annotations: the training annotations, for the frequency of classes.
        classes: names of the classes to crop around; by default those that `frequency_groups` calls
            rare or common.
        probability: of cropping an image that shows one of them, 0..1.
        zoom: smallest and largest enlargement, >= 1; drawn evenly on a logarithmic scale.
        min_visibility: fraction in 0..1 of a box's area that must be left in the window.
        tries: number of windows that are drawn, >= 1.

    Raises:
        ValueError: if a value is out of its range, or a class is unknown.
        TypeError: if `classes` is one string.
        ImportError: if OpenCV is missing.

    Attributes:
        weights: float64 [C], how likely an object of each class is the chosen one, relative to
            others in its image: one over the class's images; 0 for classes not asked for.
    """

    def __init__(
        self,
        annotations: Annotations,
        *,
        classes: Sequence[str] | None = None,
        probability: float = 0.5,
        zoom: tuple[float, float] = (1.0, 2.0),
        min_visibility: float = 0.3,
        tries: int = 20,
    ) -> None:
        check_range("RareCrop", "probability", probability, 0, 1)
        check_range("RareCrop", "min_visibility", min_visibility, 0, 1)
        check_range("RareCrop", "tries", tries, 1, 100_000)
        low, high = zoom
        if not 1 <= low <= high <= 1000:
            raise ValueError(
                f"RareCrop: zoom is ({low}, {high}). Expected two factors with"
                " 1 <= smallest <= largest <= 1000. Change zoom."
            )
        import_cv2()  # fail here, not in a worker
        self.probability = probability
        self.zoom = low, high
        self.min_visibility = min_visibility
        self.tries = tries
        self.weights = _weights(annotations, classes)
        if not probability or high == 1:
            _logger.warning(
                "RareCrop: probability is %s and the largest zoom is %s, so no image is ever"
                " cropped.",
                probability,
                high,
            )

    def __call__(
        self, image: Image, target: Target, generator: np.random.Generator
    ) -> tuple[Image, Target]:
        """Return the changed image and target, as `Augmentation.__call__` describes."""
        image, target = prepared("RareCrop", image, target)
        height, width = image.shape[:2]
        before = corners(target["boxes"], height, width)
        boxes = np.concatenate([before[:, 0], before[:, 2]], axis=1)
        weights = np.where(target["is_crowd"], 0.0, self.weights[target["labels"]])
        weights[(boxes[:, 2:] <= boxes[:, :2]).any(axis=1)] = 0
        if not weights.any() or generator.random() >= self.probability:
            return image, target
        chosen = int(generator.choice(len(weights), p=weights / weights.sum()))
        windows = self._windows(boxes[chosen], height, width, generator)
        left, top, right, bottom = windows[self._best(windows, boxes, weights > 0, target)]
        if (left, top, right, bottom) == (0, 0, width, height):
            return image, target
        factors = np.array([width / (right - left), height / (bottom - top)])
        rows, columns = slice(top, bottom), slice(left, right)
        masks = target.get("masks")
        if masks is not None:
            cut = [_resize(mask[rows, columns], height, width, True) for mask in masks]
            masks = np.array(cut, np.bool_).reshape(masks.shape)
        return settle(
            _resize(image[rows, columns], height, width, is_bilevel(image)),
            target,
            before,
            (before - (left, top)) * factors,
            masks=masks,
            min_visibility=self.min_visibility,
            fill=fill_color(image),
        )

    def _windows(
        self,
        box: NDArray[np.float64],
        height: int,
        width: int,
        generator: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Draw windows, int64 [T, 4] xyxy, in whole pixels, that hold all of a box."""
        low, high = self.zoom
        size = np.array([width, height])
        start, end = np.floor(box[:2]), np.ceil(box[2:])
        zoom = low * (high / low) ** generator.random((self.tries, 1))
        zoom = np.minimum(zoom, (size / (end - start)).min())
        sides = np.rint(size / zoom)
        context = np.minimum((box[2:] - box[:2]) * _CONTEXT, (sides - (end - start)) / 2)
        # Where the context would reach out of the image, the window stops at the image's edge.
        first = np.clip(np.ceil(end + context - sides), 0, size - sides)
        last = np.clip(np.floor(start - context), 0, size - sides)
        first = np.minimum(first, last)
        corner = first + np.floor(generator.random((self.tries, 2)) * (last - first + 1))
        return np.concatenate([corner, corner + sides], axis=1).astype(np.int64)

    def _best(
        self,
        windows: NDArray[np.int64],
        boxes: NDArray[np.float64],
        rare: NDArray[np.bool_],
        target: Target,
    ) -> int:
        """The first window that cuts the fewest rare objects, and drops the fewest of the rest."""
        corner = np.maximum(windows[:, None, :2], boxes[None, :, :2])
        extent = np.clip(np.minimum(windows[:, None, 2:], boxes[None, :, 2:]) - corner, 0, None)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        share = extent.prod(axis=2) / np.maximum(area, 1e-12)
        cut = (share > 0) & (share < 1 - 1e-6) & ~target["is_crowd"]
        dropped = cut & (share < self.min_visibility)
        faults = (cut & rare).sum(axis=1) * (len(boxes) + 1) + dropped.sum(axis=1)
        return int(faults.argmin())


def _resize(pixels: Image, height: int, width: int, nearest: bool) -> Image:
    cv2 = import_cv2()
    method = cv2.INTER_NEAREST_EXACT if nearest else cv2.INTER_LINEAR
    is_mask = pixels.dtype == np.bool_
    source = np.ascontiguousarray(pixels.astype(np.uint8) if is_mask else pixels)
    return np.asarray(cv2.resize(source, (width, height), interpolation=method))


def _weights(annotations: Annotations, classes: Sequence[str] | None) -> NDArray[np.float64]:
    """One over the images of each class asked for, float64 [C]; 0 for the others."""
    frequency = class_frequency(annotations)
    wanted = wanted_labels(
        annotations, classes, frequency, owner="RareCrop", purpose="to crop around"
    )
    weights = np.zeros(annotations.categories.num_classes)
    weights[wanted] = 1 / np.maximum(frequency.image_counts[wanted], 1)
    return weights
