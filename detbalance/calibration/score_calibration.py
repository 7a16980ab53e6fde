"""What the score of a member says of a detection being right, so that members can be compared.

One detector gives 0.9 where another gives 0.4. Each is put on the scale of probabilities by two
numbers of its own and one for each class.

Letters: D detections, K categories, M images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from detbalance.data import Predictions
from detbalance.evaluation.matching import Matches

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_EDGE = 1e-9  # scores of 0 and 1 have no logit
_LOWEST_SLOPE = 0.05  # a score that says nothing or the reverse still orders its detections
# Precisions of the normal priors: slope around 1, offset and class offsets around 0.
_SLOPE_PRIOR, _OFFSET_PRIOR, _CLASS_PRIOR = 0.02, 0.01, 1.0


@dataclass(frozen=True, eq=False)
class ScoreCalibration:
    """The probability that a detection is right: sigmoid(slope * logit(score) + offsets).

    The slope is positive, so detections of one class keep their order: AP of a member alone stays
    what it was.

    Attributes:
        slope: > 0; below 1 for a member that is too sure.
        offset: of all classes, in logits.
        class_offsets: float64 [K + 1], of each class beside it; 0 where nothing is known.
    """

    slope: float
    offset: float
    class_offsets: Float64

    def apply(self, predictions: Predictions) -> Predictions:
        """Give detections the probability of being right for a score.

        Args:
            predictions: of the same member, scores in [0, 1].

        Returns:
            The same detections with scores in (0, 1).
        """
        x = self.slope * _logit(predictions.scores) + self.offset
        x += self.class_offsets[predictions.labels]
        return replace(predictions, scores=_sigmoid(x))


class Calibrator:
    """Fits calibrations of one member on one part of the images after the other."""

    def __init__(self, matches: Matches, *, iou: float = 0.5) -> None:
        """Take what is known of each detection.

        Args:
            matches: of the member, scores in [0, 1].
            iou: overlap that a right detection needs.
        """
        t = matches.at(iou)
        counted = np.flatnonzero(~matches.is_ignored[:, t])
        predictions = matches.predictions
        self._images = predictions.image_index[counted]
        self._labels = predictions.labels[counted]
        self._logits = _logit(predictions.scores[counted])
        self._right = matches.is_true_positive[counted, t].astype(np.float64)
        self._num_classes = matches.annotations.categories.num_classes

    def fit(self, images: Bool) -> ScoreCalibration:
        """Fit on the detections of some images.

        Args:
            images: bool [M], those to fit on.

        Returns:
            The calibration; the score as it is where there is no detection.

        Source: Platt, Probabilistic outputs for support vector machines, 1999: logistic regression
        on the score. Differs: on its logit, so that slope 1 and offset 0 change nothing; with an
        offset for each class; normal priors stand in for his smoothed targets. That of the class
        offsets, of standard deviation 1, keeps classes with few detections near the others.
        """
        rows = np.flatnonzero(images[self._images])
        z, right, labels = self._logits[rows], self._right[rows], self._labels[rows]
        slope, offset, own = 1.0, 0.0, np.zeros(self._num_classes)
        for _ in range(50):
            x = slope * z + offset + own[labels]
            p = _sigmoid(x)
            left, info = p - right, p * (1 - p)
            by_class = np.bincount(labels, left, self._num_classes) + _CLASS_PRIOR * own
            # Newton's step; the class offsets are eliminated, which leaves two equations.
            h_class = np.bincount(labels, info, self._num_classes) + _CLASS_PRIOR
            h_slope = np.bincount(labels, info * z, self._num_classes)
            h_offset = h_class - _CLASS_PRIOR
            cross = np.stack([h_slope, h_offset])
            gradient = np.array(
                [left @ z + _SLOPE_PRIOR * (slope - 1), left.sum() + _OFFSET_PRIOR * offset]
            )
            curvature = np.array(
                [[info @ (z * z) + _SLOPE_PRIOR, info @ z], [info @ z, info.sum() + _OFFSET_PRIOR]]
            )
            reduced = curvature - (cross / h_class) @ cross.T
            step = np.linalg.solve(reduced, gradient - cross @ (by_class / h_class))
            if slope - step[0] < _LOWEST_SLOPE:  # on the edge the offsets alone are fitted
                step[0] = slope - _LOWEST_SLOPE
                step[1] = (gradient[1] - cross[1] @ (by_class / h_class)) - reduced[1, 0] * step[0]
                step[1] /= reduced[1, 1]
            by_step = (by_class - step @ cross) / h_class
            # Far from the optimum a full step can overshoot; a logit or two at a time cannot.
            size = max(1.0, float(np.abs(step).max()) / 2, float(np.abs(by_step).max()) / 2)
            slope -= step[0] / size
            offset -= step[1] / size
            own = own - by_step / size
            if max(np.abs(step).max(), np.abs(by_step).max()) < 1e-9:
                break
        return ScoreCalibration(float(slope), float(offset), own)


def comparable(calibrations: Sequence[ScoreCalibration]) -> tuple[ScoreCalibration, ...]:
    """Leave of the class offsets only what members differ in."""
    shared = np.mean([one.class_offsets for one in calibrations], axis=0)
    return tuple(replace(one, class_offsets=one.class_offsets - shared) for one in calibrations)


def _logit(scores: Float64) -> Float64:
    inside = np.clip(scores, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _sigmoid(x: Float64) -> Float64:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))
