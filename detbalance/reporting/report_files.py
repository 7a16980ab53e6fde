"""Write a report to disk: JSON for programs, CSV for spreadsheets, Markdown to paste.

report.csv has one line per row of the report: first the classes (kind "class"), rarest first, then
the groups (kind "group"). A cell is empty where a number is undefined or belongs to the other kind.
Intervals take two columns (recall_low, recall_high), errors three (missed_count, missed_shown,
missed_cost). A name that a spreadsheet would take for a formula has an apostrophe in front.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from detbalance.data.files import replace_file
from detbalance.data.messages import printable
from detbalance.evaluation.figures import FIGURES, WITH_INTERVALS
from detbalance.evaluation.report import ERROR_KINDS
from detbalance.reporting.sentences import (
    KINDS_IN_WORDS,
    ROW_MEANS,
    SHOWN_FIGURES,
    boxes_needed,
    confusions,
    report_facts,
    shown_from,
    shown_groups,
    without_empty_classes,
)

if TYPE_CHECKING:
    from detbalance.evaluation import ClassRow, GroupRow, Report
    from detbalance.reporting.label_issues import LabelIssuesSection

# With more classes the table is folded: a pull request is read for its groups.
FOLDED_FROM = 30
# Boxes of a class that are named; the HTML page shows more.
_NAMED_SUSPECTS = 3


def markdown_report(report: Report, label_issues: LabelIssuesSection | None = None) -> str:
    """Write a report as Markdown: groups, classes, errors, and what the figures are of.

    Names are shown as they are: what Markdown or HTML would read in them is escaped.

    Args:
        report: what `detbalance.evaluation.build_report` or `load_report` gave.
        label_issues: labels that look wrong, or None.

    Returns:
        The text of report.md.
    """
    lines = [
        *_lines(without_empty_classes(report)),
        *([] if label_issues is None else _label_issues(label_issues)),
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
        ("group", "classes", "train boxes", "val boxes", *SHOWN_FIGURES.values()),
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
        ("class", "group", "train boxes", "val boxes", *SHOWN_FIGURES.values()),
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


def _label_issues(section: LabelIssuesSection) -> Iterator[str]:
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
    if section.novel:
        listed = ", ".join(f"{one.file_name} ({one.ood_score:.2f})" for one in section.novel)
        yield escaped(f"Images with objects of no known class: {listed}.")
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
    for name in SHOWN_FIGURES:
        cell = _decimals(row.figures[name])
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


# Nested deeper than this, values stay on one line: an interval, a curve.
_JSON_DEPTH = 3
_encoded = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_ERROR_FIELDS = ("count", "shown", "cost")
# What spreadsheets take a formula by, in full width too.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def _columns() -> tuple[str, ...]:
    """The columns of report.csv; figures as the table has them."""
    return (
        *("kind", "name", "group", "category_id", "train_images", "train_boxes"),
        *("val_images", "val_boxes"),
        *FIGURES,
        *(f"{figure}_{end}" for figure in WITH_INTERVALS for end in ("low", "high")),
        *("true_positives", "false_positives", "score_threshold"),
        *(f"{kind}_{field}" for kind in ERROR_KINDS for field in _ERROR_FIELDS),
        *("num_categories", "num_evaluated"),
    )


class ReportFiles(NamedTuple):
    """Where a report was written."""

    json: Path
    csv: Path
    markdown: Path


def write_report(
    report: Report, folder: str | Path, *, label_issues: LabelIssuesSection | None = None
) -> ReportFiles:
    """Write report.json, report.csv and report.md into a folder, which is made if need be.

    Each file appears whole or not at all: what was there before stays until the new one is ready.

    Args:
        report: what `detbalance.evaluation.build_report` gave.
        folder: where the files go.
        label_issues: labels that look wrong, for report.md.

    Returns:
        The paths of the files.

    Raises:
        ValueError: if the folder cannot be made or written to.
    """
    folder = Path(folder)
    values = report.to_dict()
    texts = (
        json_text(values) + "\n",
        csv_text(values, _columns(), _flat),
        markdown_report(report, label_issues),
    )
    files = ReportFiles(*(folder / f"report.{suffix}" for suffix in ("json", "csv", "md")))
    write_texts("report", folder, dict(zip(files, texts, strict=True)))
    return files


def write_texts(what: str, folder: Path, texts: Mapping[Path, str]) -> None:
    """Write files into a folder, which is made if need be; each appears whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            with replace_file(path) as file:
                file.write(text.encode())
    except OSError as exc:
        raise ValueError(
            f"{folder}: the {what} cannot be written ({exc.strerror}). "
            "Expected a folder to write into. Choose another."
        ) from exc


def json_text(value: Any, depth: int = 0) -> str:
    """Write JSON with a line for each field of a row and each curve, to be read and compared."""
    if depth == _JSON_DEPTH or not isinstance(value, (dict, list)) or not value:
        return _encoded(value)
    if isinstance(value, dict):
        items = [f"{_encoded(k)}: {json_text(v, depth + 1)}" for k, v in value.items()]
    else:
        items = [json_text(item, depth + 1) for item in value]
    start, end = "{}" if isinstance(value, dict) else "[]"
    line = "\n" + " " * (depth + 1)
    return f"{start}{line}{f',{line}'.join(items)}{line[:-1]}{end}"


def csv_text(
    content: Mapping[str, Any],
    columns: Sequence[str],
    flat: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> str:
    """Write the rows of classes and groups as CSV."""
    rows = [{"kind": "class", **flat(row)} for row in content["classes"]]
    for name, row in content["groups"].items():
        group = "" if name == "all" else name
        rows.append({"kind": "group", "name": name, "group": group, **flat(row)})
    return csv_lines([columns, *([row.get(column) for column in columns] for row in rows)])


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    """Write rows as CSV that a spreadsheet computes nothing of."""
    buffer = io.StringIO()
    # Either half of this line end is quoted within a cell; a bare one would begin a row.
    csv.writer(buffer, lineterminator="\r\n").writerows(map(_defused, row) for row in rows)
    return buffer.getvalue().replace("\r\n", "\n")


def _defused(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of report.json with a column for each end of an interval and each field of an error."""
    nested = ("figures", "intervals", "errors")
    flat = {key: value for key, value in row.items() if key not in nested}
    flat |= row["figures"]
    for figure, ends in row["intervals"].items():
        flat |= {f"{figure}_low": ends[0], f"{figure}_high": ends[1]}
    for kind, error in row["errors"].items():
        flat |= {f"{kind}_{field}": value for field, value in error.items()}
    return flat
