"""What a comparison says: the verdict, groups and classes, which differences are real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

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
            _by_class(_figure_columns(comparison, percent)),
            *lines("legend", f"Each figure: baseline, ours, the difference. {ROW_MEANS}"),
            title("Differences by group", f", with their {percent} intervals"),
            _by_group(comparison),
            *lines("legend", f"* (bold in Markdown): {mark}"),
            *lines("sentence", *sentences),
            *lines("note", *comparison.notes),
            Facts(comparison_facts(comparison)),
        ],
    )


def baselines_document(comparisons: Mapping[str, Comparison]) -> Document:
    """Make the document of one detector against several baselines, which have names."""
    one = next(iter(comparisons.values()))
    figure, percent = one.settings.figure, f"{one.settings.confidence:.0%}"
    columns = [
        (_change_column(f"{figure}, {name}", percent), comparison, figure)
        for name, comparison in comparisons.items()
    ]
    mark = real_differences(one)[0]
    facts = {f"baseline {name}": c.settings.baseline[0] for name, c in comparisons.items()}
    notes = dict.fromkeys(note for c in comparisons.values() for note in c.notes)
    return Document(
        f"Comparison with {len(comparisons)} baselines",
        [
            *(
                block
                for name, c in comparisons.items()
                for block in lines("verdict", f"{name}: {c.verdict}")
            ),
            _by_class(columns),
            *lines("legend", f"Each baseline: it, ours, the difference. {ROW_MEANS}"),
            *lines("legend", f"* (bold in Markdown): {mark}, of each baseline on its own"),
            *lines("note", *notes),
            Facts({k: v for k, v in comparison_facts(one).items() if k != "baseline"} | facts),
        ],
    )


# A column of changes, whose they are, and the figure that they are of.
_Changes: TypeAlias = "tuple[Column, Comparison, str]"


def _change_column(title: str, percent: str, *, roomy: bool = False) -> Column:
    return Column(f"{title}\n base  ours    +/- {f'[{percent}]':>14}", roomy=roomy)


def _figure_columns(comparison: Comparison, percent: str) -> list[_Changes]:
    """Every figure; a console has room for the verdict's figure and one more."""
    chosen = comparison.settings.figure
    shown = (chosen, "AP" if chosen == "recall" else "recall")
    names = [*shown, *(name for name in WITH_INTERVALS if name not in shown)]
    return [
        (_change_column(name, percent, roomy=name not in shown), comparison, name) for name in names
    ]


def _by_class(changes: Sequence[_Changes]) -> Table:
    """Groups, then classes."""
    comparison = changes[0][1]
    level = 1 - comparison.settings.confidence
    few = None
    if len(comparison.classes) > MANY_CLASSES:
        few = [i for i, row in enumerate(comparison.classes) if row.val_boxes][:KEPT_OF_MANY]
    left_out = 0 if few is None else len(comparison.classes) - len(few)
    listed = f"{counted(left_out, 'class is', 'classes are')} not listed; the group rows count all"
    rows: list[list[AnyCell]] = [
        [
            *class_cells(row),
            *(_change(of.classes[i].figures[name], level) for _, of, name in changes),
        ]
        for i, row in enumerate(comparison.classes)
    ]
    head: list[list[AnyCell]] = [
        [
            *group_cells(group, means),
            *(_change(of.groups[group].figures[name], level) for _, of, name in changes),
        ]
        for group, means in shown_groups(comparison.groups, comparison.settings.group_rule)
    ]
    return Table(
        [*CLASS_COLUMNS, *(column for column, _, _ in changes)],
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
