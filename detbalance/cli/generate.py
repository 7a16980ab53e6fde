"""`detbalance generate`: learn to draw the objects of rare classes, and keep what passes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.box import HORIZONTALS
from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from detbalance.data import load_annotations
from detbalance.data.messages import counted
from detbalance.generation import ClassResult, Result, Settings, Stopped, generate
from detbalance.reporting.console import name_cell, print_content
from detbalance.reporting.terminal import Console
from detbalance.training.run import stop_request

logger = logging.getLogger(__name__)


def generate_command(
    *,
    annotations: Path,
    images: Path,
    output: Path,
    classes: tuple[str, ...],
    size: str,
    iterations: int,
    per_class: int,
    min_donors: int,
    with_frequent: bool | None,
    symmetry: str,
    seed: int,
    device: str | None,
    drop_invalid: bool,
    resume: bool,
    overwrite: bool,
) -> None:
    """Read, learn, draw, check, write, and say what came of it."""
    if not images.is_dir():
        raise ValueError(
            f"--images: {images} is no folder. The folder that file names start from is expected."
            " Correct the path."
        )
    settings = Settings(
        classes=classes or None,
        size=int(size),
        iterations=iterations,
        per_class=per_class,
        min_donors=min_donors,
        with_others=with_frequent,
        symmetry=symmetry,
        seed=seed,
    )
    train = load_annotations(annotations, drop_invalid=drop_invalid)
    with stop_request() as stop, _stages() as tell:
        try:
            result = generate(
                train,
                images,
                output,
                settings,
                device=_device(device),
                overwrite=overwrite,
                resume=resume,
                progress=tell,
                should_stop=stop.is_set,
            )
        except Stopped as error:
            raise KeyboardInterrupt(str(error)) from error
    _show(result)


def _device(name: str | None) -> str:
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"--device: {name} cannot be used ({reason}). A device of this machine is expected,"
            " such as cuda or cpu. Choose another one, or leave --device out."
        ) from error
    return name


@contextmanager
def _stages() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage on a terminal; elsewhere a line now and then."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    tasks = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done)
            every = max(1, total // 5)
            if not console.is_terminal and done and done % every == 0:
                logger.info("%s %d/%d", stage, done, total)

        yield tell


def _show(result: Result) -> None:
    print_content(Group(_table(result.classes), *map(Text, _sentences(result))), None)


def _table(classes: tuple[ClassResult, ...]) -> Table:
    table = Table(box=HORIZONTALS, show_edge=False, padding=0, header_style="bold")
    table.add_column("class", no_wrap=True, min_width=8)
    for title in (
        "donors",
        "made",
        "kept",
        "copies",
        "repeats",
        "nonsense",
        "real\nkept",
        "backgr.\nkept",
        "KID",
        "KID of\nreal",
        "KID of\nbackgr.",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for row in classes:
        table.add_row(name_cell(row.name), *_cells(row))
    return table


def _cells(row: ClassResult) -> list[str]:
    counts = (row.made, row.kept, row.copies, row.repeats, row.nonsense)
    return [
        str(row.donors),
        *(str(count) if row.made else "-" for count in counts),
        *("-" if math.isnan(v) else f"{v:.0%}" for v in (row.held_out_kept, row.background_kept)),
        *(
            "-" if math.isnan(v) else f"{v:.3f}"
            for v in (row.kid.generated, row.kid.real, row.kid.background)
        ),
    ]


def _sentences(result: Result) -> list[str]:
    """What the table does not say, in words."""
    lines = [f"{row.name}: left out, {row.left_out}." for row in result.classes if row.left_out]
    if result.taught_by:
        lines.append(f"Shown in training as well: {', '.join(result.taught_by)}.")
    lines += [
        "real kept, backgr. kept: share of unseen donors and of places without objects that pass"
        " the check against nonsense; it is worth what lies between them.",
        f"KID: distance to the donors by {result.features}, beside that of one half of the donors"
        " to the other and that of places without objects. The generator has seen the donors, so"
        " the figure flatters it.",
    ]
    lines += [_verdict(row) for row in result.classes if not math.isnan(row.kid.generated)]
    if result.output is None:
        lines.append(
            "Nothing is written: no class has crops that pass. Give it more --iterations, or paste"
            " the real donors instead (augmentation.paste)."
        )
    else:
        lines.append(
            f"Written: {result.output} ({counted(sum(row.kept for row in result.classes), 'crop')},"
            f" {result.seconds / 60:.1f} minutes). Look at {result.output / 'contact_sheet.png'}"
            " before training on them."
        )
    return lines


def _verdict(row: ClassResult) -> str:
    """Where the generated crops lie between real ones and places without objects."""
    kid = row.kid
    if math.isnan(kid.real) or math.isnan(kid.background) or kid.background <= kid.real:
        return f"{row.name}: KID cannot be told from that of the background."
    if kid.generated <= kid.real + 2 * kid.spread:
        return (
            f"{row.name}: generated crops are no farther from the donors than halves of so few"
            f" donors may be from each other (KID {kid.real:.3f} +- {2 * kid.spread:.3f})."
        )
    if kid.generated >= kid.background:
        return (
            f"{row.name}: generated crops are no nearer to real ones than places without objects."
        )
    share = (kid.generated - kid.real) / (kid.background - kid.real)
    return (
        f"{row.name}: generated crops are {share:.0%} of the way from real ones to places without"
        " objects."
    )
