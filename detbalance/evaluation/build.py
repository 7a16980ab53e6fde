"""Make a report: set figures beside training counts, and average them over groups of classes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from detbalance.data.frequency import frequency_groups
from detbalance.data.messages import counted
from detbalance.evaluation.accumulate import mean_of_defined
from detbalance.evaluation.evaluate import Evaluation
from detbalance.evaluation.figures import (
    FIGURES,
    GROUP_FIGURES,
    RECALL_IOU_THRESHOLD,
    WITH_INTERVALS,
)
from detbalance.evaluation.matching import Matches
from detbalance.evaluation.operating_points import froc
from detbalance.evaluation.report import (
    ERROR_KINDS,
    FROC,
    FROC_RATES,
    GROUP_NAMES,
    NUM_BINS,
    ClassRow,
    Details,
    ErrorKind,
    GroupRow,
    Histogram,
    PRCurve,
    Report,
    ReportSettings,
)
from detbalance.evaluation.rules import RulesName
from detbalance.evaluation.sanity_checks import cap_notes, doubts_on_boxes
from detbalance.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from detbalance.data import Annotations
    from detbalance.data.frequency import Frequency, Groups

_LVIS_GROUPS = {"r": "rare", "c": "common", "f": "frequent"}
_LVIS_RULE = "rare, common, frequent as marked in the annotation file (LVIS train images)"
_LVIS_NOTE = "COCO's rules were applied to LVIS annotations: the figures are not LVIS AP."
_NO_TRAIN_NOTE = "No training file was given (--train): there are no train counts and no groups."
# Group, train images, train boxes of one class; None where no training data is known.
_Counts: TypeAlias = "tuple[str | None, int | None, int | None]"


@dataclass(frozen=True)
class TrainingCounts:
    """What training data says of the evaluated classes."""

    counts: list[_Counts]
    source: str | None = None
    rule: str | None = None
    notes: tuple[str, ...] = ()


def training_counts(
    annotations: Annotations,
    rules: RulesName,
    frequency: Frequency | None,
    groups: Groups | None,
) -> TrainingCounts:
    """Take counts and groups from the training file, else from LVIS marks, else from nowhere."""
    categories = annotations.categories
    marks = categories.frequency
    notes = [_LVIS_NOTE] if marks is not None and rules == "coco" else []
    if frequency is not None:
        groups = frequency_groups(frequency) if groups is None else groups
        known = _counts_by_name(frequency, groups)
        above = super_categories(annotations, frequency)
        missing = [name for name in categories.names if name not in known and name not in above]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            notes.append(
                f"{len(missing)} of the classes {verb} not in {frequency.source} "
                f'(first: "{missing[0]}"): in no group, with 0 train boxes.'
            )
        absent: _Counts = (None, 0, 0)
        counts = [known.get(name, absent) for name in categories.names]
        return TrainingCounts(counts, str(frequency.source), groups.rule, tuple(notes))
    if marks is not None:
        source = f"{annotations.source} (its LVIS frequency marks)"
        counts = [(_LVIS_GROUPS.get(mark), None, None) for mark in marks]
        return TrainingCounts(counts, source, _LVIS_RULE, tuple(notes))
    counts = [(None, None, None)] * categories.num_categories
    return TrainingCounts(counts, notes=(*notes, _NO_TRAIN_NOTE))


def super_categories(annotations: Annotations, frequency: Frequency | None) -> set[str]:
    """Name the categories that are only the supercategory of others: no file has a box of them."""
    parents, names = set(annotations.categories.parents), annotations.categories.names
    boxed = {names[label - 1] for label in np.unique(annotations.labels)}
    if frequency is not None:
        parents |= set(frequency.categories.parents)
        counted = zip(frequency.categories.names, frequency.instance_counts[1:], strict=True)
        boxed |= {name for name, boxes in counted if boxes}
    return (parents & set(names)) - boxed


def _counts_by_name(frequency: Frequency, groups: Groups) -> dict[str, _Counts]:
    categories = frequency.categories
    if len(groups.of_class) != categories.num_classes:
        raise ValueError(
            f"build_report(): groups are of {counted(len(groups.of_class) - 1, 'class')}, "
            f"{frequency.source} has {categories.num_categories}. "
            "Expected one group per class. Make them with frequency_groups() of that frequency."
        )
    return {
        categories.name(label): (
            groups.group(label),
            int(frequency.image_counts[label]),
            int(frequency.instance_counts[label]),
        )
        for label in range(1, categories.num_classes)
    }


_COUNTS = ("val_boxes", "val_images", "true_positives", "false_positives")
# Digits of the curves, which are drawn, not read.
_CURVE_DIGITS = 4


def build_report(
    evaluation: Evaluation,
    annotations: Annotations,
    *,
    train_frequency: Frequency | None = None,
    groups: Groups | None = None,
    positive_share: npt.NDArray[np.float64] | None = None,
) -> Report:
    """Set the figures of an evaluation beside the class frequencies of the training file.

    Groups always come from training data: from `groups`, else from `train_frequency` by its usual
    rule, else from the r/c/f marks of an LVIS file. Without any of these there are none; they are
    never made from the evaluated file.

    Args:
        evaluation: figures by class.
        annotations: the annotations that were evaluated.
        train_frequency: counts of the training file; its classes are found by name.
        groups: groups of the classes of `train_frequency`.
        positive_share: float64 [C], positive part of the gradient that each class of the
            annotations got in training, NaN where unknown; None where nothing is known of it.

    Returns:
        Report with the rarest class first.

    Raises:
        ValueError: if `groups` comes without `train_frequency`, or the two, the evaluation and the
            annotations, or `positive_share` and the annotations have different numbers of classes.
    """
    categories = annotations.categories
    if len(evaluation.AP) != categories.num_classes:
        raise ValueError(
            f"build_report(): the evaluation has {counted(len(evaluation.AP) - 1, 'class')}, "
            f"{annotations.source} has {categories.num_categories}. "
            "Expected the annotations that were evaluated. Pass those."
        )
    if groups is not None and train_frequency is None:
        raise ValueError(
            "build_report(): groups without train_frequency. "
            "Groups are those of the training file's classes. Pass its frequency too."
        )
    if positive_share is None:
        positive_share = np.full(categories.num_classes, np.nan)
    if len(positive_share) != categories.num_classes:
        raise ValueError(
            f"build_report(): positive_share has {len(positive_share)} entries, "
            f"{annotations.source} has {counted(categories.num_categories, 'class')}. "
            "Expected one per class with background in front. Order them as the annotations do."
        )
    training = training_counts(annotations, evaluation.settings.rules, train_frequency, groups)
    rows = [
        ClassRow(
            name=categories.name(label),
            category_id=categories.ids[label - 1],
            group=group,
            train_images=images,
            train_boxes=boxes,
            score_threshold=float(evaluation.score_thresholds[label]),
            **_class_values(evaluation, label, float(positive_share[label])),
        )
        for label, (group, images, boxes) in enumerate(training.counts, start=1)
    ]
    group_of_class = [None, *(row.group for row in rows)]
    above = super_categories(annotations, train_frequency)
    left_out = [row for row in rows if row.name in above]
    rows = [row for row in rows if row.name not in above]
    rows.sort(key=_rarity)
    by_group = {
        name: _group_row(
            [row for row in rows if row.group == name],
            _group_intervals(evaluation, [group == name for group in group_of_class]),
        )
        for name in GROUP_NAMES
    }
    every = _group_intervals(evaluation, [False, *(n not in above for n in categories.names)])
    return Report(
        classes=tuple(rows),
        groups={**by_group, "all": _group_row(rows, every)},
        summary=dict(evaluation.summary),
        settings=ReportSettings(
            **{
                field.name: getattr(evaluation.settings, field.name)
                for field in dataclasses.fields(EvaluationSettings)
            },
            frequency_source=training.source,
            group_rule=training.rule,
        ),
        notes=(
            *evaluation.cautions,
            *cap_notes(annotations, evaluation.matches.rules),
            *doubts_on_boxes(annotations, evaluation.settings.rules),
            *training.notes,
            *map(_above_others, left_out),
        ),
        details=_details(evaluation, categories.names, above),
    )


def _above_others(row: ClassRow) -> str:
    """What became of a category that is no class of its own."""
    found = row.false_positives
    wrong = f"; {counted(found, 'detection')} of it {'is' if found == 1 else 'are'} wrong"
    return (
        f'"{row.name}" (category_id {row.category_id}) is only the supercategory of others and has'
        f" no box: it is no class of its own and left out{wrong if found else ''}."
    )


def _rarity(row: ClassRow) -> tuple[int, ...]:
    """Sorts the rarest class first: by training boxes where they are known, else by group."""
    if row.train_boxes is None or row.train_images is None:
        marked = -1 if row.group is None else GROUP_NAMES.index(row.group)
        return (marked, row.val_boxes)
    return (row.train_boxes, row.train_images, row.val_boxes)


def _class_values(evaluation: Evaluation, label: int, positive_share: float) -> dict[str, Any]:
    """What the evaluation has of one class, by the names of the row's fields."""
    ends = {
        figure: (float(low[label]), float(high[label]))
        for figure, (low, high) in evaluation.intervals.items()
    }
    return {
        "figures": {
            name: float(evaluation.figures[name][label])
            if name in evaluation.figures
            else positive_share
            for name in FIGURES
        },
        **{name: int(getattr(evaluation, name)[label]) for name in _COUNTS},
        "intervals": {figure: pair for figure, pair in ends.items() if not math.isnan(pair[0])},
        "errors": {
            kind: ErrorKind(int(e.count[label]), int(e.shown[label]), float(e.cost[label]))
            for kind, e in evaluation.errors.items()
        },
    }


