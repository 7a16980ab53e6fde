"""The top of the HTML page: what was evaluated, the verdict, and the figures of the groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from detbalance.evaluation import Comparison, Difference, GroupRow, Report, SliceRow
from detbalance.evaluation.comparison import digits_for
from detbalance.evaluation.figures import FIGURES
from detbalance.evaluation.report import GROUP_NAMES
from detbalance.evaluation.slices import SLICE_FIGURES
from detbalance.reporting.report_document import verdict
from detbalance.reporting.sentences import (
    SHOWN_FIGURES,
    comparison_facts,
    least_found,
    listed_files,
    report_facts,
)

HEADLINES = tuple(name for name in SHOWN_FIGURES if FIGURES[name].group)


@dataclass(frozen=True)
class Span:
    """A number with its interval, as text and as places on a line from 0 to 1."""

    text: str
    interval: str = ""
    point: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class GroupLine:
    """One group in the summary table."""

    name: str
    classes: str
    train_boxes: str
    val_boxes: str
    figures: tuple[tuple[Span, ...], ...]


@dataclass(frozen=True)
class SliceLine:
    """One slice of the images in the table of its key."""

    name: str
    numbers: tuple[str, ...]
    figures: tuple[Span, ...]


@dataclass(frozen=True)
class Summary:
    """What the template shows above the charts."""

    title: str
    baseline: str
    facts: tuple[tuple[str, str], ...]
    verdict: str
    least_found: str
    headlines: tuple[str, ...]
    lines: tuple[GroupLine, ...]
    compared: bool
    confidence: str
    group_legend: str
    class_legend: str
    notes: tuple[str, ...]
    slices: tuple[tuple[str, tuple[SliceLine, ...]], ...]


def page_summary(
    report: Report, baseline: Report | None = None, comparison: Comparison | None = None
) -> Summary:
    """Put the summary together."""
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
    return Summary(
        title=_title(_files(report, comparison, "ours")),
        baseline=_title(_files(baseline, comparison, "baseline")) if compared else "",
        facts=_facts(report, baseline, comparison),
        verdict=(verdict(report) or "") if comparison is None else comparison.verdict,
        least_found=(least_found(report) or "") if comparison is None else "",
        headlines=headlines,
        lines=lines,
        compared=compared,
        confidence=f"{report.settings.confidence:.0%}" if _has_intervals(report) else "",
        group_legend=_group_legend(compared, comparison),
        class_legend=_class_legend(report, compared, comparison),
        notes=_notes(report, baseline, comparison),
        slices=_slices(report),
    )


def _slices(report: Report) -> tuple[tuple[str, tuple[SliceLine, ...]], ...]:
    """By key the slices of the images."""
    by_key: dict[str, list[SliceLine]] = {}
    for row in report.slices:
        numbers = (f"{n:,}" for n in (row.val_images, row.num_evaluated, row.val_boxes))
        spans = tuple(_span(row, name) for name in SLICE_FIGURES)
        name = "(without)" if row.value is None else row.value
        by_key.setdefault(row.key, []).append(SliceLine(name, tuple(numbers), spans))
    return tuple((key, tuple(rows)) for key, rows in by_key.items())


def _files(
    report: Report | None, comparison: Comparison | None, side: str
) -> tuple[str | None, ...]:
    """The result files of one side."""
    if comparison is not None:
        files: tuple[str | None, ...] = getattr(comparison.settings, side)
        return files
    return () if report is None else (report.settings.predictions,)


def _title(files: tuple[str | None, ...]) -> str:
    """Name a side by its file with the folder, as many files are called predictions.json."""
    first = files[0]
    title = "detections from memory" if first is None else "/".join(Path(first).parts[-2:])
    return title if len(files) == 1 else f"{title} and {len(files) - 1} more"


def _facts(
    report: Report, baseline: Report | None, comparison: Comparison | None
) -> tuple[tuple[str, str], ...]:
    """Say what the figures are of, those of a report and of a comparison in one list."""
    facts = report_facts(report)
    if comparison is not None:
        del facts["predictions"]
        facts = {**comparison_facts(comparison), **facts}
    elif baseline is not None:
        facts["baseline"] = listed_files((baseline.settings.predictions,))
    return tuple(facts.items())


def _notes(
    report: Report, baseline: Report | None, comparison: Comparison | None
) -> tuple[str, ...]:
    """Collect what both reports and the comparison have to say, and which runs the page is of."""
    notes = list(report.notes)
    for other in (baseline, comparison):
        notes += () if other is None else other.notes
    if comparison is not None:
        numbers = [len(comparison.settings.ours), len(comparison.settings.baseline)]
        if max(numbers) > 1:
            notes.append(
                f"Differences, and the figures beside them, are of {numbers[0]} "
                f"{'run' if numbers[0] == 1 else 'runs'} against {numbers[1]} of the baseline: "
                "means over the runs. All else is of the first run of each side."
            )
    return tuple(dict.fromkeys(notes))


def _group_legend(compared: bool, comparison: Comparison | None) -> str:
    text = (
        "Means over the classes of the group where the figure is defined; every class counts the "
        "same, however many boxes it has."
    )
    if comparison is not None:
        return (
            f"{text} Below them this run less the baseline, with its "
            f"{comparison.settings.confidence:.0%} interval; bold if it is real after allowing for "
            "the number of groups."
        )
    if compared:
        return (
            f"{text} Below them this run less the baseline, which may be chance: not tested here."
        )
    return text


def _has_intervals(report: Report) -> bool:
    return any(row.intervals for row in report.classes)


def _class_legend(report: Report, compared: bool, comparison: Comparison | None) -> str:
    if comparison is not None:
        return (
            "Difference: this run less the baseline, as a dot on a line with 0 in its middle; the "
            f"thick part is the {comparison.settings.confidence:.0%} interval. Bold: real after "
            "allowing for the number of classes. Others may be chance, even if their interval "
            "leaves out 0."
        )
    if compared:
        return (
            "Difference: this run less the baseline, as a dot on a line with 0 in its middle. It "
            "may be chance: not tested here."
        )
    spread = ""
    if _has_intervals(report):
        spread = f"; the thick part is the {report.settings.confidence:.0%} interval"
    return f"Lines run from 0 to 1{spread}. A dash: undefined, and counted in no mean."


def _headlines(
    report: Report, baseline: Report | None, comparison: Comparison | None
) -> tuple[str, ...]:
    """All headline figures of one run; of two sides those that both know."""
    if comparison is None or baseline is not None:
        return HEADLINES
    known = comparison.groups["all"].figures
    return tuple(figure for figure in HEADLINES if figure in known)


def _spans(
    figure: str,
    name: str,
    report: Report,
    baseline: Report | None,
    comparison: Comparison | None,
) -> tuple[Span, ...]:
    """This run's figure of a group; with another side: baseline, this run, difference."""
    ours = _span(report.groups[name], figure)
    known = None if comparison is None else comparison.groups[name].figures.get(figure)
    if comparison is not None and known is not None:
        return (
            Span(decimals(known.baseline)),
            Span(decimals(known.ours)),
            _tested(known, comparison.settings.confidence),
        )
    if baseline is not None:
        theirs = _span(baseline.groups[name], figure)
        change = getattr(report.groups[name], figure) - getattr(baseline.groups[name], figure)
        return (theirs, ours, Span(signed(change)))
    return (ours,)


