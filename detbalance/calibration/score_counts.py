"""Right and wrong detections above every threshold worth considering, by class and by fold.

Letters: K categories, M images, D detections, N annotations, F folds, G thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detbalance.evaluation.matching import Matches
from detbalance.evaluation.memory import check_memory

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
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
