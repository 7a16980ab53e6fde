"""What an augmentation is: what goes in, what comes out, and what every one of them promises.

Letters: H, W height and width of the image, N boxes.

Letters: H, W height and width of the new image, N boxes. Coordinates are those of boxes: pixel i
reaches from i to i + 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from detbalance.data.arrays import Float64
from detbalance.data.images import import_cv2

Image: TypeAlias = NDArray[Any]
Target: TypeAlias = dict[str, NDArray[Any]]

MAX_SEED = 2**63 - 1  # what every library takes

PER_IMAGE = ("negative_labels", "not_exhaustive_labels", "pastes")
"""Arrays of a target that belong to the image; all others have one row per box."""


class Augmentation(Protocol):
    """Changes an image and its boxes together.

    Every implementation keeps these promises: nothing that was passed in is modified; all random
    draws come from `generator`, so that the same generator state gives the same result; every array
    of the target keeps one row per box, those named in `PER_IMAGE` apart; pixel values keep their
    type. An object that stays visible stays labelled: what is left of one whose box is dropped is
    painted over or becomes a crowd region. The result may share memory with what was passed in,
    and its image can be written to. Where the target has no `is_crowd`, no box is a crowd region;
    where it has no `areas`, they are those of the boxes.
    """

    def __call__(
        self, image: Image, target: Target, generator: np.random.Generator
    ) -> tuple[Image, Target]:
        """Return the changed image and target."""
        ...


class Compose:
    """Applies augmentations one after the other, all with the same generator.

    Args:
        augmentations: in the order in which they are applied. Mix first, then paste, then distort:
            pasted boxes then look no different from the others.
    """

    def __init__(self, augmentations: Sequence[Augmentation]) -> None:
        self.augmentations = tuple(augmentations)

    def __call__(
        self, image: Image, target: Target, generator: np.random.Generator
    ) -> tuple[Image, Target]:
        """Apply all augmentations, as `Augmentation.__call__` describes."""
        for augmentation in self.augmentations:
            image, target = augmentation(image, target, generator)
        return image, target


def prepared(owner: str, image: Image, target: Target) -> tuple[Image, Target]:
    """Return an image that can be written to, and its target with what may be missing."""
    wanted = "Expected boxes, labels, areas and is_crowd, arrays with one row for each box."
    for name in ("boxes", "labels"):
        if name not in target:
            raise ValueError(f'{owner}: the target has no "{name}". {wanted} Add it.')
    if "is_crowd" not in target or "areas" not in target:
        if "iscrowd" in target and "is_crowd" not in target:
            raise ValueError(f'{owner}: the target has "iscrowd". {wanted} Rename it to is_crowd.')
        boxes = np.asarray(target["boxes"], np.float64)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        target = {"is_crowd": np.zeros(len(boxes), np.bool_), "areas": areas, **target}
    return image if image.flags.writeable else image.copy(), target


def take_rows(target: Target, rows: NDArray[Any]) -> Target:
    """Return the target of some boxes only."""
    return {name: values if name in PER_IMAGE else values[rows] for name, values in target.items()}


def append_rows(target: Target, rows: Mapping[str, Any], number: int) -> Target:
    """Return the target with further boxes behind its own."""
    longer = {}
    for name, values in target.items():
        if name in PER_IMAGE:
            longer[name] = values
            continue
        added = rows.get(name)
        if added is None:
            added = np.zeros((number, *values.shape[1:]))
        longer[name] = np.concatenate([values, np.asarray(added).astype(values.dtype)])
    return longer


def check_range(owner: str, name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless `value` is in low..high."""
    if not low <= value <= high:  # written so that NaN fails
        raise ValueError(
            f"{owner}: {name} is {value}. Expected a number in {low:g}..{high:g}. Change {name}."
        )


def check_scale(owner: str, scale: tuple[float, float]) -> tuple[float, float]:
    """Return the smallest and the largest factor, or raise ValueError if they are none."""
    low, high = scale
    if not 0.001 <= low <= high <= 1000:
        raise ValueError(
            f"{owner}: scale is ({low}, {high}). Expected two factors in 0.001..1000 with"
            " 0 < smallest <= largest. Change scale."
        )
    return low, high


FILL = (124, 116, 104)
"""ImageNet's mean colour: beyond the edge of an image, and over what must not be seen."""

_NOISE = 1e-3
"""Pixels, and shares of an area: below it, a difference is rounding of float32."""


def is_bilevel(image: Image) -> bool:
    """Tell whether an image has no values but 0 and the largest of its type."""
    one = image.dtype.type(1)
    # One more turns the largest value to 0. Few pixels tell at once for nearly every image that has
    # other values.
    return all(int((part + one).max(initial=0)) <= 1 for part in (image[::16, ::16], image))


