"""Write a report to disk: JSON for programs, CSV for spreadsheets and pandas, Markdown to paste.

report.csv has one line per row of the report: first the classes (kind "class"), rarest first, then
the groups (kind "group"). A cell is empty where a number is undefined or belongs to the other kind.
Intervals take two columns (recall_low, recall_high), errors three (missed_count, missed_shown,
missed_cost). A name that a spreadsheet would take for a formula has an apostrophe in front.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from detbalance.data.files import replace_file
from detbalance.evaluation.rows import ERROR_KINDS, FIGURES, SPREAD
from detbalance.reporting.markdown import markdown_report

if TYPE_CHECKING:
    from detbalance.evaluation import Report
    from detbalance.reporting.suspects_section import SuspectSection

# Nested deeper than this, values stay on one line: an interval, a curve.
_JSON_DEPTH = 3
_encoded = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_ERROR_FIELDS = ("count", "shown", "cost")
# What spreadsheets take a formula by, in full width too.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
COLUMNS = (
    "kind",
    "name",
    "group",
    "category_id",
    "train_images",
    "train_boxes",
    "val_images",
    "val_boxes",
    *FIGURES,
    *(f"{figure}_{end}" for figure in SPREAD for end in ("low", "high")),
    "true_positives",
    "false_positives",
    "score_threshold",
    "score_at_precision",
    "score_at_fppi",
    "best_f_score",
    "design_effect",
    "more_boxes",
    *(f"{kind}_{field}" for kind in ERROR_KINDS for field in _ERROR_FIELDS),
    "positive_share",
    "num_categories",
    "num_evaluated",
)


class ReportFiles(NamedTuple):
    """Where a report was written."""

    json: Path
    csv: Path
    markdown: Path


def write_report(
    report: Report, folder: str | Path, *, suspects: SuspectSection | None = None
) -> ReportFiles:
    """Write report.json, report.csv and report.md into a folder, which is made if need be.

    Each file appears whole or not at all: what was there before stays until the new one is ready.

    Args:
        report: what `detbalance.evaluation.build_report` gave.
        folder: where the files go.
        suspects: labels that look wrong, for report.md.

    Returns:
        The paths of the files.

    Raises:
        ValueError: if the folder cannot be made or written to.
    """
    folder = Path(folder)
    values = report.to_dict()
    texts = (
        json_text(values) + "\n",
        csv_text(values, COLUMNS, _flat),
        markdown_report(report, suspects),
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
    flat = {key: value for key, value in row.items() if key not in ("intervals", "errors")}
    for figure, ends in row["intervals"].items():
        flat |= {f"{figure}_low": ends[0], f"{figure}_high": ends[1]}
    for kind, error in row["errors"].items():
        flat |= {f"{kind}_{field}": value for field, value in error.items()}
    return flat
