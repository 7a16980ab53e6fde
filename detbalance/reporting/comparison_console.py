"""Show a comparison on the console: the verdict, differences by group and class, what is real."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from detbalance.data.messages import counted, needs

try:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text
except ImportError as exc:
    raise needs("detbalance.reporting.comparison_console", "rich", "report") from exc

from detbalance.evaluation.comparison_verdict import decimals, digits_for
from detbalance.evaluation.rows import SPREAD
from detbalance.reporting.cells import (
    GROUP_STYLES,
    KEPT_OF_MANY,
    class_cells,
    figure,
    group_cells,
    numbers_table,
    said,
    with_ends,
)
from detbalance.reporting.console import facts_table, print_content
from detbalance.reporting.sentences import (
    ROW_MEANS,
    comparison_facts,
    real_differences,
    shown_groups,
)

if TYPE_CHECKING:
    from detbalance.evaluation import ClassDifferences, Comparison, Difference

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
    for name in SPREAD:
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
