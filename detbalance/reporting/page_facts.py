"""What the HTML page says it shows: files, rules, intervals, and what a reader should know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from detbalance.data.messages import counted
from detbalance.reporting.sentences import listed_files

if TYPE_CHECKING:
    from detbalance.evaluation import Comparison, Report, ReportSettings

Side = Literal["baseline", "ours"]


def _files(
    report: Report | None, comparison: Comparison | None, side: Side
) -> tuple[str | None, ...]:
    """The result files of one side."""
    if comparison is not None:
        files: tuple[str | None, ...] = getattr(comparison.settings, side)
        return files
    return () if report is None else (report.settings.predictions,)


def page_title(report: Report | None, comparison: Comparison | None, side: Side) -> str:
    """Name a side by its file with the folder, as many files are called predictions.json."""
    files = _files(report, comparison, side)
    first = files[0]
    title = "detections from memory" if first is None else "/".join(Path(first).parts[-2:])
    return title if len(files) == 1 else f"{title} and {len(files) - 1} more"


def page_notes(
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


def page_facts(
    report: Report, baseline: Report | None, comparison: Comparison | None
) -> tuple[tuple[str, str], ...]:
    """Say what the figures are of."""
    settings = report.settings
    row = report.groups["all"]
    size = (
        f"{counted(row.val_boxes, 'box')} to find, {row.num_evaluated:,} of "
        f"{counted(row.num_categories, 'class')}"
    )
    facts = [("Detections", listed_files(_files(report, comparison, "ours")))]
    before = _files(baseline, comparison, "baseline")
    if before:
        facts.append(("Baseline", listed_files(before)))
    facts.append(("Ground truth", f"{settings.annotations} ({size})"))
    facts.append(("Frequencies", settings.frequency_source or "none: no training file was given"))
    if settings.group_rule:
        facts.append(("Groups", settings.group_rule))
    least = f"at least {settings.score_threshold:g}"
    if settings.thresholds is not None:
        least = f"at least the threshold of their class ({settings.thresholds})"
    facts.append(
        (
            "Recall and precision",
            f"detections with a score of {least}, at IoU {settings.recall_iou_threshold:g}. "
            "AP and AR count every score.",
        )
    )
    if any(row.intervals for row in report.classes):
        facts.append(("Intervals", _intervals(settings)))
    if comparison is not None:
        facts.append(("Differences", _differences(comparison)))
    capped = " and class" if settings.rules == "coco" else ""
    most = f"at most {settings.max_detections[-1]} detections per image{capped}"
    facts.append(("Rules", f"{settings.rules.upper()}, {most}"))
    return tuple(facts)


def _intervals(settings: ReportSettings) -> str:
    origin = "of recall and precision of a class, by Wilson from the number of boxes"
    if settings.num_bootstrap:
        origin = f"from {settings.num_bootstrap:,} draws of the images"
    return f"{settings.confidence:.0%}, {origin}"


def _differences(comparison: Comparison) -> str:
    settings = comparison.settings
    return (
        f"{settings.confidence:.0%} intervals from {settings.num_bootstrap:,} draws of the images, "
        "the same for both sides; bold if real after allowing for the number of classes (Benjamini "
        "and Hochberg) or of groups (Holm)"
    )
