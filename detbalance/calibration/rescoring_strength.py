"""How strongly to rebalance scores, chosen and judged on images that it was not fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from detbalance.calibration.cross_fitting import (
    NAMES_SHOWN,
    Figures,
    Judged,
    Settings,
    Trials,
    choose,
    class_figures,
    objective_outcome,
    prepare,
    run_trials,
    shown,
    standard_error,
    verdict,
)
from detbalance.calibration.rescoring import rescore
from detbalance.calibration.threshold_curves import (
    SHARED,
    Objective,
    count_scores,
    fit,
    make_curves,
)
from detbalance.data import Annotations, Predictions
from detbalance.data.arrays import Int64
from detbalance.data.categories import shorten
from detbalance.data.frequency import Frequency, Groups
from detbalance.data.messages import counted
from detbalance.evaluation.matching import match
from detbalance.evaluation.rules import RulesChoice
from detbalance.evaluation.sanity_checks import cap_notes

STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class RescoredClass:
    """What rebalancing does to one class."""

    name: str
    group: str | None
    train_images: int
    boxes: int
    half: float  # what a score of .5 becomes
    before: Figures
    after: Figures


@dataclass(frozen=True)
class StrengthChoice:
    """A strength of rebalancing and what it is worth.

    Attributes:
        gamma: to use; 0 where rebalancing does not help.
        best_gamma: the one with the highest held-out utility, whether or not the gain is clear.
        objective: what it was chosen for, as text.
        threshold: the shared score threshold that goes with `gamma`.
        utility: held-out utility of each strength, by strength.
        gain: held-out utility with the choice less that without rebalancing.
        standard_error: of the gain.
        class_counts: int64 [K + 1], training images by label, to give to `rescore`.
        classes: rarest first.
        held_out: "before" and "after", each with its own best shared threshold.
        verdict: the outcome in words.
        settings: what it was chosen on.
        notes: what to know before using it.
    """

    gamma: float
    best_gamma: float
    objective: str
    threshold: float
    utility: dict[float, float]
    gain: float
    standard_error: float
    class_counts: Int64
    classes: tuple[RescoredClass, ...]
    held_out: dict[str, Judged]
    verdict: str
    settings: Settings
    notes: tuple[str, ...]


def choose_strength(
    annotations: Annotations,
    predictions: Predictions,
    frequency: Frequency,
    objective: Objective | str = "f1",
    *,
    groups: Groups | None = None,
    strengths: Sequence[float] = STRENGTHS,
    rules: RulesChoice = "auto",
    iou: float = 0.5,
    confidence: float = 0.9,
    num_folds: int = 5,
    seed: int = 0,
    predictions_file: str | None = None,
) -> StrengthChoice:
    """Choose gamma of `rescore` by cross-fitting.

    Each strength gets the threshold for all classes that is best for it, fitted on the same folds:
    else a strength could win by moving all scores over a fixed threshold. What is compared is
    therefore how well one threshold serves all classes. AP is no objective: the order within a
    class stays, so AP and Fixed AP of a class do too, and what LVIS AP gains by its cap of
    detections per image is no better detection (Dave et al., 2021, arXiv:2102.01066).

    Args:
        annotations: the calibration file, of images that the detector was not trained on.
        predictions: detections on its images, scores in [0, 1].
        frequency: counts of the training file; classes are found by name.
        objective: as `fit_thresholds` takes it.
        groups: of the classes of `frequency`; its usual groups if not given.
        strengths: to choose from, ascending from 0.
        rules: "coco", "lvis", or "auto" for what the file asks for.
        iou: overlap that a right detection needs; one of .5, .55, ... .95.
        confidence: one-sided, in (0.5, 1), that a floor has to be kept with.
        num_folds: folds of images, 3 or more.
        seed: of the folds and of the draws behind the standard error.
        predictions_file: where the predictions came from, for the record.

    Returns:
        The strength, 0 unless another is better by more than one standard error, and what it gives.

    Raises:
        ValueError: if an argument is out of range, a score is outside [0, 1], no detection is
            right, or there are fewer images than folds.
    """
    if len(strengths) < 2 or strengths[0] != 0 or sorted(set(strengths)) != list(strengths):
        raise ValueError(
            f"choose_strength(): strengths are {list(strengths)}. Expected two or more, ascending "
            "from 0, which changes nothing. Put 0 first."
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
    images = np.array([0, *(number or 0 for _, number, _ in data.training.counts)])
    # Each class keeps its order, and so its matches, unless others can take its places.
    same_matches = matches.rules.cap_is_per_class or bool(matches.within_cap.all())
    trials, masks, thresholds = [], [], []
    for gamma in strengths:
        rescored = rescore(predictions, images, gamma=gamma)
        if same_matches:
            matches = replace(matches, predictions=rescored)
        else:
            matches = match(annotations, rescored, rules=matches.rules)
        counts = count_scores(matches, folds, iou=iou)
        trials.append(run_trials(counts, goal, [SHARED], confidence=confidence))
        masks.append(shown(matches, folds, trials[-1].thresholds[0], iou=iou))
        curves = make_curves(*counts.without(), goal, confidence=confidence)
        thresholds.append(float(counts.thresholds[fit(curves, SHARED)[0]]))
    crossed = choose(Trials.stack(trials), goal)
    held_out = {"before": crossed.held_out(0), "after": crossed.held_out(crossed.of_fold)}
    table = {name: data.judge(parts) for name, parts in held_out.items()}
    gain = table["after"].utility - table["before"].utility
    # What is shown when every fold has the strength that the others chose for it.
    strength = crossed.of_fold[folds[predictions.image_index]]
    each = np.stack(masks, axis=1)[:, strength, np.arange(len(strength))]
    error = standard_error(matches, masks[0], (each[0], each[1]), goal, seed=seed)
    helps = crossed.best > 0 and gain > error
    used, best_gamma = crossed.best if helps else 0, strengths[crossed.best]
    threshold = thresholds[used]
    advice = f"Scores stay as they are: gamma is 0, the threshold for all classes {threshold:.3f}."
    if used:
        advice = (
            f"Scores are rebalanced with gamma {strengths[used]:g}; the threshold for all classes"
            f" is then {threshold:.3f}."
        )
    before, after = (class_figures(parts, goal) for parts in held_out.values())
    boxes = trials[0].boxes.sum(axis=0)
    atleast_one = np.maximum(images, 1)
    half = 1 / (1 + (atleast_one / atleast_one[1:].max()) ** best_gamma)  # odds of a half are 1
    classes = [
        RescoredClass(
            name=name,
            group=group,
            train_images=int(images[label]),
            boxes=int(boxes[label]),
            half=float(half[label]),
            before=before[label],
            after=after[label],
        )
        for label, (name, (group, _, _)) in enumerate(
            zip(annotations.categories.names, data.training.counts, strict=True), start=1
        )
    ]
    classes.sort(key=lambda row: (row.train_images, row.boxes))
    fitted = "rebalanced scores"
    outcome = objective_outcome(
        goal, (fitted, table["after"]), ("the scores as they are", table["before"]), error
    )
    notes = _notes(
        annotations,
        images,
        best_gamma,
        is_highest=crossed.best == len(strengths) - 1,
        is_capped=not same_matches,
    )
    return StrengthChoice(
        gamma=strengths[used],
        best_gamma=best_gamma,
        objective=str(goal),
        threshold=threshold,
        utility=dict(zip(strengths, crossed.utility, strict=True)),
        gain=gain,
        standard_error=error,
        class_counts=images,
        classes=tuple(classes),
        held_out=table,
        verdict=verdict(outcome, fitted, helps=helps, advice=advice),
        settings=data.settings,
        notes=(*notes, *cap_notes(annotations, data.matches.rules)),
    )


def _notes(
    annotations: Annotations,
    images: Int64,
    best_gamma: float,
    *,
    is_highest: bool,
    is_capped: bool,
) -> Iterator[str]:
    names = annotations.categories.names
    if unseen := [name for name, number in zip(names, images[1:], strict=True) if not number]:
        yield (
            f"{counted(len(unseen), 'class')} without training images count as one with a single"
            f" image: {shorten(unseen, NAMES_SHOWN)}."
        )
    if is_highest:
        yield (
            f"The best strength, {best_gamma:g}, is the highest that was tried; a stronger one may"
            " do better still."
        )
    yield (
        "AP and AR change only as far as the cap of detections per image, over all classes, keeps "
        "others than before."
        if is_capped
        else "AP and AR of a class do not change: its detections keep their order."
    )
