"""How to fuse, chosen on held-out images: scores made comparable, weights by skill.

Letters: J members, K categories, B draws.

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

from detbalance.calibration.cross_fitting import image_folds
from detbalance.calibration.fusion import Options, fuse
from detbalance.calibration.fusion_members import (
    Calibrator,
    ScoreCalibration,
    Setting,
    comparable,
    settings_to_try,
    weights_by_skill,
)
from detbalance.calibration.fusion_result import (
    FusedClass,
    FusionChoice,
    FusionSettings,
    Way,
    WayFigures,
    fusion_verdict,
    harm_warnings,
    with_setting,
)
from detbalance.calibration.threshold_fit import listed
from detbalance.calibration.threshold_result import GROUP_NAMES
from detbalance.data import Predictions
from detbalance.data.arrays import Bool, Float64, Int64
from detbalance.data.messages import counted
from detbalance.evaluation.accumulate import mean_of_defined
from detbalance.evaluation.bootstrap import bootstrap, weighted_figures
from detbalance.evaluation.build import TrainingCounts, training_counts
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.rules import Rules, RulesChoice, choose_rules

if TYPE_CHECKING:
    from detbalance.data import Annotations
    from detbalance.data.frequency import Frequency, Groups


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
        utility = []
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
            utility.append(mean_of_defined(ap))
        each[k] = first_best(utility)
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


_DRAWS = 200


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
    plain = with_setting(options, tried[0])
    as_they_are = fuse(members, method, options=plain)  # checks the members, too
    wanted = replace(choose_rules(annotations, rules), iou_thresholds=(0.5,))
    alone = [match(annotations, m, rules=wanted) for m in members]
    folds = image_folds(annotations, num_folds, seed)
    fitted = Fitted(alone, folds, num_folds)
    parts, each = cross_fit(annotations, members, method, options, tried, folds, fitted, wanted)
    singles = [join(part) for part in parts]
    means = [_mean_ap(match(annotations, one, rules=wanted)) for one in singles]
    best = first_best(means)
    fused: dict[Way, Predictions] = {
        "as they are": as_they_are,
        "equal": singles[0],
        "chosen": join([parts[a][k] for k, a in enumerate(each)]),
    }
    judged = {way: match(annotations, one, rules=wanted) for way, one in fused.items()}
    ap, draws = _drawn([*alone, *judged.values()], seed)
    at = {way: len(members) + i for i, way in enumerate(fused)}
    mean = [mean_of_defined(row) for row in ap]

    def difference(one: int, other: int) -> tuple[float, float]:
        spread = draws[one] - draws[other]
        return mean[one] - mean[other], float(np.std(spread[~np.isnan(spread)]))

    gain, error = difference(at["chosen"], at["equal"])
    used: Way = "chosen" if best and gain > error else "equal"
    lead, doubt = difference(at["as they are"], at[used])
    if lead > doubt:
        used = "as they are"
    best_member = first_best(mean[: len(members)])
    over_best, over_best_error = difference(at[used], best_member)
    training = training_counts(annotations, wanted.name, frequency, groups)
    figures = [
        WayFigures(name, mean[i], _group_means(ap[i], training))
        for i, name in enumerate([*names, *fused])
    ]
    setting = tried[best] if used == "chosen" else tried[0]
    calibrations, weights = fitted.whole(setting)
    return FusionChoice(
        used=used,
        setting=setting,
        best_setting=tried[best],
        weights=weights,
        calibrations=None if used == "as they are" else calibrations,
        options=with_setting(options, setting),
        alone=tuple(figures[: len(members)]),
        ways={way: figures[i] for way, i in at.items()},
        gain=gain,
        standard_error=error,
        over_best=over_best,
        over_best_error=over_best_error,
        classes=_rows(annotations, training, alone, ap, at["equal"], at[used], weights),
        held_out=fused[used],
        verdict=fusion_verdict(
            {way: figures[i] for way, i in at.items()},
            error,
            used=used,
            best=tried[best] if len(tried) > 1 else None,
        ),
        warnings=harm_warnings(figures[at[used]], figures[best_member], over_best, over_best_error),
        notes=_notes(annotations, members, names, alone[0]),
        settings=FusionSettings(
            annotations=str(annotations.source),
            members=names,
            method=method,
            frequency_source=training.source,
            group_rule=training.rule,
            rules=wanted.name,
            folds=num_folds,
            seed=seed,
        ),
    )


def _mean_ap(matches: Matches) -> float:
    once = np.ones((1, matches.annotations.num_images), dtype=np.int32)
    return mean_of_defined(weighted_figures(matches, once, score_threshold=0.0)["AP50"][0])


def _drawn(runs: Sequence[Matches], seed: int) -> tuple[Float64, Float64]:
    """AP50 [runs, K + 1] on the images, and its mean over classes [runs, B] on draws of them."""
    drawn = bootstrap(runs, num_bootstrap=_DRAWS, seed=seed, score_threshold=0.0)
    values = drawn.values["AP50"].astype(np.float64)
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=2)
    number = defined.sum(axis=2)
    means = np.full(total.shape, np.nan)
    np.divide(total, number, out=means, where=number > 0)
    return drawn.estimates["AP50"], means


def _group_means(ap: Float64, training: TrainingCounts) -> dict[str, float]:
    of_class = [group for group, _, _ in training.counts]
    means = {}
    for name in GROUP_NAMES:
        own = np.array([group == name for group in of_class])
        if (own & ~np.isnan(ap[1:])).any():
            means[name] = mean_of_defined(ap[1:][own])
    return means


def _rows(
    annotations: Annotations,
    training: TrainingCounts,
    alone: Sequence[Matches],
    ap: Float64,
    equal: int,
    used: int,
    weights: Float64,
) -> tuple[FusedClass, ...]:
    """One row a class, the rarest first."""
    boxes = alone[0].num_positive
    rows = [
        FusedClass(
            name=name,
            group=group,
            train_boxes=train_boxes,
            boxes=int(boxes[label]),
            members=tuple(ap[: len(alone), label].tolist()),
            equal=float(ap[equal, label]),
            used=float(ap[used, label]),
            weights=tuple(weights[:, label].tolist()),
        )
        for label, (name, (group, _, train_boxes)) in enumerate(
            zip(annotations.categories.names, training.counts, strict=True), start=1
        )
    ]
    return tuple(sorted(rows, key=lambda row: (row.train_boxes or 0, row.boxes)))


def _notes(
    annotations: Annotations,
    members: Sequence[Predictions],
    names: Sequence[str],
    matches: Matches,
) -> tuple[str, ...]:
    notes = []
    absent = [
        annotations.categories.name(int(label))
        for label in np.flatnonzero(matches.num_positive[1:] == 0) + 1
    ]
    if absent:
        notes.append(
            f"{counted(len(absent), 'class')} without boxes in {annotations.source} get the weights"
            f" of the mean class: {listed(absent)}."
        )
    notes += [
        f"{name} has no detection at all on {annotations.source}."
        for name, member in zip(names, members, strict=True)
        if not member.num_predictions
    ]
    return tuple(notes)
