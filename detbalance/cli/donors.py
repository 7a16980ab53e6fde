"""`detbalance donors`: the cut-outs of all boxes that may be pasted, in one file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from detbalance.cli.evaluating import check_folder
from detbalance.cli.options import DROP_INVALID, FILE, SEED, Real, Whole, command
from detbalance.cli.outputs import OUTPUT_FILE, overwrite
from detbalance.cli.progress import progress
from detbalance.data import Annotations, load_annotations
from detbalance.data.frequency import class_frequency, frequency_groups
from detbalance.data.messages import counted
from detbalance.reporting.console import print_document
from detbalance.reporting.document import AnyCell, Cell, Column, Document, Table, group_cell, lines

if TYPE_CHECKING:
    from detbalance.augmentation.packing import Packed


_LISTED = 60
_NAMED = 10
_logger = logging.getLogger(__name__)


@command("donors", "detbalance donors --annotations train.json --images train --output donors.bin")
@click.option("--annotations", required=True, type=FILE, help="COCO file of the training images.")
@click.option("--images", required=True, type=FILE, help="Folder of its images.")
@click.option(
    "--output",
    required=True,
    type=OUTPUT_FILE,
    help="File to write, for example donors.safetensors.",
)
@click.option(
    "--classes",
    multiple=True,
    metavar="NAME",
    help="Class to cut out, repeatable. Default: the rare and the common ones.",
)
@click.option(
    "--margin",
    default=0.2,
    type=Real(0, 1),
    help="Context on each side as a part of the box; paste must be given the same.",
)
@click.option(
    "--min-size",
    default=8.0,
    type=Real(0),
    help="Least square root of width x height, in pixels.",
)
@click.option(
    "--max-overlap",
    default=0.3,
    type=Real(0, 1),
    help="Part of a box, or of the other, that it may share with another one.",
)
@click.option(
    "--max-per-class",
    default=2000,
    type=Whole(1),
    help="Boxes of a class; drawn at random where there are more.",
)
@SEED
@DROP_INVALID
@overwrite("Replace the file.")
def donors_command(
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
    """Cut out the objects that may be pasted, once, so that training opens no image for them."""
    from detbalance.augmentation.packing import pack_donors

    check_folder("--images", images)
    train = load_annotations(annotations, segmentations=True, drop_invalid=drop_invalid)
    output.parent.mkdir(parents=True, exist_ok=True)
    with progress("cutting out donors") as tell:
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
            progress=tell,
        )
    _name_problems(packed)
    line = (
        f"Written: {output} ({counted(packed.written.number, 'donor')},"
        f" {packed.written.megabytes:.1f} MB)."
        f" Use it with augmentation.paste.donor_file: {output}"
    )
    print_document(Document("Donors", [_table(train, packed), *lines("legend", line)]))


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
    titles = ("boxes", "donors", "too small", "overlapping", "over limit", "unreadable")
    columns = [Column("class", numeric=False), Column("group", numeric=False), *map(Column, titles)]
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
    rows: list[list[AnyCell]] = [
        [
            Cell(train.categories.name(label), name=True),
            group_cell(groups.group(label)),
            *(Cell(str(n)) for n in counts[:, label].tolist()),
        ]
        for label in asked.tolist()
    ]
    every = [Cell("all", "bold"), Cell(""), *(Cell(str(n)) for n in counts.sum(axis=1).tolist())]
    few = range(_LISTED) if len(rows) > _LISTED else None
    left_out = counted(len(rows) - _LISTED, "more frequent class") if few else ""
    return Table(columns, rows, [every], few=few, left_out=left_out)
