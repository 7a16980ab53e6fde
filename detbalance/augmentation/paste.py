"""Paste boxes of rare classes into other images, at places that overlap nothing.

Letters: H, W height and width, N boxes.
"""

from __future__ import annotations

import logging
import math

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.contract import (
    Image,
    Target,
    append_rows,
    check_range,
    check_scale,
)
from detbalance.augmentation.donors import Donor, DonorBank
from detbalance.images import import_cv2

_PATIENCE = 200  # donors in a row without a place before the log says so
_logger = logging.getLogger(__name__)


class RarePaste:
    """Pastes donors, with their margin and a soft edge, where they overlap nothing.

    The pasted margin stays clear of every box that is there, crowd regions included, and of what
    was pasted before; a donor for which no such place is found is left out. New boxes are appended
    to the target with `is_crowd` false; the array `pasted` marks them, so that they can be counted
    per class (it is added, and kept where it exists). The size of the image does not change.

    Args:
        donors: what to paste.
        probability: of pasting anything into an image, 0..1.
        max_pastes: largest number of donors per image, >= 0; 1 to that many are tried, all numbers
            alike.
        scale: smallest and largest factor on the donor's size, > 0; drawn evenly on a log scale.
        flip: whether to mirror half of the donors; not for text, digits and signs.
        feather: part of the margin over which the donor fades out towards its outer edge, 0..1;
            1 starts at the box, 0 leaves a hard edge.
        tries: number of places that are tried for each donor, >= 1.

    Raises:
        ValueError: if a value is out of its range.
        ImportError: if OpenCV is missing.

    Source: Dwibedi et al., Cut, Paste and Learn, 2017, arXiv:1708.01642, sec. 5 (blending).
    Differs: whole boxes with context in place of segmented objects, and no overlaps.
    """

    def __init__(
        self,
        donors: DonorBank,
        *,
        probability: float = 0.5,
        max_pastes: int = 2,
        scale: tuple[float, float] = (0.8, 1.25),
        flip: bool = False,
        feather: float = 1.0,
        tries: int = 50,
    ) -> None:
        check_range("RarePaste", "probability", probability, 0, 1)
        check_range("RarePaste", "max_pastes", max_pastes, 0, 1000)
        check_range("RarePaste", "feather", feather, 0, 1)
        check_range("RarePaste", "tries", tries, 1, 100_000)
        import_cv2()  # fail here, not in a worker
        self.donors = donors
        self.probability = probability
        self.max_pastes = max_pastes
        self.scale = check_scale("RarePaste", scale)
        self.flip = flip
        self.feather = feather
        self.tries = tries
        self._failures = 0
        if not probability or not max_pastes:
            _logger.warning(
                "RarePaste: probability is %s and max_pastes is %s, so nothing is ever pasted.",
                probability,
                max_pastes,
            )

    def __call__(
        self, image: Image, target: Target, generator: np.random.Generator
    ) -> tuple[Image, Target]:
        """Return the changed image and target, as `Augmentation.__call__` describes."""
        number = len(target["boxes"])
        target = {"pasted": np.zeros(number, np.bool_), **target}
        if not self.max_pastes or generator.random() >= self.probability:
            return image, target
        occupied = target["boxes"].astype(np.float64)
        pasted: list[tuple[NDArray[np.float64], int, float]] = []
        canvas = image
        for _ in range(int(generator.integers(1, self.max_pastes + 1))):
            donor = self.donors.crop(self.donors.draw(generator))
            donor = self._vary(donor, image.shape, generator)
            place = self._find_place(donor.image.shape, image.shape, occupied, generator)
            self._note(place is not None)
            if place is None:
                continue
            if canvas is image:
                canvas = image.copy()
            x, y = place
            height, width = donor.image.shape[:2]
            _blend(canvas[y : y + height, x : x + width], donor, self.feather)
            occupied = np.concatenate([occupied, [[x, y, x + width, y + height]]])
            pasted.append((donor.box + np.array([x, y, x, y]), donor.label, donor.area))
        return (canvas, _append(target, pasted)) if pasted else (image, target)

    def _vary(self, donor: Donor, shape: tuple[int, ...], generator: np.random.Generator) -> Donor:
        """Resize and mirror a donor; one that is too large comes as small as allowed."""
        low, high = self.scale
        factor = float(low * (high / low) ** generator.random())
        mirrored = self.flip and generator.random() < 0.5
        height, width = donor.image.shape[:2]
        factor = max(low, min(factor, shape[0] / height, shape[1] / width))
        new_height, new_width = max(1, round(height * factor)), max(1, round(width * factor))
        # The box gets the factors that the pixels really got, after rounding to whole pixels.
        factors = np.array([new_width / width, new_height / height])
        pixels = donor.image
        if (new_height, new_width) != (height, width):
            cv2 = import_cv2()
            method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
            pixels = cv2.resize(pixels, (new_width, new_height), interpolation=method)
        box, others = donor.box * np.tile(factors, 2), donor.others * np.tile(factors, 2)
        if mirrored:
            pixels = pixels[:, ::-1]
            box, others = _mirror(box, new_width), _mirror(others, new_width)
        return Donor(pixels, box, others, donor.label, donor.area * float(factors.prod()))

    def _find_place(
        self,
        donor: tuple[int, ...],
        image: tuple[int, ...],
        occupied: NDArray[np.float64],
        generator: np.random.Generator,
    ) -> tuple[int, int] | None:
        """Find the left upper corner of a place that overlaps nothing, or None."""
        height, width = donor[:2]
        if height > image[0] or width > image[1]:
            return None
        x = generator.integers(0, image[1] - width + 1, size=self.tries)
        y = generator.integers(0, image[0] - height + 1, size=self.tries)
        beside = (x[:, None] >= occupied[:, 2]) | (x[:, None] + width <= occupied[:, 0])
        above = (y[:, None] >= occupied[:, 3]) | (y[:, None] + height <= occupied[:, 1])
        clear = np.all(beside | above, axis=1)
        found = int(clear.argmax())
        return (int(x[found]), int(y[found])) if clear[found] else None

    def _note(self, placed: bool) -> None:
        self._failures = 0 if placed else self._failures + 1
        if self._failures == _PATIENCE:
            _logger.warning(
                "RarePaste: the last %d donors found no place. They may be too large for the"
                " images, or the images too full: lower scale, raise tries, or name other classes.",
                _PATIENCE,
            )


