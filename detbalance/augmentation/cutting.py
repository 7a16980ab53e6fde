"""Segmentations as pixels, and how a copy-paste source is cut out of a training image.

Letters: H, W height and width, N boxes.

Letters: H, W height and width of the image.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.transform import Image, box_areas
from detbalance.data import Annotations
from detbalance.data.messages import needs

Mask = NDArray[np.bool_]
Window = tuple[int, int, int, int]

_FARTHEST = 1e5  # pixels; what lies beyond is a fault of the file, and would take all memory
_LONGEST = 1e6  # pixels along an outline, for the same reason
_logger = logging.getLogger(__name__)


class _NoMask(ValueError):
    """A segmentation that cannot be drawn; the message ends "a segmentation ..."."""


def segmentation_mask(
    segmentation: object, height: int, width: int, *, window: Window | None = None
) -> Mask | None:
    """Return the pixels of a segmentation, as pycocotools draws them."""
    try:
        parts = _parts(segmentation)
    except _NoMask:
        return None
    left, top, right, bottom = window or (0, 0, width, height)
    mask = np.zeros((bottom - top, right - left), np.bool_)
    for part in parts:
        try:
            runs = _runs(part, height, width)
        except _NoMask:
            continue
        values = np.arange(len(runs)) % 2 == 1
        pixels = np.repeat(values, runs).reshape(width, height).T
        mask |= pixels[top:bottom, left:right]
    return mask if mask.any() else None


def mask_box(mask: Mask) -> NDArray[np.float64]:
    """Return the corners xyxy of the smallest box around the pixels of a mask."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def note_unusable_masks(annotations: Annotations, rows: NDArray[np.int64]) -> int:
    """Say in one log line how many segmentations cannot be drawn, so that the box is the object."""
    count, first = 0, ""
    for row in rows.tolist():
        width, height = annotations.sizes[annotations.image_index[row]].tolist()
        try:
            for part in _parts(annotations.segmentation(row)):
                _check(part, height, width)
        except _NoMask as problem:
            count += 1
            first = first or f"annotation {annotations.annotation_ids[row]} {problem}"
    if count:
        _logger.warning(
            "%s: %d of %d segmentations cannot be drawn (first: %s). What is left of each is taken,"
            " or its box",
            *(annotations.source, count, len(rows), first),
        )
    return count


def _parts(segmentation: object) -> Sequence[object]:
    """Return the polygons of a segmentation, or its run lengths as the only part."""
    if isinstance(segmentation, Mapping):
        return [segmentation] if segmentation else []
    if segmentation is None:
        return []
    if isinstance(segmentation, str) or not isinstance(segmentation, Sequence):
        raise _NoMask(f"is {type(segmentation).__name__}, not polygons or run lengths")
    if segmentation and all(isinstance(part, (int, float)) for part in segmentation):
        raise _NoMask("is one list of numbers, not a list of polygons")
    return segmentation


def _runs(part: object, height: int, width: int) -> NDArray[np.int64]:
    """Return run lengths, which go down the columns and start with the background."""
    checked = _check(part, height, width)
    if isinstance(part, Mapping):
        return checked.astype(np.int64)
    # Only the run lengths: pycocotools' own decoding warns with recent versions of NumPy.
    (drawn,) = _coco_masks().frPyObjects([checked.tolist()], height, width)
    return _check(drawn, height, width).astype(np.int64)


def _check(part: object, height: int, width: int) -> NDArray[Any]:
    """Return the run lengths or the corners of a part that can be drawn."""
    if not isinstance(part, Mapping):
        points = _numbers(part).astype(np.float64)  # the least int64 has no absolute value
        if len(points) < 6 or len(points) % 2:
            raise _NoMask(f"has a polygon of {len(points)} numbers, not x, y of 3 corners or more")
        if not (np.abs(points) < _FARTHEST).all():  # NaN included
            raise _NoMask("has a corner that is not finite or far outside of any image")
        corners = points.reshape(-1, 2)
        if np.abs(corners - np.roll(corners, 1, axis=0)).sum() > _LONGEST:
            raise _NoMask("has an outline longer than that of any object")
        return points
    size = _numbers(part.get("size"))
    if size.shape != (2,) or not (size == np.floor(size)).all() or (size < 0).any():
        raise _NoMask("has run lengths without the height and width of the image")
    if (height and size[0] != height) or (width and size[1] != width):
        shown = [int(side) for side in size.tolist()]
        raise _NoMask(f"is of an image of another size (height and width {shown})")
    total = int(size[0]) * int(size[1])
    counts = part.get("counts")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    lengths = _numbers(_counts_of_text(counts, total) if isinstance(counts, str) else counts)
    is_whole = ((lengths >= 0) & (lengths <= total) & (lengths == np.floor(lengths))).all()
    if not is_whole or sum(lengths.tolist()) != total:
        raise _NoMask("has run lengths that do not add up to the pixels of the image")
    return lengths


