"""Thresholds from a calibration file, judged on images that they were not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from detbalance.calibration.cross_fitting import (
    choose,
    held_out,
    image_folds,
    run_trials,
    shown,
    standard_error,
)
from detbalance.calibration.threshold_curves import (
    SHARED,
    Curves,
    Objective,
    check_confidence,
    count_scores,
    fit,
    lower_end,
    make_curves,
    parse_objective,
)
from detbalance.calibration.threshold_result import (
    ClassThreshold,
    Figures,
    FloorStatus,
    Settings,
    ThresholdFit,
    class_figures,
    judge,
    verdict,
)
from detbalance.calibration.thresholds import Thresholds
from detbalance.data.arrays import Float64, Int64
from detbalance.data.categories import shorten
from detbalance.data.messages import counted
from detbalance.evaluation.build import TrainingCounts, training_counts
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.rules import RulesChoice
from detbalance.evaluation.sanity_checks import cap_notes, odd_scores

if TYPE_CHECKING:
    from detbalance.data import Annotations, Predictions
    from detbalance.data.frequency import Frequency, Groups


@dataclass(frozen=True, eq=False)
class Calibration:
    """A calibration file, ready to be fitted on."""

    objective: Objective
    matches: Matches
    folds: Int64
    training: TrainingCounts
    settings: Settings

    @property
    def group_of_class(self) -> list[str | None]:
        """[K + 1], the group of each label."""
        return [None, *(group for group, _, _ in self.training.counts)]


def prepare(
    annotations: Annotations,
    predictions: Predictions,
    objective: Objective | str,
    frequency: Frequency | None,
    groups: Groups | None,
    *,
    rules: RulesChoice,
    iou: float,
    confidence: float,
    num_folds: int,
    seed: int,
    predictions_file: str | None,
) -> Calibration:
    """Check what a user chooses, match, and cut the images into folds."""
    goal = parse_objective(objective) if isinstance(objective, str) else objective
    check_confidence(confidence)
    matches = match(annotations, predictions, rules=rules)
    matches.at(iou)
    training = training_counts(annotations, matches.rules.name, frequency, groups)
    return Calibration(
        objective=goal,
        matches=matches,
        folds=image_folds(annotations, num_folds, seed),
        training=training,
        settings=Settings(
            annotations=str(annotations.source),
            predictions=predictions_file,
            frequency_source=training.source,
            group_rule=training.rule,
            rules=matches.rules.name,
            iou=iou,
            confidence=confidence if goal.is_floor else None,
            folds=num_folds,
            seed=seed,
        ),
    )


_NAMED = 5
_COUNTED = {"recall": "boxes", "precision": "detections"}
_LOW_SCORE = 0.01  # detectors that keep detections below are not cut by their own floor


def calibration_notes(
    curves: Curves,
    rows: Sequence[ClassThreshold],
    annotations: Annotations,
    predictions: Predictions,
    *,
    confidence: float,
) -> tuple[str, ...]:
    """Name the classes that thresholds could not be fitted for, or whose floor is not kept."""
    notes = []
    if odd := odd_scores(predictions):
        notes.append(f"{odd}. The thresholds hold for scores of this kind only.")
    label = {name: i for i, name in enumerate(annotations.categories.names, start=1)}
    if absent := [row.name for row in rows if not row.boxes]:
        notes.append(
            f"{counted(len(absent), 'class')} without boxes in {annotations.source} get the shared"
            f" threshold: {listed(absent)}."
        )
    never = [row.name for row in rows if row.boxes and not curves.weights[label[row.name]]]
    if never:
        notes.append(
            f"{counted(len(never), 'class')} with boxes and no right detection at any score get"
            f" the shared threshold: {listed(never)}."
        )
    if curves.objective.is_floor:
        best = {row.name: float(curves.own[label[row.name]].max()) for row in rows}
        notes += _floor_notes(curves, rows, best, confidence)
        lowest = float(predictions.scores.min())
        short = any(row.boxes and best[row.name] < curves.objective.amount for row in rows)
        if curves.objective.kind == "recall" and short and lowest >= _LOW_SCORE:
            notes.append(
                f"The lowest score in the predictions is {lowest:.3f}: detections below it may "
                "have been cut off. Predict with a lower score threshold for more recall."
            )
    return tuple(notes)


def _floor_notes(
    curves: Curves, rows: Sequence[ClassThreshold], best: dict[str, float], confidence: float
) -> list[str]:
    goal, notes = curves.objective, []
    beyond = {row.name: row.boxes for row in rows if row.boxes and 0 < best[row.name] < goal.amount}
    if beyond:
        figures = [f"{name} {best[name]:.2f} ({counted(n, 'box')})" for name, n in beyond.items()]
        notes.append(
            f"{goal} is out of reach for {counted(len(beyond), 'class')} at every threshold; the"
            f" best that there is: {listed(figures)}."
        )
    unsure = [row.name for row in rows if row.floor == "unsure"]
    if unsure:
        verb = "keeps" if len(unsure) == 1 else "keep"
        notes.append(
            f"{counted(len(unsure), 'class')} {verb} {goal} here, but by too few"
            f" {_COUNTED[goal.kind]} for {confidence:.0%} confidence: {listed(unsure)}."
        )
    missed = [row.name for row in rows if row.floor == "missed" and row.name not in beyond]
    if missed:
        verb = "misses" if len(missed) == 1 else "miss"
        notes.append(
            f"{counted(len(missed), 'class')} {verb} {goal} at the threshold chosen, though"
            f" another would keep it here: {listed(missed)}."
        )
    return notes


def listed(names: Sequence[str]) -> str:
    """Join names, the first five of them and how many more there are."""
    return shorten(names, _NAMED)


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
    own. With `per_class` "auto" the thresholds differ only if they raise the mean utility on those
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
    gain = table["shrunk"].utility - table["shared"].utility
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
    training: TrainingCounts,
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
