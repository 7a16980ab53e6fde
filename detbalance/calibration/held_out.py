"""Every image fused by what was fitted and chosen without it.

For each fold k that is judged, everything is done again without its images: each of the other folds
j is fused with calibrations and weights that were fitted without k and j, a setting is chosen by
the AP50 of those folds, and fold k is fused by it, with what was fitted without k.

Letters: J members, K categories, M images, F folds, A settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from detbalance.calibration.fusion import Options, fuse
from detbalance.calibration.fusion_result import with_setting
from detbalance.calibration.member_weights import Setting, weights_by_skill
from detbalance.calibration.score_calibration import Calibrator, ScoreCalibration, comparable
from detbalance.data import Predictions
from detbalance.evaluation.grid_figures import mean_of_defined
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.resampling import weighted_figures
from detbalance.evaluation.rules import Rules

if TYPE_CHECKING:
    from detbalance.data import Annotations

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


class Fitted:
    """Calibrations and APs of all members, without each fold, without each two, and on all."""

    def __init__(self, alone: Sequence[Matches], folds: Int64, num_folds: int) -> None:
        """Fit all of it."""
        pairs = [(k, j) for k in range(num_folds) for j in range(k, num_folds)]
        images = [(folds != k) & (folds != j) for k, j in pairs]
        images.append(np.ones(len(folds), dtype=np.bool_))
        calibrators = [Calibrator(matches) for matches in alone]
        self._place = {pair: i for i, pair in enumerate(pairs)}
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

    def calibrations(self, k: int, j: int) -> tuple[ScoreCalibration, ...]:
        """Those fitted without the folds k and j."""
        return self._calibrations[self._place[min(k, j), max(k, j)]]

    def weights(self, k: int, j: int, setting: Setting) -> Float64:
        """Weights [J, K + 1] of a setting, without the folds k and j."""
        return self._weights(self._place[min(k, j), max(k, j)], setting)

    def whole(self, setting: Setting) -> tuple[tuple[ScoreCalibration, ...], Float64]:
        """Calibrations and weights of a setting, on all images."""
        return self._calibrations[-1], self._weights(-1, setting)

    def _weights(self, place: int, setting: Setting) -> Float64:
        return weights_by_skill(
            self._ap[place],
            self._boxes[place],
            power=setting.power,
            shrink_boxes=setting.shrink_boxes,
        )


def cross_fit(
    annotations: Annotations,
    members: Sequence[Predictions],
    method: str,
    options: Options,
    tried: Sequence[Setting],
    folds: Int64,
    fitted: Fitted,
    rules: Rules,
) -> tuple[list[list[Predictions]], Int64]:
    """Fuse every fold by every setting, and choose one for each fold by the others."""
    num_folds, num_classes = int(folds.max()) + 1, annotations.categories.num_classes
    parts: list[list[Predictions]] = [[] for _ in tried]
    each = np.empty(num_folds, dtype=np.int64)
    for k in range(num_folds):
        # Each fold has weights of its own, so classes get a number of their own in each.
        calibrated = [
            _by_fold(member, folds, [fitted.calibrations(k, j)[m] for j in range(num_folds)])
            for m, member in enumerate(members)
        ]
        others = (folds != k).astype(np.int32)[None]
        worth = []
        for a, setting in enumerate(tried):
            weights = [fitted.weights(k, j, setting) for j in range(num_folds)]
            fused = fuse(
                calibrated,
                method,
                weights=np.concatenate(weights, axis=1),
                options=with_setting(options, setting),
            )
            fused = replace(fused, labels=fused.labels % num_classes)
            parts[a].append(_take(fused, folds[fused.image_index] == k))
            matches = match(annotations, fused, rules=rules)
            ap = weighted_figures(matches, others, score_threshold=0.0)["AP50"][0]
            worth.append(mean_of_defined(ap))
        each[k] = first_best(worth)
    return parts, each


def _by_fold(
    member: Predictions, folds: Int64, calibrations: Sequence[ScoreCalibration]
) -> Predictions:
    """Calibrate the detections of each fold, and number its classes on from the fold before."""
    fold = folds[member.image_index]
    scores = np.empty(len(fold))
    for j, calibration in enumerate(calibrations):
        rows = fold == j
        scores[rows] = calibration.apply(_take(member, rows)).scores
    num_classes = len(calibrations[0].class_offsets)
    return replace(member, labels=member.labels + fold * num_classes, scores=scores)


def _take(predictions: Predictions, rows: Bool) -> Predictions:
    return Predictions(
        predictions.image_index[rows],
        predictions.labels[rows],
        predictions.bbox[rows],
        predictions.scores[rows],
    )


def join(parts: Sequence[Predictions]) -> Predictions:
    """Put detections one after the other."""
    return Predictions(
        np.concatenate([part.image_index for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.bbox for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def first_best(values: Sequence[float]) -> int:
    """The first of the largest values; a NaN is never chosen over a number."""
    return int(np.argmax(np.nan_to_num(values, nan=-1.0)))
