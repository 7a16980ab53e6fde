"""Scores of a trained detector, rebalanced by how often it saw each class.

A classifier that saw a class often gives it too readily: its scores hold the class frequencies of
training. `choose_strength` finds on held-out data how strongly to take them out, without training.

Which one to use:

- The results file of any detector has one score a detection: `rescore`.
- Logits or probabilities of all classes and background, for every region, from a softmax head:
  `norcal`, before the detections are cut and suppressed; it can then change which class a region is
  given to, which `rescore` cannot.
- A torch model of this package: `posthoc_tau` of the loss `cross_entropy`, or
  `detbalance.losses.adjust_logits`, correct logits inside the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from detbalance.calibration.cross_fitting import (
    NAMES_SHOWN,
    Figures,
    Judged,
    Settings,
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
    SHARED,
    Objective,
    count_scores,
    fit,
    make_curves,
)
from detbalance.data import Annotations, Predictions
from detbalance.data.arrays import Float64, Int64
from detbalance.data.categories import shorten
from detbalance.data.checks import check_number
from detbalance.data.frequency import Frequency, Groups
from detbalance.data.messages import counted
from detbalance.evaluation.matching import match
from detbalance.evaluation.rules import RulesChoice
from detbalance.evaluation.sanity_checks import cap_notes, odd_scores


def norcal(
    logits: npt.ArrayLike,
    class_counts: npt.ArrayLike,
    *,
    gamma: float = 0.6,
    weights: Literal["power", "effective_number"] = "power",
    on: Literal["probabilities", "logits"] = "probabilities",
    normalized: bool = True,
) -> Float64:
    """Divide the probability of each class by a power of its count, and normalise again.

    With p = softmax(logits) the score of class c is p_c / n_c^gamma, that of background p_0, and
    each row is divided by its sum. Background takes part in the sum only: it is not rebalanced,
    since how often it was seen says nothing of it.

    Args:
        logits: float [R, K + 1], background in column 0. Of probabilities, pass the logarithm.
        class_counts: [K + 1] training images of each class; index 0 is not used. A class without
            any counts as one with one.
        gamma: 0 changes nothing; 1 is the full correction. For "effective_number" it is that
            method's beta, in [0, 1).
        weights: "power" for n^-gamma, "effective_number" for (1 - gamma) / (1 - gamma^n).
        on: "logits" multiplies the logits of classes by the weights instead, ahead of softmax.
        normalized: False leaves rows as they are after the division.

    Returns:
        float64 [R, K + 1], in [0, 1].

    Raises:
        ValueError: if shapes do not fit, gamma is out of range, or an option is unknown.

    Example:
        >>> norcal(np.log([[0.5, 0.45, 0.05]]), [0, 100, 1], gamma=0.5).round(3)
        array([[0.84 , 0.076, 0.084]])

    Source: Pan et al., On Model Calibration for Long-Tailed Object Detection and Instance
    Segmentation, 2021, arXiv:2107.02170, section 4.2, and the variants of the authors' code.
    Differs: the largest logit is subtracted first, without which logits of 100 overflow in float32
    there; the input is not changed; exponentials that are divided and not normalised, which are
    `normalized=False` times a number of each row, are not offered.
    """
    values, counts = np.array(logits, dtype=np.float64), _counts("norcal", class_counts)
    if values.ndim != 2 or values.shape[1] != len(counts):
        raise ValueError(
            f"norcal(): logits are {list(values.shape)}. Expected [regions, {len(counts)}] for"
            f" {len(counts)} classes with background. Put background in column 0."
        )
    factors = np.ones(len(counts))
    if weights == "power":
        check_number("norcal()", "gamma", gamma, least=0, advice=_GAMMA)
        factors[1:] = np.exp(-gamma * np.log(counts[1:]))
    elif weights == "effective_number":
        advice = "It is beta of the effective number. Pass for example 0.99."
        check_number("norcal()", "gamma", gamma, least=0, below=1, advice=advice)
        factors[1:] = (1 - gamma) / (1 - gamma ** counts[1:])
    else:
        raise ValueError(
            f'norcal(): weights is "{weights}". Known: power, effective_number. Choose one.'
        )
    if on == "logits":
        return _softmax(values * factors)
    if on != "probabilities":
        raise ValueError(f'norcal(): on is "{on}". Known: probabilities, logits. Choose one.')
    divided: Float64 = _softmax(values) * factors
    return np.asarray(divided / divided.sum(axis=1, keepdims=True)) if normalized else divided


def rescore(predictions: Predictions, class_counts: npt.ArrayLike, *, gamma: float) -> Predictions:
    """Rebalance single scores, as results files have them: rare classes rise, the rest keep theirs.

    The new score is sigmoid(logit(s) + gamma * log(n_max / n_c)), for n_max the count of the most
    frequent class, whose scores stay.

    Why: a sigmoid score is the odds of "class c" against "not c", s / (1 - s), and by Bayes's rule
    these hold n_c / (n - n_c), in a detector with far more background than boxes n_c over a number
    that all classes share. NorCal gives the same for the two entries (class, background) of its
    softmax: p / n^gamma against 1 - p. n_max instead of that number moves all classes alike, and
    is another score threshold, no more.

    The order within each class stays, ties included, and with it AP, AR, recall at a fixed
    precision of each class and Fixed AP. What changes is what one threshold for all classes shows,
    and which detections a cap over all classes of an image keeps. So it helps where scores of
    different classes are compared, and LVIS AP only by way of its cap.

    Args:
        predictions: detections with scores in [0, 1].
        class_counts: [K + 1] training images of each class; index 0 is not used. A class without
            any counts as one with one.
        gamma: >= 0; 0 changes nothing, 1 is the full correction.

    Returns:
        The detections with new scores in [0, 1].

    Raises:
        ValueError: if a score is outside [0, 1], a label has no count, or gamma is negative.

    Example:
        >>> two = Predictions([0, 0], [1, 2], [[0, 0, 9, 9]] * 2, [0.5, 0.5])
        >>> rescore(two, [0, 400, 4], gamma=0.5).scores.round(2)
        array([0.5 , 0.91])

    Source: derived here from Pan et al., arXiv:2107.02170, and Menon et al., arXiv:2007.07314,
    which treat softmax scores.
    """
    counts = _counts("rescore", class_counts)
    check_number("rescore()", "gamma", gamma, least=0, advice=_GAMMA)
    labels, scores = predictions.labels, predictions.scores
    if odd := odd_scores(predictions):
        raise ValueError(f"rescore(): {odd}. Expected probabilities. Turn logits into them first.")
    unknown = labels[(labels < 1) | (labels >= len(counts))]
    if len(unknown):
        raise ValueError(
            f"rescore(): label {unknown[0]} has no count. Labels are 1 to {len(counts) - 1}. Count"
            " the training file that the detector learned from."
        )
    if gamma == 0 or not len(scores):
        return predictions
    # Odds are divided by `factor`, at most 1: no score falls, and none is pressed to 0.
    factor = np.exp(gamma * np.log(counts[1:] / counts[1:].max()))
    factor = np.concatenate([[1.0], factor])[labels]
    raised = scores / (scores + (1 - scores) * factor)
    return replace(predictions, scores=_in_order(labels, scores, np.clip(raised, scores, 1.0)))


def _in_order(labels: Int64, before: Float64, after: Float64) -> Float64:
    """Undo what rounding did to the order within a class: swapped or merged neighbours."""
    order = np.lexsort((before, labels))
    starts = np.flatnonzero(
        (np.diff(labels[order], prepend=-1) != 0) | (np.diff(before[order], prepend=-1) != 0)
    )
    level = np.cumsum(np.bincount(starts, minlength=len(order))) - 1  # equal scores stay equal
    values, of_class = after[order[starts]], labels[order[starts]]
    same = of_class[1:] == of_class[:-1]
    # From the highest score down, each one at most the next float below its upper neighbour. That
    # room is there: no score is below what it was.
    for i in np.flatnonzero(same & (values[1:] <= values[:-1]))[::-1]:
        while i >= 0 and of_class[i] == of_class[i + 1] and values[i] >= values[i + 1]:
            values[i] = np.nextafter(values[i + 1], -np.inf)
            i -= 1
    result = np.empty(len(after))
    result[order] = values[level]
    return result


def _softmax(values: Float64) -> Float64:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _counts(where: str, class_counts: npt.ArrayLike) -> Float64:
    """Float64 [K + 1], at least 1 each."""
    counts = np.asarray(class_counts, dtype=np.float64)
    if counts.ndim != 1 or len(counts) < 2 or not (np.isfinite(counts) & (counts >= 0))[1:].all():
        raise ValueError(
            f"{where}(): class_counts is {np.array2string(counts, threshold=8)}. Expected a number "
            "of 0 or more for background and each class. Count the training file."
        )
    return np.maximum(counts, 1.0)


_GAMMA = "0 changes nothing, 1 is the full correction."
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
    else it could win by moving all scores over a fixed threshold. So what is compared is how well
    one threshold serves all classes. AP is no objective: the order within a class stays, and what
    LVIS AP gains by its cap of detections per image is no better detection (Dave et al., 2021,
    arXiv:2102.01066).

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
            f"choose_strength(): strengths are {list(strengths)}. Expected two or more, ascending"
            " from 0, which changes nothing. Put 0 first."
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
    trials: list[Int64] = []
    masks, thresholds = [], []
    for gamma in strengths:
        rescored = rescore(predictions, images, gamma=gamma)
        if same_matches:
            matches = replace(matches, predictions=rescored)
        else:
            matches = match(annotations, rescored, rules=matches.rules)
        counts = count_scores(matches, folds, iou=iou)
        trial, of_fold = run_trials(counts, goal, [SHARED], confidence=confidence)
        trials.append(trial[0])
        masks.append(shown(matches, folds, of_fold[0], iou=iou))
        curves = make_curves(*counts.without(), goal, confidence=confidence)
        thresholds.append(float(counts.thresholds[fit(curves, SHARED)[0]]))
    crossed = choose(np.stack(trials), goal)
    held_out = {"before": total_counts(crossed, 0), "after": total_counts(crossed, crossed.of_fold)}
    table = {name: data.judge(counts) for name, counts in held_out.items()}
    gain = table["after"].utility - table["before"].utility
    # What is shown when every fold has the strength that the others chose for it.
    strength = crossed.of_fold[folds[predictions.image_index]]
    each = np.stack(masks, axis=1)[:, strength, np.arange(len(strength))]
    error = standard_error(matches, masks[0], (each[0], each[1]), goal, seed=seed)
    helps = crossed.best > 0 and gain > error
    used, best_gamma = crossed.best if helps else 0, strengths[crossed.best]
    threshold = thresholds[used]
    advice = (
        f"Scores are rebalanced with gamma {strengths[used]:g}; the threshold for all classes"
        f" is then {threshold:.3f}."
        if used
        else f"Scores stay as they are: gamma is 0, the threshold for all classes {threshold:.3f}."
    )
    before, after = (class_figures(counts, goal) for counts in held_out.values())
    at_least_one = np.maximum(images, 1)
    half = 1 / (1 + (at_least_one / at_least_one[1:].max()) ** best_gamma)  # odds of .5 are 1
    classes = [
        RescoredClass(
            name=name,
            group=group,
            train_images=int(images[label]),
            boxes=int(held_out["before"][2][label]),
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
    notes = []
    if unseen := [row.name for row in classes if not row.train_images]:
        notes.append(
            f"{counted(len(unseen), 'class')} without training images count as one with a single"
            f" image: {shorten(unseen, NAMES_SHOWN)}."
        )
    if crossed.best == len(strengths) - 1:
        notes.append(
            f"The best strength, {best_gamma:g}, is the highest that was tried; a stronger one may"
            " do better still."
        )
    notes.append(
        "AP and AR of a class do not change: its detections keep their order."
        if same_matches
        else "AP and AR change only as far as the cap of detections per image, over all classes,"
        " keeps others than before."
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
