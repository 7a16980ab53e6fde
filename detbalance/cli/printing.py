"""How all commands print: lines, tables, and how far long work is."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from detbalance.reporting.console import print_document
from detbalance.reporting.document import AnyCell, Cell, Column, Document, Table, lines
from detbalance.reporting.terminal import Console

logger = logging.getLogger(__name__)
# Seconds from which on work that cannot be counted is announced.
QUICK = 1.0


def say(*texts: str, style: str = "") -> None:
    """Print lines as they are, however long."""
    console = Console()
    for text in texts:
        console.print(text, style=style, soft_wrap=True)


def print_table(
    titles: Sequence[str],
    rows: Iterable[Sequence[str | int | AnyCell] | None],
    *texts: str,
    num_texts: int = 1,
) -> None:
    """Print a table of a few columns of text and then numbers, None for a line; lines below it."""
    columns = [Column(title, numeric=i >= num_texts) for i, title in enumerate(titles)]
    cells: list[list[AnyCell]] = []
    ends = set()
    for row in rows:
        if row is None:
            ends.add(len(cells) - 1)
        else:
            rest = [Cell("")] * (len(columns) - len(row))
            cells.append([*map(_cell, row), *rest])
    table = Table(columns, cells, ends=frozenset(ends))
    print_document(Document("", [table, *lines("legend", *texts)]))


def _cell(cell: str | int | AnyCell) -> AnyCell:
    if isinstance(cell, int):
        return Cell(f"{cell:,}")
    return Cell(cell, name=True) if isinstance(cell, str) else cell


class Tell(Protocol):
    """Takes how much is done; of several stages each has a bar of its own."""

    def __call__(self, done: int, total: int, *, note: str = "", stage: str = "") -> None: ...  # noqa: D102


class _Bars(Progress):
    """Bars, each with its note below, for which a line has no room."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bars, then the notes of those that are not done."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["note"] and not task.finished:
                yield Text(task.fields["note"], style="dim", no_wrap=True, overflow="ellipsis")


@contextmanager
def progress(title: str, unit: str = "images") -> Iterator[Tell]:
    """Show how far work is, a bar on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    stages: dict[str, TaskID] = {}
    tenths: dict[str, int] = {}
    is_hidden = not console.is_terminal or not logger.isEnabledFor(logging.INFO)
    with _Bars(*columns, console=console, disable=is_hidden) as bar:

        def tell(done: int, total: int, *, note: str = "", stage: str = "") -> None:
            name = stage or title
            if name not in stages:
                stages[name] = bar.add_task(name, total=total, note=note)
            elif tenths.get(name) == 10:  # done before, and begins again
                bar.reset(stages[name])
                tenths[name] = 0
            bar.update(stages[name], completed=done, total=total, note=note)
            tenth = 10 * done // max(1, total)
            if tenth > tenths.get(name, 0):
                tenths[name] = tenth
                if not console.is_terminal:
                    logger.info("%s: %d of %d %s", name, done, total, note or unit)

        yield tell


def rounded(seconds: float) -> str:
    """A time in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def is_quick(seconds: float) -> bool:
    """Whether work is done before anybody wonders."""
    return seconds <= QUICK


@contextmanager
def waiting(what: str, seconds: float) -> Iterator[None]:
    """Say that something takes its time, and about how long."""
    console = Console(stderr=True)
    text = f"{what}: about {rounded(seconds)}"
    if is_quick(seconds):
        yield
    elif console.is_terminal and logger.isEnabledFor(logging.INFO):
        with console.status(Text(text)):
            yield
    else:
        logger.info("%s", text)
        yield
