"""Compare two detectors on the same images, one run or several a side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Float64
from detbalance.data.messages import counted
from detbalance.evaluation.accumulate import check_memory
from detbalance.evaluation.bootstrap import (
    RELIABLE_BOXES,
    RELIABLE_IMAGES,
    BootstrapFigures,
    drawn_bytes,
)
from detbalance.evaluation.build import build_report
from detbalance.evaluation.comparison import (
    ClassDifferences,
    Comparison,
    ComparisonSettings,
    Difference,
    GroupDifferences,
    verdict,
)
from detbalance.evaluation.differences import (
    Sides,
    class_sides,
    difference_interval,
    group_sides,
    p_values,
)
from detbalance.evaluation.evaluate import Evaluation, with_bootstrap
from detbalance.evaluation.figures import WITH_INTERVALS
from detbalance.evaluation.report import GROUP_NAMES, Report

if TYPE_CHECKING:
    from detbalance.data.frequency import Frequency, Groups


def adjust_classes(p: Float64) -> Float64:
    """Adjust the p-values of classes, of which some may differ and most may not.

    Source: Benjamini and Hochberg, Controlling the false discovery rate, JRSS B 57, 1995.
    """
    return _adjusted(p, step_up=True)


def adjust_groups(p: Float64) -> Float64:
    """Adjust the p-values of a few groups, each of which makes a claim of its own.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6, 1979.
    """
    return _adjusted(p, step_up=False)


def _adjusted(p: Float64, *, step_up: bool) -> Float64:
    result = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    number = len(order)
    if step_up:
        raised = p[order] * number / np.arange(1, number + 1)
        values = np.minimum.accumulate(raised[::-1])[::-1]
    else:
        values = np.maximum.accumulate(p[order] * np.arange(number, 0, -1))
    result[order] = np.minimum(values, 1.0)
    return result


_NAMED = 5
# What rows and settings take over from the report.
_CLASS_FIELDS = (
    "name",
    "category_id",
    "group",
    "train_images",
    "train_boxes",
    "val_images",
    "val_boxes",
)
_GROUP_FIELDS = ("num_categories", "num_evaluated", "train_boxes", "val_boxes")
_SETTINGS = (
    "annotations",
    "rules",
    "score_threshold",
    "thresholds",
    "iou_thresholds",
    "recall_iou_threshold",
    "max_detections",
    "confidence",
    "frequency_source",
    "group_rule",
)


def compare(
    baseline: Sequence[Evaluation],
    ours: Sequence[Evaluation],
    *,
    train_frequency: Frequency | None = None,
    groups: Groups | None = None,
    figure: str = "AP",
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Say which differences between two detectors are real.

    Images are drawn with replacement, the same ones for both sides, so that what is hard for both
    cancels out. With several runs of a side (the same training with other seeds) its figures are
    means over them, and what they differ by widens the intervals.

    Args:
        baseline: evaluations of one or more runs.
        ours: likewise, of the same annotations by the same rules and score thresholds.
        train_frequency: counts of the training file, for groups; its classes are found by name.
        groups: groups of the classes of `train_frequency`; its usual ones if not given.
        figure: what the verdict is of: AP, AP50, AR, recall or precision.
        num_bootstrap: draws of images, 2 or more; evaluations that were drawn as often with the
            same seed are not drawn again.
        seed: of the draws.

    Returns:
        Differences of every class and group with intervals at the confidence of the first
        evaluation, and the verdict.

    Raises:
        ValueError: if a side is empty, the evaluations are not of the same boxes, rules and score
            floors, the figure is unknown, or so many draws do not fit into memory.

    Source: intervals as in `differences.difference_interval`. Simulated (`python tools/benchmark.py
    comparison`), nominal 95 % of them hold the true difference of a class in 90 to 100 % of cases,
    97 % on average; of equal detectors 2 % of the classes differ before the correction.
    """
    _check(baseline, ours, figure)
    annotations, settings = ours[0].matches.annotations, ours[0].settings
    check_room(len(baseline) + len(ours), num_bootstrap, annotations.categories.num_classes)
    report = build_report(ours[0], annotations, train_frequency=train_frequency, groups=groups)
    draws = _Draws(
        [_drawn(run, num_bootstrap, seed) for run in baseline],
        [_drawn(run, num_bootstrap, seed) for run in ours],
    )
    labels = {name: label for label, name in enumerate(annotations.categories.names, start=1)}
    classes = {name: _of_classes(name, draws, settings.confidence) for name in WITH_INTERVALS}
    rows = tuple(
        ClassDifferences(
            **{field: getattr(row, field) for field in _CLASS_FIELDS},
            figures={name: classes[name][labels[row.name]] for name in WITH_INTERVALS},
        )
        for row in report.classes
    )
    group_of_class = np.full(len(labels) + 1, -1)
    for row in report.classes:
        if row.group is not None:
            group_of_class[labels[row.name]] = GROUP_NAMES.index(row.group)
    means = {
        name: _of_groups(name, draws, group_of_class, settings.confidence)
        for name in WITH_INTERVALS
    }
    group_rows = {
        group: GroupDifferences(
            **{field: getattr(report.groups[group], field) for field in _GROUP_FIELDS},
            figures={name: means[name][group] for name in WITH_INTERVALS},
        )
        for group in (*GROUP_NAMES, "all")
    }
    return Comparison(
        verdict=verdict(group_rows, figure, level=1 - settings.confidence),
        classes=rows,
        groups=group_rows,
        settings=ComparisonSettings(
            **{field: getattr(report.settings, field) for field in _SETTINGS},
            baseline=tuple(run.settings.predictions for run in baseline),
            ours=tuple(run.settings.predictions for run in ours),
            figure=figure,
            num_bootstrap=num_bootstrap,
            seed=seed,
        ),
        notes=tuple(dict.fromkeys(_notes(baseline, ours, report, draws))),
    )


