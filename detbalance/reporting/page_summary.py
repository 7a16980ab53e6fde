"""The top of the HTML page: what was evaluated, and the figures of the groups in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detbalance.evaluation.rows import GROUP_NAMES

if TYPE_CHECKING:
    from detbalance.comparison import Comparison
    from detbalance.evaluation import GroupRow, Report

HEADLINES = ("AP", "AP50", "AR", "recall", "precision")


@dataclass(frozen=True)
class Span:
    """A number with its interval, as text and as places on a line from 0 to 1.

    Attributes:
        text: the number, "-" if it is undefined.
        interval: "[low, high]", or "".
        point, low, high: places in percent of the line; None where there is none.
        verdict: "up" or "down" for a difference whose interval leaves 0 out, else "".
    """

    text: str
    interval: str = ""
    point: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class GroupLine:
    """One group in the summary table.

    Attributes:
        name: "rare", "common", "frequent" or "all".
        classes: how many, with how many of them have boxes to find.
        train_boxes, val_boxes: sums as text.
        figures: for each headline figure this run; with a baseline: baseline, this run, difference.
    """

    name: str
    classes: str
    train_boxes: str
    val_boxes: str
    figures: tuple[tuple[Span, ...], ...]


@dataclass(frozen=True)
class Summary:
    """What the template shows above the charts.

    Attributes:
        title: of the page.
        facts: pairs of a term and what it is here.
        verdict: the comparison in words, or "".
        headlines: names of the group table's figures.
        lines: the group table.
        compared: whether there are two sides.
        notes: sentences for the reader.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    verdict: str
    headlines: tuple[str, ...]
    lines: tuple[GroupLine, ...]
    compared: bool
    notes: tuple[str, ...]


def page_summary(
    report: Report, baseline: Report | None = None, comparison: Comparison | None = None
) -> Summary:
    """Put the summary together.

    Args:
        report: the report to show.
        baseline: another one of the same annotations, or None.
        comparison: the differences of the two, or None.

    Returns:
        Texts and places for the template.
    """
    compared = baseline is not None or comparison is not None
    names = [name for name in GROUP_NAMES if report.groups[name].num_categories]
    headlines = _headlines(report, baseline, comparison)
    lines = tuple(
        GroupLine(
            name,
            _of(row.num_evaluated, row.num_categories),
            "-" if row.train_boxes is None else f"{row.train_boxes:,}",
            f"{row.val_boxes:,}",
            tuple(_spans(figure, name, report, baseline, comparison) for figure in headlines),
        )
        for name, row in ((name, report.groups[name]) for name in (*names, "all"))
    )
    notes = dict.fromkeys(report.notes)
    for other in (baseline, comparison):
        notes.update(dict.fromkeys(() if other is None else other.notes))
    predictions = report.settings.predictions
    return Summary(
        title=Path(predictions).name if predictions else "detections from memory",
        facts=_facts(report, baseline),
        verdict="" if comparison is None else comparison.verdict,
        headlines=headlines,
        lines=lines,
        compared=compared,
        notes=tuple(notes),
    )


def _headlines(
    report: Report, baseline: Report | None, comparison: Comparison | None
) -> tuple[str, ...]:
    """All headline figures of one run; of two sides those that both know."""
    if comparison is None or baseline is not None:
        return HEADLINES
    known = comparison.groups["all"].figures
    return tuple(figure for figure in HEADLINES if figure in known)


def _facts(report: Report, baseline: Report | None) -> tuple[tuple[str, str], ...]:
    settings = report.settings
    row = report.groups["all"]
    size = (
        f"{row.val_boxes:,} boxes to find, {row.num_evaluated:,} of {row.num_categories:,} classes"
    )
    facts = [("Detections", settings.predictions or "from memory")]
    if baseline is not None:
        facts.append(("Baseline", baseline.settings.predictions or "from memory"))
    facts.append(("Ground truth", f"{settings.annotations} ({size})"))
    facts.append(("Frequencies", settings.frequency_source or "none: no training file was given"))
    if settings.group_rule:
        facts.append(("Groups", settings.group_rule))
    facts.append(
        (
            "Recall and precision",
            f"detections with a score of at least {settings.score_floor:g}, at IoU "
            f"{settings.recall_iou_threshold:g}. AP and AR count every score.",
        )
    )
    intervals = f"{settings.confidence:.0%}; recall and precision of a class by Wilson"
    if settings.replicates:
        intervals += f", all others by {settings.replicates:,} draws of the images"
    facts.append(("Intervals", intervals))
    facts.append(
        (
            "Rules",
            f"{settings.rules.upper()}, at most {settings.max_detections[-1]} detections per image"
            + (" and class" if settings.rules == "coco" else ""),
        )
    )
    return tuple(facts)


def _spans(
    figure: str,
    name: str,
    report: Report,
    baseline: Report | None,
    comparison: Comparison | None,
) -> tuple[Span, ...]:
    """This run's figure of a group; with another side: baseline, this run, difference."""
    ours = _span(report.groups[name], figure)
    row = None if comparison is None else comparison.groups.get(name)
    known = None if row is None else row.figures.get(figure)
    if known is not None:
        return (
            Span(decimals(known.baseline), point=_percent(known.baseline)),
            Span(decimals(known.ours), point=_percent(known.ours)),
            difference(known.difference, known.low, known.high),
        )
    if baseline is not None:
        theirs = _span(baseline.groups[name], figure)
        change = getattr(report.groups[name], figure) - getattr(baseline.groups[name], figure)
        return (theirs, ours, difference(change))
    return (ours,)


def _span(row: GroupRow, figure: str) -> Span:
    value = getattr(row, figure)
    low, high = row.intervals.get(figure, (math.nan, math.nan))
    interval = "" if math.isnan(low) else f"[{decimals(low)}, {decimals(high)}]"
    return Span(decimals(value), interval, _percent(value), _percent(low), _percent(high))


def difference(value: float, low: float = math.nan, high: float = math.nan) -> Span:
    """Give a difference with its sign; -1 to 1 is the whole line.

    Args:
        value: the difference, NaN for undefined.
        low: lower end of its interval, NaN for none.
        high: upper end.
    """
    known = not (math.isnan(low) or math.isnan(high))
    interval = f"[{_signed(low)}, {_signed(high)}]" if known else ""
    verdict = "up" if known and low > 0 else "down" if known and high < 0 else ""
    return Span(_signed(value), interval, verdict=verdict)


def decimals(value: float) -> str:
    """Three decimals without the leading zero, "-" for undefined.

    Example:
        >>> decimals(0.1716), decimals(1.0), decimals(math.nan)
        ('.172', '1.000', '-')
    """
    if not math.isfinite(value):
        return "-"
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0.") else text


def _signed(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    sign = "\N{MINUS SIGN}" if round(value, 3) < 0 else "+" if round(value, 3) > 0 else ""
    return sign + decimals(abs(value))


def _percent(value: float) -> float | None:
    return round(100 * value, 1) if math.isfinite(value) else None


def _of(part: int, whole: int) -> str:
    return f"{whole:,}" if part == whole else f"{part:,} of {whole:,}"
