"""Results as files: JSON for programs, CSV for spreadsheets and pandas, Markdown to paste.

report.csv has one line per row of the report: first the classes (kind "class"), rarest first, then
the groups (kind "group"). A cell is empty where a number is undefined or belongs to the other kind.
Intervals take two columns (recall_low, recall_high), errors three (missed_count, missed_shown,
missed_cost). A name that a spreadsheet would take for a formula has an apostrophe in front.
comparison.csv has the parts of each figure (AP_baseline, AP_ours, AP_difference ...).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from detbalance.data.files import replace_file
from detbalance.evaluation.figures import FIGURES, WITH_INTERVALS
from detbalance.evaluation.report import ERROR_KINDS
from detbalance.reporting.comparison_document import baselines_document, comparison_document
from detbalance.reporting.markdown import markdown
from detbalance.reporting.report_document import report_document
from detbalance.reporting.sentences import without_empty_classes

if TYPE_CHECKING:
    from detbalance.evaluation import Comparison, Report
    from detbalance.planning import Plan
    from detbalance.reporting.label_issues import LabelIssuesSection

# Nested deeper than this, values stay on one line: an interval, a curve.
_JSON_DEPTH = 3
_encoded = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
# What spreadsheets take a formula by, in full width too.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_ERROR_FIELDS = ("count", "shown", "cost")
_PARTS = ("baseline", "ours", "difference", "low", "high", "p", "p_adjusted")
_FIRST = (
    *("kind", "name", "group", "category_id", "train_images", "train_boxes"),
    *("val_images", "val_boxes"),
)
_LAST = ("num_categories", "num_evaluated")
_CHANGES = tuple(f"{figure}_{part}" for figure in WITH_INTERVALS for part in _PARTS)
_COMPARED = (*_FIRST, *_CHANGES, *_LAST)


class ResultFiles(NamedTuple):
    """Where a report or a comparison was written."""

    json: Path
    csv: Path
    markdown: Path


class PlanFiles(NamedTuple):
    """Where a plan was written."""

    json: Path
    csv: Path


def write_report(
    report: Report, folder: str | Path, *, label_issues: LabelIssuesSection | None = None
) -> ResultFiles:
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
    values = report.to_dict()
    columns = (
        *_FIRST,
        *FIGURES,
        *(f"{figure}_{end}" for figure in WITH_INTERVALS for end in ("low", "high")),
        *("true_positives", "false_positives", "score_threshold"),
        *(f"{kind}_{field}" for kind in ERROR_KINDS for field in _ERROR_FIELDS),
        *_LAST,
    )
    text = markdown(report_document(without_empty_classes(report), label_issues))
    return _written("report", folder, values, csv_text(values, columns), text)


def write_comparison(comparison: Comparison, folder: str | Path) -> ResultFiles:
    """Write comparison.json, .csv and .md into a folder, which is made if need be.

    Args:
        comparison: what `detbalance.evaluation.compare` gave.
        folder: where the files go.

    Returns:
        The paths of the files.

    Raises:
        ValueError: if the folder cannot be made or written to.
    """
    values = comparison.to_dict()
    table = csv_text(values, _COMPARED)
    return _written("comparison", folder, values, table, markdown(comparison_document(comparison)))


def write_baselines(comparisons: Mapping[str, Comparison], folder: str | Path) -> ResultFiles:
    """Write the same files of one detector against several baselines, which have names.

    The JSON file has a list "comparisons", each with its "name"; the CSV file a column "baseline".

    Args:
        comparisons: by the name of the baseline.
        folder: where the files go.

    Returns:
        The paths of the files.

    Raises:
        ValueError: if the folder cannot be made or written to.
    """
    values = baselines_dict(comparisons)
    rows = (
        {**row, "baseline": content["name"]}
        for content in values["comparisons"]
        for row in _table_rows(content)
    )
    columns = ("baseline", *_COMPARED)
    table = csv_lines([columns, *([row.get(column) for column in columns] for row in rows)])
    return _written("comparison", folder, values, table, markdown(baselines_document(comparisons)))


def baselines_dict(comparisons: Mapping[str, Comparison]) -> dict[str, Any]:
    """The content of comparison.json of several baselines."""
    named = [{"name": name, **one.to_dict()} for name, one in comparisons.items()]
    return {"schema": "detbalance.comparisons/1", "comparisons": named}


def write_plan(plan: Plan, folder: str | Path) -> PlanFiles:
    """Write plan.json and plan.csv into a folder, which is made if need be."""
    content = plan.to_dict()
    fields = list(content["classes"][0]) if content["classes"] else []
    rows = [[*fields, *(f"exposure: {setting.name}" for setting in plan.settings)]]
    for i, row in enumerate(content["classes"]):
        shown = (setting["exposure"][i] for setting in content["settings"])
        rows.append([*(row[field] for field in fields), *shown])
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    files = {Path(folder) / "plan.json": text, Path(folder) / "plan.csv": csv_lines(rows)}
    return PlanFiles(*write_texts("plan", Path(folder), files))


def _written(
    what: str, folder: str | Path, values: dict[str, Any], table: str, text: str
) -> ResultFiles:
    texts = {"json": json_text(values) + "\n", "csv": table, "md": text}
    files = {Path(folder) / f"{what}.{suffix}": content for suffix, content in texts.items()}
    return ResultFiles(*write_texts(what, Path(folder), files))


def write_texts(what: str, folder: Path, texts: Mapping[Path, str]) -> list[Path]:
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
    return list(texts)


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


def csv_text(content: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Write the rows of classes, groups and slices as CSV."""
    rows = _table_rows(content)
    return csv_lines([columns, *([row.get(column) for column in columns] for row in rows)])


def _table_rows(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A flat row for each class, group and slice."""
    for row in content["classes"]:
        yield {"kind": "class", **_flat(row)}
    for name, row in content["groups"].items():
        group = "" if name == "all" else name
        yield {"kind": "group", "name": name, "group": group, **_flat(row)}
    for row in content.get("slices", ()):
        name = f"{row['key']}={'' if row['value'] is None else row['value']}"
        yield {**_flat(row), "kind": "slice", "name": name}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with a column for each figure, each end of an interval, each part of what has parts."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        for name, inner in (value if isinstance(value, dict) else {key: value}).items():
            if isinstance(inner, list):
                inner = dict(zip(("low", "high"), inner, strict=True))
            parts = inner if isinstance(inner, dict) else {"": inner}
            flat |= {f"{name}_{part}" if part else name: number for part, number in parts.items()}
    return flat


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    """Write rows as CSV that a spreadsheet computes nothing of."""
    buffer = io.StringIO()
    # Either half of this line end is quoted within a cell; a bare one would begin a row.
    csv.writer(buffer, lineterminator="\r\n").writerows(map(_defused, row) for row in rows)
    return buffer.getvalue().replace("\r\n", "\n")


def _defused(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell
