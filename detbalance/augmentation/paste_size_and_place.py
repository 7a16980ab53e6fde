"""Where a donor may go in an image, and at what size.

Letters: H, W height and width of the image, N boxes, T tries.

Letters: K places.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.cutting import Donor
from detbalance.augmentation.transform import Image, Target, box_areas
from detbalance.data.arrays import Float64

_SIDE = 12  # points along each side of the crop


def most_alike(image: Image, donor: Donor, corners: Float64, sizes: Float64) -> int:
    """Return the number of the place whose pixels are nearest to the donor's margin.

    Source: that the surroundings should fit, Dvornik et al., Modeling Visual Context is Key to
    Augmenting Object Detection Datasets, 2018, arXiv:1807.07428.
    Differs: pixels of the margin are compared; nothing is trained.
    """
    if donor.mask is not None:
        return 0
    crop = np.array([donor.image.shape[1], donor.image.shape[0]])
    steps = (np.arange(_SIDE) + 0.5) / _SIDE
    points = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    at = points * crop
    around = np.ones(len(at), np.bool_)
    for box in (donor.box, *donor.others):
        around &= ~((at >= box[:2]) & (at <= box[2:])).all(axis=1)
    if not around.any():
        return 0
    points, at = points[around], at[around].astype(int)
    wanted = _as_parts(donor.image[at[:, 1], at[:, 0]])
    there = (corners[:, None] + points * sizes[:, None]).astype(int)
    found = _as_parts(image[there[..., 1], there[..., 0]])
    return int(np.abs(found - wanted).mean(axis=(1, 2)).argmin())


def _as_parts(pixels: Image) -> Float64:
    """Pixel values as parts of the largest, whatever their depth."""
    return np.asarray(pixels / np.iinfo(pixels.dtype).max)


OUTCOMES = (
    "placed",
    "no_room",
    "too_large",
    "outside_region",
    "not_exhaustive",
    "unreadable",
)
"""What can become of a paste; codes are positions in here."""

PLACED, NO_ROOM, TOO_LARGE, OUTSIDE_REGION, NOT_EXHAUSTIVE, UNREADABLE = range(len(OUTCOMES))

_ZOOM_LIMITS = (0.5, 2.0)  # how far the size at a place may differ from the donor's own
_NEAR = 0.1  # of the image's diagonal: objects nearer than this count about alike


@dataclass(frozen=True)
class Place:
    """Where the crop of a donor goes: its left upper corner and its size in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass
class Scene:
    """An image as a donor sees it: what is in the way, and how large things are where."""

    height: int
    width: int
    objects: Float64
    closed: Float64
    middles: Float64 = field(default_factory=lambda: np.zeros((0, 2)))
    zooms: Float64 = field(default_factory=lambda: np.zeros(0))
    image: Image | None = None

    @classmethod
    def of(cls, shape: tuple[int, ...], target: Target, typical_sizes: Float64 | None) -> Scene:
        """Look at an image."""
        boxes = target["boxes"].astype(np.float64)
        crowd = target["is_crowd"]
        scene = cls(shape[0], shape[1], boxes[~crowd], boxes[crowd])
        if typical_sizes is not None and len(scene.objects):
            labels = target["labels"][~crowd]
            known = (labels > 0) & (labels < len(typical_sizes))
            usual = np.where(known, typical_sizes[np.where(known, labels, 0)], np.nan)
            with np.errstate(divide="ignore"):
                zooms = np.log(np.sqrt(box_areas(scene.objects))) - np.log(usual)
            known = np.isfinite(zooms)
            scene.middles = (scene.objects[known, :2] + scene.objects[known, 2:]) / 2
            scene.zooms = zooms[known]
        return scene

    def close(self, place: Place) -> None:
        """Keep what comes next away from a place."""
        right, bottom = place.x + place.width, place.y + place.height
        self.closed = np.concatenate([self.closed, [[place.x, place.y, right, bottom]]])

    def zoom_at(self, points: Float64) -> Float64:
        """Return the logarithm of the zoom at points x, y [T, 2]: the mean of near objects."""
        apart = np.hypot(points[:, :1] - self.middles[:, 0], points[:, 1:] - self.middles[:, 1])
        weights = 1 / (apart + _NEAR * np.hypot(self.width, self.height))
        return np.asarray(weights @ self.zooms / weights.sum(axis=1))


