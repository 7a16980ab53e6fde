"""Members of a fusion side by side: their detections in groups, comparable scores, weights.

Only detections of one group can be in each other's way, so all groups are worked on at once: they
are laid out as columns, best detection on top, and the methods go from row to row.

Letters: D detections of all members that take part, J members, K categories, G groups of a batch, S
the size of the largest of them.

One detector gives 0.9 where another gives 0.4. Each is put on the scale of probabilities by two
numbers of its own and one for each class.

Letters: D detections, K categories, M images.

A weight for every member and class, found one by one, would fit the noise of a few boxes. So all
follow from the APs of the members and two numbers, which is what cross-fitting chooses.

Letters: J members, K categories.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from detbalance.data import Predictions
from detbalance.data.arrays import Bool, Float64, Int64
from detbalance.evaluation.matching import Matches

# Entries of one working array: small enough for the cache of a core.
_BATCH = 1 << 15


@dataclass(frozen=True, eq=False)
class Pool:
    """Detections in order: by image, then class, then from the highest weighted score down."""

    image_index: Int64
    labels: Int64
    members: Int64
    bbox: Float64
    corners: Float64
    scores: Float64
    weights: Float64
    member_weights: Float64
    starts: Int64

    @classmethod
    def of(
        cls, members: Sequence[Predictions], member_weights: Float64, *, score_threshold: float
    ) -> Pool:
        """Put detections side by side."""
        member = np.repeat(np.arange(len(members)), [m.num_predictions for m in members])
        image_index, labels, bbox, scores = (
            np.concatenate([getattr(m, name) for m in members])
            for name in ("image_index", "labels", "bbox", "scores")
        )
        weights = member_weights / np.maximum(member_weights.max(axis=0), np.finfo(float).tiny)
        weight = weights[member, labels]
        kept = (weight > 0) & (scores >= score_threshold) & (bbox[:, 2] * bbox[:, 3] > 0)
        rows = np.flatnonzero(kept)
        groups = image_index[rows] * member_weights.shape[1] + labels[rows]
        order = _order(groups, -(scores[rows] * weight[rows]), bbox[rows])
        rows, groups = rows[order], groups[order]
        bbox = bbox[rows]
        corners = np.zeros((4, len(rows) + 1))
        corners[:2, :-1] = bbox[:, :2].T
        corners[2:, :-1] = (bbox[:, :2] + bbox[:, 2:]).T
        starts = np.append(np.flatnonzero(np.diff(groups, prepend=-1)), len(rows))
        return cls(
            image_index[rows],
            labels[rows],
            member[rows],
            bbox,
            corners,
            scores[rows],
            weight[rows],
            weights,
            starts,
        )

    @property
    def strengths(self) -> Float64:
        """float64 [D], weighted scores in 0..1."""
        return self.scores * self.weights

    def batches(self) -> Iterator[tuple[Int64, Int64]]:
        """Lay out groups as columns, those of about the same size together."""
        sizes = np.diff(self.starts)
        order = np.argsort(-sizes, kind="stable")
        first = 0
        while first < len(order):
            size = int(sizes[order[first]])
            chosen = order[first : first + max(1, _BATCH // size)]
            first += len(chosen)
            depth = np.arange(size)[:, None]
            rows = np.where(depth < sizes[chosen], self.starts[chosen] + depth, len(self.scores))
            yield rows, (rows < len(self.scores)).sum(axis=1)


def overlap(
    one: Float64, others: Float64, areas: Float64, area: Float64
) -> tuple[Float64, Float64]:
    """Shared and joint areas of boxes."""
    width = np.minimum(one[2], others[2])
    width -= np.maximum(one[0], others[0])
    height = np.minimum(one[3], others[3])
    height -= np.maximum(one[1], others[1])
    np.maximum(width, 0.0, out=width)
    width *= np.maximum(height, 0.0, out=height)
    union = np.subtract(areas + area, width, out=height)
    return width, union


def area_of(corners: Float64) -> Float64:
    """Areas of boxes given by corners [4, ...]."""
    return np.asarray((corners[2] - corners[0]) * (corners[3] - corners[1]))


def _order(groups: Int64, falling: Float64, bbox: Float64) -> Int64:
    """Sort by group, then the second key, then the box."""
    order = np.lexsort((falling, groups))
    same = (np.diff(groups[order]) == 0) & (np.diff(falling[order]) == 0)
    if same.any():
        # Six keys take their time, so only what is tied is sorted by all of them.
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        rows = order[tied]
        keys = (*bbox[rows].T[::-1], falling[rows], groups[rows])
        order[tied] = rows[np.lexsort(keys)]
    return np.asarray(order)


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


POWERS = (1.0, 3.0, 8.0, math.inf)
SHRINKAGES = (math.inf, 30.0, 10.0)


@dataclass(frozen=True)
class Setting:
    """How to fuse, as far as it is chosen on data."""

    iou_threshold: float
    power: float = 0.0
    shrink_boxes: float = math.inf

    def __str__(self) -> str:
        what = "equal weights"
        if self.power:
            own = "the mean AP50"
            if math.isfinite(self.shrink_boxes):
                own = f"the AP50 of each class (n0 {self.shrink_boxes:g} boxes)"
            what = f"weights by {own} to the power {self.power:g}"
            if math.isinf(self.power):
                what = f"the best member alone, by {own}"
        return f"{what}, IoU {self.iou_threshold:g}"


def settings_to_try(iou_thresholds: tuple[float, ...], num_members: int) -> tuple[Setting, ...]:
    """List settings from the plainest on; a single member needs no weights."""
    equal = tuple(Setting(iou) for iou in iou_thresholds)
    if num_members == 1:
        return equal
    return equal + tuple(
        Setting(iou, power, boxes)
        for power in POWERS
        for boxes in SHRINKAGES
        for iou in iou_thresholds
    )


def weights_by_skill(ap: Float64, boxes: Int64, *, power: float, shrink_boxes: float) -> Float64:
    """Weigh members by their APs."""
    found = boxes > 0
    means = ap[:, found].mean(axis=1, keepdims=True) if found.any() else np.zeros((len(ap), 1))
    share = np.zeros(len(boxes)) if math.isinf(shrink_boxes) else boxes / (boxes + shrink_boxes)
    own = np.where(found, ap, 0.0)
    skill = share * own + (1 - share) * means
    best = skill.max(axis=0)
    # Relative to the best before the power is taken, which can be infinite.
    return np.asarray(np.where(best > 0, skill / np.where(best > 0, best, 1.0), 1.0) ** power)
