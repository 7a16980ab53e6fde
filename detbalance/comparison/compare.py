"""Compare two detectors on the same images, one run or several a side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from detbalance.comparison.correction import adjust_classes, adjust_groups
from detbalance.comparison.differences import (
    Float64,
    Sides,
    class_sides,
    difference_interval,
    group_sides,
    p_values,
)
from detbalance.comparison.result import (
    ClassDifferences,
    Comparison,
    ComparisonSettings,
    Difference,
    GroupDifferences,
)
from detbalance.comparison.verdict import verdict
from detbalance.evaluation import Evaluation, Report, build_report, with_replicates
from detbalance.evaluation.bootstrap import RELIABLE_BOXES, RELIABLE_IMAGES, Replicates
from detbalance.evaluation.rows import GROUP_NAMES, SPREAD

if TYPE_CHECKING:
    from detbalance.frequency import Frequency, Groups

_NAMED = 5


def compare(
    baseline: Sequence[Evaluation],
    ours: Sequence[Evaluation],
    *,
    train_frequency: Frequency | None = None,
    groups: Groups | None = None,
    figure: str = "AP",
    replicates: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Say which differences between two detectors are real.

    Images are drawn with replacement, the same ones for both sides, so that what is hard for both
    cancels out. With several runs of a side (the same training with other seeds) its figures are
    means over them, and what they differ by widens the intervals.

    Args:
        baseline: evaluations of one or more runs.
        ours: likewise, of the same annotations by the same rules and score floors.
        train_frequency: counts of the training file, for groups; its classes are found by name.
        groups: groups of the classes of `train_frequency`; its usual ones if not given.
        figure: what the verdict is of: AP, AP50, AR, recall or precision.
        replicates: draws of images, 2 or more; evaluations that were drawn as often with the same
            seed are not drawn again.
        seed: of the draws.

    Returns:
        Differences of every class and group with intervals at the confidence of the first
        evaluation, and the verdict.

    Raises:
        ValueError: if a side is empty, the evaluations are not of the same boxes, rules and score
            floors, or the figure is unknown.

    Source: intervals as in `differences.difference_interval`. Simulated (`python tools/benchmark.py
    comparison`), nominal 95 % of them hold the true difference in 93 to 100 % of cases, and of
    equal detectors at most about 5 % of the classes differ before the correction.
    """
    _check(baseline, ours, figure)
    first = ours[0]
    annotations, confidence = first.matches.annotations, first.settings.confidence
    report = build_report(first, annotations, train_frequency=train_frequency, groups=groups)
    drawn = [
        [_drawn(run, replicates, seed) for run in side]  # in the order of the files
        for side in (baseline, ours)
    ]
    labels = {name: label for label, name in enumerate(annotations.categories.names, start=1)}
    order = [labels[row.name] for row in report.classes]
    members = _members(report, labels, len(first.AP))
    by_class: dict[str, list[Difference]] = {}
    by_group: dict[str, list[Difference]] = {}
    for name in SPREAD:
        single = class_sides(name, drawn[0], drawn[1])
        p = p_values(single, name, confidence=confidence)
        by_class[name] = _differences(single, name, confidence, p, adjust_classes(p))
        parts = [group_sides(name, drawn[0], drawn[1], rows) for rows in members.values()]
        alone = [p_values(part, name, confidence=confidence)[0] for part in parts]
        # The mean of all classes is a question of its own, not one of several groups.
        corrected = [*adjust_groups(np.array(alone[:-1])), alone[-1]]
        by_group[name] = [
            _differences(part, name, confidence, np.array([raw]), np.array([p_adjusted]))[0]
            for part, raw, p_adjusted in zip(parts, alone, corrected, strict=True)
        ]
    rows = tuple(
        ClassDifferences(
            name=row.name,
            category_id=row.category_id,
            group=row.group,
            train_images=row.train_images,
            train_boxes=row.train_boxes,
            val_images=row.val_images,
            val_boxes=row.val_boxes,
            figures={name: by_class[name][label] for name in SPREAD},
        )
        for row, label in zip(report.classes, order, strict=True)
    )
    means = {
        group: GroupDifferences(
            num_categories=report.groups[group].num_categories,
            num_evaluated=report.groups[group].num_evaluated,
            train_boxes=report.groups[group].train_boxes,
            val_boxes=report.groups[group].val_boxes,
            figures={name: by_group[name][place] for name in SPREAD},
        )
        for place, group in enumerate(members)
    }
    settings = ComparisonSettings(
        annotations=str(annotations.source),
        baseline=tuple(run.settings.predictions for run in baseline),
        ours=tuple(run.settings.predictions for run in ours),
        rules=first.settings.rules,
        score_floor=first.settings.score_floor,
        thresholds=first.settings.thresholds,
        iou_thresholds=first.settings.iou_thresholds,
        recall_iou_threshold=first.settings.recall_iou_threshold,
        max_detections=first.settings.max_detections,
        figure=figure,
        confidence=confidence,
        replicates=replicates,
        seed=seed,
        frequency_source=report.settings.frequency_source,
        group_rule=report.settings.group_rule,
    )
    return Comparison(
        verdict=verdict(means, figure, level=1 - confidence),
        classes=rows,
        groups=means,
        settings=settings,
        notes=tuple(dict.fromkeys(_notes(baseline, ours, report, rows, drawn[1][0]))),
    )


