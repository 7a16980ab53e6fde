"""Any document as Markdown with GitHub's tables, to paste into a pull request or an issue."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Sequence

from detbalance.data.messages import printable
from detbalance.evaluation.comparison import digits_for
from detbalance.reporting.document import AnyCell, Cell, Change, Document, Facts, Lines, Table

# With more classes the table is folded: a pull request is read for its groups.
FOLDED_FROM = 30


def markdown(document: Document) -> str:
    """Write a document; what Markdown or HTML would read in names and paths is escaped."""
    parts = [f"# {document.title}", *(part for block in document.blocks for part in _parts(block))]
    return "\n\n".join(parts) + "\n"


def _parts(block: Facts | Lines | Table) -> Iterator[str]:
    if isinstance(block, Facts):
        facts = [f"- {name}: {escaped(text)}" for name, text in block.values.items() if text]
        yield "\n".join(facts)
    elif isinstance(block, Table):
        yield from _table(block)
    elif block.kind == "verdict":
        yield from (f"**{escaped(text)}**" for text in block.texts)
    elif block.kind == "note":
        yield from (f"> Note: {escaped(text)}" for text in block.texts)
    elif block.kind in ("remark", "fault"):
        yield "\n".join(f"- {escaped(text)}" for text in block.texts)
    elif block.kind == "title":
        yield f"## {block.lead}{escaped(' '.join(block.texts))}".rstrip()
    elif block.kind == "code":
        yield "\n".join(["```", *block.texts, "```"])
    else:
        yield " ".join(_sentence(escaped(text)) for text in block.texts)


def _sentence(text: str) -> str:
    return text if text.endswith((".", ";", "!", "?", ":")) else f"{text}."


def _table(block: Table) -> Iterator[str]:
    # Titles are ours but for names of files in them; their brackets are meant.
    titles = [
        re.sub(r"([\\`|<>])", r"\\\1", " ".join(column.title.replace("-\n", "").split()))
        for column in block.columns
    ]
    rules = ["--:" if column.numeric else ":--" for column in block.columns]

    def lines(rows: Sequence[Sequence[AnyCell]]) -> str:
        cells = [titles, rules, *([_cell(cell) for cell in row] for row in rows)]
        return "\n".join(f"| {' | '.join(row)} |" for row in cells)

    if block.head:
        yield lines(block.head)
    if block.fold and len(block.rows) >= FOLDED_FROM:
        yield f"<details><summary>{block.fold}</summary>"
        yield lines(block.rows)
        yield "</details>"
    elif block.rows or not block.head:
        yield lines(block.rows)


def _cell(cell: AnyCell) -> str:
    if isinstance(cell, Cell):
        return escaped(cell.text)
    if isinstance(cell, Change):
        sides = " to ".join(_three(value) for value in (cell.before, cell.after))
        if math.isnan(cell.difference):
            return sides
        bold = "**" if cell.real else ""
        digits = digits_for(cell.low, cell.high)
        ends = ", ".join(f"{round(end, digits) + 0.0:.{digits}f}" for end in (cell.low, cell.high))
        return f"{sides}: {bold}{cell.difference:+.3f}{bold} [{ends}]"
    text = "-" if math.isnan(cell.value) else f"{cell.value:.{cell.digits}f}"
    if cell.interval is not None:
        text += f" [{cell.interval[0]:.2f}, {cell.interval[1]:.2f}]"
    return f"{text} {cell.remark}" if cell.remark and not math.isnan(cell.value) else text


def _three(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def escaped(text: str) -> str:
    """Put a text on one line that neither Markdown nor HTML reads anything in."""
    one_line = html.escape(printable(" ".join(text.split())), quote=False)
    one_line = one_line.replace(" &gt;= ", " >= ")  # harmless within a line, and ours
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", one_line)
