"""Average precision and recall of every class, counted from matches.

Letters: T IoU thresholds, R recall levels, K categories, D detections, P of them that take part.

With a cap per image over all classes, a detector can raise the AP of rare classes by spending its
places on them, without finding anything better. A cap per class takes that way away, and AP's of
detectors with many and with few detections per image can be compared.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Bool, Float64, Int64, offsets_of, take_slices
from detbalance.evaluation.matching import Matches, Overlaps, match

# The evaluators' grid, as pycocotools writes it.
RECALL_LEVELS: Float64 = np.linspace(0.0, 1.0, 101)
_TINY = np.spacing(1)


def average_precision(matches: Matches) -> Float64:
    """Average precision of every class at every IoU threshold.

    Source: Lin et al., Microsoft COCO, 2014, arXiv:1405.0312: the mean of the interpolated
    precision at 101 recall levels.
    """
    order = matches.order
    return mean_precision(
        matches.is_true_positive[order],
        matches.is_false_positive[order],
        matches.offsets,
        matches.num_positive,
    )


def interpolated_precision(matches: Matches) -> Float64:
    """Precision at 101 levels of recall, as the evaluators' grid has it over boxes of all sizes."""
    order = matches.order
    return precision_at_levels(
        matches.is_true_positive[order],
        matches.is_false_positive[order],
        matches.offsets,
        matches.num_positive,
    )


def precision_at_levels(
    right: Bool, wrong: Bool, offsets: Int64, num_positive: npt.NDArray[np.number]
) -> Float64:
    """Interpolated precision of right and wrong detections that are in order already."""
    num_thresholds, num_classes = right.shape[1], len(num_positive)
    result = np.full((num_thresholds, len(RECALL_LEVELS), num_classes), np.nan)
    for label in np.flatnonzero(num_positive[1:]) + 1:
        part = slice(offsets[label], offsets[label + 1])
        found = np.cumsum(right[part].T, axis=1, dtype=np.float64)
        precision = found / (np.cumsum(wrong[part].T, axis=1, dtype=np.float64) + found + _TINY)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = found / num_positive[label]
        for t in range(num_thresholds):
            at = np.searchsorted(recall[t], RECALL_LEVELS, side="left")
            result[t, :, label] = np.append(precision[t], 0.0)[at]
    return result


def mean_precision(
    right: Bool, wrong: Bool, offsets: Int64, num_positive: npt.NDArray[np.number]
) -> Float64:
    """Average `precision_at_levels` over the levels; only classes with boxes take memory."""
    known = np.flatnonzero(num_positive[1:]) + 1
    result = np.full((right.shape[1], len(num_positive)), np.nan)
    rows, starts = take_slices(offsets, np.append(0, known))
    own = np.append(0, num_positive[known])
    levels = precision_at_levels(right[rows], wrong[rows], starts, own)
    result[:, known] = levels.mean(axis=1)[:, 1:]
    return result


def recall(matches: Matches) -> Float64:
    """Share of the boxes found at every IoU threshold, by detections of any score."""
    total = matches.num_positive
    labels = matches.predictions.labels
    found = np.stack(
        [np.bincount(labels[column], minlength=len(total)) for column in matches.is_true_positive.T]
    )
    result = np.full(found.shape, np.nan)
    np.divide(found, total, out=result, where=total > 0)
    return result


def precision_recall(
    matches: Matches, label: int, *, iou: float = 0.5
) -> tuple[Float64, Float64, Float64]:
    """The curve of one class, a point for each detection that counts."""
    num_categories = matches.annotations.categories.num_categories
    if not 1 <= label <= num_categories:
        raise ValueError(
            f"precision_recall(): label is {label}. Expected 1 to {num_categories}. Choose one."
        )
    t = matches.at(iou)
    rows = matches.order[matches.offsets[label] : matches.offsets[label + 1]]
    rows = rows[~matches.is_ignored[rows, t]]
    found = np.cumsum(matches.is_true_positive[rows, t], dtype=np.float64)
    total = int(matches.num_positive[label])
    reached = found / total if total else np.full(len(found), np.nan)
    return reached, found / np.arange(1, len(rows) + 1), matches.predictions.scores[rows]


def fixed_ap(
    matches: Matches, *, per_class: int = 10_000, pairs: Overlaps | None = None
) -> Float64:
    """Average precision with at most so many detections of a class in the whole set.

    Source: Dave et al., Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details,
    2021, arXiv:2102.01066, section 4. Differs: where the results file itself was cut per image,
    which ours cannot know, so is this figure.
    """
    rules = dataclasses.replace(matches.rules, max_detections=None)
    annotations, predictions = matches.annotations, matches.predictions
    every = (
        matches
        if matches.within_cap.all()
        else match(annotations, predictions, rules=rules, pairs=pairs)
    )
    sizes = np.diff(every.offsets)
    place = np.arange(len(every.order)) - np.repeat(every.offsets[:-1], sizes)
    rows = every.order[place < per_class]
    return mean_precision(
        every.is_true_positive[rows],
        every.is_false_positive[rows],
        offsets_of(np.minimum(sizes, per_class)),
        every.num_positive,
    )