def check_room(num_runs: int, num_bootstrap: int, num_classes: int) -> None:
    """Refuse draws that do not fit into memory, those of all runs and what is made of them."""
    check_memory(
        f"compare(): {num_bootstrap:,} draws of {num_classes - 1:,} classes",
        drawn_bytes(num_runs + 4, num_bootstrap, num_classes),
        "Draw less often, or compare a part of the classes at a time",
    )


class _Draws(NamedTuple):
    """The draws of every run of both sides."""

    baseline: list[BootstrapFigures]
    ours: list[BootstrapFigures]


def _of_classes(figure: str, draws: _Draws, confidence: float) -> list[Difference]:
    """By label, background in front."""
    sides = class_sides(figure, *draws)
    p = p_values(sides, figure, confidence=confidence)
    return _differences(sides, figure, confidence, p, adjust_classes(p))


def _of_groups(
    figure: str, draws: _Draws, group_of_class: npt.NDArray[np.int64], confidence: float
) -> dict[str, Difference]:
    """By name of the group; the mean of all classes is a question of its own."""
    sides = group_sides(figure, *draws, group_of_class, len(GROUP_NAMES))
    p = p_values(sides, figure, confidence=confidence)
    groups = _differences(sides, figure, confidence, p, adjust_groups(p))
    in_all = np.zeros_like(group_of_class)
    in_all[0] = -1
    sides = group_sides(figure, *draws, in_all, 1)
    p = p_values(sides, figure, confidence=confidence)
    groups += _differences(sides, figure, confidence, p, p)
    return dict(zip((*GROUP_NAMES, "all"), groups, strict=True))


def _check(baseline: Sequence[Evaluation], ours: Sequence[Evaluation], figure: str) -> None:
    if figure not in WITH_INTERVALS:
        raise ValueError(
            f'compare(): figure is "{figure}". Known: {", ".join(WITH_INTERVALS)}. Choose one.'
        )
    for name, side in (("baseline", baseline), ("ours", ours)):
        if not side:
            raise ValueError(
                f"compare(): {name} is empty. One evaluation or more are expected. Pass them."
            )
    first = ours[0]
    for run in (*baseline, *ours):
        facts = {
            "images": (run.matches.annotations.image_ids, first.matches.annotations.image_ids),
            "boxes to find": (run.val_boxes, first.val_boxes),
            "rules": (np.array(run.settings.rules), np.array(first.settings.rules)),
            "score thresholds": (run.score_thresholds[1:], first.score_thresholds[1:]),
        }
        for fact, (one, other) in facts.items():
            if not np.array_equal(one, other):
                raise ValueError(
                    f"compare(): {run.settings.predictions or 'a run'} and"
                    f" {first.settings.predictions or 'the first of ours'} are not of the same"
                    f" {fact}. Expected evaluations of one file in one way. Evaluate all again"
                    " alike."
                )


def _drawn(run: Evaluation, num_bootstrap: int, seed: int) -> BootstrapFigures:
    known = run.bootstrap
    settings = run.settings
    if known is None or (settings.num_bootstrap, settings.seed) != (num_bootstrap, seed):
        known = with_bootstrap(run, num_bootstrap, seed=seed).bootstrap
    assert known is not None
    return known


def _differences(
    sides: Sides, figure: str, confidence: float, p: Float64, p_adjusted: Float64
) -> list[Difference]:
    low, high = difference_interval(sides, figure, confidence=confidence)
    columns = (
        sides.baseline.estimate,
        sides.ours.estimate,
        sides.difference,
        low,
        high,
        p,
        p_adjusted,
    )
    return [Difference(*row) for row in np.stack(columns, axis=1).tolist()]


def _notes(
    baseline: Sequence[Evaluation], ours: Sequence[Evaluation], report: Report, draws: _Draws
) -> list[str]:
    """What a reader could not see from the figures."""
    notes = []
    if min(len(baseline), len(ours)) == 1:
        notes.append(
            "One run of a side tells how these detectors differ, not how their ways of training do:"
            " another seed may give another difference. Compare several runs of each side."
        )
    reliable = draws.ours[0].reliable("recall")
    names = ours[0].matches.annotations.categories.names
    rough = {name for label, name in enumerate(names, start=1) if not reliable[label]}
    few = [row.name for row in report.classes if row.val_boxes and row.name in rough]
    if few:
        listed = ", ".join(few[:_NAMED]) + (", ..." if len(few) > _NAMED else "")
        have = counted(len(few), "class has", "classes have")
        notes.append(
            f"{have} fewer than {RELIABLE_BOXES} boxes or {RELIABLE_IMAGES} images to find them on"
            f" ({listed}): {'its' if len(few) == 1 else 'their'} intervals are rough."
        )
    for side, runs in (("baseline", baseline), ("ours", ours)):
        for run in runs:
            source = run.settings.predictions or side
            notes += [f"{source}: {caution}" for caution in run.cautions]
    notes += [note for note in report.notes if note not in ours[0].cautions]
    return notes
