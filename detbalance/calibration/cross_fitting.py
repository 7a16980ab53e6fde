"""Figures on images that nothing was fitted on, for settings and for the choice among them.

The images are cut into folds. A setting (a shrinkage, a strength of rescoring) is judged by fitting
on all folds but one and counting on that one, each in turn. The best of several settings looks
better than it is on the folds that it was chosen on, so the choice is judged too: for each fold it
is made again by what the other folds say alone.

Letters: K categories, M images, D detections, F folds, A settings, B draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from detbalance.calibration.threshold_curves import Objective, ScoreCounts, fit, make_curves
from detbalance.data.arrays import Bool, Float64, Int64
from detbalance.data.split import deal_images
from detbalance.evaluation.accumulate import mean_of_defined
from detbalance.evaluation.matching import Matches

if TYPE_CHECKING:
    from detbalance.data import Annotations

# Right and wrong detections that are shown, bool [D] each.
Shown: TypeAlias = "tuple[Bool, Bool]"
FEWEST_FOLDS = 3  # to choose on two and judge on the third


@dataclass(frozen=True, eq=False)
class Trials:
    """Counts of A settings: fitted without two folds, counted on the second of them."""

    right: Int64
    wrong: Int64
    boxes: Int64
    thresholds: Float64


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Counts on images that were not fitted on, all folds together."""

    right: Int64
    wrong: Int64
    boxes: Int64
    settings: Int64
    thresholds: Float64


def image_folds(annotations: Annotations, num_folds: int, seed: int) -> Int64:
    """Cut the images into folds that share the boxes of rare classes as evenly as may be."""
    if not FEWEST_FOLDS <= num_folds <= annotations.num_images:
        images = "only image" if annotations.num_images == 1 else f"{annotations.num_images} images"
        raise ValueError(
            f"folds: {num_folds} folds of the {images} of "
            f"{annotations.source}. Expected {FEWEST_FOLDS} or more, and no more than images. "
            "Choose another number, or calibrate on more images."
        )
    return deal_images(
        annotations.labels, annotations.image_index, annotations.num_images, num_folds, seed
    )


def run_trials(
    counts: ScoreCounts,
    objective: Objective,
    shrink_boxes: Sequence[float],
    *,
    confidence: float = 0.9,
) -> Trials:
    """Fit without every fold and without every two folds, and count on what was left out."""
    num_folds, num_classes = counts.boxes.shape
    shape = (len(shrink_boxes), num_folds, num_folds, num_classes)
    right, wrong = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    thresholds = np.empty((len(shrink_boxes), num_folds, num_classes))
    every = np.arange(num_classes)
    for k in range(num_folds):
        for j in range(k, num_folds):
            curves = make_curves(*counts.without(k, j), objective, confidence=confidence)
            for a, boxes in enumerate(shrink_boxes):
                place = fit(curves, boxes)
                for left, judged in {(k, j), (j, k)}:
                    right[a, left, judged] = counts.right[judged, every, place]
                    wrong[a, left, judged] = counts.wrong[judged, every, place]
                if k == j:
                    thresholds[a, k] = counts.thresholds[place]
    return Trials(right, wrong, counts.boxes, thresholds)


def stack(trials: Iterable[Trials]) -> Trials:
    """Put the settings of several trials on the same folds one after the other."""
    every = list(trials)
    return Trials(
        np.concatenate([one.right for one in every]),
        np.concatenate([one.wrong for one in every]),
        every[0].boxes,
        np.concatenate([one.thresholds for one in every]),
    )


def held_out(trials: Trials, setting: int | Int64) -> HeldOut:
    """Count what a setting gives on images that it was not fitted on."""
    folds = np.arange(len(trials.boxes))
    settings = np.broadcast_to(np.asarray(setting, dtype=np.int64), folds.shape)
    return HeldOut(
        trials.right[settings, folds, folds].sum(axis=0),
        trials.wrong[settings, folds, folds].sum(axis=0),
        trials.boxes.sum(axis=0),
        settings,
        trials.thresholds[settings, folds],
    )


def choose(trials: Trials, objective: Objective, *, first: int = 0) -> tuple[int, Int64]:
    """Choose the setting with the highest mean utility on held-out images."""
    num_settings, num_folds = trials.thresholds.shape[:2]
    folds = np.arange(num_folds)
    settings = range(first, num_settings)
    singles = [held_out(trials, a) for a in settings]
    whole = _first_best([mean_utility(objective, s.right, s.wrong, s.boxes) for s in singles])
    each = np.empty(num_folds, dtype=np.int64)
    for k in range(num_folds):
        others = folds[folds != k]
        right, wrong = trials.right[:, k, others].sum(axis=1), trials.wrong[:, k, others].sum(1)
        boxes = trials.boxes[others].sum(axis=0)
        each[k] = _first_best(
            [mean_utility(objective, right[a], wrong[a], boxes) for a in settings]
        )
    return first + whole, first + each


def shown(
    matches: Matches, fold_of_image: Int64, thresholds: Float64, *, iou: float = 0.5
) -> Shown:
    """Mark the detections that thresholds show, each by the thresholds of the fold it is in."""
    t, predictions = matches.at(iou), matches.predictions
    floor = thresholds[fold_of_image[predictions.image_index], predictions.labels]
    visible = predictions.scores >= floor
    return visible & matches.is_true_positive[:, t], visible & matches.is_false_positive[:, t]


def standard_error(
    matches: Matches,
    before: Shown,
    after: Shown,
    objective: Objective,
    *,
    draws: int = 200,
    seed: int = 0,
) -> float:
    """How uncertain the difference of two mean worths is, by a bootstrap over images."""
    predictions, truth = matches.predictions, matches.annotations
    num_images, num_classes = truth.num_images, len(matches.num_positive)
    positive = np.flatnonzero(matches.positive)
    chosen = [np.flatnonzero(mask) for mask in (*before, *after)]
    cells = [(predictions.image_index[rows], predictions.labels[rows]) for rows in chosen]
    cells.append((truth.image_index[positive], truth.labels[positive]))
    rng = np.random.default_rng(seed)
    differences = np.empty(draws)
    for b in range(draws):
        drawn = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
        right_before, wrong_before, right, wrong, boxes = (
            np.bincount(labels, weights=drawn[images], minlength=num_classes)
            for images, labels in cells
        )
        differences[b] = mean_utility(objective, right, wrong, boxes)
        differences[b] -= mean_utility(objective, right_before, wrong_before, boxes)
    return float(np.std(differences[~np.isnan(differences)]))


def mean_utility(
    objective: Objective,
    right: Int64 | Float64,
    wrong: Int64 | Float64,
    boxes: Int64 | Float64,
) -> float:
    """Mean of `Objective.utility` over the classes with boxes to find."""
    return mean_of_defined(objective.utility(right, wrong, boxes))


def _first_best(values: Sequence[float]) -> int:
    """The first of the largest values; a NaN is never chosen over a number."""
    return int(np.argmax(np.nan_to_num(values, nan=-1.0)))
