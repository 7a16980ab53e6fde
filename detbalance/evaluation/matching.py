"""Which boxes overlap, and which annotation each detection found, at every IoU threshold.

Everything but the COCO grid is counted from one matching pass: recall and precision at any score,
AP, error kinds, bootstrap draws, comparisons.

Letters: T IoU thresholds, K categories, M images, N annotations, D detections, P of them that take
part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Bool, Float64, Int64, offsets_of, take_slices
from detbalance.data.checks import check_number
from detbalance.evaluation.filters import (
    check_predictions,
    checked_classes,
    image_ranks,
    places_in_group,
    within_cap,
)
from detbalance.evaluation.rules import AREA_RANGES, Rules, RulesChoice, choose_rules

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
    check_number("overlaps()", "floor", floor, above=0, most=1)
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


Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Matches:
    """Which annotation each detection found.

    Attributes:
        annotations: the ground truth.
        predictions: the detections.
        rules: what they were matched by.
        annotation: int32 [D, T], row of the annotation found, -1 where there is none. A detection
            on an ignored region has the row of that region.
        is_ignored: bool [D, T], detections that are neither right nor wrong: on a region that is
            ignored, of a class that is not marked everywhere in its image, or without a part.
        within_cap: bool [D], False beyond the cap of detections per image.
        takes_part: bool [D], False beyond the cap, and for classes that nobody looked for in the
            image.
        positive: bool [N], annotations that should be found.
        order: int64 [P], detections that take part: by label, then from the highest score down;
            equal scores by image id, then by place in the file, as the evaluators order them.
        offsets: int64 [K + 2], order[offsets[c] : offsets[c + 1]] has label c.
        image_rank: int64 [M], place of each image in the order of image ids.
    """

    annotations: Annotations
    predictions: Predictions
    rules: Rules
    annotation: Int32
    is_ignored: Bool
    within_cap: Bool
    takes_part: Bool
    positive: Bool
    order: Int64
    offsets: Int64
    image_rank: Int64

    @cached_property
    def is_true_positive(self) -> Bool:
        """Bool [D, T], detections that count and found an annotation."""
        return (self.annotation >= 0) & ~self.is_ignored

    @cached_property
    def is_false_positive(self) -> Bool:
        """Bool [D, T], detections that count and found nothing."""
        return (self.annotation < 0) & ~self.is_ignored

    @cached_property
    def num_positive(self) -> Int64:
        """int64 [K + 1], boxes to find of each class."""
        labels = self.annotations.labels[self.positive]
        return np.bincount(labels, minlength=self.annotations.categories.num_classes)

    def at(self, iou: float) -> int:
        """Return the index of an IoU threshold.

        Raises:
            ValueError: if the boxes were not matched at that threshold.
        """
        thresholds = np.asarray(self.rules.iou_thresholds)
        index = int(np.argmin(np.abs(thresholds - iou)))
        if not abs(thresholds[index] - iou) <= 1e-9:  # NaN is near nothing
            raise ValueError(
                f"iou: {iou:g} is none of the thresholds that boxes were matched at. Expected one "
                f"of {', '.join(f'{t:g}' for t in thresholds)}. Choose one, or match at it."
            )
        return index


def match(
    annotations: Annotations,
    predictions: Predictions,
    *,
    rules: RulesChoice | Rules = "auto",
    area_range: tuple[float, float] = AREA_RANGES["all"],
    pairs: Overlaps | None = None,
) -> Matches:
    """Match detections to annotations of their class, as the COCO and LVIS evaluators do.

    In each image and class the detection with the highest score chooses first. It takes the free
    annotation that it overlaps most, from the threshold on; an ignored one only if there is no
    other. A crowd region can be taken any number of times.

    Args:
        annotations: the ground truth.
        predictions: detections on the same images; none at all is fine.
        rules: "coco", "lvis", "auto" for what the file asks for, or rules of your own.
        area_range: smallest and largest area in square pixels of the boxes to find; others, and
            detections of other sizes that find nothing, are ignored.
        pairs: what `overlaps` gave for the same inputs and rules, from the lowest threshold or
            below; found here if not given.

    Returns:
        The matches at every threshold of the rules.

    Raises:
        ValueError: if a detection has a label, an image row, a box or a score that cannot be, or
            LVIS's rules are asked for and the file is not LVIS's.

    Source: Lin et al., Microsoft COCO, 2014, arXiv:1405.0312; Gupta et al., LVIS, 2019,
    arXiv:1908.03195; matches are those of pycocotools and lvis-api, one by one.
    Differs: all thresholds in one pass; annotation id 0 is an ordinary id.
    """
    check_predictions(annotations, predictions)
    chosen = choose_rules(annotations, rules)
    num_classes = annotations.categories.num_classes
    rank = image_ranks(annotations)
    inside = takes_part = within_cap(predictions, chosen)
    exhaustive = None
    if chosen.name == "lvis":
        checked, exhaustive = checked_classes(annotations, predictions)
        takes_part = inside & checked
    order = _evaluation_order(predictions, rank, np.flatnonzero(takes_part))
    offsets = offsets_of(np.bincount(predictions.labels[order], minlength=num_classes))
    ignored, reusable = ignored_annotations(annotations, chosen, area_range)
    if pairs is None:
        floor = chosen.iou_thresholds[0]
        pairs = overlaps(annotations, predictions, floor=floor, same_class=True, rules=chosen)
    annotation = _greedy(annotations, predictions, pairs, chosen, order, ignored, reusable)
    size = predictions.bbox[:, 2] * predictions.bbox[:, 3]
    excused = (size < area_range[0]) | (size > area_range[1])
    if exhaustive is not None:
        excused |= ~exhaustive
    missing = annotation < 0
    is_ignored = np.where(missing, excused[:, None], np.append(ignored, False)[annotation])
    is_ignored |= ~takes_part[:, None]
    return Matches(
        annotations,
        predictions,
        chosen,
        annotation,
        is_ignored,
        inside,
        takes_part,
        ~ignored,
        order,
        offsets,
        rank,
    )


def ignored_annotations(
    annotations: Annotations, rules: Rules, area_range: tuple[float, float] = AREA_RANGES["all"]
) -> tuple[Bool, Bool]:
    """Annotations that need not be found; those of them that can be taken again and again."""
    ignored = (annotations.areas < area_range[0]) | (annotations.areas > area_range[1])
    if rules.name == "coco":
        return ignored | annotations.is_crowd, annotations.is_crowd
    if annotations.is_ignored is not None:
        ignored = ignored | annotations.is_ignored
    return ignored, np.zeros(len(ignored), dtype=np.bool_)


def _evaluation_order(predictions: Predictions, image_rank: Int64, rows: Int64) -> Int64:
    """Rows by label, then score from the highest, then image id, then place in the file."""
    by_image = rows[np.argsort(image_rank[predictions.image_index[rows]], kind="stable")]
    by_score = by_image[np.argsort(-predictions.scores[by_image], kind="stable")]
    labels = predictions.labels[by_score]
    if len(labels) and labels.max() < 1 << 16:
        labels = labels.astype(np.uint16)  # sorted by counting, not by comparing
    return by_score[np.argsort(labels, kind="stable")]


def _greedy(
    annotations: Annotations,
    predictions: Predictions,
    pairs: Overlaps,
    rules: Rules,
    order: Int64,
    ignored: Bool,
    reusable: Bool,
) -> Int32:
    """int32 [D, T] the annotation that each detection takes."""
    thresholds = np.minimum(rules.iou_thresholds, 1 - 1e-10)
    taken = np.zeros((len(ignored), len(thresholds)), dtype=np.bool_)
    result = np.full((len(predictions.scores), len(thresholds)), -1, dtype=np.int32)
    place = np.full(len(predictions.scores), -1, dtype=np.int64)
    place[order] = np.arange(len(order))
    kept = pairs.iou >= thresholds[0]
    kept &= predictions.labels[pairs.detection] == annotations.labels[pairs.annotation]
    kept &= place[pairs.detection] >= 0
    detection, annotation, iou = (
        values[kept] for values in (pairs.detection, pairs.annotation, pairs.iou)
    )
    # A detection's wishes, the dearest first; the evaluators keep the last of equal overlaps.
    wishes = np.lexsort((-annotation, -iou, ignored[annotation], place[detection]))
    detection, annotation, iou = detection[wishes], annotation[wishes], iou[wishes]
    starts = np.flatnonzero(np.diff(detection, prepend=-1))
    bounds = np.append(starts, len(detection))
    chooser = detection[starts]
    turns = places_in_group(
        predictions.image_index[chooser] * annotations.categories.num_classes
        + predictions.labels[chooser]
    )
    by_turn = np.argsort(turns, kind="stable")
    turn_ends = np.cumsum(np.bincount(turns))
    start = 0
    for end in turn_ends.tolist():
        choosing = by_turn[start:end]
        start = end
        options, segments = take_slices(bounds, choosing)
        wanted = annotation[options]
        free = iou[options, None] >= thresholds
        free &= ~taken[wanted] | reusable[wanted, None]
        rows = np.where(free, np.arange(len(options))[:, None], len(options))
        first = np.minimum.reduceat(rows, segments[:-1], axis=0)
        who, where = np.nonzero(first < len(options))
        got = wanted[first[who, where]]
        taken[got, where] = True
        result[chooser[choosing[who]], where] = got
    return result