def _group_intervals(
    evaluation: Evaluation, is_member: Sequence[bool]
) -> dict[str, tuple[float, float]]:
    """Intervals of a group's means, where images were drawn; `is_member` has length K + 1."""
    if evaluation.bootstrap is None or not any(is_member):
        return {}
    members = np.where(is_member, 0, -1)
    intervals = {}
    for figure in WITH_INTERVALS:
        low, high = evaluation.bootstrap.group_interval(
            figure, members, confidence=evaluation.settings.confidence
        )
        if not math.isnan(low[0]):
            intervals[figure] = (float(low[0]), float(high[0]))
    return intervals


def _group_row(rows: list[ClassRow], intervals: dict[str, tuple[float, float]]) -> GroupRow:
    boxes = [row.train_boxes for row in rows if row.train_boxes is not None]
    return GroupRow(
        num_categories=len(rows),
        num_evaluated=sum(row.val_boxes > 0 for row in rows),
        train_boxes=sum(boxes) if boxes else None,
        val_boxes=sum(row.val_boxes for row in rows),
        intervals=intervals,
        errors={
            kind: ErrorKind(
                count=sum(row.errors[kind].count for row in rows),
                shown=sum(row.errors[kind].shown for row in rows),
                cost=mean_of_defined([row.errors[kind].cost for row in rows]),
            )
            for kind in ERROR_KINDS
        },
        figures={
            name: mean_of_defined([row.figures[name] for row in rows]) for name in GROUP_FIGURES
        },
    )


