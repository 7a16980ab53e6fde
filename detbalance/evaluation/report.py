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
        AP, AP50, AP75, AR           over IoU .50:.95, at .50, at .75, recall over .50:.95; all
                                     scores; the largest number of detections per image
        APs APm APl, ARs ARm ARl     AP and AR of boxes of a size; see settings.area_ranges
        AR1, AR10                    AR with so many detections per image and class
        fixed_AP                     AP with the detections cut per class over the whole file
                                     instead of per image (arXiv:2102.01066)
        score_threshold                  smallest score that recall and precision of the class count
        recall, precision            at IoU .50, of detections at or above score_threshold
        recall75, precision75        the same at IoU .75
        true_positives, false_positives   the counts behind recall and precision
        f_score                      F-beta of recall and precision; settings.beta
        recall_at_precision, score_at_precision   highest recall at IoU .50 with a precision of at
                                     least settings.min_precision, and the score threshold of it
        recall_at_fppi, score_at_fppi   the same with at most settings.max_fppi false positives of
                                     the class per image
        best_f, best_f_score         highest F-beta at IoU .50, and the score threshold of it
        intervals                    object, [low, high] of figures at settings.confidence: recall
                                     and precision by Wilson from the number of boxes; where
                                     settings.num_bootstrap is not 0, AP, AP50, AR, recall and
                                     precision from as many draws of the images
        design_effect                how many times the variance of recall is as large as if each
                                     box were in an image of its own
        more_boxes                   boxes that val lacks to know recall to +-.05
        errors                       object by kind (classification, localisation, both, duplicate,
                                     background, missed): count, shown (from score_threshold on),
                                     cost (AP50 that the class would gain without them)
        positive_share               positive over all gradient at the class's outputs in training;
                                     null unless the report is of a run with a sigmoid loss
    groups    object with "rare", "common", "frequent", "all"; each entry:
        num_categories               classes of the group
        num_evaluated                those of them with boxes to find
        train_boxes, val_boxes       sums; images are not summed, they hold several classes
        AP, ...                      means over the classes where the figure is defined, of all
                                     figures above but the scores; intervals of the means; errors
                                     summed, their cost a mean
    summary   the 12 COCO numbers: AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl; by LVIS's
              rules AR300 in place of AR100
    details   object or null; by class name: curves (precision and scores at IoU .50 over recall
              0, .01, ... 1), histograms (20 bins of scores: right, wrong); confusion (list of
              true, found, count, as the errors of these kinds: "classification"; "background",
              true null; "missed", found null; what is right is in true_positives of the classes)
    settings  annotations, predictions (files; null: from memory), backend, iou_thresholds,
              recall_iou_threshold, score_threshold, max_detections, area_ranges,
              frequency_source (file that the groups come from, or null), group_rule (words or
              null), rules ("coco", "lvis"), confidence, num_bootstrap, seed, beta, min_precision,
              max_fppi, thresholds (file of the classes' own floors, or null; then score_threshold
              is null)
    notes     list of sentences about what a reader could not see from the figures
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from detbalance.data.files import open_file, parse_json
from detbalance.data.json_nan import nan_to_null, null_to_nan
from detbalance.evaluation.details import Details
from detbalance.evaluation.rows import GROUP_NAMES, ClassRow, GroupRow
from detbalance.evaluation.settings import EvaluationSettings

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
    """

    classes: tuple[ClassRow, ...]
    groups: dict[str, GroupRow]
    summary: dict[str, float]
    settings: ReportSettings
    notes: tuple[str, ...] = ()
    details: Details | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the content of report.json: plain JSON values, None for undefined."""
        return {"schema": SCHEMA, **nan_to_null(self)}

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
