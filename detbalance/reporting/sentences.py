"""What a report says in words: what its figures are of, what is confused, what val cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detbalance.evaluation import Report

KINDS_IN_WORDS = (
    "classification: on a box of another class; localisation: overlaps its box too little;",
    "both: overlaps a box of another class too little; duplicate: of a box found already;",
    "background: on no box; missed: boxes not found",
)
ROW_MEANS = "group rows: means over the classes where the figure is defined"
_SHOWN_CLASSES = 5
_SHOWN_PAIRS = 5


def facts(report: Report, named: Mapping[str, Report]) -> dict[str, str]:
    """Say what the figures are of.

    Args:
        report: whose settings to show.
        named: reports by the name to show, for their predictions.

    Returns:
        Facts by their name, in order; without those that are unknown.
    """
    settings = report.settings
    ious, cap = settings.iou_thresholds, settings.max_detections[-1]
    capped = "and class at most" if settings.rules == "coco" else "at most"
    every = {
        "annotations": settings.annotations,
        **{name: one.settings.predictions for name, one in named.items()},
        "AP, AR": f"IoU {short(ious[0])} to {short(ious[-1])}, every score, "
        f"{cap} detections per image {capped}",
        "recall, prec.": f"IoU {short(settings.recall_iou_threshold)}, "
        f"detections with {shown_from(report)}",
        "thresholds": settings.thresholds,
        "intervals": _intervals(report),
        "groups": settings.group_rule,
        "frequencies": settings.frequency_source,
        "matching": f"{settings.rules.upper()} rules, {settings.backend}",
    }
    return {name: value for name, value in every.items() if value}


def confusions(report: Report) -> str | None:
    """Name the pairs of classes that are taken for each other most often; None if there are none.

    Args:
        report: with details.
    """
    cells = [] if report.details is None else report.details.confusion
    pairs = [cell for cell in cells if None not in (cell.true, cell.found) and cell.count > 1]
    if not pairs:
        return None
    listed = ", ".join(
        f"{cell.true} as {cell.found} {cell.count}x" for cell in pairs[:_SHOWN_PAIRS]
    )
    return f"Most confused at {shown_from(report)} (true as found): {listed}."


def boxes_needed(report: Report) -> str | None:
    """Say how many more val boxes of the rarest classes would tell their recall to +-.05.

    Args:
        report: rarest class first; the first ones are named.

    Returns:
        A sentence; None where none is needed or nothing is known of it.
    """
    short_of = [row for row in report.classes if row.more_boxes and row.val_boxes]
    if not short_of:
        return None
    listed = ", ".join(f"{row.more_boxes} of {row.name}" for row in short_of[:_SHOWN_CLASSES])
    rest = len(short_of) - _SHOWN_CLASSES
    others = f"; {rest} more classes lack some, too" if rest > 0 else ""
    return f"To know recall to +-.05, val lacks {listed}{others}."


def shown_from(report: Report) -> str:
    """Say from which score on detections count for recall and precision."""
    if report.settings.thresholds is not None:
        return "score >= the threshold of the class"
    return f"score >= {report.settings.score_floor:g}"


def short(value: float) -> str:
    """Two decimals without the leading zero."""
    return f"{value:.2f}".removeprefix("0")


def _intervals(report: Report) -> str | None:
    settings = report.settings
    if not any(row.intervals for row in report.classes):
        return None
    origin = "of recall and prec., from the number of boxes"
    if settings.replicates:
        origin = f"from {settings.replicates:,} draws of the images"
    return f"{settings.confidence:.0%}, {origin}"
