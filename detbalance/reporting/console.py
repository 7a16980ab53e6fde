"""Show a report as an aligned table on the console.

Undefined figures are shown as "-". Colours are left to rich: there are none when the output is not
a terminal, and then nothing is shortened either, however long a class name is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from detbalance.data.messages import counted, needs, printable
from detbalance.evaluation.figures import FIGURES
from detbalance.evaluation.report import ERROR_KINDS, ErrorKind
from detbalance.reporting import terminal
from detbalance.reporting.sentences import (
    KINDS_IN_WORDS,
    ROW_MEANS,
    SHOWN_FIGURES,
    boxes_needed,
    confusions,
    report_facts,
    shown_from,
    shown_groups,
)

if TYPE_CHECKING:
    from detbalance.evaluation import ClassRow, GroupRow, Report

try:
    from rich.box import HORIZONTALS
    from rich.console import Console, Group
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text
except ImportError as exc:
    raise needs("detbalance.reporting.console", "rich", "report") from exc


GROUP_STYLES = {"rare": "bold magenta", "common": "cyan", "frequent": "blue"}
KEPT_OF_MANY = 40
_FIGURE_WIDTH = len("1.000")
_INTERVAL_WIDTH = len(" [.24 .76]")


def numbers_table(*titles: str) -> Table:
    """A table whose first two columns are text; only the first gives way when room is short."""
    table = Table(box=HORIZONTALS, show_edge=False, padding=0, header_style="bold")
    for i, title in enumerate(titles):
        justify: Literal["left", "right"] = "left" if i < 2 else "right"
        # A column marked no_wrap is never narrowed while another can be.
        table.add_column(title, justify=justify, no_wrap=i > 0, min_width=8 if i == 0 else None)
    return table


def count(number: int | None) -> Text:
    """A whole number; "-" for None."""
    return Text("-", style="dim") if number is None else Text(str(number))


def decimals(value: float) -> str:
    """Three decimals; "-" where undefined."""
    return "-" if math.isnan(value) else f"{value:.3f}".removeprefix("0")


def ends(low: float, high: float) -> str:
    """An interval with two decimals, always equally wide."""
    return f"[{_two(low)} {_two(high)}]"


def figure(value: float) -> Text:
    """A figure for a table."""
    return Text(decimals(value), style="dim" if math.isnan(value) else "")


def figure_with_interval(value: float, interval: tuple[float, float] | None) -> Text:
    """A figure with its interval behind it; where there is none, its room is left."""
    text = figure(value)
    text.pad_left(_FIGURE_WIDTH - len(text))
    if interval is None:
        text.pad_right(_INTERVAL_WIDTH)
    else:
        text.append(f" {ends(*interval)}", style="dim")
    return text


def difference(value: float) -> Text:
    """A signed figure, green or red."""
    if math.isnan(value):
        return Text("-", style="dim")
    text = f"{abs(value):.3f}".removeprefix("0")
    if text == ".000":
        return Text(text, style="dim")
    return Text(f"+{text}", style="green") if value > 0 else Text(f"-{text}", style="red")


class GroupedRow(Protocol):
    """What rows of classes have in common, in a report and in a comparison."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def group(self) -> str | None: ...  # noqa: D102
    @property
    def train_boxes(self) -> int | None: ...  # noqa: D102
    @property
    def val_boxes(self) -> int: ...  # noqa: D102


_Row = TypeVar("_Row", bound=GroupedRow)


def name_cell(name: str) -> Text:
    """A class name of a file, on one line."""
    return Text(printable(name), no_wrap=True, overflow="ellipsis")


def said(text: str, style: str = "") -> Text:
    """A sentence that may hold names and paths; no line break of theirs makes a line of its own."""
    return Text(printable(text), style=style)


def class_cells(row: GroupedRow) -> list[Text]:
    """Name, group, train boxes, val boxes of a class."""
    return [
        name_cell(row.name),
        Text(row.group or "-", style=GROUP_STYLES.get(row.group or "", "dim")),
        *(count(number) for number in (row.train_boxes, row.val_boxes)),
    ]


def group_cells(
    name: str, num_evaluated: int, train_boxes: int | None, val_boxes: int
) -> list[Text]:
    """The same cells of a group of classes."""
    style = GROUP_STYLES.get(name, "bold")
    label = f"{name}, mean of {num_evaluated}"
    return [
        Text(label, style=style, no_wrap=True, overflow="ellipsis"),
        Text(),
        *(count(number) for number in (train_boxes, val_boxes)),
    ]


def with_ends(rows: Sequence[_Row]) -> Iterator[tuple[_Row, bool]]:
    """Each row, and whether a line goes below it: where the group changes, and at the end."""
    for row, following in zip_longest(rows, rows[1:]):
        yield row, following is None or following.group != row.group


def _two(value: float) -> str:
    """Two decimals in three characters: .24, and 1.0 for what rounds to 1."""
    text = f"{value:.2f}"
    return text[:3] if value >= 0.995 else text.removeprefix("0")


_SHARE = (
    "pos. share: the part of the class's gradient in training that raised it; near 0, other classes"
    " and background only pushed it down"
)


def print_report(report: Report, *, console: Console | None = None, max_classes: int = 60) -> None:
    """Print a report: what it is of, the table per class, errors, and the COCO summary.

    Args:
        report: what `detbalance.evaluation.build_report` or `load_report` gave.
        console: where to print; standard output if not given.
        max_classes: with more classes than this only the rarest 40 with figures are listed.
    """
    print_content(report_table(report, max_classes=max_classes), console)


