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
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detbalance.calibration.objectives import Objective
from detbalance.data.intervals import wilson_interval

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
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
        own = np.nan_to_num(objective.worth(right, wrong, boxes[:, None]))
        mean = own.sum(axis=0) / max(present.sum(), 1)
        return Curves(objective, own, mean, own, mean, weights)
    found, trials = objective.kept(right, wrong, boxes[:, None])
    counted = present & (trials > 0)
    own = np.divide(found, trials, out=np.zeros(found.shape), where=counted)
    num_counted = np.maximum(counted.sum(axis=0), 1)
    mean = own.sum(axis=0) / num_counted
    spread = np.divide(1.0, trials, out=np.zeros(found.shape), where=counted).sum(axis=0)
    worth = np.divide(num_counted**2, spread, out=np.zeros(len(mean)), where=spread > 0)
    return Curves(
        objective,
        own,
        mean,
        np.where(counted, lower_end(found, trials, confidence), 0.0),
        np.nan_to_num(lower_end(mean * worth, worth, confidence)),
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
