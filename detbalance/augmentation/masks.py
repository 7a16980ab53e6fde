"""Segmentations of a COCO file as pixels: polygons and run lengths.

Letters: H, W height and width of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.installation import needs

Mask = NDArray[np.bool_]
Window = tuple[int, int, int, int]

_FARTHEST = 1e5  # pixels; what lies beyond is a fault of the file, and would take all memory


def segmentation_mask(
    segmentation: object, height: int, width: int, *, window: Window | None = None
) -> Mask | None:
    """Return the pixels of a segmentation, as pycocotools draws them.

    Args:
        segmentation: as JSON gives it: polygons (a list of lists x, y, x, y, ..., whose union is
            taken), or run lengths, {"size": [H, W], "counts": a list or a compressed string}.
        height: of the image, in pixels.
        width: of the image, in pixels.
        window: left, top, right and bottom of the part that is wanted, inside the image; all of it
            by default.

    Returns:
        bool, [H, W] or the window's height and width. None where the segmentation shows no pixel
        in it: it is missing, empty, of another size, or no segmentation at all. Of several polygons
        those that are none are left out.

    Raises:
        ImportError: if pycocotools is missing, for polygons.

    Example:
        >>> mask = segmentation_mask({"size": [2, 3], "counts": [1, 2, 3]}, 2, 3)
        >>> mask.astype(int)
        array([[0, 1, 0],
               [1, 0, 0]])
    """
    if isinstance(segmentation, Mapping):
        parts = [_of_runs(segmentation, height, width)]
    elif isinstance(segmentation, Sequence) and not isinstance(segmentation, str):
        parts = [_of_polygon(polygon, height, width) for polygon in segmentation]
    else:
        return None
    left, top, right, bottom = window or (0, 0, width, height)
    mask = np.zeros((bottom - top, right - left), np.bool_)
    for part in parts:
        if part is not None:
            mask |= part[top:bottom, left:right]
    return mask if mask.any() else None


def mask_box(mask: Mask) -> NDArray[np.float64]:
    """Return the corners xyxy of the smallest box around the pixels of a mask.

    Args:
        mask: bool [H, W] with at least one pixel.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def _of_polygon(polygon: object, height: int, width: int) -> Mask | None:
    try:
        points = np.asarray(polygon, np.float64)
    except (TypeError, ValueError):
        return None
    if points.ndim != 1 or len(points) < 6 or len(points) % 2:
        return None
    if not (np.abs(points) < _FARTHEST).all():  # NaN included
        return None
    # Only the run lengths: pycocotools' own decoding warns with recent versions of NumPy.
    (runs,) = _coco_masks().frPyObjects([points.tolist()], height, width)
    return _of_runs(runs, height, width)


def _of_runs(runs: Mapping[str, Any], height: int, width: int) -> Mask | None:
    """Decode run lengths, which go down the columns and start with the background."""
    counts = runs.get("counts")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    if isinstance(counts, str):
        counts = _counts_of_text(counts)
    try:
        size = [int(side) for side in runs["size"]]
        lengths = np.asarray(counts).astype(np.int64)
    except (KeyError, TypeError, ValueError):
        return None
    if size != [height, width] or lengths.ndim != 1 or not len(lengths) or (lengths < 0).any():
        return None
    if lengths.sum() != height * width:
        return None
    values = np.arange(len(lengths)) % 2 == 1
    return np.asarray(np.repeat(values, lengths).reshape(width, height).T)


def _counts_of_text(text: str) -> list[int]:
    """Run lengths of COCO's compressed string.

    Five bits a character, lowest first, 32 marks that more follow; from the fourth number on the
    difference to the one two before is written.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts


def _coco_masks() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise needs("making masks of polygons", "pycocotools", "report") from error
    return mask
