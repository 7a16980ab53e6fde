"""The best setting on images that nothing was fitted on, and whether it helps: one engine.

The images are cut into folds. A setting (a shrinkage, a strength of rescoring, weights of a fusion)
is judged by fitting on all folds but one and looking at that one, each in turn. The best of several
settings looks better than it is on the folds that it was chosen on, so the choice is judged too:
for each fold it is made again by what the other folds say alone.

Letters: K categories, M images, D detections, F folds, A settings, B draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import numpy as np

from detbalance.calibration.threshold_curves import (
    ROUNDING,
    Objective,
    ScoreCounts,
    fit,
    make_curves,
    parse_objective,
    recall_and_precision,
)
from detbalance.data import Annotations, Predictions
from detbalance.data.arrays import Bool, Float64, Int64
from detbalance.data.checks import check_number
from detbalance.data.frequency import Frequency, Groups
from detbalance.data.messages import counted
from detbalance.data.split import deal_images
from detbalance.evaluation.accumulate import mean_of_defined
from detbalance.evaluation.build import TrainingCounts, training_counts
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.operating_points import f_score
from detbalance.evaluation.report import GROUP_NAMES
from detbalance.evaluation.rules import RulesChoice

Part = TypeVar("Part")
Counts: TypeAlias = "Int64 | Float64"  # [3, K + 1]: right, wrong detections shown, boxes to find
Shown: TypeAlias = "tuple[Bool, Bool]"  # right and wrong detections that are shown, [D] each
FEWEST_FOLDS = 3  # to choose on two and judge on the third
NUM_BOOTSTRAP = 200
NAMES_SHOWN = 5  # in a note

# ---- the engine ----------------------------------------------------------------------------------


def image_folds(annotations: Annotations, num_folds: int, seed: int) -> Int64:
    """Cut the images into folds that share the boxes of rare classes as evenly as may be."""
    if not FEWEST_FOLDS <= num_folds <= annotations.num_images:
        images = "only image" if annotations.num_images == 1 else f"{annotations.num_images} images"
        raise ValueError(
            f"folds: {num_folds} folds of the {images} of {annotations.source}. Expected"
            f" {FEWEST_FOLDS} or more, and no more than images. Choose another number, or calibrate"
            " on more images."
        )
    return deal_images(
        annotations.labels, annotations.image_index, annotations.num_images, num_folds, seed
    )


@dataclass(frozen=True, eq=False)
class CrossFit(Generic[Part]):
    """Settings judged on folds that had no part in fitting or choosing them."""

    parts: list[tuple[Part, ...]]  # [F][A], what each setting gives on a fold, fitted without it
    utility: list[float]  # [A], of each setting on all folds together
    best: int  # the setting of the highest utility, the first of equal ones
    of_fold: Int64  # [F], the setting that the other folds choose for a fold

    def held_out(self, setting: int | Int64) -> list[Part]:
        """What one setting, or one for each fold, gives on every fold."""
        settings = np.broadcast_to(setting, len(self.parts))
        return [part[a] for part, a in zip(self.parts, settings, strict=True)]


def cross_fit(
    num_folds: int,
    trials: Callable[[int], Iterable[tuple[Part, float]]],
    utility: Callable[[Sequence[Part]], float],
    *,
    first: int = 0,
) -> CrossFit[Part]:
    """Judge settings, ordered from the plainest on, and choose the best one.

    Args:
        num_folds: F.
        trials: gives for a fold k, and each setting, what the setting gives on fold k when fitted
            without it, and its utility on the other folds, each fitted without itself and k.
        utility: of what a setting gives on all folds; the higher the better, NaN is the lowest.
        first: the plainest setting that may be chosen.
    """
    parts, each = [], []
    for k in range(num_folds):
        of_setting, on_others = zip(*trials(k), strict=True)
        parts.append(of_setting)
        each.append(first + first_best(on_others[first:]))
    means = [utility(one) for one in zip(*parts, strict=True)]
    return CrossFit(parts, means, first + first_best(means[first:]), np.array(each))


def first_best(values: Sequence[float]) -> int:
    """The first of the largest values; a NaN is never chosen over a number."""
    return int(np.argmax(np.nan_to_num(values, nan=-1.0)))


def means_outcome(
    name: str, fitted: tuple[str, float], plain: tuple[str, float], error: float
) -> str:
    """Two ways and what each gives, in words for a verdict."""
    return (
        f"{name} is {figure(fitted[1])} with {fitted[0]}, {figure(plain[1])} with {plain[0]}"
        f" ({fitted[1] - plain[1]:+.3f}, standard error {error:.3f})"
    )


def verdict(outcome: str, fitted: str, *, helps: bool, advice: str) -> str:
    """Say whether what was fitted helps on held-out images, and what is done about it."""
    opening = "On held-out images" if helps else f"No clear gain on held-out images by {fitted}:"
    return f"{opening} {outcome}. {advice}"


def figure(value: float) -> str:
    """Three decimals without the leading zero, "-" where undefined."""
    return "-" if value != value else f"{value:.3f}".removeprefix("0")


# ---- counts of right and wrong detections --------------------------------------------------------


def mean_utility(objective: Objective, counts: Counts) -> float:
    """Mean of `Objective.utility` over the classes with boxes to find."""
    return mean_of_defined(objective.utility(*counts))


def run_trials(
    counts: ScoreCounts,
    objective: Objective,
    shrink_boxes: Sequence[float],
    *,
    confidence: float = 0.9,
) -> tuple[Int64, Float64]:
    """Fit without every fold and without every two folds, and count on what was left out.

    Returns:
        Counts [A, F, F, 3, K + 1], fitted without two folds and counted on the second of them, and
        the thresholds [A, F, K + 1], fitted without one fold.
    """
    num_folds, num_classes = counts.boxes.shape
    table = np.empty((len(shrink_boxes), num_folds, num_folds, 3, num_classes), dtype=np.int64)
    table[..., 2, :] = counts.boxes
    thresholds = np.empty((len(shrink_boxes), num_folds, num_classes))
    every = np.arange(num_classes)
    for k in range(num_folds):
        for j in range(k, num_folds):
            curves = make_curves(*counts.without(k, j), objective, confidence=confidence)
            for a, boxes in enumerate(shrink_boxes):
                place = fit(curves, boxes)
                for left, judged in {(k, j), (j, k)}:
                    table[a, left, judged, 0] = counts.right[judged, every, place]
                    table[a, left, judged, 1] = counts.wrong[judged, every, place]
                if k == j:
                    thresholds[a, k] = counts.thresholds[place]
    return table, thresholds


def choose(trials: Int64, objective: Objective, *, first: int = 0) -> CrossFit[Counts]:
    """Choose the setting with the highest mean utility on held-out images.

    `trials` are the counts of `run_trials`; `held_out` of the result gives counts of each fold.
    """
    num_folds = trials.shape[1]

    def of_fold(k: int) -> Iterable[tuple[Counts, float]]:
        others = np.arange(num_folds) != k
        for counts in trials[:, k]:
            yield counts[k], mean_utility(objective, counts[others].sum(axis=0))

    def utility(parts: Sequence[Counts]) -> float:
        return mean_utility(objective, np.sum(parts, axis=0))

    return cross_fit(num_folds, of_fold, utility, first=first)


def total_counts(crossed: CrossFit[Counts], setting: int | Int64) -> Counts:
    """What one setting, or one for each fold, gives on all folds together."""
    return np.asarray(np.sum(crossed.held_out(setting), axis=0))


def shown(
    matches: Matches, fold_of_image: Int64, thresholds: Float64, *, iou: float = 0.5
) -> Shown:
    """Mark the detections that thresholds [F, K + 1] show, each by those of the fold it is in."""
    t, predictions = matches.at(iou), matches.predictions
    least = thresholds[fold_of_image[predictions.image_index], predictions.labels]
    visible = predictions.scores >= least
    return visible & matches.is_true_positive[:, t], visible & matches.is_false_positive[:, t]


def standard_error(
    matches: Matches,
    before: Shown,
    after: Shown,
    objective: Objective,
    *,
    num_bootstrap: int = NUM_BOOTSTRAP,
    seed: int = 0,
) -> float:
    """How uncertain the difference of two mean utilities is, by a bootstrap over images."""
    predictions, truth = matches.predictions, matches.annotations
    num_images, num_classes = truth.num_images, len(matches.num_positive)
    positive = np.flatnonzero(matches.positive)
    chosen = [np.flatnonzero(mask) for mask in (*before, *after)]
    cells = [(predictions.image_index[rows], predictions.labels[rows]) for rows in chosen]
    cells.append((truth.image_index[positive], truth.labels[positive]))
    rng = np.random.default_rng(seed)
    differences = np.empty(num_bootstrap)
    for b in range(num_bootstrap):
        drawn = np.bincount(rng.integers(num_images, size=num_images), minlength=num_images)
        right_before, wrong_before, right, wrong, boxes = (
            np.bincount(labels, weights=drawn[images], minlength=num_classes)
            for images, labels in cells
        )
        differences[b] = mean_utility(objective, np.stack([right, wrong, boxes]))
        differences[b] -= mean_utility(objective, np.stack([right_before, wrong_before, boxes]))
    return float(np.std(differences[~np.isnan(differences)]))


# ---- what is shown of them -----------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """Recall, precision and F-beta of one class or the means of several; NaN where undefined."""

    recall: float
    precision: float
    f_score: float


@dataclass(frozen=True)
class Judged:
    """What a way of choosing thresholds gives on images that had no part in it."""

    utility: float
    kept: int | None  # classes that keep the floor, None without one
    num_classes: int  # with boxes
    means: dict[str, Figures]  # by group, and of "all"


def figure_table(counts: Counts, objective: Objective) -> Float64:
    """Recall, precision and F-beta of each label from held-out counts, [3, K + 1]."""
    recall, precision = recall_and_precision(*counts)
    return np.stack([recall, precision, f_score(precision, recall, beta=objective.beta)])


def class_figures(counts: Counts, objective: Objective) -> list[Figures]:
    """Figures of each label, index 0 for background."""
    return [Figures(*row) for row in figure_table(counts, objective).T.tolist()]


def judge(counts: Counts, objective: Objective, groups: Sequence[str | None]) -> Judged:
    """Average held-out counts over classes; `groups` are those of labels, [K + 1]."""
    table, group = figure_table(counts, objective), np.array(groups)
    present = counts[2] > 0
    members = {"all": present, **{name: present & (group == name) for name in GROUP_NAMES}}
    kept = None
    if objective.is_floor:
        successes, trials = objective.successes(*counts)
        holds = (trials > 0) & (successes >= objective.amount * trials - ROUNDING)
        kept = int(holds[present].sum())
    means = {
        name: Figures(*(mean_of_defined(row[chosen]) for row in table))
        for name, chosen in members.items()
        if name == "all" or chosen.any()
    }
    return Judged(mean_utility(objective, counts), kept, int(present.sum()), means)


def objective_outcome(
    objective: Objective, after: tuple[str, Judged], before: tuple[str, Judged], error: float
) -> str:
    """What two named ways of choosing give, in words for a verdict."""
    (fitted, new), (plain, old) = after, before
    if not objective.is_floor:
        name = f"mean {str(objective).upper()}"
        return means_outcome(name, (fitted, new.utility), (plain, old.utility), error)
    paid = "precision" if objective.kind == "recall" else "recall"
    means = [figure(getattr(one.means["all"], paid)) for one in (new, old)]
    return (
        f"{new.kept} of {counted(new.num_classes, 'class')} keep {objective} with {fitted},"
        f" {old.kept} with {plain}; mean {paid} {means[0]} against {means[1]} ({paid} times how"
        f" likely the floor is kept: {new.utility - old.utility:+.3f}, standard error {error:.3f})"
    )


# ---- a calibration file, ready to be fitted on ---------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What was fitted on, and how."""

    annotations: str
    predictions: str | None
    frequency_source: str | None
    group_rule: str | None
    rules: str
    iou: float
    confidence: float | None
    folds: int
    seed: int


@dataclass(frozen=True, eq=False)
class Calibration:
    """A calibration file, matched and cut into folds."""

    objective: Objective
    matches: Matches
    folds: Int64  # [M]
    training: TrainingCounts
    settings: Settings

    def judge(self, counts: Counts) -> Judged:
        """Average held-out counts over classes and groups."""
        return judge(counts, self.objective, [None, *(row[0] for row in self.training.counts)])


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
    advice = "A floor is kept with such a confidence, for example 0.9."
    check_number("calibration", "confidence", confidence, above=0.5, below=1, advice=advice)
    matches = match(annotations, predictions, rules=rules)
    matches.at(iou)
    training = training_counts(annotations, matches.rules.name, frequency, groups)
    settings = Settings(
        annotations=str(annotations.source),
        predictions=predictions_file,
        frequency_source=training.source,
        group_rule=training.rule,
        rules=matches.rules.name,
        iou=iou,
        confidence=confidence if goal.is_floor else None,
        folds=num_folds,
        seed=seed,
    )
    folds = image_folds(annotations, num_folds, seed)
    return Calibration(goal, matches, folds, training, settings)
