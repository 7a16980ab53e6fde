"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from detbalance.reporting.terminal import Console

logger = logging.getLogger(__name__)
# Seconds from which on work that cannot be counted is announced.
QUICK = 1.0


class Tell(Protocol):
    """Takes how much is done; of several stages each has a bar of its own."""

    def __call__(self, done: int, total: int, *, note: str = "", stage: str = "") -> None: ...  # noqa: D102


@contextmanager
def progress(title: str, unit: str = "images") -> Iterator[Tell]:
    """Show how far work is; silent with `--quiet`."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
    )
    tasks: dict[str, tuple[int, list[int]]] = {}  # stage -> task, tenths that were said
    hidden = not console.is_terminal or not logger.isEnabledFor(logging.INFO)
    with Progress(*columns, console=console, disable=hidden) as bar:

        def tell(done: int, total: int, *, note: str = "", stage: str = "") -> None:
            name = stage or title
            if name not in tasks:
                tasks[name] = (int(bar.add_task(name, total=total, note=note)), [0])
            task, said = tasks[name]
            bar.update(task, completed=done, total=total, note=note)  # type: ignore[arg-type]
            tenth = 10 * done // max(1, total)
            if not console.is_terminal and tenth > said[-1]:
                said.append(tenth)
                logger.info("%s: %d of %d %s", name, done, total, note or unit)

        yield tell


def rounded(seconds: float) -> str:
    """A time in words."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


@contextmanager
def waiting(what: str, seconds: float) -> Iterator[None]:
    """Say that something takes its time, and about how long."""
    console = Console(stderr=True)
    text = f"{what}: about {rounded(seconds)}"
    if seconds <= QUICK:
        yield
    elif console.is_terminal and logger.isEnabledFor(logging.INFO):
        with console.status(Text(text)):
            yield
    else:
        logger.info("%s", text)
        yield
