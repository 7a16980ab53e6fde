"""What thresholds are fitted for, what each lets through, and the best one of each class.

A class with five boxes has a best threshold too, but it is luck. So each class is fitted to a
mixture of two curves over the thresholds: its own, and the mean of all classes::

    mixed_c(t) = w * own_c(t) + (1 - w) * mean(t),    w = n_c / (n_c + n_0)

with n_c its boxes to find and n_0 the strength of the shrinkage in boxes. A class without boxes
gets the shared threshold, the one that is best for the mean; one with many more than n_0 boxes gets
its own. Mixing curves rather than thresholds means that a class with a flat curve, which would do
as well with almost any threshold, gives way first.

A floor must be kept with some certainty: the curves are lower ends of Wilson intervals. Two right
detections of two are a precision of 1, and with one-sided confidence of 90% at least .55.

Letters: K categories, M images, D detections, F folds, G thresholds.
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
from detbalance.data.messages import counted
from detbalance.evaluation.accumulate import check_memory
from detbalance.evaluation.matching import Matches
from detbalance.evaluation.operating_points import f_score

Numbers: TypeAlias = "npt.NDArray[np.integer] | Float64"
SHARED = math.inf  # the n_0 that leaves nothing of a class's own
MOST_THRESHOLDS = 1000
ROUNDING = 1e-9  # 9 of 10 keep a floor of .9, whatever the rounding

_NUMBER = r"(\d+\.?\d*|\.\d+)"
_F = re.compile(rf"f{_NUMBER}")
_FLOOR = re.compile(rf"(recall|precision)\s*>?=\s*{_NUMBER}")
_KNOWN = 'f1, f2, f0.5, "recall>=0.9", "precision>=0.8"'
_normal_cdf = np.vectorize(NormalDist().cdf, otypes=[np.float64])


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

    def utility(self, right: Numbers, wrong: Numbers, boxes: Numbers) -> Float64:
        """How good counts of right and wrong detections are, class by class.

        F-beta itself; for a floor, the figure that it is paid with (precision for recall, recall
        for precision) times how likely the floor is kept: Phi((x - floor n) / sqrt(n floor
        (1 - floor))) for x successes of n, the score test that Wilson's interval inverts. A class
        far below its floor is worth nothing; one far above earns nothing by that.

        Args:
            right: [..., K + 1], detections that found a box.
            wrong: [..., K + 1], detections that found none.
            boxes: [..., K + 1], boxes to find.

        Returns:
            float64 in [0, 1], NaN without boxes to find.
        """
        recall, precision = recall_and_precision(right, wrong, boxes)
        if self.kind == "f":
            return f_score(precision, recall, beta=self.amount)
        successes, trials = self.successes(right, wrong, boxes)
        spread = np.sqrt(trials * self.amount * (1 - self.amount))
        above = successes - self.amount * trials
        distance = np.divide(above, spread, out=np.zeros(successes.shape), where=spread > 0)
        paid = precision if self.kind == "recall" else recall
        return np.where(np.isnan(recall), np.nan, _normal_cdf(distance) * np.nan_to_num(paid))

    def successes(self, right: Numbers, wrong: Numbers, boxes: Numbers) -> tuple[Numbers, Numbers]:
        """The figure that has a floor: right detections, and boxes (recall) or all detections."""
        trials = boxes if self.kind == "recall" else right + wrong
        right, trials = np.broadcast_arrays(right, trials)
        return right, trials


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
    if (match := _F.fullmatch(written)) and 0 < float(match[1]) < math.inf:
        return Objective("f", float(match[1]))
    if (match := _FLOOR.fullmatch(written)) and 0 < float(match[2]) < 1:
        return Objective("recall" if match[1] == "recall" else "precision", float(match[2]))
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


def recall_and_precision(right: Numbers, wrong: Numbers, boxes: Numbers) -> tuple[Float64, Float64]:
    """Recall and precision of counts; NaN without boxes, or without detections."""
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(boxes > 0, right / boxes, np.nan)
        shown = right + wrong
        return recall, np.where(shown > 0, right / shown, np.nan)


@dataclass(frozen=True, eq=False)
class ScoreCounts:
    """What every threshold lets through, fold by fold."""

    thresholds: Float64  # [G], ascending
    right: npt.NDArray[np.int32]  # [F, K + 1, G]
    wrong: npt.NDArray[np.int32]  # [F, K + 1, G]
    boxes: Int64  # [F, K + 1]

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
    matches: Matches, fold_of_image: Int64, *, iou: float = 0.5, most: int = MOST_THRESHOLDS
) -> ScoreCounts:
    """Count right and wrong detections above every threshold."""
    t, truth = matches.at(iou), matches.annotations
    num_classes, num_folds = len(matches.num_positive), int(fold_of_image.max(initial=0)) + 1
    scores, labels = matches.predictions.scores, matches.predictions.labels
    right, wrong = matches.is_true_positive[:, t], matches.is_false_positive[:, t]
    if not right.any():
        raise ValueError(
            f"predictions: none of the {counted(len(scores), 'detection')} is right at IoU {iou:g} "
            f"on {truth.source}. Thresholds are fitted on right and wrong ones. Check that both "
            "files belong together."
        )
    thresholds = _candidates(scores[right], labels[right], most)
    shape = num_folds, num_classes, len(thresholds)
    check_memory(
        f"thresholds: counts of {num_classes - 1:,} classes at {len(thresholds):,} thresholds",
        24 * math.prod(shape),
        "Calibrate on a file of fewer classes",
    )
    folds = fold_of_image[matches.predictions.image_index]
    place = np.searchsorted(thresholds, scores, side="right") - 1

    def count(chosen: Bool) -> npt.NDArray[np.int32]:
        rows = np.flatnonzero(chosen & (place >= 0))
        cell = np.ravel_multi_index((folds[rows], labels[rows], place[rows]), shape)
        table = np.bincount(cell, minlength=math.prod(shape)).astype(np.int32).reshape(shape)
        return np.cumsum(table[..., ::-1], axis=-1, dtype=np.int32)[..., ::-1]

    cell = fold_of_image[truth.image_index[matches.positive]] * num_classes
    boxes = np.bincount(cell + truth.labels[matches.positive], minlength=num_folds * num_classes)
    return ScoreCounts(thresholds, count(right), count(wrong), boxes.reshape(shape[:2]))


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


@dataclass(frozen=True, eq=False)
class Curves:
    """What is gained at each threshold, from the lowest to the highest."""

    objective: Objective
    own: Float64  # [K + 1, G], the F-score or the figure that has a floor
    mean: Float64  # [G], of the classes with boxes
    sure_own: Float64  # [K + 1, G], lower ends of intervals where there is a floor
    sure_mean: Float64  # [G]
    weights: Float64  # [K + 1], boxes; 0 for a class without a right detection


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
    successes, trials = objective.successes(right, wrong, boxes[:, None])
    defined = present & (trials > 0)
    own = np.divide(successes, trials, out=np.zeros(successes.shape), where=defined)
    number = np.maximum(defined.sum(axis=0), 1)
    mean = own.sum(axis=0) / number
    # Trials that a single share would need to be as uncertain as the mean of these.
    spread = np.divide(1.0, trials, out=np.zeros(successes.shape), where=defined).sum(axis=0)
    effective = np.divide(number**2, spread, out=np.zeros(len(mean)), where=spread > 0)
    sure_own = np.where(defined, lower_end(successes, trials, confidence), 0.0)
    sure_mean = np.nan_to_num(lower_end(mean * effective, effective, confidence))
    return Curves(objective, own, mean, sure_own, sure_mean, weights)


def fit(curves: Curves, shrink_boxes: float) -> Int64:
    """Choose a threshold for each class: its place, int64 [K + 1]."""
    weights = curves.weights
    total = weights + shrink_boxes
    share = np.divide(weights, total, out=np.zeros(len(weights)), where=weights > 0)[:, None]
    estimate = share * curves.own + (1 - share) * curves.mean
    # Mixing rounds: what is equal but for the last bits is equal.
    result = _last(estimate >= estimate.max(axis=1, keepdims=True) - 1e-12)
    if not curves.objective.is_floor:
        return result
    sure = share * curves.sure_own + (1 - share) * curves.sure_mean
    floor = curves.objective.amount - ROUNDING
    for holds in (estimate >= floor, sure >= floor):
        extreme = _last(holds) if curves.objective.kind == "recall" else holds.argmax(axis=1)
        result = np.where(holds.any(axis=1), extreme, result)
    return result


def lower_end(successes: npt.ArrayLike, trials: npt.ArrayLike, confidence: float) -> Float64:
    """Lower end of a share that holds with a one-sided confidence; NaN for 0 trials."""
    ends = wilson_interval(
        np.asarray(successes, np.float64),
        np.asarray(trials, np.float64),
        confidence=2 * confidence - 1,
    )
    return np.asarray(ends[0])


def _last(holds: Bool) -> Int64:
    """The last place of each row that holds; of no meaning where none does."""
    return np.asarray(holds.shape[1] - 1 - holds[:, ::-1].argmax(axis=1))
