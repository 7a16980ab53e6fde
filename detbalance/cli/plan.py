"""`detbalance plan`: how imbalanced a training set is, what to do about it, what that costs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from detbalance.data import Annotations, load_annotations
from detbalance.planning import Finding, duplicate_findings, make_plan
from detbalance.reporting.plan import print_plan, write_plan
from detbalance.reporting.terminal import Console


def plan_command(
    *,
    train_file: Path,
    val_file: Path | None,
    images: Path | None,
    val_images: Path | None,
    output: Path | None,
    target_length: int | None,
    images_per_second: float | None,
    rare: int | None,
    common: int | None,
    overwrite: bool,
) -> None:
    """Read, plan, print, and write the plan with its figure where a folder is given."""
    limits = _limits(rare, common)
    _check_folders(val_file, images, val_images)
    _check_output(output, overwrite)
    with _in_the_plan_instead():
        train = load_annotations(train_file, drop_invalid=True)
        val = None if val_file is None else load_annotations(val_file, drop_invalid=True)
    duplicates = None
    if images is not None:
        duplicates = _duplicates(train, images, val, val_images)
    plan = make_plan(
        train,
        val=val,
        limits=limits,
        target_length=target_length,
        images_per_second=images_per_second,
        duplicates=duplicates,
    )
    console = Console()
    print_plan(plan, console=console, has_csv=output is not None)
    if output is None:
        console.print(
            "\nNothing is written. --output DIR keeps plan.json, plan.csv with every class,"
            " plan.png and plan.svg.",
            style="dim",
        )
        return
    from detbalance.reporting.plan_figure import draw_plan

    written = [*write_plan(plan, output)]
    written += [draw_plan(plan, output / f"plan.{kind}") for kind in ("png", "svg")]
    console.print(f"\nWritten: {', '.join(map(str, written))}", soft_wrap=True)


def _limits(rare: int | None, common: int | None) -> tuple[int, int] | None:
    if (rare is None) != (common is None):
        raise ValueError(
            "--rare, --common: only one of them is given. Both limits are expected. Give both, for"
            " example --rare 10 --common 100."
        )
    return None if rare is None or common is None else (rare, common)


def _check_folders(val: Path | None, images: Path | None, val_images: Path | None) -> None:
    if val_images is not None and (val is None or images is None):
        missing = "--val" if val is None else "--images"
        raise ValueError(
            f"--val-images: is {val_images}, and {missing} is missing. Images of val are compared"
            f" with those of training. Add {missing}."
        )
    if images is not None and val is not None and val_images is None:
        raise ValueError(
            f"--images: is {images}, and --val-images is missing. Both folders are expected to"
            " compare the images. Add --val-images, the same folder if they share one."
        )
    for option, folder in (("--images", images), ("--val-images", val_images)):
        if folder is not None and not folder.is_dir():
            raise ValueError(
                f"{option}: {folder} is no folder. The folder that file names start from is"
                " expected. Correct the path."
            )


def _check_output(output: Path | None, overwrite: bool) -> None:
    """Refuse a folder that holds a plan, and a missing library, before any work is done."""
    if output is None:
        return
    if not overwrite and (output / "plan.json").exists():
        raise ValueError(
            f"{output}: already holds a plan. A new or empty folder is expected. Pass --overwrite"
            " to replace it."
        )
    from detbalance.reporting.plan_figure import import_figure

    import_figure()


@contextmanager
def _in_the_plan_instead() -> Iterator[None]:
    """Keep what loading leaves out off the log: it is a finding of the plan."""
    logger = logging.getLogger("detbalance.data")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _duplicates(
    train: Annotations, images: Path, val: Annotations | None, val_images: Path | None
) -> list[Finding]:
    columns = (TextColumn("comparing images"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("images", total=None)
        return duplicate_findings(
            train,
            images,
            val,
            val_images,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