def _numbers(values: object) -> NDArray[Any]:
    """Return a list of numbers as an array."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise _NoMask("has lists of different lengths in place of numbers") from None
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuf"):
        raise _NoMask("has something else in place of a flat list of numbers")
    return array


def _counts_of_text(text: str, total: int) -> list[int]:
    """Run lengths of COCO's compressed string, `total` pixels in all."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise _NoMask("has compressed run lengths of other characters, or too large ones")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        if not 0 <= counts[-1] <= total:
            break  # the sum will not fit
        value = shift = 0
    if shift:
        raise _NoMask("has compressed run lengths that end within a number, or are too large")
    return counts


def _coco_masks() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise needs("making masks of polygons", "pycocotools", "train") from error
    return mask


_FULL = 0.97  # a mask that fills this much of its box is the box: its margin blends in better


class UnreadableDonor(ValueError):
    """The image of a donor is missing, damaged, or not the one that was annotated."""


@dataclass(frozen=True, eq=False)
class Donor:
    """An object with its surroundings, cut out of an image."""

    image: Image
    box: NDArray[np.float64]
    others: NDArray[np.float64]
    label: int
    area: float
    mask: Mask | None = None
    resize: float = 1.0


def cut_out(
    annotations: Annotations,
    row: int,
    image: Image,
    *,
    margin: float,
    masks: bool,
    path: Path,
) -> Donor:
    """Cut a donor out of its image."""
    index = int(annotations.image_index[row])
    height, width = image.shape[:2]
    box = annotations.boxes[row].astype(np.float64)
    context = np.tile((box[2:] - box[:2]) * margin, 2) * (-1, -1, 1, 1)
    around = np.concatenate([np.floor((box + context)[:2]), np.ceil((box + context)[2:])])
    window = np.clip(around, 0, (width, height, width, height)).astype(int)
    left, top, right, bottom = (int(side) for side in window)
    if right <= left or bottom <= top:
        raise UnreadableDonor(
            f"{path}: annotation {annotations.annotation_ids[row]} lies outside of the image,"
            f" which has {width} x {height} pixels. Expected the image that was annotated. Check"
            " the folder of the images."
        )
    corner = np.array([left, top, left, top], np.float64)
    limit = np.array([right, bottom, right, bottom], np.float64) - corner
    every = annotations.rows(index)
    others = np.delete(annotations.boxes[every].astype(np.float64), row - every.start, axis=0)
    others = np.clip(others - corner, 0, limit)
    # Within the pixels also where the file did not say how large the image is.
    inside = np.clip(box - corner, 0, limit)
    mask = None
    if masks and annotations.segmentations is not None:
        mask = segmentation_mask(
            annotations.segmentation(row), height, width, window=(left, top, right, bottom)
        )
        if mask is not None:
            mask = partial_mask(mask, inside)
    return Donor(
        image=_frozen(image[top:bottom, left:right]),
        box=inside,
        others=others[box_areas(others) > 0],
        label=int(annotations.labels[row]),
        area=float(annotations.areas[row]),
        mask=mask,
    )


def partial_mask(mask: Mask, box: NDArray[np.float64]) -> Mask | None:
    """Return the mask read-only, or None if it is as good as all of the box, xyxy."""
    area = float(box_areas(box[None])[0])
    if mask.sum() >= _FULL * area:
        return None
    mask.flags.writeable = False
    return mask


def _frozen(pixels: Image) -> Image:
    pixels = pixels.copy()  # lets go of the whole image
    pixels.flags.writeable = False
    return pixels
