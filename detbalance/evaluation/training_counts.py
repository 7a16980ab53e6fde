"""What training data says of the classes that are evaluated: counts and groups, never from val."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from detbalance.data.frequency import frequency_groups
from detbalance.data.messages import counted
from detbalance.evaluation.rules import RulesName

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
class TrainingSide:
    """What training data says of the evaluated classes."""

    counts: list[_Counts]
    source: str | None = None
    rule: str | None = None
    notes: tuple[str, ...] = ()


def training_side(
    annotations: Annotations,
    rules: RulesName,
    frequency: Frequency | None,
    groups: Groups | None,
) -> TrainingSide:
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
        return TrainingSide(counts, str(frequency.source), groups.rule, tuple(notes))
    if marks is not None:
        source = f"{annotations.source} (its LVIS frequency marks)"
        counts = [(_LVIS_GROUPS.get(mark), None, None) for mark in marks]
        return TrainingSide(counts, source, _LVIS_RULE, tuple(notes))
    counts = [(None, None, None)] * categories.num_categories
    return TrainingSide(counts, notes=(*notes, _NO_TRAIN_NOTE))


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
