"""`detbalance donors`: the cut-outs of all boxes that may be pasted, in one file."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from rich.console import Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from detbalance.augmentation.packing import Packed, pack_donors
from detbalance.data import Annotations, load_annotations
from detbalance.data.frequency import class_frequency, frequency_groups
from detbalance.data.messages import counted
from detbalance.reporting.console import GROUP_STYLES, name_cell, numbers_table, print_content
from detbalance.reporting.terminal import Console

_LISTED = 60
_NAMED = 10
_logger = logging.getLogger(__name__)


def donors_command(
    *,
    annotations: Path,
    images: Path,
    output: Path,
    classes: tuple[str, ...],
    margin: float,
    min_size: float,
    max_overlap: float,
    max_per_class: int,
    seed: int,
    drop_invalid: bool,
) -> None:
    """Choose the boxes, cut them out, write the file, and print what it holds."""
    if not images.is_dir():
        raise ValueError(
            f"--images: {images} is no folder. The folder that file names start from is expected."
            " Correct the path."
        )
    train = load_annotations(annotations, segmentations=True, drop_invalid=drop_invalid)
    output.parent.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("cutting out donors"), BarColumn(), MofNCompleteColumn())
    on_stderr = Console(stderr=True)
    with Progress(
        *columns, TimeRemainingColumn(), console=on_stderr, disable=not on_stderr.is_terminal
    ) as bar:
        task = bar.add_task("images", total=None)
        packed = pack_donors(
            train,
            images,
            output,
            classes=classes or None,
            margin=margin,
            min_size=min_size,
            max_overlap=max_overlap,
            max_per_class=max_per_class,
            seed=seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _name_problems(packed)
    line = (
        f"Written: {output} ({counted(packed.written.number, 'donor')},"
        f" {packed.written.megabytes:.1f} MB)."
        f" Use it with augmentation.paste.donor_file: {output}"
    )
    print_content(Group(_table(train, packed), Text(line)), None)


def _name_problems(packed: Packed) -> None:
    if not packed.problems:
        return
    _logger.warning(
        "Images that cannot be used: %d, donors left out with them: %d.",
        len(packed.problems),
        packed.unreadable.sum(),
    )
    for problem in list(packed.problems.values())[:_NAMED]:
        _logger.warning("  %s", problem)
    if len(packed.problems) > _NAMED:
        names = list(packed.problems)[_NAMED:]
        _logger.warning("  and %s", ", ".join(names))


def _table(train: Annotations, packed: Packed) -> Table:
    """What became of the boxes of each class, the rarest first."""
    groups = frequency_groups(class_frequency(train))
    table = numbers_table(
        "class", "group", "boxes", "donors", "too small", "overlapping", "over limit", "unreadable"
    )
    counts = np.stack(
        [
            packed.boxes,
            packed.donors,
            packed.small,
            packed.overlapping,
            packed.over_limit,
            packed.unreadable,
        ]
    )
    asked = np.flatnonzero(packed.boxes)
    asked = asked[np.argsort(packed.boxes[asked], kind="stable")]
    for label in asked[:_LISTED].tolist():
        group = groups.group(label) or "-"
        table.add_row(
            name_cell(train.categories.name(label)),
            Text(group, style=GROUP_STYLES.get(group, "")),
            *map(str, counts[:, label].tolist()),
        )
    if len(asked) > _LISTED:
        more = counted(len(asked) - _LISTED, "more frequent class")
        table.add_row(Text(more, style="dim"))
    table.add_section()
    table.add_row(Text("all", style="bold"), "", *map(str, counts.sum(axis=1).tolist()))
    return table
