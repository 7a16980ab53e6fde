"""What a report says in words: what its figures are of, what is confused, what val cannot tell."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from detbalance.data.messages import counted
from detbalance.evaluation.bootstrap import RELIABLE_BOXES
from detbalance.evaluation.figures import FIGURES, WITH_INTERVALS

if TYPE_CHECKING:
    from detbalance.evaluation import (
        ClassDifferences,
        ClassRow,
        Comparison,
        ComparisonSettings,
        Report,
        ReportSettings,
    )

# What console, Markdown and the top of the page have room for; the other formats have all figures.
SHOWN_FIGURES = tuple(name for name, figure in FIGURES.items() if figure.shown)
KINDS_IN_WORDS = (
    "classification: on a box of another class; background: on no box;",
    "localisation: overlaps its box too little; duplicate: of a box found already;",
    "both: overlaps a box of another class too little; missed: boxes not found",
)
ROW_MEANS = "group rows: means over the classes where the figure is defined"
SLICE_MEANS = (
    "slices: means over the classes with boxes in the slice; other slices may hold other classes"
)
# Recall below which a class is named among those that are missed.
_MISSED = 0.5
_SHOWN_MISSED = 3
_WHERE = {
    "classification": "on boxes of another class",
    "localisation": "that overlap their box too little",
    "both": "beside boxes of another class",
    "duplicate": "of boxes found already",
    "background": "on background",
}
_SHOWN_CLASSES = 5
_SHOWN_PAIRS = 5
# With more, files to look at leave out those of which there is nothing.
_MANY_CLASSES = 2000


def without_empty_classes(report: Report, baseline: Report | None = None) -> Report:
    """Leave out classes of which there is nothing to show, where there are very many classes."""
    if len(report.classes) <= _MANY_CLASSES:
        return report
    sides = (report,) if baseline is None else (report, baseline)
    known = {row.name for side in sides for row in side.classes if _is_something(row)}
    rows = tuple(row for row in report.classes if row.name in known)
    note = (
        f"{len(report.classes) - len(rows):,} classes without boxes and detections are not shown"
        " here; report.csv has all."
    )
    return dataclasses.replace(report, classes=rows, notes=(*report.notes, note))


def _is_something(row: ClassRow) -> bool:
    return bool(row.train_boxes or row.val_boxes or any(e.count for e in row.errors.values()))


class _Group(Protocol):
    @property
    def num_categories(self) -> int: ...


_AnyGroup = TypeVar("_AnyGroup", bound=_Group)


def shown_groups(groups: Mapping[str, _AnyGroup], rule: str | None) -> list[tuple[str, _AnyGroup]]:
    """Choose the group rows to show: those with classes; without frequencies only all."""
    return [
        (name, group)
        for name, group in groups.items()
        if name == "all" or (rule is not None and group.num_categories)
    ]


def figure_title(name: str, settings: ReportSettings) -> str:
    """The title of a figure, with the settings that it names."""
    return FIGURES[name].title.format(**_settings_in_words(settings))


def figure_help(name: str, settings: ReportSettings) -> str:
    """What a figure says, with the settings that it names."""
    return FIGURES[name].help.format(**_settings_in_words(settings))


def _settings_in_words(settings: ReportSettings) -> dict[str, Any]:
    floor = settings.score_threshold
    return {
        "beta": settings.beta,
        "min_precision": settings.min_precision,
        "max_fppi": settings.max_fppi,
        "shown_from": "scores from the threshold of the class"
        if math.isnan(floor)
        else f"scores from {floor:g}",
    }


def report_facts(report: Report) -> dict[str, str]:
    """Say what the figures of a report are of."""
    settings, every_class = report.settings, report.groups["all"]
    boxes = counted(every_class.val_boxes, "box")
    classes = counted(every_class.num_categories, "class")
    every = {
        "annotations": f"{settings.annotations} ({boxes} to find, {every_class.num_evaluated:,} of"
        f" {classes})",
        "predictions": settings.predictions or "from memory",
        **_of_figures(settings),
        "intervals": _intervals(report),
        "groups": settings.group_rule,
        "frequencies": settings.frequency_source or "none: no training file was given",
        "matching": f"{settings.rules.upper()} rules, {settings.backend}",
    }
    return {name: value for name, value in every.items() if value}


def comparison_facts(comparison: Comparison) -> dict[str, str]:
    """Say what the figures of a comparison are of."""
    settings = comparison.settings
    every = {
        "annotations": settings.annotations,
        "baseline": listed_files(settings.baseline),
        "ours": listed_files(settings.ours),
        **_of_figures(settings),
        "intervals": f"{settings.confidence:.0%}, from {settings.num_bootstrap:,} draws of the"
        " images",
        "groups": settings.group_rule,
        "frequencies": settings.frequency_source,
    }
    return {name: value for name, value in every.items() if value}


def _of_figures(settings: ReportSettings | ComparisonSettings) -> dict[str, str | None]:
    """What AP, AR, recall and precision count."""
    ious, cap = settings.iou_thresholds, settings.max_detections[-1]
    capped = "and class at most" if settings.rules == "coco" else "at most"
    return {
        "AP, AR": f"IoU {short(ious[0])} to {short(ious[-1])}, every score, "
        f"{cap} detections per image {capped}",
        "recall, prec.": f"IoU {short(settings.recall_iou_threshold)}, "
        f"detections with {shown_from(settings)}",
        "thresholds": settings.thresholds,
    }


def listed_files(names: tuple[str | None, ...]) -> str:
    """Name the results files of a side."""
    listed = ", ".join(name or "from memory" for name in names)
    return listed if len(names) == 1 else f"{len(names)} runs: {listed}"


def real_differences(comparison: Comparison) -> list[str]:
    """Say which differences stand after allowing for how many were looked at."""
    level = 1 - comparison.settings.confidence
    mark = (
        f"real at {comparison.settings.confidence:.0%} after allowing for the number of classes"
        " (Benjamini and Hochberg) or groups (Holm)"
    )
    sentences, without = [], []
    for figure in WITH_INTERVALS:
        real = [row for row in comparison.classes if row.figures[figure].p_adjusted < level]
        parts = []
        for word, sign in (("better", 1), ("worse", -1)):
            rows = [row for row in real if sign * row.figures[figure].difference > 0]
            rows.sort(key=lambda row: -abs(row.figures[figure].difference))
            if rows:
                number = counted(len(rows), "class")
                parts.append(f"{word} in {number} ({_some(rows)})")
        if parts:
            sentences.append(f"{figure} is {', '.join(parts)}.")
        else:
            without.append(figure)
    if without:
        sentences.append(f"No class differs in {', '.join(without)}.")
    return [mark, *sentences]


def _some(rows: Sequence[ClassDifferences]) -> str:
    listed = ", ".join(row.name for row in rows[:_SHOWN_CLASSES])
    return listed + (", ..." if len(rows) > _SHOWN_CLASSES else "")


def confusions(report: Report) -> str | None:
    """Name the pairs of classes that are taken for each other most often, if any."""
    cells = [] if report.details is None else report.details.confusion
    pairs = [cell for cell in cells if None not in (cell.true, cell.found) and cell.count > 1]
    if not pairs:
        return None
    listed = ", ".join(
        f"{cell.true} as {cell.found} {cell.count}x" for cell in pairs[:_SHOWN_PAIRS]
    )
    return f"Most confused at {shown_from(report.settings)} (true as found): {listed}."


def boxes_needed(report: Report) -> str | None:
    """Say how many more val boxes of the rarest classes would tell their recall to +-.05."""
    short_of = [row for row in report.classes if row.more_boxes > 0 and row.val_boxes]
    if not short_of:
        return None
    listed = ", ".join(f"{row.more_boxes:.0f} of {row.name}" for row in short_of[:_SHOWN_CLASSES])
    rest = len(short_of) - _SHOWN_CLASSES
    lack = counted(rest, "more class lacks", "more classes lack")
    others = f"; {lack} some, too" if rest > 0 else ""
    return f"To know recall to +-.05, val lacks {listed}{others}."


def least_found(report: Report) -> str | None:
    """Name the classes that are missed most, and say of each what became of its boxes."""
    judged = [row for row in report.classes if row.val_boxes >= RELIABLE_BOXES]
    few = [row.name for row in report.classes if 0 < row.val_boxes < RELIABLE_BOXES]
    missed = sorted((row for row in judged if row.recall < _MISSED), key=lambda row: row.recall)
    parts = []
    if missed:
        listed = "; ".join(
            f"{row.name} ({short(row.recall)}: {_why_missed(row, report)})"
            for row in missed[:_SHOWN_MISSED]
        )
        parts.append(f"Recall is lowest for {listed}{_and_more(len(missed) - _SHOWN_MISSED)}.")
    alarms = [row for row in judged if row.false_positives > row.true_positives]
    if alarms:
        listed = "; ".join(
            f"{row.name} ({_false_alarms(row)})"
            for row in sorted(alarms, key=lambda row: -row.false_positives)[:_SHOWN_MISSED]
        )
        more = _and_more(len(alarms) - _SHOWN_MISSED)
        parts.append(f"More wrong than right detections: {listed}{more}.")
    if few:
        listed = ", ".join(few[:_SHOWN_CLASSES]) + _and_more(len(few) - _SHOWN_CLASSES)
        parts.append(f"Too few boxes to tell (under {RELIABLE_BOXES}): {listed}.")
    return " ".join(parts) or None


def _why_missed(row: ClassRow, report: Report) -> str:
    """What became of most of the boxes of a class that its shown detections do not find."""
    missed = row.errors.get("missed")
    if missed is None:
        return f"{row.val_boxes - row.true_positives} of {row.val_boxes} boxes not found"
    cells = [] if report.details is None else report.details.confusion
    taken = {
        cell.found: cell.count for cell in cells if cell.true == row.name and cell.found is not None
    }
    confused = min(sum(taken.values()), missed.shown - missed.count)
    weak = missed.shown - missed.count - confused
    most = max(confused, missed.count, weak)
    if most == missed.count:
        what = "not found at any score"
    elif most == confused:
        what = f"taken for another class, most for {max(taken, key=lambda name: taken[name])}"
    else:
        what = f"found inexactly, or not with {shown_from(report.settings)}"
    return f"{most} of {row.val_boxes} boxes {what}"


def _false_alarms(row: ClassRow) -> str:
    """How many detections of a class are wrong, and of which kind most are."""
    wrong = {kind: one.shown for kind, one in row.errors.items() if kind != "missed"}
    kind = max(wrong, key=lambda one: wrong[one], default="")
    text = f"{row.false_positives} of {row.true_positives + row.false_positives} wrong"
    return f"{text}, {wrong[kind]} {_WHERE[kind]}" if kind else text


def _and_more(number: int) -> str:
    return f" and {number} more" if number > 0 else ""


def shown_from(settings: ReportSettings | ComparisonSettings) -> str:
    """Say from which score on detections count for recall and precision."""
    if settings.thresholds is not None:
        return "score >= the threshold of the class"
    return f"score >= {settings.score_threshold:g}"


def short(value: float) -> str:
    """Two decimals without the leading zero."""
    return f"{value:.2f}".removeprefix("0")


def _intervals(report: Report) -> str | None:
    settings = report.settings
    if not any(row.intervals for row in report.classes):
        return None
    origin = "of recall and prec., by Wilson from the number of boxes"
    if settings.num_bootstrap:
        origin = f"from {settings.num_bootstrap:,} draws of the images"
    return f"{settings.confidence:.0%}, {origin}"
