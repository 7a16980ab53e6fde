"""Show a comparison: on the console, and as JSON, CSV and Markdown files.

comparison.csv has one line per row: first the classes (kind "class"), rarest first, then the groups
(kind "group"). Each figure takes seven columns (recall_baseline, recall_ours, recall_difference,
recall_low, recall_high, recall_p, recall_p_adjusted); cells are empty where it is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from detbalance.data.messages import counted, needs
from detbalance.evaluation.comparison import decimals, digits_for
from detbalance.evaluation.figures import WITH_INTERVALS
from detbalance.reporting.console import (
    GROUP_STYLES,
    KEPT_OF_MANY,
    class_cells,
    facts_table,
    figure,
    group_cells,
    numbers_table,
    print_content,
    said,
    with_ends,
)
from detbalance.reporting.report_files import (
    FOLDED_FROM,
    csv_text,
    escaped,
    json_text,
    markdown_table,
    write_texts,
)
from detbalance.reporting.sentences import (
    ROW_MEANS,
    comparison_facts,
    real_differences,
    shown_groups,
)

if TYPE_CHECKING:
    from detbalance.evaluation import ClassDifferences, Comparison, Difference

try:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text
except ImportError as exc:
    raise needs("detbalance.reporting.comparison", "rich", "report") from exc


_REAL = "*"
_NARROW = 0.02


def print_comparison(
    comparison: Comparison, *, console: Console | None = None, max_classes: int = 60
) -> None:
    """Print a comparison: what it is of, the verdict, groups, classes, what is real.

    Args:
        comparison: what `detbalance.evaluation.compare` gave.
        console: where to print; standard output if not given.
        max_classes: with more classes than this only the rarest 40 with boxes are listed.
    """
    print_content(comparison_table(comparison, max_classes=max_classes), console)


def comparison_table(comparison: Comparison, *, max_classes: int = 60) -> Group:
    """Lay out a comparison for the console."""
    rows = _listed(comparison.classes, max_classes)
    left_out = len(comparison.classes) - len(rows)
    percent = f"{comparison.settings.confidence:.0%}"
    return Group(
        facts_table(comparison_facts(comparison)),
        Text(),
        said(comparison.verdict, "bold"),
        Text(),
        _by_class(comparison, rows, percent),
        *(
            [
                Text(
                    f"{counted(left_out, 'class is', 'classes are')} not listed; the group rows"
                    " count all",
                    style="dim",
                )
            ]
            if left_out
            else []
        ),
        Text(ROW_MEANS, style="dim"),
        Text(),
        Text.assemble(("Differences by group", "bold"), f", with their {percent} intervals"),
        _by_group(comparison),
        Text(f"{_REAL} {real_differences(comparison)[0]}", style="dim"),
        Text(),
        *map(said, real_differences(comparison)[1:]),
        *(said(f"Note: {note}", "yellow") for note in comparison.notes),
    )


def _by_class(comparison: Comparison, rows: Sequence[ClassDifferences], percent: str) -> Table:
    """Both sides and the difference of the verdict's figure and of one more."""
    shown = (
        comparison.settings.figure,
        "AP" if comparison.settings.figure == "recall" else "recall",
    )
    table = numbers_table("class", "group", "train\nboxes", "val\nboxes")
    for name in shown:
        for title in (f"{name}\nbase", "\nours", f"\n+/- {f'[{percent}]':>14}"):
            table.add_column(title, justify="right", no_wrap=True)
    level = 1 - comparison.settings.confidence

    def cells(figures: Mapping[str, Difference]) -> list[Text]:
        return [
            cell
            for name in shown
            for cell in (
                figure(figures[name].baseline),
                figure(figures[name].ours),
                _difference(figures[name], level),
            )
        ]

    for row, ends_group in with_ends(rows):
        table.add_row(*class_cells(row), *cells(row.figures), end_section=ends_group)
    for name, group in shown_groups(comparison.groups, comparison.settings.group_rule):
        numbers = group_cells(name, group.num_evaluated, group.train_boxes, group.val_boxes)
        table.add_row(*numbers, *cells(group.figures))
    return table


def _by_group(comparison: Comparison) -> Table:
    """All figures: a row each, a column per group."""
    groups = shown_groups(comparison.groups, comparison.settings.group_rule)
    table = numbers_table("")
    for name, _ in groups:
        table.add_column(Text(name, style=GROUP_STYLES.get(name, "bold")), justify="right")
    level = 1 - comparison.settings.confidence
    for name in WITH_INTERVALS:
        cells = [_difference(group.figures[name], level) for _, group in groups]
        table.add_row(Text(name), *cells)
    return table


def _difference(one: Difference, level: float) -> Text:
    """A signed difference, its interval, and a mark where it is real."""
    if math.isnan(one.difference):
        return Text("-", style="dim")
    real = one.p_adjusted < level
    style = ("green" if one.difference > 0 else "red") if real else ""
    # Two decimals would hide the ends of a very narrow interval, and that one is not 0.
    digits = digits_for(one.low, one.high, least=3 if one.high - one.low < _NARROW else 2)
    interval = f"[{decimals(one.low, digits)} {decimals(one.high, digits)}]"
    mark = _REAL if real else " "
    return Text.assemble((_signed(one.difference) + mark, style), (f"{interval:>14}", "dim"))


def _signed(value: float) -> str:
    text = f"{abs(value):.3f}".removeprefix("0")
    return text if text == ".000" else f"{'+' if value > 0 else '-'}{text}"


def _listed(rows: Sequence[ClassDifferences], max_classes: int) -> Sequence[ClassDifferences]:
    """All classes, or of many the rarest that have boxes."""
    if len(rows) <= max_classes:
        return rows
    return [row for row in rows if row.val_boxes][: min(KEPT_OF_MANY, max_classes)]


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
    *(f"{figure}_{part}" for figure in WITH_INTERVALS for part in _PARTS),
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
    yield from markdown_table(
        ("group", "classes", "val boxes", *WITH_INTERVALS), groups, num_text=1
    )
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
    classes = markdown_table(("class", "group", "val boxes", *WITH_INTERVALS), rows, num_text=2)
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
    return [_cell(figures[name], level) for name in WITH_INTERVALS]


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
    for name, parts in row["figures"].items():
        flat |= {f"{name}_{part}": parts[part] for part in _PARTS}
    return flat