def _span(row: GroupRow | SliceRow, figure: str) -> Span:
    value = getattr(row, figure)
    low, high = row.intervals.get(figure, (math.nan, math.nan))
    interval = "" if math.isnan(low) else f"[{decimals(low)}, {decimals(high)}]"
    text = decimals(value, FIGURES[figure].digits)
    return Span(text, interval, _percent(value), _percent(low), _percent(high))


def _tested(known: Difference, confidence: float) -> Span:
    """A difference with its interval, and whether it is real after allowing for all others."""
    interval = ""
    if math.isfinite(known.low):
        digits = digits_for(known.low, known.high, least=3)
        interval = f"[{signed(known.low, digits)}, {signed(known.high, digits)}]"
    real = known.p_adjusted < 1 - confidence
    verdict = ("up" if known.difference > 0 else "down") if real else ""
    return Span(signed(known.difference), interval, verdict=verdict)


def decimals(value: float, digits: int = 3) -> str:
    """Three decimals, or so many, without the leading zero, "-" for undefined."""
    if not math.isfinite(value):
        return "-"
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("0.") else text


def signed(value: float, digits: int = 3) -> str:
    """Give a difference with its sign, "-" for undefined."""
    if not math.isfinite(value):
        return "-"
    shown = round(value, digits)
    sign = "\N{MINUS SIGN}" if shown < 0 else "+" if shown > 0 else ""
    return sign + decimals(abs(value), digits)


def _percent(value: float) -> float | None:
    return round(100 * value, 1) if math.isfinite(value) else None


def _of(part: int, whole: int) -> str:
    return f"{whole:,}" if part == whole else f"{part:,} of {whole:,}"