def fill_color(image: Image) -> NDArray[np.int64]:
    """Return the colour for pixels without content, [3], in the range of the image's type."""
    top = np.iinfo(image.dtype).max
    if is_bilevel(image):
        means = import_cv2().mean(image)[:3]  # a hundred times faster than NumPy's
        return np.where(np.array(means) > top / 2, top, 0)
    return np.array(FILL) * (top // 255)


def as_depth(image: Image, depth: np.dtype[Any]) -> Image:
    """Bring an image to 8 or 16 bits a value; white stays white."""
    if image.dtype == depth:
        return image
    return (image // 257 if depth == np.uint8 else image * np.uint16(257)).astype(depth)


def box_areas(boxes: Float64) -> Float64:
    """Return the areas, [N], of boxes xyxy, [N, 4]; 0 where a side is negative."""
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    return np.asarray(sides[:, 0] * sides[:, 1])


def corners(boxes: NDArray[np.float32], height: int, width: int) -> Float64:
    """Return the corners of the boxes' parts inside the image, float64 [N, 4, 2], all round."""
    inside = np.clip(boxes.astype(np.float64), 0, (width, height, width, height))
    return np.asarray(inside[:, [[0, 1], [2, 1], [2, 3], [0, 3]]])


def settle(
    image: Image,
    target: Target,
    before: Float64,
    after: Float64,
    *,
    masks: NDArray[np.bool_] | None,
    min_visibility: float,
    fill: NDArray[np.int64],
) -> tuple[Image, Target]:
    """Make the target of an image whose pixels were moved."""
    old, whole = _area(before), _area(after)
    growth = whole / np.maximum(old, 1e-12)
    boxes, visible = _visible(after, whole, *image.shape[:2])
    share = visible / np.maximum(whole, 1e-12)
    share[share > 1 - _NOISE] = 1
    areas = target["areas"] * growth * share
    seen = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    kept = seen & ((share >= min_visibility) | target["is_crowd"])
    if masks is not None:
        pixels_before = target["masks"].sum(axis=(1, 2))
        pixels = masks.sum(axis=(1, 2))
        kept &= (pixels > 0) | (pixels_before == 0)
        cut = (share < 1) & (pixels_before > 0)
        areas[cut] = target["areas"][cut] * pixels[cut] / pixels_before[cut]
    rows = np.flatnonzero(kept)
    changed = take_rows(target, rows)
    changed["boxes"] = boxes[rows]
    changed["areas"] = areas[rows].astype(target["areas"].dtype)
    if masks is not None:
        changed["masks"] = masks[rows]
    if (gone := seen & ~kept).any():
        # Interpolation smears an enlarged object over its edge by half of what a pixel grew.
        smear = np.maximum(np.sqrt(growth[gone]) - 1, 0) / 2
        image = _paint(
            image, _pixels(boxes[gone], smear, image), _pixels(boxes[rows], 0, image), fill
        )
    return image, changed


def _area(quads: Float64) -> Float64:
    """Areas of polygons [N, 4, 2] by the shoelace formula."""
    x, y = quads[..., 0], quads[..., 1]
    twice = x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y
    return np.asarray(np.abs(twice.sum(axis=1)) / 2)


def _visible(
    quads: Float64, whole: Float64, height: int, width: int
) -> tuple[NDArray[np.float32], Float64]:
    """Bounds float32 [N, 4] and areas [N] of the quads' parts inside the image."""
    limit = (width, height, width, height)
    bounds = np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)
    boxes = np.clip(bounds, 0, limit)
    visible = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    slanted = (bounds[:, 2:] - bounds[:, :2]).prod(axis=1) - whole > _NOISE * (1 + whole)
    visible[slanted] = whole[slanted]
    for row in np.flatnonzero(slanted & (boxes != bounds).any(axis=1)):
        polygon = _clip(quads[row], height, width)
        if len(polygon):
            boxes[row] = np.clip([*polygon.min(axis=0), *polygon.max(axis=0)], 0, limit)
            visible[row] = _area(polygon[None])[0]
        else:
            boxes[row], visible[row] = 0, 0
    return boxes.astype(np.float32), visible


def _clip(polygon: Float64, height: int, width: int) -> Float64:
    """The part of a convex polygon inside the image, float64 [n, 2], n = 0 if there is none.

    Source: Sutherland and Hodgman, Reentrant polygon clipping, 1974.
    """
    for axis, sign, limit in ((0, 1, 0), (0, -1, -width), (1, 1, 0), (1, -1, -height)):
        depth = sign * polygon[:, axis] - limit  # >= 0 inside
        points = []
        for i in range(len(polygon)):
            if depth[i - 1] * depth[i] < 0:
                where = depth[i - 1] / (depth[i - 1] - depth[i])
                points.append(polygon[i - 1] + where * (polygon[i] - polygon[i - 1]))
            if depth[i] >= 0:
                points.append(polygon[i])
        polygon = np.array(points).reshape(-1, 2)
    return polygon


def _pixels(
    boxes: NDArray[np.float32], margin: Float64 | float, image: Image
) -> list[tuple[slice, slice]]:
    """Rows and columns of the pixels that each box touches, with a margin."""
    height, width = image.shape[:2]
    reach = np.reshape(margin, (-1, 1)) - _NOISE
    low = np.clip(np.floor(boxes[:, :2] - reach), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(boxes[:, 2:] + reach), 0, (width, height)).astype(int)
    return [
        (slice(top, bottom), slice(left, right))
        for (left, top), (right, bottom) in zip(low.tolist(), high.tolist(), strict=True)
    ]


def _paint(
    image: Image,
    gone: list[tuple[slice, slice]],
    kept: list[tuple[slice, slice]],
    fill: NDArray[np.int64],
) -> Image:
    painted: Image = image.copy()
    free = np.ones(image.shape[:2], np.bool_)
    for place in kept:
        free[place] = False
    for place in gone:
        painted[place][free[place]] = fill
    return painted
