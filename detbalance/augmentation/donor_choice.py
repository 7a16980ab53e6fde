"""Which boxes may be pasted, and what size and place are usual for their classes.

Letters: N boxes, C classes including background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.transform import box_areas
from detbalance.data import Annotations
from detbalance.data.arrays import Float64, Int64, take_slices
from detbalance.data.frequency import Frequency, frequency_groups

_PAIRS = 500_000  # pairs of boxes compared at a time, so that memory stays small
_BESIDE = 0.1  # of the image's sides, what a region of a class is widened by


@dataclass(frozen=True, eq=False)
class Choice:
    """The boxes that may be pasted, and how many of each class may not, and why."""

    rows: Int64
    boxes: Int64
    small: Int64
    overlapping: Int64


def choose_donors(
    annotations: Annotations, wanted: Int64, *, min_size: float, max_overlap: float
) -> Choice:
    """Choose the boxes of some classes that may be pasted."""
    boxes = annotations.boxes.astype(np.float64)
    asked = np.isin(annotations.labels, wanted) & ~annotations.is_crowd
    large = asked & (np.sqrt(box_areas(boxes)) >= min_size)
    rows = np.flatnonzero(large)
    apart = largest_overlap(annotations, boxes, rows) <= max_overlap
    kept = rows[apart]

    def per_class(chosen: NDArray[np.generic]) -> Int64:
        labels = annotations.labels[chosen]
        return np.bincount(labels, minlength=annotations.categories.num_classes)

    return Choice(
        # Grouped by class, so that a draw within a class is one number.
        rows=kept[np.argsort(annotations.labels[kept], kind="stable")],
        boxes=per_class(asked),
        small=per_class(asked & ~large),
        overlapping=per_class(rows[~apart]),
    )


def wanted_labels(
    annotations: Annotations,
    classes: Sequence[str] | None,
    frequency: Frequency,
    elsewhere: Sequence[int] | Int64 = (),
    *,
    owner: str = "DonorBank",
    purpose: str = "to paste",
) -> Int64:
    """Return the labels of the classes that something is to be done for, ascending."""
    if classes is None:
        groups = frequency_groups(frequency)
        grouped = groups.of_class < groups.names.index("frequent")
        has_donors = frequency.image_counts > 0
        has_donors[np.asarray(elsewhere, np.int64)] = True
        wanted = np.flatnonzero(grouped & has_donors)
        if not len(wanted):
            raise ValueError(
                f"{annotations.source}: no class is rare or common ({groups.rule}). Name the"
                f" classes {purpose}."
            )
        return wanted
    if isinstance(classes, str):
        raise TypeError(
            f'{owner}: classes is "{classes}". Expected a list of names. Write ["{classes}"].'
        )
    return np.unique(annotations.categories.labels_of_names(classes))


def largest_overlap(annotations: Annotations, boxes: Float64, rows: Int64) -> Float64:
    """Return the largest shared area with any other box of the image, over the smaller's area."""
    largest = np.zeros(len(rows))
    areas = box_areas(boxes)
    x0, y0, x1, y1 = np.ascontiguousarray(boxes.T)
    images = annotations.image_index[rows]
    up_to = np.cumsum(np.diff(annotations.offsets)[images])
    start = 0
    while start < len(rows):
        before = up_to[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(up_to, before + _PAIRS, side="right")))
        others, packed = take_slices(annotations.offsets, images[start:stop])
        mine = np.repeat(rows[start:stop], np.diff(packed))
        wide = np.minimum(x1[mine], x1[others]) - np.maximum(x0[mine], x0[others])
        high = np.minimum(y1[mine], y1[others]) - np.maximum(y0[mine], y0[others])
        smaller = np.maximum(np.minimum(areas[mine], areas[others]), 1e-9)
        shares = np.clip(wide, 0, None) * np.clip(high, 0, None) / smaller
        shares[mine == others] = 0
        # Every row has a pair, if only with itself, as `reduceat` needs.
        largest[start:stop] = np.maximum.reduceat(shares, packed[:-1])
        start = stop
    return largest


def typical_sizes(annotations: Annotations) -> Float64:
    """Return the median of sqrt(width x height) of each class's boxes, crowd regions left out."""
    rows = np.flatnonzero(~annotations.is_crowd)
    sizes = np.sqrt(box_areas(annotations.boxes[rows].astype(np.float64)))
    labels = annotations.labels[rows]
    order = np.lexsort((sizes, labels))
    starts = np.searchsorted(labels[order], np.arange(annotations.categories.num_classes + 1))
    counts = np.diff(starts)
    typical = np.full(len(counts), np.nan)
    some = np.flatnonzero(counts)
    first, number = starts[some], counts[some]
    middle = sizes[order][first + (number - 1) // 2] + sizes[order][first + number // 2]
    typical[some] = middle / 2
    return typical


def seen_regions(annotations: Annotations) -> Float64:
    """Return where in the image the boxes of each class have their middles."""
    sizes = annotations.sizes[annotations.image_index].astype(np.float64)
    rows = np.flatnonzero(~annotations.is_crowd & (sizes > 0).all(axis=1))
    rows = rows[np.argsort(annotations.labels[rows], kind="stable")]
    boxes = annotations.boxes[rows].astype(np.float64)
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2 / sizes[rows]
    labels, starts = np.unique(annotations.labels[rows], return_index=True)
    regions = np.full((annotations.categories.num_classes, 4), np.nan)
    if len(rows):
        regions[labels, :2] = np.minimum.reduceat(middles, starts) - _BESIDE
        regions[labels, 2:] = np.maximum.reduceat(middles, starts) + _BESIDE
    return np.asarray(np.clip(regions, 0, 1))


def listed(annotations: Annotations, labels: Int64) -> str:
    """Return the names of some classes for a message, the first five of them."""
    names = [annotations.categories.name(int(label)) for label in labels[:5]]
    return ", ".join(names) + (", ..." if len(labels) > 5 else "")
