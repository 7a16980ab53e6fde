"""Which boxes of an image overlap, whatever their classes: the one geometry of the evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from detbalance.data.arrays import Float64, Int64
from detbalance.evaluation.rules import Rules, RulesChoice, choose_rules

if TYPE_CHECKING:
    from detbalance.data import Annotations, Predictions

# Pairs looked at together: small enough to stay in the cache of a core.
_CHUNK = 1 << 17


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Pairs of a detection and an annotation of the same image, sorted by the detection's row."""

    detection: Int64
    annotation: Int64
    iou: Float64


def overlaps(
    annotations: Annotations,
    predictions: Predictions,
    *,
    floor: float = 0.1,
    rows: Int64 | None = None,
    same_class: bool = False,
    rules: RulesChoice | Rules = "auto",
) -> Overlaps:
    """Find all pairs of a detection and an annotation that overlap by at least `floor`.

    Source: the rule of pycocotools, to the last bit: widths and heights without the extra pixel.
    """
    if not 0 < floor <= 1:
        raise ValueError(f"overlaps(): floor is {floor}. A number in (0, 1] is expected. Pass one.")
    if rows is None:
        rows = np.arange(len(predictions.scores))
    with_crowds = choose_rules(annotations, rules).name == "coco"
    found = list(_chunks(annotations, predictions, rows, floor, same_class, with_crowds))
    if not found:
        return Overlaps(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    return Overlaps(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _chunks(
    annotations: Annotations,
    predictions: Predictions,
    rows: Int64,
    floor: float,
    same_class: bool,
    with_crowds: bool,
) -> Iterator[tuple[Int64, Int64, Float64]]:
    """The pairs of some detections at a time."""
    truth, found = _Sides(annotations.bbox), _Sides(predictions.bbox)
    first = annotations.offsets[predictions.image_index[rows]]
    counts = annotations.offsets[predictions.image_index[rows] + 1] - first
    ends = np.cumsum(counts)
    start = 0
    while start < len(rows):
        before = ends[start] - counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + _CHUNK, side="right")))
        part = slice(start, stop)
        start = stop
        detection = np.repeat(rows[part], counts[part])
        shift = first[part] - (ends[part] - counts[part])
        annotation = np.arange(before, ends[stop - 1]) + np.repeat(shift, counts[part])
        if same_class:
            same = predictions.labels[detection] == annotations.labels[annotation]
            detection, annotation = detection[same], annotation[same]
        # Most pairs of an image lie side by side: the cheap test of one axis goes first.
        width = np.minimum(found.right[detection], truth.right[annotation])
        width -= np.maximum(found.left[detection], truth.left[annotation])
        near = np.flatnonzero(width > 0)
        detection, annotation, width = detection[near], annotation[near], width[near]
        height = np.minimum(found.bottom[detection], truth.bottom[annotation])
        height -= np.maximum(found.top[detection], truth.top[annotation])
        near = np.flatnonzero(height > 0)
        detection, annotation = detection[near], annotation[near]
        shared = width[near] * height[near]
        own = found.area[detection]
        crowd = annotations.is_crowd[annotation] & with_crowds
        union = np.where(crowd, own, own + truth.area[annotation] - shared)
        iou = shared / union
        kept = np.flatnonzero(iou >= floor)
        yield detection[kept], annotation[kept], iou[kept]


class _Sides:
    """Edges and areas of xywh boxes, each a contiguous array."""

    def __init__(self, bbox: Float64) -> None:
        self.left, self.top = (np.ascontiguousarray(bbox[:, axis]) for axis in (0, 1))
        self.right = bbox[:, 2] + bbox[:, 0]
        self.bottom = bbox[:, 3] + bbox[:, 1]
        self.area = bbox[:, 2] * bbox[:, 3]
