"""How to fuse, chosen on held-out images: scores made comparable, weights by skill.

For each fold k that is judged, everything is done again without its images: each of the other folds
j is fused with calibrations and weights that were fitted without k and j, a setting is chosen by
the AP50 of those folds, and fold k is fused by it, with what was fitted without k.

Letters: J members, K categories, M images, F folds, A settings, B draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from detbalance.calibration.cross_fitting import (
    NAMES_SHOWN,
    NUM_BOOTSTRAP,
    cross_fit,
    figure,
    first_best,
    image_folds,
    means_outcome,
    verdict,
)
from detbalance.calibration.fusion import Options, fuse
from detbalance.calibration.fusion_members import Fitted, ScoreCalibration, Setting, settings_to_try
from detbalance.data import Annotations, Predictions
from detbalance.data.arrays import Bool, Float64, Int64
from detbalance.data.categories import shorten
from detbalance.data.frequency import Frequency, Groups
from detbalance.data.messages import counted
from detbalance.evaluation.accumulate import mean_of_defined
from detbalance.evaluation.bootstrap import bootstrap, weighted_figures
from detbalance.evaluation.build import TrainingCounts, training_counts
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.report import GROUP_NAMES
from detbalance.evaluation.rules import RulesChoice, choose_rules

Way: TypeAlias = Literal["as they are", "equal", "chosen"]
_SEEN = 0.0005  # a difference in the third decimal
_HARM = 0.01  # AP50 that a group may lose against the best member before it is said


@dataclass(frozen=True)
class WayFigures:
    """AP50 of a member, or of a way to fuse, on images that nothing was chosen on."""

    name: str
    mean: float
    groups: dict[str, float]


@dataclass(frozen=True)
class FusedClass:
    """AP50 of one class on held-out images; NaN without boxes."""

    name: str
    group: str | None
    train_boxes: int | None
    boxes: int
    members: tuple[float, ...]
    equal: float
    used: float
    weights: tuple[float, ...]


@dataclass(frozen=True)
class FusionSettings:
    """What was chosen on, and how."""

    annotations: str
    members: tuple[str, ...]
    method: str
    frequency_source: str | None
    group_rule: str | None
    rules: str
    folds: int
    seed: int


@dataclass(frozen=True, eq=False)
class FusionChoice:
    """How to fuse the members, and what it gives.

    Attributes:
        used: "as they are" for equal weights and the members' own scores, "equal" for equal weights
            and calibrated scores, "chosen" for weights by skill.
        setting: in use; equal weights unless others are better by more than a standard error.
        best_setting: the one with the highest held-out AP50, whether or not the gain is clear.
        weights: float64 [J, K + 1], to use.
        calibrations: of each member, fitted on all images; None where scores stay.
        options: with the chosen IoU threshold.
        alone: held-out figures of each member.
        ways: of the ways to fuse.
        gain: mean AP50 of the chosen weights less that of equal ones.
        standard_error: of the gain.
        over_best: mean AP50 of the way in use less that of the best member.
        over_best_error: standard error of it.
        classes: rarest first.
        held_out: the calibration images' detections, each image fused by what the other folds say.
        verdict: the outcome in words.
        warnings: what is worse than before, in words.
        notes: what to know before using it.
        settings: what it was chosen on.
    """

    used: Way
    setting: Setting
    best_setting: Setting
    weights: Float64
    calibrations: tuple[ScoreCalibration, ...] | None
    options: Options
    alone: tuple[WayFigures, ...]
    ways: dict[Way, WayFigures]
    gain: float
    standard_error: float
    over_best: float
    over_best_error: float
    classes: tuple[FusedClass, ...]
    held_out: Predictions
    verdict: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    settings: FusionSettings

    def fuse(self, members: Sequence[Predictions]) -> Predictions:
        """Fuse detections of the same members on other images.

        Args:
            members: in the order of the calibration.

        Returns:
            The fused detections.
        """
        if self.calibrations is not None:
            members = [c.apply(m) for c, m in zip(self.calibrations, members, strict=True)]
        return fuse(members, self.settings.method, weights=self.weights, options=self.options)


def choose_fusion(
    annotations: Annotations,
    members: Sequence[Predictions],
    method: str = "wbf",
    *,
    names: Sequence[str] | None = None,
    options: Options | None = None,
    iou_thresholds: Sequence[float] | None = None,
    frequency: Frequency | None = None,
    groups: Groups | None = None,
    rules: RulesChoice = "auto",
    num_folds: int = 5,
    seed: int = 0,
) -> FusionChoice:
    """Make the members' scores comparable, and choose their weights, on held-out images.

    Args:
        annotations: the calibration file, of images that no member was trained on.
        members: detections of each on its images, scores in [0, 1].
        method: of `FUSIONS`.
        names: of the members; "member 0" and so on if not given.
        options: as `fuse` takes them; its `iou_threshold` is the one to try if none are given.
        iou_thresholds: to choose from, the usual one first.
        frequency: counts of the training file, for groups and the order of the classes.
        groups: of the classes of `frequency`; its usual groups if not given.
        rules: "coco", "lvis", or "auto" for what the file asks for.
        num_folds: F, folds of images, 3 or more.
        seed: of the folds and of the draws behind the standard errors.

    Returns:
        What to do and what it gives. Equal weights are used unless the chosen ones have a higher
        mean AP50 on held-out images by more than one standard error; calibrated scores, unless the
        members' own are better by more than that.

    Raises:
        ValueError: as `fuse`, or if there are fewer images than folds.
    """
    options = Options() if options is None else options
    names = tuple(names or (f"member {j}" for j in range(len(members))))
    tried = settings_to_try(tuple(iou_thresholds or (options.iou_threshold,)), len(members))
    plain = replace(options, iou_threshold=tried[0].iou_threshold)
    as_they_are = fuse(members, method, options=plain)  # checks the members, too
    ap50 = replace(choose_rules(annotations, rules), iou_thresholds=(0.5,))
    alone = [match(annotations, m, rules=ap50) for m in members]
    folds = image_folds(annotations, num_folds, seed)
    fitted = Fitted(alone, folds)
    crossed = cross_fit(
        num_folds,
        lambda k: fuse_folds(fitted, k, method, options, tried),
        lambda parts: _mean_ap50(match(annotations, _join(parts), rules=ap50)),
    )
    fused: dict[Way, Predictions] = {
        "as they are": as_they_are,
        "equal": _join(crossed.held_out(0)),
        "chosen": _join(crossed.held_out(crossed.of_fold)),
    }
    judged = [match(annotations, one, rules=ap50) for one in fused.values()]
    ap, drawn = _bootstrap([*alone, *judged], seed)
    at = {way: len(members) + i for i, way in enumerate(fused)}
    mean = [mean_of_defined(row) for row in ap]

    def difference(one: int, other: int) -> tuple[float, float]:
        spread = drawn[one] - drawn[other]
        return mean[one] - mean[other], float(np.std(spread[~np.isnan(spread)]))

    gain, error = difference(at["chosen"], at["equal"])
    best = tried[crossed.best]
    helps = crossed.best > 0 and gain > error
    used: Way = "chosen" if helps else "equal"
    lead, doubt = difference(at["as they are"], at[used])
    if lead > doubt:
        used = "as they are"
    best_member = first_best(mean[: len(members)])
    over_best, over_best_error = difference(at[used], best_member)
    training = training_counts(annotations, ap50.name, frequency, groups)
    figures = [
        WayFigures(name, mean[i], _group_means(ap[i], training))
        for i, name in enumerate([*names, *fused])
    ]
    ways = {way: figures[i] for way, i in at.items()}
    setting = best if used == "chosen" else tried[0]
    weights = fitted.weights(setting)
    boxes = alone[0].num_positive
    classes = [
        FusedClass(
            name=name,
            group=group,
            train_boxes=train_boxes,
            boxes=int(boxes[label]),
            members=tuple(ap[: len(members), label].tolist()),
            equal=float(ap[at["equal"], label]),
            used=float(ap[at[used], label]),
            weights=tuple(weights[:, label].tolist()),
        )
        for label, (name, (group, _, train_boxes)) in enumerate(
            zip(annotations.categories.names, training.counts, strict=True), start=1
        )
    ]
    classes.sort(key=lambda row: (row.train_boxes or 0, row.boxes))
    return FusionChoice(
        used=used,
        setting=setting,
        best_setting=best,
        weights=weights,
        calibrations=None if used == "as they are" else fitted.calibrations(),
        options=replace(options, iou_threshold=setting.iou_threshold),
        alone=tuple(figures[: len(members)]),
        ways=ways,
        gain=gain,
        standard_error=error,
        over_best=over_best,
        over_best_error=over_best_error,
        classes=tuple(classes),
        held_out=fused[used],
        verdict=_verdict(ways, error, used, best if len(tried) > 1 else None, helps=helps),
        warnings=tuple(_warnings(ways[used], figures[best_member], over_best, over_best_error)),
        notes=tuple(_notes(annotations, members, names, boxes)),
        settings=FusionSettings(
            annotations=str(annotations.source),
            members=names,
            method=method,
            frequency_source=training.source,
            group_rule=training.rule,
            rules=ap50.name,
            folds=num_folds,
            seed=seed,
        ),
    )


def fuse_folds(
    fitted: Fitted, k: int, method: str, options: Options, tried: Sequence[Setting]
) -> Iterator[tuple[Predictions, float]]:
    """By each setting: detections of fold k, and the mean AP50 of the other folds."""
    folds, truth = fitted.folds, fitted.alone[0].annotations
    every = range(int(folds.max()) + 1)
    # Each fold has weights of its own, so classes get a number of their own in each.
    calibrated = [
        _by_fold(one.predictions, folds, [fitted.calibrations(k, j)[m] for j in every])
        for m, one in enumerate(fitted.alone)
    ]
    for setting in tried:
        fused = fuse(
            calibrated,
            method,
            weights=np.concatenate([fitted.weights(setting, k, j) for j in every], axis=1),
            options=replace(options, iou_threshold=setting.iou_threshold),
        )
        fused = replace(fused, labels=fused.labels % truth.categories.num_classes)
        matches = match(truth, fused, rules=fitted.alone[0].rules)
        yield fused.take(folds[fused.image_index] == k), _mean_ap50(matches, folds != k)


def _by_fold(
    member: Predictions, folds: Int64, calibrations: Sequence[ScoreCalibration]
) -> Predictions:
    """Calibrate the detections of each fold, and number its classes on from the fold before."""
    fold = folds[member.image_index]
    scores = np.empty(len(fold))
    for j, calibration in enumerate(calibrations):
        rows = fold == j
        scores[rows] = calibration.apply(member.take(rows)).scores
    num_classes = len(calibrations[0].class_offsets)
    return replace(member, labels=member.labels + fold * num_classes, scores=scores)


def _join(parts: Sequence[Predictions]) -> Predictions:
    """Put detections one after the other."""
    names = ("image_index", "labels", "bbox", "scores")
    return Predictions(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def _mean_ap50(matches: Matches, images: Bool | None = None) -> float:
    """Mean AP50 of the classes, on all images or those of a mask [M]."""
    chosen = np.ones(matches.annotations.num_images, dtype=np.bool_) if images is None else images
    once = chosen.astype(np.int32)[None]
    return mean_of_defined(weighted_figures(matches, once, score_threshold=0.0)["AP50"][0])


def _bootstrap(runs: Sequence[Matches], seed: int) -> tuple[Float64, Float64]:
    """AP50 [runs, K + 1] on the images, and its mean over classes [runs, B] on draws of them."""
    drawn = bootstrap(runs, num_bootstrap=NUM_BOOTSTRAP, seed=seed, score_threshold=0.0)
    values = drawn.values["AP50"].astype(np.float64)
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=2)
    number = defined.sum(axis=2)
    means = np.full(total.shape, np.nan)
    np.divide(total, number, out=means, where=number > 0)
    return drawn.estimates["AP50"], means


def _group_means(ap: Float64, training: TrainingCounts) -> dict[str, float]:
    of_class = np.array([None, *(group for group, _, _ in training.counts)])
    means = {name: ap[(of_class == name) & ~np.isnan(ap)] for name in GROUP_NAMES}
    return {name: mean_of_defined(own) for name, own in means.items() if own.size}


def _verdict(
    ways: dict[Way, WayFigures], error: float, used: Way, best: Setting | None, *, helps: bool
) -> str:
    """Say what calibrated scores and chosen weights are worth, and what is used."""
    own, equal, chosen = (ways[way].mean for way in ("as they are", "equal", "chosen"))
    calibrated = "equal weights and calibrated scores"
    outcome = f"mean AP50 is {figure(equal)} with {calibrated}"
    if best is not None:
        fitted = "the setting that was chosen on the other folds"
        outcome = means_outcome("mean AP50", (fitted, chosen), (calibrated, equal), error)
    scores = "scores as the members gave them" if used == "as they are" else "calibrated scores"
    advice = f"Used: {best if used == 'chosen' else f'equal weights, {scores}'}."
    own_scores = f"With the scores as the members gave them it is {figure(own)}."
    is_plain = helps or best is None  # where nothing was chosen there is no gain to speak of
    return verdict(outcome, "other weights", helps=is_plain, advice=f"{own_scores} {advice}")


def _warnings(used: WayFigures, best: WayFigures, over_best: float, error: float) -> Iterator[str]:
    """Say plainly where fusing does worse than the best member alone."""
    if over_best < -_SEEN:
        doubt = "" if -over_best > error else "; that can be chance"
        yield (
            f"Fusion is worse than {best.name} alone on held-out images: mean AP50 "
            f"{figure(used.mean)} against {figure(best.mean)} ({over_best:+.3f}, standard error "
            f"{error:.3f}{doubt})."
        )
    for group, value in used.groups.items():
        loss = value - best.groups[group]
        if loss < -_HARM:
            yield (
                f"Fusion costs the {group} classes {-loss:.3f} of mean AP50 on held-out images: "
                f"{figure(value)} against {figure(best.groups[group])} of {best.name} alone."
            )


def _notes(
    annotations: Annotations, members: Sequence[Predictions], names: Sequence[str], boxes: Int64
) -> Iterator[str]:
    if absent := [
        name for name, n in zip(annotations.categories.names, boxes[1:], strict=True) if not n
    ]:
        yield (
            f"{counted(len(absent), 'class')} without boxes in {annotations.source} get the weights"
            f" of the mean class: {shorten(absent, NAMES_SHOWN)}."
        )
    for name, member in zip(names, members, strict=True):
        if not member.num_predictions:
            yield f"{name} has no detection at all on {annotations.source}."
