"""The threshold of each class from counts: its own, the shared one, and what lies between.

A class with five boxes has a best threshold too, but it is luck. So each class is fitted to a
mixture of two curves over the thresholds: its own, and the mean of all classes::

    mixed_c(t) = w * own_c(t) + (1 - w) * mean(t),    w = n_c / (n_c + n_0)

with n_c its boxes to find and n_0 the strength of the shrinkage in boxes. A class without boxes
gets the shared threshold, the one that is best for the mean; one with many more than n_0 boxes gets
its own. Mixing curves rather than thresholds means that a class with a flat curve, which would do
as well with almost any threshold, gives way first.

A floor must be kept with some certainty: the curves are lower ends of Wilson intervals. Two right
detections of two are a precision of 1, and with one-sided confidence of 90% at least .55.

Letters: K categories, G thresholds.

Letters: K categories, G score thresholds to choose from.

Letters: K categories, M images, D detections, N annotations, F folds, G thresholds.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Bool, Float64, Int64
from detbalance.data.intervals import wilson_interval
from detbalance.evaluation.accumulate import check_memory
from detbalance.evaluation.matching import Matches
from detbalance.evaluation.operating_points import f_score

Counted: TypeAlias = "npt.NDArray[np.integer] | Float64"

_NUMBER = r"(\d+\.?\d*|\.\d+)"
_F = re.compile(rf"f{_NUMBER}")
_FLOOR = re.compile(rf"(recall|precision)\s*>?=\s*{_NUMBER}")
_KNOWN = 'f1, f2, f0.5, "recall>=0.9", "precision>=0.8"'


@dataclass(frozen=True)
class Objective:
    """What thresholds are fitted for.

    Attributes:
        kind: "f" for the highest F-beta; "recall" for the highest threshold that keeps a floor of
            recall; "precision" for the lowest one that keeps a floor of precision.
        amount: beta, > 0, or the floor, in (0, 1).

    Example:
        >>> parse_objective("recall>=.9")
        Objective(kind='recall', amount=0.9)
        >>> print(parse_objective("recall>=.9"), parse_objective("f2"))
        recall>=0.9 f2
    """

    kind: Literal["f", "recall", "precision"]
    amount: float

    def __str__(self) -> str:
        return f"f{self.amount:g}" if self.kind == "f" else f"{self.kind}>={self.amount:g}"

    @property
    def beta(self) -> float:
        """The weight of recall in the F-score to show: 1 beside a floor."""
        return self.amount if self.kind == "f" else 1.0

    @property
    def is_floor(self) -> bool:
        """Whether a figure is to be kept rather than made as high as possible."""
        return self.kind != "f"

    def utility(self, right: Counted, wrong: Counted, boxes: Counted) -> Float64:
        """How good counts of right and wrong detections are, class by class.

        F-beta itself; for a floor, the figure that it is paid with (precision for recall, recall
        for precision) times how likely the floor is kept: Phi((x - floor n) / sqrt(n floor
        (1 - floor))) for x successes of n, the score test that Wilson's interval inverts. A class
        far below its floor is utility nothing; one far above earns nothing by that.

        Args:
            right: [..., K + 1], detections that found a box.
            wrong: [..., K + 1], detections that found none.
            boxes: [..., K + 1], boxes to find.

        Returns:
            float64 in [0, 1], NaN without boxes to find.
        """
        recall, precision = shares(right, wrong, boxes)
        if self.kind == "f":
            return f_score(precision, recall, beta=self.amount)
        found, trials = self.kept(right, wrong, boxes)
        spread = np.sqrt(trials * self.amount * (1 - self.amount))
        distance = np.divide(
            found - self.amount * trials,
            spread,
            out=np.zeros(found.shape),
            where=spread > 0,
        )
        paid = precision if self.kind == "recall" else recall
        utility = _normal_cdf(distance) * np.nan_to_num(paid)
        return np.where(np.isnan(recall), np.nan, utility)

    def kept(self, right: Counted, wrong: Counted, boxes: Counted) -> tuple[Counted, Counted]:
        """The figure that has a floor, as successes and trials.

        Args:
            right: as in `utility`.
            wrong: as in `utility`.
            boxes: as in `utility`.

        Returns:
            Right detections, and boxes (recall) or all detections (precision), of one shape.
        """
        found, trials = np.broadcast_arrays(
            right, boxes if self.kind == "recall" else right + wrong
        )
        return found, trials


_normal_cdf = np.vectorize(NormalDist().cdf, otypes=[np.float64])


def parse_objective(text: str) -> Objective:
    """Read an objective as it is written on the command line.

    Args:
        text: "f1", "f2", "f0.5", "recall>=0.9" or "precision>=0.8"; "recall=0.9" is the same and
            needs no quotes in a shell.

    Returns:
        The objective.

    Raises:
        ValueError: if it is none of these, beta is 0, or the floor is not between 0 and 1.
    """
    written = text.strip().lower()
    if (found := _F.fullmatch(written)) and 0 < float(found[1]) < math.inf:
        return Objective("f", float(found[1]))
    if (found := _FLOOR.fullmatch(written)) and 0 < float(found[2]) < 1:
        return Objective("recall" if found[1] == "recall" else "precision", float(found[2]))
    if written in ("recall", "precision"):
        # In a shell, > without quotes sends the output into a file called "=.9".
        raise ValueError(
            f'objective: "{text}" has no floor. Expected for example "{written}>=0.9", with the '
            f"quotes, or {written}=0.9. Add the floor."
        )
    raise ValueError(
        f'objective: "{text}" cannot be read. Expected one of {_KNOWN}, with a beta above 0 or a '
        "floor between 0 and 1. Choose one."
    )


def shares(right: Counted, wrong: Counted, boxes: Counted) -> tuple[Float64, Float64]:
    """Recall and precision of counts."""
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(boxes > 0, right / boxes, np.nan)
        shown = right + wrong
        return recall, np.where(shown > 0, right / shown, np.nan)


MOST_THRESHOLDS = 1000


@dataclass(frozen=True, eq=False)
class ScoreCounts:
    """What every threshold lets through."""

    thresholds: Float64
    right: npt.NDArray[np.int32]
    wrong: npt.NDArray[np.int32]
    boxes: Int64

    def without(self, *folds: int) -> tuple[Int64, Int64, Int64]:
        """Right and wrong detections int64 [K + 1, G] and boxes int64 [K + 1] of other folds."""
        left = np.ones(len(self.boxes), dtype=np.bool_)
        left[list(folds)] = False
        return (
            self.right[left].sum(axis=0, dtype=np.int64),
            self.wrong[left].sum(axis=0, dtype=np.int64),
            self.boxes[left].sum(axis=0),
        )


def count_scores(
    matches: Matches,
    fold_of_image: Int64,
    *,
    iou: float = 0.5,
    most: int = MOST_THRESHOLDS,
) -> ScoreCounts:
    """Count right and wrong detections above every threshold."""
    t = matches.at(iou)
    num_classes, num_folds = len(matches.num_positive), int(fold_of_image.max(initial=0)) + 1
    scores = matches.predictions.scores
    right, wrong = matches.is_true_positive[:, t], matches.is_false_positive[:, t]
    if not right.any():
        detections = "1 detection" if len(scores) == 1 else f"{len(scores)} detections"
        raise ValueError(
            f"predictions: none of the {detections} is right at IoU {iou:g} on "
            f"{matches.annotations.source}. Thresholds are fitted on right and wrong ones. Check "
            "that both files belong together."
        )
    labels = matches.predictions.labels
    thresholds = _candidates(scores[right], labels[right], most)
    size = num_folds * num_classes * len(thresholds)
    check_memory(
        f"thresholds: counts of {num_classes - 1:,} classes at {len(thresholds):,} thresholds",
        24 * size,
        "Calibrate on a file of fewer classes",
    )
    folds = fold_of_image[matches.predictions.image_index]
    place = np.searchsorted(thresholds, scores, side="right") - 1

    def counted(chosen: Bool) -> npt.NDArray[np.int32]:
        rows = np.flatnonzero(chosen & (place >= 0))
        cell = (folds[rows] * num_classes + labels[rows]) * len(thresholds) + place[rows]
        table = np.bincount(cell, minlength=size).astype(np.int32)
        table = table.reshape(num_folds, num_classes, len(thresholds))
        return np.cumsum(table[..., ::-1], axis=-1, dtype=np.int32)[..., ::-1]

    truth = matches.annotations
    cell = fold_of_image[truth.image_index[matches.positive]] * num_classes
    boxes = np.bincount(cell + truth.labels[matches.positive], minlength=num_folds * num_classes)
    return ScoreCounts(
        thresholds, counted(right), counted(wrong), boxes.reshape(num_folds, num_classes)
    )


def _candidates(scores: Float64, labels: Int64, most: int) -> Float64:
    """Distinct scores, thinned so that every class has the same say in what is left."""
    distinct, place = np.unique(scores, return_inverse=True)
    if len(distinct) <= most:
        return distinct
    # A class with many boxes would else take all thresholds for itself.
    share = np.bincount(place, weights=1.0 / np.bincount(labels)[labels])
    reached = np.cumsum(share) / share.sum()
    kept = np.searchsorted(reached, (np.arange(most) + 0.5) / most)
    return np.asarray(distinct[np.unique(np.append(kept, 0))])


SHARED = float("inf")  # the n_0 that leaves nothing of a class's own


@dataclass(frozen=True, eq=False)
class Curves:
    """What is gained at each threshold, from the lowest to the highest."""

    objective: Objective
    own: Float64
    mean: Float64
    sure_own: Float64
    sure_mean: Float64
    weights: Float64


def make_curves(
    right: Int64, wrong: Int64, boxes: Int64, objective: Objective, *, confidence: float = 0.9
) -> Curves:
    """Draw the curves that thresholds are read from."""
    weights = np.where(right.any(axis=1), boxes, 0).astype(np.float64)
    present = (boxes > 0)[:, None]
    if not objective.is_floor:
        own = np.nan_to_num(objective.utility(right, wrong, boxes[:, None]))
        mean = own.sum(axis=0) / max(present.sum(), 1)
        return Curves(objective, own, mean, own, mean, weights)
    found, trials = objective.kept(right, wrong, boxes[:, None])
    counted = present & (trials > 0)
    own = np.divide(found, trials, out=np.zeros(found.shape), where=counted)
    num_counted = np.maximum(counted.sum(axis=0), 1)
    mean = own.sum(axis=0) / num_counted
    spread = np.divide(1.0, trials, out=np.zeros(found.shape), where=counted).sum(axis=0)
    utility = np.divide(num_counted**2, spread, out=np.zeros(len(mean)), where=spread > 0)
    return Curves(
        objective,
        own,
        mean,
        np.where(counted, lower_end(found, trials, confidence), 0.0),
        np.nan_to_num(lower_end(mean * utility, utility, confidence)),
        weights,
    )


def fit(curves: Curves, shrink_boxes: float) -> Int64:
    """Choose a threshold for each class."""
    weights = curves.weights
    total = weights + shrink_boxes
    share = np.divide(weights, total, out=np.zeros(len(weights)), where=weights > 0)[:, None]
    estimate = share * curves.own + (1 - share) * curves.mean
    if not curves.objective.is_floor:
        return _highest_best(estimate)
    sure = share * curves.sure_own + (1 - share) * curves.sure_mean
    floor = curves.objective.amount - 1e-9  # 9 of 10 keep a floor of .9, whatever the rounding
    result = _highest_best(estimate)
    for holds in (estimate >= floor, sure >= floor):
        extreme = _last(holds) if curves.objective.kind == "recall" else holds.argmax(axis=1)
        result = np.where(holds.any(axis=1), extreme, result)
    return result


def lower_end(found: npt.ArrayLike, trials: npt.ArrayLike, confidence: float) -> Float64:
    """Lower end of a share that holds with a one-sided confidence; NaN for 0 trials."""
    ends = wilson_interval(
        np.asarray(found, np.float64), np.asarray(trials, np.float64), confidence=2 * confidence - 1
    )
    return np.asarray(ends[0])


def check_confidence(confidence: float) -> None:
    """Check a one-sided confidence."""
    if not 0.5 < confidence < 1:
        raise ValueError(
            f"confidence: is {confidence:g}. A floor is kept with a confidence between 0.5 and 1, "
            "for example 0.9. Pass such a one."
        )


def _highest_best(values: Float64) -> Int64:
    """The last of the largest values of each row."""
    # Mixing rounds: what is equal but for the last bits is equal.
    return _last(values >= values.max(axis=1, keepdims=True) - 1e-12)


def _last(holds: Bool) -> Int64:
    """The last place of each row that holds; of no meaning where none does."""
    return np.asarray(holds.shape[1] - 1 - holds[:, ::-1].argmax(axis=1))
