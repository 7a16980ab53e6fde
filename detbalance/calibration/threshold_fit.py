"""Thresholds from a calibration file, judged on images that they were not fitted on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from detbalance.calibration.cross_fitting import choose, held_out, run_trials, shown, standard_error
from detbalance.calibration.objectives import Objective
from detbalance.calibration.preparation import prepare
from detbalance.calibration.score_counts import count_scores
from detbalance.calibration.threshold_curves import SHARED, fit, lower_end, make_curves
from detbalance.calibration.threshold_notes import calibration_notes
from detbalance.calibration.threshold_result import (
    ClassThreshold,
    Figures,
    FloorStatus,
    ThresholdFit,
    class_figures,
    judge,
)
from detbalance.calibration.thresholds import Thresholds
from detbalance.calibration.verdicts import verdict
from detbalance.evaluation.detection_cap import cap_notes
from detbalance.evaluation.rules import RulesChoice
from detbalance.evaluation.training_counts import TrainingSide

if TYPE_CHECKING:
    from detbalance.data import Annotations, Predictions
    from detbalance.data.frequency import Frequency, Groups

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
PerClass: TypeAlias = Literal["auto", "always", "never"]
# From the shared threshold to every class's own: the plainer of two that do as well is chosen.
SHRINKAGES = (SHARED, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.0)
_ADVICE = {
    (True, "auto"): "Each class gets its own threshold.",
    (True, "always"): "Each class gets its own threshold, as was asked for.",
    (False, "auto"): "All classes get the shared threshold; --per-class always keeps their own.",
    (False, "never"): "All classes get the shared threshold, as was asked for.",
}


def fit_thresholds(
    annotations: Annotations,
    predictions: Predictions,
    objective: Objective | str = "f1",
    *,
    frequency: Frequency | None = None,
    groups: Groups | None = None,
    per_class: PerClass = "auto",
    rules: RulesChoice = "auto",
    iou: float = 0.5,
    confidence: float = 0.9,
    num_folds: int = 5,
    seed: int = 0,
    predictions_file: str | None = None,
) -> ThresholdFit:
    """Fit a score threshold for each class, shrunk toward the shared one where boxes are few.

    How much they are shrunk is chosen by cross-fitting, and the whole procedure with that choice is
    judged on folds that had no part in it, beside the shared threshold and beside every class's
    own. With `per_class` "auto" the thresholds differ only if they raise the mean worth on those
    folds by more than one standard error; otherwise all classes get the shared one.

    Args:
        annotations: the calibration file, of images that the detector was not trained on.
        predictions: detections on its images, of as low a score as the detector gives.
        objective: "f1", "f2", "f0.5", "recall>=0.9", "precision>=0.8", or an `Objective`.
        frequency: counts of the training file, for the order of the classes and for groups.
        groups: of the classes of `frequency`; its usual groups if not given.
        per_class: "auto", "always", or "never".
        rules: "coco", "lvis", or "auto" for what the file asks for.
        iou: overlap that a right detection needs; one of .5, .55, ... .95.
        confidence: one-sided, in (0.5, 1), that a floor has to be kept with.
        num_folds: folds of images, 3 or more.
        seed: of the folds and of the draws behind the standard error.
        predictions_file: where the predictions came from, for the record.

    Returns:
        The thresholds, what they give on held-out images, and what to know about them.

    Raises:
        ValueError: if an argument is out of range, no detection is right, or there are fewer images
            than folds.

    Source: one standard error as the least gain that counts: Breiman et al., Classification and
    Regression Trees, 1984, section 3.4.3. Thresholds fitted on few examples of a class overfit:
    Yang, A study on thresholding strategies for text categorization, SIGIR 2001. Differs: where
    that paper gives such classes a fixed threshold, theirs move to the shared one by degrees.
    """
    _check(per_class)
    data = prepare(
        annotations,
        predictions,
        objective,
        frequency,
        groups,
        rules=rules,
        iou=iou,
        confidence=confidence,
        num_folds=num_folds,
        seed=seed,
        predictions_file=predictions_file,
    )
    goal, matches, folds = data.objective, data.matches, data.folds
    counts = count_scores(matches, folds, iou=iou)
    trials = run_trials(counts, goal, SHRINKAGES, confidence=confidence)
    best, each = choose(trials, goal, first=1 if per_class == "always" else 0)
    results = {
        "shared": held_out(trials, 0),
        "own": held_out(trials, len(SHRINKAGES) - 1),
        "shrunk": held_out(trials, each),
    }
    table = {name: judge(result, goal, data.group_of_class) for name, result in results.items()}
    before, after = (
        shown(matches, folds, results[name].thresholds, iou=iou) for name in ("shared", "shrunk")
    )
    error = standard_error(matches, before, after, goal, seed=seed)
    gain = table["shrunk"].worth - table["shared"].worth
    helps = best > 0 and gain > error
    differs = per_class == "always" or (per_class == "auto" and helps)

    right, wrong, boxes = counts.without()
    curves = make_curves(right, wrong, boxes, goal, confidence=confidence)
    place, label = fit(curves, SHRINKAGES[best] if differs else SHARED), np.arange(len(boxes))
    rows = _rows(
        annotations,
        data.training,
        boxes,
        counts.thresholds[place],
        counts.thresholds[fit(curves, 0.0)],
        _statuses(goal, right[label, place], wrong[label, place], boxes, confidence),
        class_figures(results["shrunk" if differs else "shared"], goal),
        class_figures(results["shared"], goal),
    )
    return ThresholdFit(
        thresholds=Thresholds({row.name: row.threshold for row in rows}, "fit_thresholds()"),
        objective=str(goal),
        shared=float(counts.thresholds[fit(curves, SHARED)[0]]),
        is_per_class=differs,
        shrink_boxes=SHRINKAGES[best],
        gain=gain,
        standard_error=error,
        classes=rows,
        held_out=table,
        verdict=verdict(
            goal,
            table["shared"],
            table["shrunk"],
            error,
            helps=helps,
            what=("thresholds per class", "one shared threshold"),
            advice=_ADVICE[differs, per_class],
        ),
        settings=data.settings,
        notes=(
            *calibration_notes(curves, rows, annotations, predictions, confidence=confidence),
            *cap_notes(annotations, matches.rules),
        ),
    )


def _check(per_class: str) -> None:
    if per_class not in ("auto", "always", "never"):
        raise ValueError(
            f'fit_thresholds(): per_class is "{per_class}". Known: auto, always, never. Choose one.'
        )


def _statuses(
    objective: Objective, right: Int64, wrong: Int64, boxes: Int64, confidence: float
) -> list[FloorStatus | None]:
    """What the detections of each class alone say of its floor; index 0 is background."""
    if not objective.is_floor:
        return [None] * len(boxes)
    found, trials = objective.kept(right, wrong, boxes)
    floor = objective.amount - 1e-9
    sure = lower_end(found, trials, confidence) >= floor
    likely = found >= floor * trials
    return [
        None if n == 0 or whole == 0 else "kept" if s else "unsure" if e else "missed"
        for n, whole, s, e in zip(boxes, trials, sure, likely, strict=True)
    ]


def _rows(
    annotations: Annotations,
    training: TrainingSide,
    boxes: Int64,
    chosen: Float64,
    own: Float64,
    statuses: list[FloorStatus | None],
    figures: list[Figures],
    shared: list[Figures],
) -> tuple[ClassThreshold, ...]:
    """One row a class, the rarest first."""
    rows = [
        ClassThreshold(
            name=name,
            group=group,
            train_boxes=train_boxes,
            boxes=int(boxes[label]),
            threshold=float(chosen[label]),
            own=float(own[label]),
            floor=statuses[label],
            held_out=figures[label],
            shared=shared[label],
        )
        for label, (name, (group, _, train_boxes)) in enumerate(
            zip(annotations.categories.names, training.counts, strict=True), start=1
        )
    ]
    return tuple(sorted(rows, key=lambda row: (row.train_boxes or 0, row.boxes)))
