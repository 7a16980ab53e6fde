"""Members of an ensemble: the images they are trained on, calibrated scores, weights by skill.

One detector gives 0.9 where another gives 0.4. Each is put on the scale of probabilities by two
numbers of its own and one for each class. A weight for every member and class, found one by one,
would fit the noise of a few boxes. So all follow from the APs of the members and two numbers, which
is what cross-fitting chooses.

Letters: J members, D detections, K categories, M images, F folds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detbalance.data import Annotations, Predictions
from detbalance.data.arrays import Bool, Float64, Int64
from detbalance.data.checks import check_number
from detbalance.evaluation.bootstrap import weighted_figures
from detbalance.evaluation.matching import Matches

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
    power: float = 0.0  # of a member's skill; 0 for equal weights
    shrink_boxes: float = math.inf  # strength with which APs of classes lean on their mean

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
    """Weigh members by their APs [J, K + 1]; those of few boxes lean on the mean of all classes."""
    present = boxes > 0
    means = ap[:, present].mean(axis=1, keepdims=True) if present.any() else np.zeros((len(ap), 1))
    share = np.zeros(len(boxes)) if math.isinf(shrink_boxes) else boxes / (boxes + shrink_boxes)
    skill = share * np.where(present, ap, 0.0) + (1 - share) * means
    best = skill.max(axis=0)
    # Relative to the best before the power is taken, which can be infinite.
    return np.asarray(np.where(best > 0, skill / np.where(best > 0, best, 1.0), 1.0) ** power)


class Fitted:
    """Calibrations and APs of all members, without each fold, without each two, and on all.

    What is left out is given as folds: `(k, j)` in any order, `(k, k)`, or none.
    """

    def __init__(self, alone: Sequence[Matches], folds: Int64) -> None:
        """Fit all of it."""
        self.alone, self.folds = alone, folds
        every = range(int(folds.max()) + 1)
        left_out = [frozenset((k, j)) for k in every for j in every if k <= j] + [frozenset()]
        images = [~np.isin(folds, list(one)) for one in left_out]
        self._place = {one: i for i, one in enumerate(left_out)}
        calibrators = [Calibrator(matches) for matches in alone]
        self._calibrations = [
            comparable([calibrator.fit(chosen) for calibrator in calibrators]) for chosen in images
        ]
        counted = np.stack(images).astype(np.int32)
        self._ap = np.stack(
            [weighted_figures(m, counted, score_threshold=0.0)["AP50"] for m in alone], axis=1
        )
        truth, positive = alone[0].annotations, alone[0].positive
        self._boxes = [
            np.bincount(
                truth.labels[positive & chosen[truth.image_index]],
                minlength=truth.categories.num_classes,
            )
            for chosen in images
        ]

    def calibrations(self, *left_out: int) -> tuple[ScoreCalibration, ...]:
        """Those of all members."""
        return self._calibrations[self._place[frozenset(left_out)]]

    def weights(self, setting: Setting, *left_out: int) -> Float64:
        """Weights [J, K + 1] of a setting."""
        place = self._place[frozenset(left_out)]
        return weights_by_skill(
            self._ap[place],
            self._boxes[place],
            power=setting.power,
            shrink_boxes=setting.shrink_boxes,
        )


def bag_shares(annotations: Annotations, target: int | None = None) -> Float64:
    """How likely each image is to be in a bag, float64 [M]."""
    counted = ~annotations.is_crowd & (annotations.labels > 0)
    labels, images = annotations.labels[counted], annotations.image_index[counted]
    if not len(labels):
        raise ValueError(
            f"{annotations.source}: has no boxes to balance. Annotations of objects are expected."
            " Use another file, or members that differ by their seeds."
        )
    counts = np.bincount(labels, minlength=annotations.categories.num_classes)
    present = counts[counts > 0]
    goal = round(float(np.sqrt(present.min() * present.max()))) if target is None else target
    advice = "It is the boxes of a class in a bag. Raise it."
    check_number("bag_shares()", "target", goal, least=1, advice=advice)
    needs = np.minimum(1.0, goal / np.maximum(counts, 1))
    shares = np.zeros(annotations.num_images)
    np.maximum.at(shares, images, needs[labels])
    without = shares == 0
    shares[without] = shares[~without].mean()
    return shares


def balanced_bags(
    annotations: Annotations, members: int, *, target: int | None = None, seed: int = 0
) -> list[Int64]:
    """Draw a bag of images for each member of an ensemble.

    Args:
        annotations: of the training images.
        members: how many bags, >= 1.
        target: see `bag_shares`.
        seed: of the draws.

    Returns:
        For each member int64 [m], rows of images, ascending. All bags have about the same size, and
        every image of a class with at most `target` boxes is in all of them.

    Raises:
        ValueError: as `bag_shares`.

    Source: balanced bagging, Chen, Liaw and Breiman, Using random forest to learn imbalanced data,
    2004, sec. 2.1, on images. Differs: without replacement, as an image twice is what samplers are
    for; images are drawn, not boxes, so frequent classes come along with rare ones.

    Example:
        >>> import json, tempfile
        >>> from detbalance.data import load_annotations
        >>> file = tempfile.NamedTemporaryFile("w", suffix=".json")
        >>> images = [{"id": i, "file_name": f"{i}.png", "width": 9, "height": 9}
        ...           for i in range(101)]
        >>> boxes = [{"id": i, "image_id": i, "category_id": 1 + (i == 100),
        ...           "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 0} for i in range(101)]
        >>> categories = [{"id": 1, "name": "many"}, {"id": 2, "name": "one"}]
        >>> _ = file.write(json.dumps(
        ...     {"images": images, "annotations": boxes, "categories": categories}))
        >>> file.flush()
        >>> [bag.tolist()[-1] for bag in balanced_bags(load_annotations(file.name), 2)]
        [100, 100]
        >>> [len(bag) for bag in balanced_bags(load_annotations(file.name), 2)]
        [11, 11]
    """
    shares = bag_shares(annotations, target)
    return [_drawn(shares, np.random.default_rng([seed, member])) for member in range(members)]


def _drawn(shares: Float64, generator: np.random.Generator) -> Int64:
    """Rows drawn with their shares as probabilities; the number of rows hardly varies."""
    order = generator.permutation(len(shares))
    # Systematic: equal steps through the shares in random order, from a random start.
    ends = np.floor(shares[order].cumsum() + generator.random())
    taken = np.diff(ends, prepend=0.0) > 0
    # A share of 1 is a whole step, which rounding must not miss.
    return np.sort(order[taken | (shares[order] == 1.0)])