def _details(evaluation: Evaluation, names: tuple[str, ...], left_out: set[str]) -> Details:
    precision, scores = (curve.round(_CURVE_DIGITS) for curve in evaluation.curves)
    recall, floors = (curve.round(_CURVE_DIGITS) for curve in froc(evaluation.matches, FROC_RATES))
    return Details(
        curves={
            name: PRCurve(precision[:, label].tolist(), scores[:, label].tolist())
            for label, name in enumerate(names, start=1)
            if evaluation.val_boxes[label]
        },
        histograms=_histograms(evaluation.matches, names),
        confusion=[c for c in evaluation.confusion.cells(names) if c.found not in left_out],
        froc={
            name: FROC(recall[:, label].tolist(), floors[:, label].tolist())
            for label, name in enumerate(names, start=1)
            if evaluation.val_boxes[label]
        },
    )


def _histograms(matches: Matches, names: tuple[str, ...]) -> dict[str, Histogram]:
    t = matches.at(RECALL_IOU_THRESHOLD)
    predictions, num_classes = matches.predictions, len(matches.num_positive)
    # Scores beyond 0 to 1 go to the outer bins.
    bins = np.clip(predictions.scores * NUM_BINS, 0, NUM_BINS - 1).astype(np.int64)
    places = predictions.labels * NUM_BINS + bins
    right, wrong = (
        np.bincount(places[chosen[:, t]], minlength=num_classes * NUM_BINS).reshape(-1, NUM_BINS)
        for chosen in (matches.is_true_positive, matches.is_false_positive)
    )
    return {
        name: Histogram(right[label].tolist(), wrong[label].tolist())
        for label, name in enumerate(names, start=1)
        if matches.num_positive[label] or right[label].any() or wrong[label].any()
    }