@dataclass(frozen=True)
class Rules:
    """What a place must keep to."""

    smallest: float
    factor: float
    zoom: float | None
    region: Float64 | None
    may_cover: float
    compared: int = 1


def find_place(scene: Scene, donor: Donor, rules: Rules, draws: Float64) -> Place | int:
    """Find a place for a donor that keeps to the rules."""
    sides = np.array([scene.width, scene.height])
    crop = np.array([donor.image.shape[1], donor.image.shape[0]])
    middle = (donor.box[:2] + donor.box[2:]) / 2 / crop
    region = np.array([0.0, 0, 1, 1]) if rules.region is None else rules.region
    ratio = np.ones(len(draws))
    if rules.zoom is not None and len(scene.zooms):
        # The size depends on the place and the place on the size: the size as drawn says where.
        size = np.minimum(crop * donor.resize * rules.factor, sides)
        low = np.maximum(region[:2] * sides, middle * size)
        high = np.minimum(region[2:] * sides, sides - (1 - middle) * size)
        zooms = scene.zoom_at(low + draws * (high - low))
        ratio = np.clip(np.exp(zooms - rules.zoom), *_ZOOM_LIMITS)
    ratio = ratio * donor.resize
    fitting = float((sides / crop).min())
    factor = np.maximum(ratio * rules.smallest, np.minimum(ratio * rules.factor, fitting))
    size = np.maximum(1, np.rint(crop * factor[:, None]))
    fits = (size <= sides).all(axis=1)
    if not fits.any():
        return TOO_LARGE
    low = np.zeros_like(size)
    high = sides - size
    if rules.region is not None:
        low = np.maximum(low, np.ceil(region[:2] * sides - middle * size))
        high = np.minimum(high, np.floor(region[2:] * sides - middle * size))
    allowed = fits & (low <= high).all(axis=1)
    if not allowed.any():
        return OUTSIDE_REGION
    corners = low + np.minimum(np.floor(draws * (high - low + 1)), high - low)
    free = np.flatnonzero(allowed & _is_free(scene, donor, rules.may_cover, corners, size, crop))[
        : rules.compared
    ]
    if not len(free):
        return NO_ROOM
    best = free[0]
    if len(free) > 1 and scene.image is not None:
        best = free[most_alike(scene.image, donor, corners[free], size[free])]
    x, y, width, height = (int(v) for v in (*corners[best], *size[best]))
    return Place(x, y, width, height)


def _is_free(
    scene: Scene,
    donor: Donor,
    may_cover: float,
    corners: Float64,
    size: Float64,
    crop: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Whether each place, [T], touches nothing closed and covers little enough of the objects."""
    if not may_cover:
        return are_clear(corners, size, np.concatenate([scene.closed, scene.objects]))
    free = are_clear(corners, size, scene.closed)
    scaled = size / crop
    # The pixels that the box touches are all the donor's.
    low = corners + np.floor(donor.box[:2] * scaled)
    high = corners + np.ceil(donor.box[2:] * scaled)
    boxes = scene.objects
    wide = np.minimum(high[:, :1], boxes[:, 2]) - np.maximum(low[:, :1], boxes[:, 0])
    tall = np.minimum(high[:, 1:], boxes[:, 3]) - np.maximum(low[:, 1:], boxes[:, 1])
    covered = np.clip(wide, 0, None) * np.clip(tall, 0, None)
    return np.asarray(free & (covered <= may_cover * box_areas(boxes)).all(axis=1))


def are_clear(corners: NDArray[Any], size: NDArray[Any], boxes: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which places touch no box, bool [T]."""
    x, y = corners[:, :1], corners[:, 1:]
    beside = (x >= boxes[:, 2]) | (x + size[:, :1] <= boxes[:, 0])
    above = (y >= boxes[:, 3]) | (y + size[:, 1:] <= boxes[:, 1])
    return np.asarray((beside | above).all(axis=1))
