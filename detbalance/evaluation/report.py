"""The per-class report: figures beside training counts, and its file format.

`report.json`, schema "detbalance.report/2". A later version 2 file may have more keys, never fewer.
Undefined numbers are null.

    schema    "detbalance.report/2"
    classes   list, rarest first: by train_boxes, then train_images, where the training file is
              known, otherwise by group, then val_boxes. Each entry:
        name, category_id            as in the annotation file
        group                        "rare", "common", "frequent"; null without frequencies
        train_images, train_boxes    images with the class, and boxes of it, in the training file
                                     (crowd regions excluded); null without a training file
        val_boxes                    boxes to find in the evaluated file (crowd regions excluded)
        val_images                   images of the evaluated file with such boxes
        score_threshold              smallest score that recall and precision of the class count
        figures                      object by the names of `detbalance.evaluation.figures.FIGURES`,
                                     which says what each is
        true_positives, false_positives   the counts behind recall and precision
        intervals                    object, [low, high] of figures at settings.confidence: recall
                                     and precision by Wilson from the number of boxes; where
                                     settings.num_bootstrap is not 0, AP, AP50, AR, recall and
                                     precision from as many draws of the images
        errors                       object by kind (classification, localisation, both, duplicate,
                                     background, missed): count, shown (from score_threshold on),
                                     cost (AP50 that the class would gain without them)
    groups    object with "rare", "common", "frequent", "all"; each entry:
        num_categories               classes of the group
        num_evaluated                those of them with boxes to find
        train_boxes, val_boxes       sums; images are not summed, they hold several classes
        figures                      means over the classes where the figure is defined, of those
                                     that groups have; intervals of the means; errors summed, their
                                     cost a mean
    summary   the 12 COCO numbers: AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl; by LVIS's
              rules AR300 in place of AR100
    details   object or null; by class name: curves (precision and scores at IoU .50 over recall
              0, .01, ... 1), froc (highest recall, and the score threshold of it, at .01 .02 .05 .1
              .2 .5 1 2 5 false positives of the class per image), histograms (20 bins of scores:
              right, wrong); confusion (list of true, found, count, as the errors of these kinds:
              "classification"; "background", true null; "missed", found null; what is right is in
              true_positives of the classes)
    slices    list, empty unless asked for; each entry, the images with one value of one key:
        key, value                   of the image entries; value null: the images without the key
        val_images, val_boxes        images of the slice, and boxes to find on them
        num_evaluated                classes with boxes to find
        figures, intervals           AP50 and recall, means over those classes
    settings  annotations, predictions (files; null: from memory), backend, iou_thresholds,
              recall_iou_threshold, score_threshold, max_detections, area_ranges,
              frequency_source (file that the groups come from, or null), group_rule (words or
              null), rules ("coco", "lvis"), confidence, num_bootstrap, seed, beta, min_precision,
              max_fppi, thresholds (file of the classes' own thresholds, or null; then
              score_threshold is null)
    notes     list of sentences about what a reader could not see from the figures
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from detbalance.data.files import open_file, parse_json
from detbalance.data.json_nan import nan_to_null, null_to_nan
from detbalance.evaluation.figures import FIGURES, GROUP_FIGURES, figure_of
from detbalance.evaluation.settings import EvaluationSettings

# Bins of the score histograms, over scores 0 to 1.
NUM_BINS = 20
# Cells off the diagonal of the confusion matrix that a report keeps: all of 30 classes (31 x 30).
MAX_CELLS = 930


@dataclass(frozen=True)
class PRCurve:
    """Precision of one class at IoU .50 over recall 0, .01, ... 1."""

    precision: list[float]
    scores: list[float]


@dataclass(frozen=True)
class Histogram:
    """Scores of one class at IoU .50 in 20 equal bins from 0 to 1."""

    right: list[int]
    wrong: list[int]


# False positives of a class per image at which a report has its recall.
FROC_RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True)
class FROC:
    """Highest recall of one class at each of `FROC_RATES`, and the score threshold of it."""

    recall: list[float]
    scores: list[float]


@dataclass(frozen=True)
class Cell:
    """One cell of the confusion matrix, at IoU .50 and the score threshold."""

    true: str | None
    found: str | None
    count: int


@dataclass(frozen=True)
class Details:
    """What a report's pictures are drawn from; classes by name."""

    curves: dict[str, PRCurve]
    histograms: dict[str, Histogram]
    confusion: list[Cell]
    froc: dict[str, FROC] = field(default_factory=dict)


