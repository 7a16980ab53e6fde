"""Segmentations of a COCO file as pixels: polygons and run lengths.

Letters: H, W height and width of the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Window = tuple[int, int, int, int]

_FARTHEST = 1e6  # pixels; what lies beyond is a fault of the file, and would take all memory


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
    left, top, right, bottom = window or (0, 0, width, height)
    mask: Mask | None
    if isinstance(segmentation, Mapping):
        whole = _of_runs(segmentation, height, width)
        mask = None if whole is None else whole[top:bottom, left:right].copy()
    elif isinstance(segmentation, Sequence) and not isinstance(segmentation, str):
        mask = np.zeros((bottom - top, right - left), np.bool_)
        for polygon in segmentation:
            _draw(mask, polygon, height, width, left, top)
    else:
        return None
    return mask if mask is not None and mask.any() else None


def mask_box(mask: Mask) -> NDArray[np.float64]:
    """Return the corners xyxy of the smallest box around the pixels of a mask.

    Args:
        mask: bool [H, W] with at least one pixel.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)


def _draw(mask: Mask, polygon: object, height: int, width: int, left: int, top: int) -> None:
    """Add a polygon to the mask of a window; only its own surroundings are drawn."""
    try:
        points = np.asarray(polygon, np.float64)
    except (TypeError, ValueError):
        return
    if points.ndim != 1 or len(points) < 6 or len(points) % 2:
        return
    if not (np.abs(points) < _FARTHEST).all():  # NaN included
        return
    corners = points.reshape(-1, 2)
    # From the image's border on, as pycocotools rounds negative numbers another way.
    x0, y0 = (max(0, math.floor(v)) for v in corners.min(axis=0))
    high = corners.max(axis=0)
    x1, y1 = min(width, math.ceil(high[0]) + 1), min(height, math.ceil(high[1]) + 1)
    if x1 <= x0 or y1 <= y0:
        return
    shifted = (corners - (x0, y0)).reshape(1, -1).tolist()
    drawn = _coco_masks().frPyObjects(shifted, y1 - y0, x1 - x0)
    pixels = _coco_masks().decode(drawn)[:, :, 0].astype(np.bool_)
    rows, columns = mask.shape
    part = mask[max(0, y0 - top) : max(0, y1 - top), max(0, x0 - left) : max(0, x1 - left)]
    from_y, from_x = max(0, top - y0), max(0, left - x0)
    part |= pixels[from_y : top + rows - y0, from_x : left + columns - x0][
        : part.shape[0], : part.shape[1]
    ]


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
        raise ImportError(
            "masks from polygons need pycocotools. Install it with:"
            ' pip install "detbalance[report]"'
        ) from error
    return mask
