"""The per-class report: figures beside training counts, and its file format.

`report.json`, schema "detbalance.report/1". A later version 1 file may have more keys, never fewer.
Undefined numbers are null.

    schema    "detbalance.report/1"
    classes   list, rarest first: by train_boxes, then train_images, where the training file is
              known, otherwise by val_boxes. Each entry:
        name, category_id            as in the annotation file
        group                        "rare", "common", "frequent"; null without frequencies
        train_images, train_boxes    images with the class, and boxes of it, in the training file
                                     (crowd regions excluded); null without a training file
        val_boxes                    boxes to find in the evaluated file (crowd regions excluded)
        AP, AP50, AR                 over IoU .50:.95, at .50, recall over .50:.95; all scores
        recall, precision            at IoU .50, of detections at or above score_floor
        true_positives, false_positives   the counts behind the two
        positive_share               positive over all gradient at the class's outputs in training;
                                     null unless the report is of a run with a sigmoid loss
    groups    object with "rare", "common", "frequent", "all"; each entry:
        num_categories               classes of the group
        num_evaluated                those of them with boxes to find
        train_boxes, val_boxes       sums; images are not summed, they hold several classes
        AP, AP50, AR, recall, precision   means over the classes where the figure is defined
    summary   the 12 COCO numbers: AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl
    settings  annotations, predictions (files; null: from memory), backend, iou_thresholds,
              recall_iou_threshold, score_floor, max_detections, area_ranges,
              frequency_source (file that the groups come from, or null), group_rule (words or null)
    notes     list of sentences about what a reader could not see from the figures
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from detbalance.annotations.files import open_file, parse_json
from detbalance.evaluation.per_class import EvaluationSettings

SCHEMA = "detbalance.report/1"
GROUP_NAMES = ("rare", "common", "frequent")
FIGURES = ("AP", "AP50", "AR", "recall", "precision")


@dataclass(frozen=True)
class ClassRow:
    """One class of the report; the fields are those of the file format, NaN for undefined."""

    name: str
    category_id: int
    group: str | None
    train_images: int | None
    train_boxes: int | None
    val_boxes: int
    AP: float
    AP50: float
    AR: float
    recall: float
    precision: float
    true_positives: int
    false_positives: int
    positive_share: float = math.nan


@dataclass(frozen=True)
class GroupRow:
    """One group of classes; figures are means over the classes where they are defined."""

    num_categories: int
    num_evaluated: int
    train_boxes: int | None
    val_boxes: int
    AP: float
    AP50: float
    AR: float
    recall: float
    precision: float


@dataclass(frozen=True)
class ReportSettings(EvaluationSettings):
    """The evaluation's settings, and where the groups come from."""

    frequency_source: str | None
    group_rule: str | None


@dataclass(frozen=True)
class Report:
    """The report of one evaluation; see the module's text for every field.

    Attributes:
        classes: one row per class, rarest first.
        groups: rows "rare", "common", "frequent" and "all".
        summary: the twelve COCO numbers.
        settings: thresholds, caps, files and the group rule.
        notes: sentences for the reader, such as classes that the training file lacks.
    """

    classes: tuple[ClassRow, ...]
    groups: dict[str, GroupRow]
    summary: dict[str, float]
    settings: ReportSettings
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give the content of report.json: plain JSON values, None for undefined."""
        content: dict[str, Any] = _swap(dataclasses.asdict(self), _nan_to_none)
        return {"schema": SCHEMA, **content}

    @classmethod
    def from_dict(cls, content: Any, *, where: str = "report") -> Report:
        """Read what `to_dict` gave.

        Args:
            content: the decoded JSON.
            where: what to call it in an error, usually the file's name.

        Returns:
            The report, with NaN for undefined figures.

        Raises:
            ValueError: if the schema is not this one, or a field is missing or of a wrong type.
        """
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            found = f"schema {json.dumps(schema)}" if schema is not None else "no schema"
            raise ValueError(
                f'{where}: {found}. Expected a report with schema "{SCHEMA}". '
                "Write one with tools/report.py of this version."
            )
        try:
            report = msgspec.convert(_restore_nan(content), cls)
        except msgspec.ValidationError as exc:
            raise ValueError(
                f"{where}: not a valid {SCHEMA} report: {exc}. "
                "Expected the fields that detbalance.evaluation.report lists. Write it again."
            ) from exc
        missing = [name for name in (*GROUP_NAMES, "all") if name not in report.groups]
        if missing:
            raise ValueError(
                f'{where}: "groups" lacks {", ".join(missing)}. '
                "Expected rare, common, frequent and all. Write the report again."
            )
        return report


def load_report(path: str | Path) -> Report:
    """Read a report.json, to show it again or to compare it with another.

    Args:
        path: the file.

    Returns:
        The report.

    Raises:
        ValueError: in one line that names the file, if it cannot be read, is not JSON, or is not a
            report of this schema.
    """
    return Report.from_dict(parse_json(open_file(path), path), where=str(path))


def check_comparable(reports: Mapping[str, Report]) -> None:
    """Check that two reports are of the same annotations and the same score floor.

    Args:
        reports: the reports by name.

    Raises:
        ValueError: naming the first thing in which they differ.
    """
    if len(reports) != 2:
        raise ValueError(
            f"comparison: {len(reports)} reports. Expected two. Compare further ones pair by pair."
        )
    (first_name, first), (second_name, second) = reports.items()
    facts: dict[str, list[Any]] = {
        "score_floor": [r.settings.score_floor for r in (first, second)],
        "recall_iou_threshold": [r.settings.recall_iou_threshold for r in (first, second)],
        "classes": [sorted(row.name for row in r.classes) for r in (first, second)],
        "val_boxes": [{row.name: row.val_boxes for row in r.classes} for r in (first, second)],
    }
    for fact, (one, other) in facts.items():
        if one != other:
            values = f" ({one} and {other})" if isinstance(one, float) else ""
            raise ValueError(
                f'comparison: "{first_name}" and "{second_name}" differ in {fact}{values}. '
                "Expected reports of the same annotations and settings. Evaluate both again alike."
            )


def _swap(value: Any, change: Any) -> Any:
    """The same nested value with `change` applied to every leaf, tuples as lists."""
    if isinstance(value, dict):
        return {key: _swap(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_swap(item, change) for item in value]
    return change(value)


def _nan_to_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _restore_nan(content: dict[str, Any]) -> dict[str, Any]:
    """The decoded file with NaN for null, where the field is a figure."""

    def restore(entry: Any, keys: tuple[str, ...]) -> Any:
        if not isinstance(entry, dict):
            return entry
        return {k: math.nan if v is None and k in keys else v for k, v in entry.items()}

    restored = dict(content)
    summary, groups, classes = (content.get(key) for key in ("summary", "groups", "classes"))
    if isinstance(summary, dict):
        restored["summary"] = restore(summary, tuple(summary))
    if isinstance(groups, dict):
        restored["groups"] = {name: restore(entry, FIGURES) for name, entry in groups.items()}
    if isinstance(classes, list):
        restored["classes"] = [restore(entry, (*FIGURES, "positive_share")) for entry in classes]
    return restored