NAN = math.nan
GROUP_NAMES = ("rare", "common", "frequent")
ERROR_KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")


@dataclass(frozen=True)
class ErrorKind:
    """One kind of error of one class."""

    count: int
    shown: int
    cost: float = NAN


@dataclass(frozen=True, kw_only=True)
class _Row:
    """Figures by name; each is an attribute too: `row.recall` is `row.figures["recall"]`."""

    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    errors: dict[str, ErrorKind] = field(default_factory=dict)

    def __getattr__(self, name: str) -> float:
        """Give a figure by its name."""
        return float(figure_of(self, name))


@dataclass(frozen=True, kw_only=True)
class ClassRow(_Row):
    """One class of the report; the fields are those of the file format."""

    name: str
    category_id: int
    group: str | None
    train_images: int | None
    train_boxes: int | None
    val_boxes: int
    val_images: int = 0
    true_positives: int
    false_positives: int
    score_threshold: float = NAN


@dataclass(frozen=True, kw_only=True)
class GroupRow(_Row):
    """One group of classes; figures are means over the classes where they are defined."""

    num_categories: int
    num_evaluated: int
    train_boxes: int | None
    val_boxes: int


@dataclass(frozen=True, kw_only=True)
class SliceRow(_Row):
    """The images with one value of a key; figures are means over the classes with boxes there."""

    key: str
    value: str | None
    val_images: int
    val_boxes: int
    num_evaluated: int


SCHEMA = "detbalance.report/2"


@dataclass(frozen=True, kw_only=True)
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
        details: curves, histograms and confused classes; None in files of earlier versions.
        slices: AP50 and recall on parts of the images, where they were asked for.
    """

    classes: tuple[ClassRow, ...]
    groups: dict[str, GroupRow]
    summary: dict[str, float]
    settings: ReportSettings
    notes: tuple[str, ...] = ()
    details: Details | None = None
    slices: tuple[SliceRow, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give the content of report.json: plain JSON values, None for undefined."""
        content = {"schema": SCHEMA, **nan_to_null(self)}
        for row in content["classes"]:
            for name, value in row["figures"].items():
                if value is not None and FIGURES[name].digits == 0:
                    row["figures"][name] = int(value)
        return content

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
            report = msgspec.convert(null_to_nan(content, cls), cls)
        except msgspec.ValidationError as exc:
            raise ValueError(
                f"{where}: not a valid {SCHEMA} report: {exc}. "
                "Expected the fields that detbalance.evaluation.report lists. Write it again."
            ) from exc
        for row, known in (
            *((row, FIGURES) for row in report.classes),
            *((row, GROUP_FIGURES) for row in report.groups.values()),
        ):  # a file of before a figure was there does not know it
            row.figures.update({name: NAN for name in known if name not in row.figures})
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
    """Check that two reports are of the same annotations and the same score threshold.

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
        "rules": [r.settings.rules for r in (first, second)],
        "score_threshold": [_floors(r) for r in (first, second)],
        "recall_iou_threshold": [r.settings.recall_iou_threshold for r in (first, second)],
        "classes": [sorted(row.name for row in r.classes) for r in (first, second)],
        "val_boxes": [{row.name: row.val_boxes for row in r.classes} for r in (first, second)],
    }
    for fact, (one, other) in facts.items():
        if one != other:
            short = not any(isinstance(value, (dict, list)) for value in (one, other))
            values = f" ({one} and {other})" if short else ""
            raise ValueError(
                f'comparison: "{first_name}" and "{second_name}" differ in {fact}{values}. '
                "Expected reports of the same annotations and settings. Evaluate both again alike."
            )


def _floors(report: Report) -> float | list[tuple[str, float]]:
    """The score threshold of all classes, or that of each."""
    if report.settings.thresholds is None:
        return report.settings.score_threshold
    return sorted((row.name, row.score_threshold) for row in report.classes)
