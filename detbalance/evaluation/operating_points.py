"""Recall, precision and F-beta at a score, and the scores where they are what one wants.

A working point of a class is a score threshold; detections of equal scores are in or out together.
Figures are those of `match`, at one IoU threshold. Arrays have length K + 1, index 0 is background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Float64, Int64
from detbalance.data.checks import check_number
from detbalance.evaluation.filters import images_checked, reaches_floor
from detbalance.evaluation.matching import Matches


@dataclass(frozen=True, eq=False)
class Counts:
    """Right and wrong detections of each class at or above a score."""

    true_positives: Int64
    false_positives: Int64
    num_positive: Int64

    @property
    def recall(self) -> Float64:
        """float64 [K + 1], NaN without boxes to find."""
        return _ratio(self.true_positives, self.num_positive)

    @property
    def precision(self) -> Float64:
        """float64 [K + 1], NaN without detections."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)


def at_score(matches: Matches, floor: float | Float64, *, iou: float = 0.5) -> Counts:
    """Count right and wrong detections with at least a score."""
    t, num_classes = matches.at(iou), len(matches.num_positive)
    shown = reaches_floor(matches.predictions, floor)
    right, wrong = (
        np.bincount(matches.predictions.labels[shown & chosen[:, t]], minlength=num_classes)
        for chosen in (matches.is_true_positive, matches.is_false_positive)
    )
    return Counts(right, wrong, matches.num_positive)


def f_score(precision: Float64, recall: Float64, *, beta: float = 1.0) -> Float64:
    """Weighted harmonic mean of precision and recall.

    Source: van Rijsbergen, Information Retrieval, 1979, chapter 7.
    """
    check_number("f_score()", "beta", beta, above=0)
    exact = np.nan_to_num(precision, nan=0.0)
    weighted = (1 + beta**2) * exact * recall
    total = beta**2 * exact + recall
    result = np.where(np.isnan(recall), np.nan, 0.0)
    np.divide(weighted, total, out=result, where=total > 0)
    return result


def recall_at_precision(
    matches: Matches, precision: float, *, iou: float = 0.5
) -> tuple[Float64, Float64]:
    """Highest recall of each class among the score thresholds that hold a precision."""
    points = _points(matches, iou)
    holds = points.right >= precision * (points.right + points.wrong)
    return _best(points, points.recall, holds, matches.num_positive)


def recall_at_false_positives(
    matches: Matches, per_image: float, *, iou: float = 0.5
) -> tuple[Float64, Float64]:
    """Highest recall of each class with at most so many false positives of it per image."""
    recall, score = froc(matches, (per_image,), iou=iou)
    return recall[0], score[0]


def froc(matches: Matches, rates: Sequence[float], *, iou: float = 0.5) -> tuple[Float64, Float64]:
    """Highest recall at each rate of false positives per image, and its score: [rates, K + 1].

    Source: Chakraborty, Maximum likelihood analysis of free-response receiver operating
    characteristic (FROC) data, Medical Physics 16, 1989. Differs: rates are of one class.
    """
    points = _points(matches, iou)
    images, total = images_checked(matches.annotations, matches.rules), matches.num_positive
    curves = [
        _best(points, points.recall, points.wrong <= (rate * images)[points.label], total)
        for rate in rates
    ]
    return np.stack([recall for recall, _ in curves]), np.stack([score for _, score in curves])


def best_f(matches: Matches, *, beta: float = 1.0, iou: float = 0.5) -> tuple[Float64, Float64]:
    """Highest F-beta of each class over all score thresholds."""
    points = _points(matches, iou)
    # From counts, so that equally good points are equal to the last bit.
    total = beta**2 * matches.num_positive[points.label] + points.right + points.wrong
    value = (1 + beta**2) * points.right / total
    return _best(points, value, points.right > 0, matches.num_positive)


@dataclass(frozen=True, eq=False)
class _Points:
    """One point per class and distinct score: what a floor at that score lets through."""

    label: Int64
    score: Float64
    right: Int64
    wrong: Int64
    recall: Float64


def _points(matches: Matches, iou: float) -> _Points:
    t = matches.at(iou)
    rows = matches.order[~matches.is_ignored[matches.order, t]]
    labels, scores = matches.predictions.labels[rows], matches.predictions.scores[rows]
    found = matches.is_true_positive[rows, t]
    right = np.concatenate([[0], np.cumsum(found)])
    first = np.searchsorted(labels, labels)
    last = np.flatnonzero((np.diff(labels, append=-1) != 0) | (np.diff(scores, append=0) != 0))
    label = labels[last]
    hits = right[last + 1] - right[first[last]]
    wrong = last + 1 - first[last] - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(
            matches.num_positive[label] > 0, hits / matches.num_positive[label], np.nan
        )
    return _Points(label, scores[last], hits, wrong, recall)


def _best(
    points: _Points, value: Float64, eligible: npt.NDArray[np.bool_], num_positive: Int64
) -> tuple[Float64, Float64]:
    """The highest eligible value of each class, and the highest score with it."""
    best = np.where(num_positive > 0, 0.0, np.nan)
    score = np.full(len(num_positive), np.nan)
    kept = np.flatnonzero(eligible & (num_positive[points.label] > 0))
    if len(kept):
        labels, values = points.label[kept], value[kept]
        starts = np.flatnonzero(np.diff(labels, prepend=-1))
        highest = np.maximum.reduceat(values, starts)
        best[labels[starts]] = highest
        reached = kept[values == best[labels]]
        first = np.flatnonzero(np.diff(points.label[reached], prepend=-1))
        score[points.label[reached[first]]] = points.score[reached[first]]
    return best, score


def _ratio(part: Int64, whole: Int64) -> Float64:
    """Part / whole, NaN where the whole is 0."""
    ratio = np.full(len(whole), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio
