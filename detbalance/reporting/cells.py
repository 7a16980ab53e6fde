"""Numbers as the consoles show them: aligned, "-" where undefined, without a leading zero."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Literal, Protocol, TypeVar

from detbalance.data.messages import needs

try:
    from rich.box import HORIZONTALS
    from rich.table import Table
    from rich.text import Text
except ImportError as exc:
    raise needs("detbalance.reporting.cells", "rich", "report") from exc

from detbalance.data.messages import printable

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