def _check(baseline: Sequence[Evaluation], ours: Sequence[Evaluation], figure: str) -> None:
    if figure not in SPREAD:
        raise ValueError(
            f'compare(): figure is "{figure}". Known: {", ".join(SPREAD)}. Choose one.'
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
            "score floors": (run.score_floors[1:], first.score_floors[1:]),
        }
        for fact, (one, other) in facts.items():
            if not np.array_equal(one, other):
                raise ValueError(
                    f"compare(): {run.settings.predictions or 'a run'} and"
                    f" {first.settings.predictions or 'the first of ours'} are not of the same"
                    f" {fact}. Expected evaluations of one file in one way. Evaluate all again"
                    " alike."
                )


def _drawn(run: Evaluation, replicates: int, seed: int) -> Replicates:
    known = run.replicates
    settings = run.settings
    if known is None or (settings.replicates, settings.seed) != (replicates, seed):
        known = with_replicates(run, replicates, seed=seed).replicates
    assert known is not None
    return known


def _members(
    report: Report, labels: Mapping[str, int], num_classes: int
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """For each group, and for all classes, int64 [K + 1]: 0 for its classes, -1 for others."""
    result = {name: np.full(num_classes, -1) for name in (*GROUP_NAMES, "all")}
    for row in report.classes:
        result["all"][labels[row.name]] = 0
        if row.group is not None:
            result[row.group][labels[row.name]] = 0
    return result


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
    baseline: Sequence[Evaluation],
    ours: Sequence[Evaluation],
    report: Report,
    rows: Sequence[ClassDifferences],
    drawn: Replicates,
) -> list[str]:
    """What a reader could not see from the figures."""
    notes = []
    if min(len(baseline), len(ours)) == 1:
        notes.append(
            "One run of a side tells how these detectors differ, not how their ways of training do:"
            " another seed may give another difference. Compare several runs of each side."
        )
    reliable = {
        name
        for label, name in enumerate(ours[0].matches.annotations.categories.names, start=1)
        if drawn.reliable("recall")[label]
    }
    few = [row.name for row in rows if row.val_boxes and row.name not in reliable]
    if few:
        listed = ", ".join(few[:_NAMED]) + (", ..." if len(few) > _NAMED else "")
        notes.append(
            f"{len(few)} classes have fewer than {RELIABLE_BOXES} boxes or {RELIABLE_IMAGES} images"
            f" to find them on ({listed}): their intervals are rough."
        )
    for side, runs in (("baseline", baseline), ("ours", ours)):
        for run in runs:
            source = run.settings.predictions or side
            notes += [f"{source}: {caution}" for caution in run.cautions]
    notes += [note for note in report.notes if note not in ours[0].cautions]
    return notes