def _append(target: Target, pasted: list[tuple[NDArray[np.float64], int, float]]) -> Target:
    rows = {
        "boxes": [box for box, _, _ in pasted],
        "labels": [label for _, label, _ in pasted],
        "areas": [area for _, _, area in pasted],
        "pasted": [True] * len(pasted),
    }
    return append_rows(target, rows, len(pasted))


def _mirror(boxes: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    mirrored: NDArray[np.float64] = boxes.copy()
    mirrored[..., 0], mirrored[..., 2] = width - boxes[..., 2], width - boxes[..., 0]
    return mirrored


def _blend(patch: Image, donor: Donor, feather: float) -> None:
    """Draw a donor over a patch of the same size, in place."""
    weight = _opacity(donor, feather)[:, :, None]
    patch[...] = np.rint(patch + weight * (donor.image.astype(np.float64) - patch))


def _opacity(donor: Donor, feather: float) -> NDArray[np.float64]:
    """Opacity [H, W]: 1 in the box, falling through the margin, 0 where other boxes reach in."""
    height, width = donor.image.shape[:2]
    across = _ramp(width, donor.box[0], donor.box[2], feather)
    down = _ramp(height, donor.box[1], donor.box[3], feather)
    opacity = np.minimum(down[:, None], across[None, :])
    for other in donor.others:
        opacity[_pixels(other)] = 0
    opacity[_pixels(donor.box)] = 1
    return opacity


def _ramp(length: int, low: float, high: float, feather: float) -> NDArray[np.float64]:
    """Opacity along one side: 1 between low and high, falling to 0 towards both ends."""
    middles = np.arange(length) + 0.5
    beyond = np.maximum((low - middles) / max(low, 1), (middles - high) / max(length - high, 1))
    return np.asarray(np.clip((1 - np.clip(beyond, 0, 1)) / max(feather, 1e-9), 0, 1))


def _pixels(box: NDArray[np.float64]) -> tuple[slice, slice]:
    """Select the rows and columns of the pixels that a box touches."""
    left, top, right, bottom = box
    return slice(int(top), math.ceil(bottom)), slice(int(left), math.ceil(right))
