"""The text of the console table: any document, printed by rich.

Undefined figures are shown as "-". Colours are left to rich: there are none when the output is not
a terminal, and then nothing is shortened either, however long a class name is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from detbalance.data.messages import needs, printable
from detbalance.evaluation.comparison import decimals as short_decimals
from detbalance.evaluation.comparison import digits_for
from detbalance.reporting import terminal
from detbalance.reporting.document import (
    AnyCell,
    Block,
    Cell,
    Change,
    Column,
    Document,
    Facts,
    Lines,
)
from detbalance.reporting.document import Table as TableBlock

try:
    from rich.box import HORIZONTALS
    from rich.cells import cell_len
    from rich.console import Console, Group, RenderableType
    from rich.measure import Measurement
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text
except ImportError as exc:
    raise needs("detbalance.reporting.console", "rich", "report") from exc

_FIGURE_WIDTH = len("1.000")
_INTERVAL_WIDTH = len(" [.24 .76]")
_NAME_WIDTH = 8  # what names are cut to at most
_NARROW = 0.02  # interval whose ends take a third decimal
_STYLES = {"verdict": "bold", "sentence": "", "legend": "dim", "note": "yellow", "remark": ""}


def print_document(document: Document, console: Console | None = None) -> None:
    """Print a document; into a pipe or a file at the width that it needs.

    Args:
        document: what to print.
        console: where to; None for standard output.
    """
    console = terminal.Console() if console is None else console
    has_width = console.is_terminal or console.is_jupyter
    content = Group(*_rendered(document, console.width if has_width else None))
    if has_width:
        console.print(content, crop=False)  # code is as long as it is
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


def _rendered(document: Document, width: int | None) -> Iterator[RenderableType]:
    before: Block | None = None
    for block in document.blocks:
        if before is not None and _is_apart(before, block):
            yield Text()
        before = block
        if isinstance(block, Facts):
            yield _facts(block)
        elif isinstance(block, TableBlock):
            for number, shown in enumerate(_parts(block, width)):
                yield from [Text()] if number else []
                yield _table(block, shown)
            yield from [Text(block.left_out, style="dim")] if block.left_out else []
        elif block.kind == "title":
            yield Text.assemble((block.lead, "bold"), *map(printable, block.texts))
        elif block.kind == "code":  # not wrapped and not coloured: to be copied
            yield from (Text(f"  {x}", no_wrap=True, overflow="ignore") for x in block.texts)
        else:
            yield from (_line(block.kind, text, block.lead) for text in block.texts)


def _is_apart(before: Block, block: Block) -> bool:
    """Whether an empty line goes between two blocks."""
    kind = block.kind if isinstance(block, Lines) else ""
    if isinstance(block, Facts) or kind == "title":
        return True
    if isinstance(before, Lines):
        follows = before.kind == "legend" and kind in ("sentence", "note")
        return follows or (before.kind in ("verdict", "sentence") and isinstance(block, TableBlock))
    return kind in ("verdict", "sentence", "note")


def _line(kind: str, text: str, lead: str) -> RenderableType:
    """A sentence that may hold names and paths; no line break of theirs makes a line of its own."""
    if kind == "note":
        return Text(f"Note: {printable(text)}", style="yellow")
    if kind in ("remark", "fault"):
        mark = ("! ", "bold red") if kind == "fault" else ("- ", "dim")
        where, colon, what = text.partition(": ") if lead == "file" else ("", "", text)
        body = Text.assemble(mark, (f"{printable(where)}{colon}", "bold"), printable(what))
        return Padding(body, (0, 0, 0, 1))
    return Text(printable(text), style=_STYLES[kind])


def _facts(block: Facts) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, text in block.values.items():
        if text:
            value = Text(printable(text), overflow="fold")
            grid.add_row(Text(name, style="dim", no_wrap=True), value)
    return grid


def _parts(block: TableBlock, width: int | None) -> Iterator[list[int]]:
    """The columns that fit beside each other; of a table too wide some in each of several parts."""
    shown = [i for i, column in enumerate(block.columns) if not column.roomy]
    if width is None:
        yield shown
        return
    widths = [_width(block, i) for i in range(len(block.columns))]
    widths[0] = min(widths[0], _NAME_WIDTH)

    def fits(columns: list[int]) -> bool:
        return sum(widths[i] + 1 for i in columns) - 1 <= width

    for i in [i for i in shown if block.columns[i].spare]:
        if not fits(shown):
            shown.remove(i)
    while True:
        number = len(shown)
        while number > 2 and not fits(shown[:number]):
            number -= 1
        yield shown[:number]
        if number == len(shown):
            return
        shown = [shown[0], *shown[number:]]


def _width(block: TableBlock, i: int) -> int:
    """What the widest cell of a column takes."""
    few = block.rows if block.few is None else [block.rows[j] for j in block.few]
    cells = (_cell(row[i], block.columns[i]).cell_len for row in (*block.head, *few))
    return max(*map(cell_len, block.columns[i].title.split("\n")), *cells, 0)


def _table(block: TableBlock, shown: list[int]) -> Table:
    """Only the first column gives way when room is short."""
    table = Table(box=HORIZONTALS, show_edge=False, padding=0, header_style="bold")
    for place, i in enumerate(shown):
        column = block.columns[i]
        # A column marked no_wrap is never narrowed while another can be.
        table.add_column(
            Text(printable(column.title, keep="\n")),
            justify="right" if column.numeric else "left",
            no_wrap=place > 0,
            min_width=None if place else _NAME_WIDTH,
            header_style=column.style or "bold",
        )
    for j, row in enumerate(block.head):
        cells = [_cell(row[i], block.columns[i]) for i in shown]
        table.add_row(*cells, end_section=j == len(block.head) - 1)
    before = -1
    for j in range(len(block.rows)) if block.few is None else block.few:
        if block.gap and j > before + 1:
            table.add_row(Text(block.gap.format(number=j - before - 1), style="dim"))
        cells = [_cell(block.rows[j][i], block.columns[i]) for i in shown]
        style = (block.styles or {}).get(j, "")
        table.add_row(*cells, style=style, end_section=j in block.ends)
        before = j
    rest = len(block.rows) - before - 1
    if block.gap and rest:
        table.add_row(Text(block.gap.format(number=rest), style="dim"))
    return table


def _cell(cell: AnyCell, column: Column) -> Text:
    if isinstance(cell, Cell):
        if cell.name or not column.numeric:
            name = printable(cell.text)
            return Text(name, style=cell.style, no_wrap=True, overflow="ellipsis")
        return Text(cell.text, style=cell.style)
    if isinstance(cell, Change):
        return _change(cell)
    text = Text(
        decimals(cell.value, cell.digits),
        style=cell.style or ("dim" if math.isnan(cell.value) else ""),
    )
    if cell.remark and not math.isnan(cell.value):
        text.append(f" {cell.remark}", style="dim")
    if column.interval:
        text.pad_left(_FIGURE_WIDTH - len(text))
        if cell.interval is None:
            text.pad_right(_INTERVAL_WIDTH)
        else:
            low, high = cell.interval
            text.append(f" [{_two(low)} {_two(high)}]", style="dim")
    return text


def _change(cell: Change) -> Text:
    """Both sides, a signed difference, its interval, and a mark where it is real."""
    sides = [f"{decimals(value):>5} " for value in (cell.before, cell.after)] if cell.sides else []
    if math.isnan(cell.difference):
        return Text.assemble(*sides, ("-", "dim"), " " * 15 if cell.sides else "")
    style = ("green" if cell.difference > 0 else "red") if cell.real else ""
    # Two decimals would hide the ends of a very narrow interval, and that one is not 0.
    digits = digits_for(cell.low, cell.high, least=3 if cell.high - cell.low < _NARROW else 2)
    interval = f"[{short_decimals(cell.low, digits)} {short_decimals(cell.high, digits)}]"
    size = f"{abs(cell.difference):.3f}".removeprefix("0")
    sign = "" if size == ".000" else "+" if cell.difference > 0 else "-"
    mark = "*" if cell.real else " "
    change = f"{sign}{size}{mark}"
    return Text.assemble(*sides, (f"{change:>6}", style), (f"{interval:>14}", "dim"))


def decimals(value: float, digits: int = 3) -> str:
    """Three decimals, or so many, without a leading zero; "-" where undefined."""
    text = f"{value:.{digits}f}"
    return "-" if math.isnan(value) else text.removeprefix("0") if digits else text


def _two(value: float) -> str:
    """Two decimals in three characters: .24, and 1.0 for what rounds to 1."""
    text = f"{value:.2f}"
    return text[:3] if value >= 0.995 else text.removeprefix("0")
