"""Show a report, or two side by side, as an aligned table on the console.

Undefined figures are shown as "-". Colours are left to rich: there are none when the output is not
a terminal, and then nothing is shortened either, however long a class name is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Literal

try:
    from rich.box import HORIZONTALS
    from rich.console import Console, Group
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text
except ImportError as exc:
    raise ImportError(
        'detbalance.reporting.console needs rich. Install it with: pip install "detbalance[report]"'
    ) from exc

from detbalance.evaluation.report import check_comparable

if TYPE_CHECKING:
    from detbalance.evaluation import ClassRow, GroupRow, Report

GROUP_STYLES = {"rare": "bold magenta", "common": "cyan", "frequent": "blue"}
_COMPARED = ("AP50", "recall")
_FIGURES = {"AP": "AP", "AP50": "AP50", "AR": "AR", "recall": "recall", "precision": "prec."}
_KEPT_OF_MANY = 40
_SHARE = (
    "pos. share: the part of the class's gradient in training that raised it; near 0, other classes"
    " and background only pushed it down"
)


def print_report(report: Report, *, console: Console | None = None, max_classes: int = 60) -> None:
    """Print a report: what it is of, the table per class, and the COCO summary.

    Args:
        report: what `detbalance.evaluation.build_report` or `load_report` gave.
        console: where to print; standard output if not given.
        max_classes: with more classes than this only the rarest 40 are listed.
    """
    print_content(report_table(report, max_classes=max_classes), console)


def print_comparison(
    reports: Mapping[str, Report], *, console: Console | None = None, max_classes: int = 60
) -> None:
    """Print two reports side by side, as `comparison_table` lays them out.

    Args:
        reports: two reports by the name to show, the one to compare with first.
        console: where to print; standard output if not given.
        max_classes: with more classes than this only the rarest 40 are listed.

    Raises:
        ValueError: if the reports cannot be compared.
    """
    print_content(comparison_table(reports, max_classes=max_classes), console)


def report_table(report: Report, *, max_classes: int = 60) -> Group:
    """Lay out a report for the console.

    Args:
        report: what `detbalance.evaluation.build_report` or `load_report` gave.
        max_classes: with more classes than this only the rarest 40 are listed.

    Returns:
        Something that a rich console prints.
    """
    table = numbers_table("class", "group", "train\nimages", "train\nboxes", "val\nboxes")
    for title in _FIGURES.values():
        table.add_column(title, justify="right", no_wrap=True)
    # Only the report of a run knows the gradient, and only sigmoid losses tell it.
    has_shares = not all(math.isnan(row.positive_share) for row in report.classes)
    if has_shares:
        table.add_column("pos.\nshare", justify="right", no_wrap=True)
    rows = _listed(report, max_classes)
    for row, ends_group in _with_ends(rows):
        table.add_row(
            *_class_cells(row),
            *(_figure(getattr(row, name)) for name in _FIGURES),
            *([_figure(row.positive_share)] if has_shares else []),
            end_section=ends_group,
        )
    for name, group in _shown_groups(report):
        table.add_row(
            *_group_cells(name, group),
            *(_figure(getattr(group, figure)) for figure in _FIGURES),
        )
    summary = Table.grid(padding=(0, 3))
    names = list(report.summary)
    for start in range(0, len(names), 3):
        summary.add_row(
            *(
                Text.assemble((f"{name:5} ", "dim"), _figure(report.summary[name]))
                for name in names[start : start + 3]
            )
        )
    return Group(
        _header(report, {"predictions": report}),
        Text(),
        table,
        *_left_out(report, rows),
        Text("group rows: means over the classes where the figure is defined", style="dim"),
        *([Text(_SHARE, style="dim")] if has_shares else []),
        Text(),
        Text("COCO summary", style="bold"),
        summary,
        *(Text(f"Note: {note}", style="yellow") for note in report.notes),
    )


def comparison_table(reports: Mapping[str, Report], *, max_classes: int = 60) -> Group:
    """Lay out two reports of the same annotations side by side, rarest class first.

    For AP50 and for recall there is a column per report and one with the second less the first.

    Args:
        reports: two reports by the name to show, the one to compare with first.
        max_classes: with more classes than this only the rarest 40 are listed.

    Returns:
        Something that a rich console prints.

    Raises:
        ValueError: if there are not two reports, or they differ in classes, in the boxes to find
            or in the score floor: their figures would not mean the same.
    """
    check_comparable(reports)
    (first_name, first), (second_name, second) = reports.items()
    table = numbers_table("class", "group", "train\nboxes", "val\nboxes")
    for figure in _COMPARED:
        for title in (f"{figure}\n{first_name}", f"\n{second_name}", "\n+/-"):
            table.add_column(title, justify="right", no_wrap=True)

    def compared(before: ClassRow | GroupRow, after: ClassRow | GroupRow) -> list[Text]:
        cells = []
        for figure in _COMPARED:
            old, new = getattr(before, figure), getattr(after, figure)
            cells += [_figure(old), _figure(new), _difference(new - old)]
        return cells

    others = {row.name: row for row in second.classes}
    rows = _listed(first, max_classes)
    for row, ends_group in _with_ends(rows):
        cells = _class_cells(row)
        del cells[2]  # train images: the table has to fit 100 columns
        table.add_row(*cells, *compared(row, others[row.name]), end_section=ends_group)
    for name, group in _shown_groups(first):
        cells = _group_cells(name, group)
        del cells[2]
        table.add_row(*cells, *compared(group, second.groups[name]))
    return Group(
        _header(first, reports),
        Text(),
        table,
        *_left_out(first, rows),
        Text("group rows: means over the classes where the figure is defined", style="dim"),
        *(Text(f"Note: {note}", style="yellow") for note in first.notes),
    )


def print_content(content: Group, console: Console | None) -> None:
    """Print tables and lines; into a pipe or a file at the width that they need.

    Args:
        content: what to print.
        console: where to; None for standard output.
    """
    console = Console() if console is None else console
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
    console.out(*(line.rstrip() for line in captured.get().splitlines()), sep="\n", highlight=False)


def numbers_table(*titles: str) -> Table:
    """A table whose first two columns are text; only the first gives way when room is short."""
    table = Table(box=HORIZONTALS, show_edge=False, padding=0, header_style="bold")
    for i, title in enumerate(titles):
        justify: Literal["left", "right"] = "left" if i < 2 else "right"
        # A column marked no_wrap is never narrowed while another can be.
        table.add_column(title, justify=justify, no_wrap=i > 0, min_width=8 if i == 0 else None)
    return table


def _class_cells(row: ClassRow) -> list[Text]:
    """Name, group, train images, train boxes, val boxes."""
    return [
        Text(row.name, no_wrap=True, overflow="ellipsis"),
        Text(row.group or "-", style=GROUP_STYLES.get(row.group or "", "dim")),
        *(_count(number) for number in (row.train_images, row.train_boxes, row.val_boxes)),
    ]


def _group_cells(name: str, group: GroupRow) -> list[Text]:
    """The same cells for a group row."""
    style = GROUP_STYLES.get(name, "bold")
    label = f"{name}, mean of {group.num_evaluated}"
    return [
        Text(label, style=style, no_wrap=True, overflow="ellipsis"),
        Text(),
        Text(),
        _count(group.train_boxes),
        _count(group.val_boxes),
    ]


def _shown_groups(report: Report) -> list[tuple[str, GroupRow]]:
    """The group rows to show: without frequencies there is only the one of all classes."""
    return [
        (name, group)
        for name, group in report.groups.items()
        if name == "all" or report.settings.group_rule is not None
    ]


def _listed(report: Report, max_classes: int) -> Sequence[ClassRow]:
    many = len(report.classes) > max_classes
    return report.classes[: min(_KEPT_OF_MANY, max_classes)] if many else report.classes


def _with_ends(rows: Sequence[ClassRow]) -> Iterator[tuple[ClassRow, bool]]:
    """Each row, and whether a line goes below it: where the group changes, and at the end."""
    for row, following in zip_longest(rows, rows[1:]):
        yield row, following is None or following.group != row.group


def _left_out(report: Report, rows: Sequence[ClassRow]) -> list[Text]:
    count = len(report.classes) - len(rows)
    if not count:
        return []
    return [
        Text(
            f"{count} more frequent classes are not listed; report.csv has all "
            f"{len(report.classes)}, the group rows count all",
            style="dim",
        )
    ]


def _header(report: Report, named: Mapping[str, Report]) -> Table:
    """What the figures are of: one line per fact, the predictions file of each named report."""
    settings = report.settings
    ious = settings.iou_thresholds
    facts = {
        "annotations": settings.annotations,
        **{name: one.settings.predictions for name, one in named.items()},
        "AP, AR": f"IoU {_short(ious[0])} to {_short(ious[-1])}, every score, "
        f"{settings.max_detections[-1]} detections per image and class at most",
        "recall, prec.": f"IoU {_short(settings.recall_iou_threshold)}, "
        f"detections with score >= {settings.score_floor:g}",
        "groups": settings.group_rule,
        "frequencies": settings.frequency_source,
        "matching": settings.backend,
    }
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value:
            grid.add_row(Text(name, style="dim", no_wrap=True), Text(value, overflow="fold"))
    return grid


def _short(value: float) -> str:
    """Two decimals without the leading zero."""
    return f"{value:.2f}".removeprefix("0")


def _count(number: int | None) -> Text:
    return Text("-", style="dim") if number is None else Text(str(number))


def _figure(value: float) -> Text:
    """Three decimals, without the leading zero; "-" where undefined."""
    if math.isnan(value):
        return Text("-", style="dim")
    return Text(f"{value:.3f}".removeprefix("0"))


def _difference(value: float) -> Text:
    if math.isnan(value):
        return Text("-", style="dim")
    text = f"{abs(value):.3f}".removeprefix("0")
    if text == ".000":
        return Text(text, style="dim")
    return Text(f"+{text}", style="green") if value > 0 else Text(f"-{text}", style="red")
