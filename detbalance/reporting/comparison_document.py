"""What a comparison says: the verdict, groups and classes, which differences are real."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detbalance.data.messages import counted
from detbalance.evaluation.figures import WITH_INTERVALS
from detbalance.reporting.document import (
    CLASS_COLUMNS,
    GROUP_STYLES,
    KEPT_OF_MANY,
    MANY_CLASSES,
    AnyCell,
    Cell,
    Change,
    Column,
    Document,
    Facts,
    Table,
    class_cells,
    ends_of_groups,
    group_cells,
    lines,
    title,
)
from detbalance.reporting.sentences import (
    ROW_MEANS,
    comparison_facts,
    real_differences,
    shown_groups,
)

if TYPE_CHECKING:
    from detbalance.evaluation import Comparison, Difference


def comparison_document(comparison: Comparison) -> Document:
    """Make the document of a comparison."""
    percent = f"{comparison.settings.confidence:.0%}"
    mark, *sentences = real_differences(comparison)
    return Document(
        "Comparison of two detectors",
        [
            *lines("verdict", comparison.verdict),
            _by_class(comparison, percent),
            *lines("legend", f"Each figure: baseline, ours, the difference. {ROW_MEANS}"),
            title("Differences by group", f", with their {percent} intervals"),
            _by_group(comparison),
            *lines("legend", f"* (bold in Markdown): {mark}"),
            *lines("sentence", *sentences),
            *lines("note", *comparison.notes),
            Facts(comparison_facts(comparison)),
        ],
    )


def _by_class(comparison: Comparison, percent: str) -> Table:
    """Groups, then classes; a console has room for the verdict's figure and one more."""
    chosen = comparison.settings.figure
    shown = (chosen, "AP" if chosen == "recall" else "recall")
    names = [*shown, *(name for name in WITH_INTERVALS if name not in shown)]
    level = 1 - comparison.settings.confidence
    columns = [
        Column(f"{name}\n base  ours    +/- {f'[{percent}]':>14}", roomy=name not in shown)
        for name in names
    ]
    few = None
    if len(comparison.classes) > MANY_CLASSES:
        few = [i for i, row in enumerate(comparison.classes) if row.val_boxes][:KEPT_OF_MANY]
    left_out = 0 if few is None else len(comparison.classes) - len(few)
    listed = f"{counted(left_out, 'class is', 'classes are')} not listed; the group rows count all"
    rows: list[list[AnyCell]] = [
        [*class_cells(row), *(_change(row.figures[name], level) for name in names)]
        for row in comparison.classes
    ]
    head: list[list[AnyCell]] = [
        [*group_cells(name, group), *(_change(group.figures[one], level) for one in names)]
        for name, group in shown_groups(comparison.groups, comparison.settings.group_rule)
    ]
    return Table(
        [*CLASS_COLUMNS, *columns],
        rows,
        head,
        ends=ends_of_groups(comparison.classes),
        few=few,
        left_out=listed if left_out else "",
        fold=f"All {len(rows)} classes, rarest first",
    )


def _by_group(comparison: Comparison) -> Table:
    """All figures: a row each, a column per group."""
    groups = shown_groups(comparison.groups, comparison.settings.group_rule)
    level = 1 - comparison.settings.confidence
    columns = [Column("figure", numeric=False)]
    columns += [Column(name, style=GROUP_STYLES.get(name, "bold")) for name, _ in groups]
    rows: list[list[AnyCell]] = [
        [Cell(name), *(_change(group.figures[name], level, sides=False) for _, group in groups)]
        for name in WITH_INTERVALS
    ]
    return Table(columns, rows)


def _change(one: Difference, level: float, sides: bool = True) -> Change:
    real = one.p_adjusted < level
    return Change(one.baseline, one.ours, one.difference, one.low, one.high, real, sides)
