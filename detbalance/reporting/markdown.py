"""A report as Markdown with GitHub's tables, to paste into a pull request or an issue."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from detbalance.data.messages import printable
from detbalance.evaluation.rows import ERROR_KINDS
from detbalance.reporting.sentences import (
    KINDS_IN_WORDS,
    ROW_MEANS,
    boxes_needed,
    confusions,
    report_facts,
    shown_from,
    shown_groups,
    without_empty_classes,
)

if TYPE_CHECKING:
    from detbalance.evaluation import ClassRow, GroupRow, Report
    from detbalance.reporting.suspects_section import SuspectSection

_TITLES = {"AP": "AP", "AP50": "AP50", "AR": "AR", "recall": "recall", "precision": "precision"}
# With more classes the table is folded: a pull request is read for its groups.
FOLDED_FROM = 30
# Boxes of a class that are named; the HTML page shows more.
_NAMED_SUSPECTS = 3


def markdown_report(report: Report, suspects: SuspectSection | None = None) -> str:
    """Write a report as Markdown: groups, classes, errors, and what the figures are of.

    Names are shown as they are: what Markdown or HTML would read in them is escaped.

    Args:
        report: what `detbalance.evaluation.build_report` or `load_report` gave.
        suspects: labels that look wrong, or None.

    Returns:
        The text of report.md.
    """
    lines = [
        *_lines(without_empty_classes(report)),
        *([] if suspects is None else _suspects(suspects)),
    ]
    return "\n".join(lines) + "\n"


def _lines(report: Report) -> Iterator[str]:
    groups = shown_groups(report.groups, report.settings.group_rule)
    yield "# Detection report"
    yield ""
    for note in report.notes:
        yield f"> Note: {escaped(note)}"
        yield ""
    yield from markdown_table(
        ("group", "classes", "train boxes", "val boxes", *_TITLES.values()),
        [
            [name, str(group.num_categories), *_boxes(group), *_figures(group)]
            for name, group in groups
        ],
        num_text=1,
    )
    yield ""
    yield f"{ROW_MEANS}."
    yield ""
    classes = markdown_table(
        ("class", "group", "train boxes", "val boxes", *_TITLES.values()),
        [
            [escaped(row.name), row.group or "-", *_boxes(row), *_figures(row)]
            for row in report.classes
        ],
        num_text=2,
    )
    if len(report.classes) < FOLDED_FROM:
        yield from classes
    else:
        yield f"<details><summary>All {len(report.classes)} classes, rarest first</summary>"
        yield ""
        yield from classes
        yield ""
        yield "</details>"
    yield ""
    yield from _errors(report, groups)
    for sentence in (confusions(report), boxes_needed(report)):
        if sentence:
            yield escaped(sentence)
            yield ""
    yield f"{report.settings.rules.upper()} summary:"
    yield ""
    yield from markdown_table(
        list(report.summary), [[_decimals(value) for value in report.summary.values()]], num_text=0
    )
    yield ""
    yield from (f"- {name}: {escaped(value)}" for name, value in report_facts(report).items())


def _errors(report: Report, groups: Sequence[tuple[str, GroupRow]]) -> Iterator[str]:
    known = [(name, group) for name, group in groups if group.errors]
    if not known:
        return
    floor = escaped(shown_from(report.settings))
    yield f"AP50 that each kind of error costs (number of them with {floor}):"
    yield ""
    rows = []
    for name, group in known:
        errors = [group.errors[kind] for kind in ERROR_KINDS]
        rows.append(
            [
                name,
                *(
                    "-" if math.isnan(e.cost) else f"{_decimals(e.cost)} ({e.shown})"
                    for e in errors
                ),
            ]
        )
    yield from markdown_table(("group", *ERROR_KINDS), rows, num_text=1)
    yield ""
    yield f"{' '.join(KINDS_IN_WORDS)}."
    yield ""


def _suspects(section: SuspectSection) -> Iterator[str]:
    yield ""
    yield "## Labels that look wrong"
    yield ""
    yield escaped(" ".join(section.about))
    yield ""
    for note in section.notes:
        yield f"> Note: {escaped(note)}"
        yield ""
    if section.classes:
        rows = []
        for one in section.classes:
            named = "; ".join(
                f"{box.annotation_id}{'' if box.looks_like is None else f' like {box.looks_like}'}"
                f" ({box.suspicion:.2f})"
                for box in one.boxes[:_NAMED_SUSPECTS]
            )
            rows.append([escaped(one.name), escaped(named), str(one.suspicious), str(one.judged)])
        yield from markdown_table(
            ("class", "most suspicious annotations", section.counted, "judged"), rows, num_text=2
        )
        yield ""
    if section.rest:
        yield escaped(section.rest)
        yield ""
    if section.strange:
        listed = ", ".join(f"{one.file_name} ({one.strangeness:.2f})" for one in section.strange)
        yield escaped(f"Images with the strangest objects: {listed}.")
        yield ""


def markdown_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, num_text: int
) -> list[str]:
    """Write the lines of a table whose first columns are text and whose others are numbers."""
    rules = [":--" if i < num_text else "--:" for i in range(len(titles))]
    return [f"| {' | '.join(cells)} |" for cells in (titles, rules, *rows)]


def _boxes(row: ClassRow | GroupRow) -> list[str]:
    return ["-" if row.train_boxes is None else str(row.train_boxes), str(row.val_boxes)]


def _figures(row: ClassRow | GroupRow) -> list[str]:
    cells = []
    for name in _TITLES:
        cell = _decimals(getattr(row, name))
        if name in row.intervals:
            low, high = row.intervals[name]
            cell += f" [{low:.2f}, {high:.2f}]"
        cells.append(cell)
    return cells


def _decimals(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def escaped(text: str) -> str:
    """Put a text on one line that neither Markdown nor HTML reads anything in."""
    one_line = html.escape(printable(" ".join(text.split())), quote=False)
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", one_line)
