"""Thresholds from a calibration file, judged on images that they were not fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np

from detbalance.calibration.cross_fitting import (
    NAMES_SHOWN,
    Calibration,
    choose,
    class_figures,
    objective_outcome,
    prepare,
    run_trials,
    shown,
    standard_error,
    total_counts,
    verdict,
)
from detbalance.calibration.threshold_curves import (
    ROUNDING,
    SHARED,
    Curves,
    Objective,
    count_scores,
    fit,
    lower_end,
    make_curves,
)
from detbalance.calibration.thresholds import ClassThreshold, FloorStatus, ThresholdFit, Thresholds
from detbalance.data import Annotations, Predictions
from detbalance.data.arrays import Int64
from detbalance.data.categories import shorten
from detbalance.data.frequency import Frequency, Groups
from detbalance.data.messages import counted
from detbalance.evaluation.rules import RulesChoice
from detbalance.evaluation.sanity_checks import cap_notes, odd_scores

PerClass: TypeAlias = Literal["auto", "always", "never"]
# From the shared threshold to every class's own: the plainer of two that do as well is chosen.
SHRINKAGES = (SHARED, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.0)
_ADVICE = {
    (True, "auto"): "Each class gets its own threshold.",
    (True, "always"): "Each class gets its own threshold, as was asked for.",
    (False, "auto"): "All classes get the shared threshold; --per-class always keeps their own.",
    (False, "never"): "All classes get the shared threshold, as was asked for.",
}
_LOW_SCORE = 0.01  # detectors that keep detections below are not cut by their own threshold


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

    How much they are shrunk is chosen by cross-fitting, and judged on folds that had no part in it,
    beside the shared threshold and every class's own. With `per_class` "auto" the thresholds differ
    only if they raise the mean utility on those folds by more than one standard error.

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
    if per_class not in ("auto", "always", "never"):
        raise ValueError(
            f'fit_thresholds(): per_class is "{per_class}". Known: auto, always, never. Choose one.'
        )
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
    trials, thresholds = run_trials(counts, goal, SHRINKAGES, confidence=confidence)
    crossed = choose(trials, goal, first=1 if per_class == "always" else 0)
    ways: dict[str, int | Int64]
    ways = {"shared": 0, "own": len(SHRINKAGES) - 1, "shrunk": crossed.of_fold}
    held_out = {way: total_counts(crossed, setting) for way, setting in ways.items()}
    table = {way: data.judge(counts) for way, counts in held_out.items()}
    before, after = (
        shown(matches, folds, thresholds[setting, np.arange(num_folds)], iou=iou)
        for setting in (0, crossed.of_fold)
    )
    error = standard_error(matches, before, after, goal, seed=seed)
    gain = table["shrunk"].utility - table["shared"].utility
    helps = crossed.best > 0 and gain > error
    differs = per_class == "always" or (per_class == "auto" and helps)

    right, wrong, boxes = counts.without()
    curves = make_curves(right, wrong, boxes, goal, confidence=confidence)
    shared, own = (counts.thresholds[fit(curves, n)] for n in (SHARED, 0.0))
    place = fit(curves, SHRINKAGES[crossed.best] if differs else SHARED)
    chosen, label = counts.thresholds[place], np.arange(len(boxes))
    statuses = _floor_statuses(right[label, place], wrong[label, place], boxes, goal, confidence)
    figures, shared_figures = (
        class_figures(held_out[way], goal) for way in ("shrunk" if differs else "shared", "shared")
    )
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
            shared=shared_figures[label],
        )
        for label, (name, (group, _, train_boxes)) in enumerate(
            zip(annotations.categories.names, data.training.counts, strict=True), start=1
        )
    ]
    rows.sort(key=lambda row: (row.train_boxes or 0, row.boxes))
    fitted = "thresholds per class"
    outcome = objective_outcome(
        goal, (fitted, table["shrunk"]), ("one shared threshold", table["shared"]), error
    )
    return ThresholdFit(
        thresholds=Thresholds({row.name: row.threshold for row in rows}, "fit_thresholds()"),
        objective=str(goal),
        shared=float(shared[0]),
        is_per_class=differs,
        shrink_boxes=SHRINKAGES[crossed.best],
        gain=gain,
        standard_error=error,
        classes=tuple(rows),
        held_out=table,
        verdict=verdict(outcome, fitted, helps=helps, advice=_ADVICE[differs, per_class]),
        settings=data.settings,
        notes=(
            *_notes(data, curves, rows, predictions, confidence),
            *cap_notes(annotations, matches.rules),
        ),
    )


def _floor_statuses(
    right: Int64, wrong: Int64, boxes: Int64, objective: Objective, confidence: float
) -> list[FloorStatus | None]:
    """What the detections of each class alone say of its floor; index 0 is background."""
    if not objective.is_floor:
        return [None] * len(boxes)
    successes, trials = objective.successes(right, wrong, boxes)
    floor = objective.amount - ROUNDING
    sure = lower_end(successes, trials, confidence) >= floor
    likely = successes >= floor * trials
    return [
        None if n == 0 or whole == 0 else "kept" if s else "unsure" if e else "missed"
        for n, whole, s, e in zip(boxes, trials, sure, likely, strict=True)
    ]


def _notes(
    data: Calibration,
    curves: Curves,
    rows: Sequence[ClassThreshold],
    predictions: Predictions,
    confidence: float,
) -> Iterator[str]:
    """Name the classes that thresholds could not be fitted for, or whose floor is not kept."""
    annotations, goal = data.matches.annotations, data.objective
    place = {name: i for i, name in enumerate(annotations.categories.names, start=1)}
    if odd := odd_scores(predictions):
        yield f"{odd}. The thresholds hold for scores of this kind only."
    if absent := [row.name for row in rows if not row.boxes]:
        yield (
            f"{counted(len(absent), 'class')} without boxes in {annotations.source} get the shared"
            f" threshold: {shorten(absent, NAMES_SHOWN)}."
        )
    if never := [row.name for row in rows if row.boxes and not curves.weights[place[row.name]]]:
        yield (
            f"{counted(len(never), 'class')} with boxes and no right detection at any score get"
            f" the shared threshold: {shorten(never, NAMES_SHOWN)}."
        )
    if not goal.is_floor:
        return
    best = {row.name: float(curves.own[place[row.name]].max()) for row in rows if row.boxes}
    beyond = {row.name: row.boxes for row in rows if 0 < best.get(row.name, 0) < goal.amount}
    if beyond:
        figures = [f"{name} {best[name]:.2f} ({counted(n, 'box')})" for name, n in beyond.items()]
        yield (
            f"{goal} is out of reach for {counted(len(beyond), 'class')} at every threshold; the"
            f" best that there is: {shorten(figures, NAMES_SHOWN)}."
        )
    if unsure := [row.name for row in rows if row.floor == "unsure"]:
        yield (
            f"{counted(len(unsure), 'class keeps', 'classes keep')} {goal} here, but by too few"
            f" {'boxes' if goal.kind == 'recall' else 'detections'} for {confidence:.0%}"
            f" confidence: {shorten(unsure, NAMES_SHOWN)}."
        )
    if missed := [row.name for row in rows if row.floor == "missed" and row.name not in beyond]:
        yield (
            f"{counted(len(missed), 'class misses', 'classes miss')} {goal} at the threshold"
            f" chosen, though another would keep it here: {shorten(missed, NAMES_SHOWN)}."
        )
    lowest = float(predictions.scores.min())
    if goal.kind == "recall" and min(best.values()) < goal.amount and lowest >= _LOW_SCORE:
        yield (
            f"The lowest score in the predictions is {lowest:.3f}: detections below it may have"
            " been cut off. Predict with a lower score threshold for more recall."
        )
