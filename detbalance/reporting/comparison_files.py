"""Write a comparison to disk: JSON for programs, CSV for spreadsheets, Markdown to paste.

comparison.csv has one line per row: first the classes (kind "class"), rarest first, then the groups
(kind "group"). Each figure takes seven columns (recall_baseline, recall_ours, recall_difference,
recall_low, recall_high, recall_p, recall_p_adjusted); cells are empty where it is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from detbalance.evaluation.comparison_verdict import digits_for
from detbalance.evaluation.rows import SPREAD
from detbalance.reporting.files import csv_text, json_text, write_texts
from detbalance.reporting.markdown import FOLDED_FROM, escaped, markdown_table
from detbalance.reporting.sentences import (
    ROW_MEANS,
    comparison_facts,
    real_differences,
    shown_groups,
)

if TYPE_CHECKING:
    from detbalance.evaluation import Comparison, Difference

_PARTS = ("baseline", "ours", "difference", "low", "high", "p", "p_adjusted")
_COLUMNS = (
    "kind",
    "name",
    "group",
    "category_id",
    "train_images",
    "train_boxes",
    "val_images",
    "val_boxes",
    *(f"{figure}_{part}" for figure in SPREAD for part in _PARTS),
    "num_categories",
    "num_evaluated",
)


class ComparisonFiles(NamedTuple):
    """Where a comparison was written."""

    json: Path
    csv: Path
    markdown: Path


def write_comparison(comparison: Comparison, folder: str | Path) -> ComparisonFiles:
    """Write comparison.json, .csv and .md into a folder, which is made if need be.

    Each file appears whole or not at all: what was there before stays until the new one is ready.

    Args:
        comparison: what `detbalance.evaluation.compare` gave.
        folder: where the files go.

    Returns:
        The paths of the files.

    Raises:
        ValueError: if the folder cannot be made or written to.
    """
    folder = Path(folder)
    values = comparison.to_dict()
    table = csv_text(values, _COLUMNS, _flat)
    texts = (json_text(values) + "\n", table, comparison_markdown(comparison))
    names = ("comparison.json", "comparison.csv", "comparison.md")
    files = ComparisonFiles(*(folder / name for name in names))
    write_texts("comparison", folder, dict(zip(files, texts, strict=True)))
    return files


def comparison_markdown(comparison: Comparison) -> str:
    """Write a comparison as Markdown: the verdict, groups, classes, and what it is of."""
    return "\n".join(_lines(comparison)) + "\n"


def _lines(comparison: Comparison) -> Iterator[str]:
    level = 1 - comparison.settings.confidence
    yield "# Comparison of two detectors"
    yield ""
    yield f"**{escaped(comparison.verdict)}**"
    yield ""
    for note in comparison.notes:
        yield f"> Note: {escaped(note)}"
        yield ""
    groups = [
        [name, str(group.num_categories), str(group.val_boxes), *_cells(group.figures, level)]
        for name, group in shown_groups(comparison.groups, comparison.settings.group_rule)
    ]
    yield from markdown_table(("group", "classes", "val boxes", *SPREAD), groups, num_text=1)
    yield ""
    yield f"Each cell: baseline to ours, the difference and its interval. {ROW_MEANS}."
    mark, *sentences = real_differences(comparison)
    yield f"Bold: {mark}."
    yield ""
    yield escaped(" ".join(sentences))
    yield ""
    rows = [
        [escaped(row.name), row.group or "-", str(row.val_boxes), *_cells(row.figures, level)]
        for row in comparison.classes
    ]
    classes = markdown_table(("class", "group", "val boxes", *SPREAD), rows, num_text=2)
    if len(rows) < FOLDED_FROM:
        yield from classes
    else:
        yield f"<details><summary>All {len(rows)} classes, rarest first</summary>"
        yield ""
        yield from classes
        yield ""
        yield "</details>"
    yield ""
    yield from (
        f"- {name}: {escaped(value)}" for name, value in comparison_facts(comparison).items()
    )


def _cells(figures: Mapping[str, Difference], level: float) -> Sequence[str]:
    return [_cell(figures[name], level) for name in SPREAD]


def _cell(one: Difference, level: float) -> str:
    sides = ["-" if math.isnan(value) else f"{value:.3f}" for value in (one.baseline, one.ours)]
    if math.isnan(one.difference):
        return f"{sides[0]} to {sides[1]}"
    bold = "**" if one.p_adjusted < level else ""
    digits = digits_for(one.low, one.high)
    ends = ", ".join(f"{round(end, digits) + 0.0:.{digits}f}" for end in (one.low, one.high))
    change = f"{bold}{one.difference:+.3f}{bold} [{ends}]"
    return f"{sides[0]} to {sides[1]}: {change}"


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of comparison.json with a column for each part of a figure."""
    flat = {key: value for key, value in row.items() if key != "figures"}
    for figure, parts in row["figures"].items():
        flat |= {f"{figure}_{part}": parts[part] for part in _PARTS}
    return flat
