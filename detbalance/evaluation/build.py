"""Make a report: set figures beside training counts, and average them over groups of classes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from detbalance.evaluation.per_class import Evaluation, EvaluationSettings
from detbalance.evaluation.report import Report, ReportSettings
from detbalance.evaluation.rows import FIGURES, GROUP_NAMES, ClassRow, GroupRow
from detbalance.frequency import frequency_groups

if TYPE_CHECKING:
    from detbalance.annotations import Annotations
    from detbalance.frequency import Frequency, Groups

_LVIS_GROUPS = {"r": "rare", "c": "common", "f": "frequent"}
_LVIS_RULE = "rare, common, frequent as marked in the annotation file (LVIS train images)"
_LVIS_NOTE = "COCO's rules were applied to LVIS annotations: the figures are not LVIS AP."
_NO_TRAIN_NOTE = "No training file was given (--train): there are no train counts and no groups."
# Group, train images, train boxes of one class; None where no training data is known.
_Counts: TypeAlias = "tuple[str | None, int | None, int | None]"


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
            f"build_report(): the evaluation has {len(evaluation.AP) - 1} classes, "
            f"{annotations.source} has {categories.num_categories}. "
            "Expected the annotations that were evaluated. Pass those."
        )
    if groups is not None and train_frequency is None:
        raise ValueError(
            "build_report(): groups without train_frequency. "
            "Groups are those of the training file's classes. Pass its frequency too."
        )
    if positive_share is None:
        positive_share = np.full(categories.num_classes, math.nan)
    if len(positive_share) != categories.num_classes:
        raise ValueError(
            f"build_report(): positive_share has {len(positive_share)} entries, "
            f"{annotations.source} has {categories.num_categories} classes. "
            "Expected one per class with background in front. Order them as the annotations do."
        )
    training = _training_side(annotations, train_frequency, groups)
    rows = [
        ClassRow(
            name=categories.name(label),
            category_id=categories.ids[label - 1],
            group=group,
            train_images=images,
            train_boxes=boxes,
            val_boxes=int(evaluation.val_boxes[label]),
            AP=float(evaluation.AP[label]),
            AP50=float(evaluation.AP50[label]),
            AR=float(evaluation.AR[label]),
            recall=float(evaluation.recall[label]),
            precision=float(evaluation.precision[label]),
            true_positives=int(evaluation.true_positives[label]),
            false_positives=int(evaluation.false_positives[label]),
            positive_share=float(positive_share[label]),
        )
        for label, (group, images, boxes) in enumerate(training.counts, start=1)
    ]
    rows.sort(key=lambda row: (row.train_boxes or 0, row.train_images or 0, row.val_boxes))
    by_group = {name: _group_row([r for r in rows if r.group == name]) for name in GROUP_NAMES}
    return Report(
        classes=tuple(rows),
        groups={**by_group, "all": _group_row(rows)},
        summary=dict(evaluation.summary),
        settings=ReportSettings(
            **{
                field.name: getattr(evaluation.settings, field.name)
                for field in dataclasses.fields(EvaluationSettings)
            },
            frequency_source=training.source,
            group_rule=training.rule,
        ),
        notes=training.notes,
    )


@dataclass(frozen=True)
class _TrainingSide:
    """What training data says of the evaluated classes.

    Attributes:
        counts: group, train images and train boxes of each label from 1.
        source: the file that this comes from.
        rule: the rule of the groups, in words.
        notes: what the reader should know about it.
    """

    counts: list[_Counts]
    source: str | None = None
    rule: str | None = None
    notes: tuple[str, ...] = ()


def _training_side(
    annotations: Annotations, frequency: Frequency | None, groups: Groups | None
) -> _TrainingSide:
    """Take counts and groups from the training file, else from LVIS marks, else from nowhere."""
    categories = annotations.categories
    marks = categories.frequency
    notes = [] if marks is None else [_LVIS_NOTE]
    if frequency is not None:
        groups = frequency_groups(frequency) if groups is None else groups
        known = _counts_by_name(frequency, groups)
        missing = [name for name in categories.names if name not in known]
        if missing:
            notes.append(
                f"{len(missing)} of the classes are not in {frequency.source} "
                f'(first: "{missing[0]}"): shown as rare, with 0 train boxes.'
            )
        absent: _Counts = ("rare", 0, 0)
        counts = [known.get(name, absent) for name in categories.names]
        return _TrainingSide(counts, str(frequency.source), groups.rule, tuple(notes))
    if marks is not None:
        source = f"{annotations.source} (its LVIS frequency marks)"
        counts = [(_LVIS_GROUPS.get(mark), None, None) for mark in marks]
        return _TrainingSide(counts, source, _LVIS_RULE, tuple(notes))
    return _TrainingSide([(None, None, None)] * categories.num_categories, notes=(_NO_TRAIN_NOTE,))


def _counts_by_name(frequency: Frequency, groups: Groups) -> dict[str, _Counts]:
    categories = frequency.categories
    if len(groups.of_class) != categories.num_classes:
        raise ValueError(
            f"build_report(): groups are of {len(groups.of_class) - 1} classes, "
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


def _group_row(rows: list[ClassRow]) -> GroupRow:
    boxes = [row.train_boxes for row in rows if row.train_boxes is not None]
    means: dict[str, Any] = {}
    for figure in FIGURES:
        values = [getattr(row, figure) for row in rows]
        defined = [value for value in values if not math.isnan(value)]
        means[figure] = float(np.mean(defined)) if defined else math.nan
    return GroupRow(
        num_categories=len(rows),
        num_evaluated=sum(row.val_boxes > 0 for row in rows),
        train_boxes=sum(boxes) if boxes else None,
        val_boxes=sum(row.val_boxes for row in rows),
        **means,
    )