def report_table(report: Report, *, max_classes: int = 60) -> Group:
    """Lay out a report for the console."""
    rows = _listed(report, max_classes)
    has_shares = not all(math.isnan(row.positive_share) for row in report.classes)
    sentences = [text for text in (confusions(report), boxes_needed(report)) if text]
    return Group(
        facts_table(report_facts(report)),
        Text(),
        _figures_table(report, rows, has_shares),
        *_left_out(report, rows),
        Text(ROW_MEANS, style="dim"),
        *([Text(_SHARE, style="dim")] if has_shares else []),
        *_errors(report),
        *([Text()] if sentences else []),
        *map(said, sentences),
        Text(),
        Text(f"{report.settings.rules.upper()} summary", style="bold"),
        _summary(report),
        *(said(f"Note: {note}", "yellow") for note in report.notes),
    )


def print_content(content: Group, console: Console | None) -> None:
    """Print tables and lines; into a pipe or a file at the width that they need."""
    console = terminal.Console() if console is None else console
    if console.is_terminal or console.is_jupyter:
        console.print(content)
        return
    # A pipe or a file has no width: take the room that the content needs, and leave no blanks
    # at the ends of lines.
    width = console.width
    roomy = console.options.update(width=100_000)
    console.width = max(width, Measurement.get(console, roomy, content).maximum)
    try:
        with console.capture() as captured:
            console.print(content)
    finally:
        console.width = width
    lines = captured.get().removesuffix("\n").split("\n")
    console.out(*(printable(line.rstrip()) for line in lines), sep="\n", highlight=False)


def _figures_table(report: Report, rows: Sequence[ClassRow], has_shares: bool) -> Table:
    """The table of classes and groups; names of 11 letters fit in 80 columns, of 30 in 100."""
    # Only the report of a run knows the gradient, and only sigmoid losses tell it.
    shares = ["pos.\nshare"] if has_shares else []
    # There is room for two intervals, beside the shares for one.
    second = "AP" if report.settings.num_bootstrap else "recall" if has_shares else "precision"
    spread = {"recall", second}
    table = numbers_table("class", "group", "train\nboxes", "val\nboxes")
    percent = f"{report.settings.confidence:.0%}"
    for name in SHOWN_FIGURES:
        title = FIGURES[name].short or FIGURES[name].title
        title = f"{title:<{12 - len(percent)}}[{percent}]" if name in spread else title
        table.add_column(title, justify="right", no_wrap=True)
    for title in shares:
        table.add_column(title, justify="right", no_wrap=True)

    def figures(row: ClassRow | GroupRow) -> list[Text]:
        return [
            figure_with_interval(row.figures[name], row.intervals.get(name))
            if name in spread
            else figure(row.figures[name])
            for name in SHOWN_FIGURES
        ]

    for row, ends_group in with_ends(rows):
        share = [figure(row.positive_share)] if has_shares else []
        table.add_row(*class_cells(row), *figures(row), *share, end_section=ends_group)
    for name, group in shown_groups(report.groups, report.settings.group_rule):
        table.add_row(
            *group_cells(name, group.num_evaluated, group.train_boxes, group.val_boxes),
            *figures(group),
        )
    return table


def _errors(report: Report) -> list[Text | Table]:
    """What each kind of error costs every group, and how many of them a user would see."""
    every = shown_groups(report.groups, report.settings.group_rule)
    groups = [(name, group) for name, group in every if group.errors]
    if not groups:
        return []
    table = numbers_table("")
    for kind in ERROR_KINDS:
        table.add_column(kind, justify="right", no_wrap=True)
    for name, group in groups:
        label = Text(name, style=GROUP_STYLES.get(name, "bold"))
        table.add_row(label, *(_cost(group.errors[kind]) for kind in ERROR_KINDS))
    title = Text.assemble(
        ("Errors", "bold"),
        f": AP50 that each kind costs, (number of them with {shown_from(report.settings)})",
    )
    return [Text(), title, table, *(Text(line, style="dim") for line in KINDS_IN_WORDS)]


def _cost(error: ErrorKind) -> Text:
    if math.isnan(error.cost):
        return Text("-", style="dim")
    return Text.assemble(decimals(error.cost), (f" ({error.shown})", "dim"))


def _summary(report: Report) -> Table:
    table = Table.grid(padding=(0, 3))
    names = list(report.summary)
    for start in range(0, len(names), 3):
        table.add_row(
            *(
                Text.assemble((f"{name:5} ", "dim"), figure(report.summary[name]))
                for name in names[start : start + 3]
            )
        )
    return table


def _listed(report: Report, max_classes: int) -> Sequence[ClassRow]:
    """All classes, or of many the rarest that have figures to show."""
    if len(report.classes) <= max_classes:
        return report.classes
    measured = [row for row in report.classes if row.val_boxes or row.false_positives]
    return measured[: min(KEPT_OF_MANY, max_classes)]


def _left_out(report: Report, rows: Sequence[ClassRow]) -> list[Text]:
    number = len(report.classes) - len(rows)
    if not number:
        return []
    empty = sum(not row.val_boxes for row in report.classes)
    without = f", {empty:,} of all classes {'has' if empty == 1 else 'have'} no box to find"
    without = without if empty else ""
    return [
        Text(
            f"{counted(number, 'class is', 'classes are')} not listed{without}; report.csv has all "
            f"{len(report.classes):,}, "
            "the group rows count all",
            style="dim",
        )
    ]


def facts_table(facts: Mapping[str, str]) -> Table:
    """Lay out what figures are of: one line per fact."""
    grid = Table.grid(padding=(0, 2))
    for name, text in facts.items():
        value = Text(printable(text), overflow="fold")
        grid.add_row(Text(name, style="dim", no_wrap=True), value)
    return grid
