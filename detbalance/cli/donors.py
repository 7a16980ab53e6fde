"""`detbalance donors`: the cut-outs of all boxes that may be pasted, in one file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from detbalance.cli.evaluating import check_folder
from detbalance.cli.options import DropInvalid, Real, Seed, TrainedOn, Whole, command
from detbalance.cli.outputs import OUTPUT_FILE
from detbalance.cli.printing import print_table, progress
from detbalance.data import Annotations, load_annotations
from detbalance.data.frequency import class_frequency, frequency_groups
from detbalance.data.messages import counted
from detbalance.reporting.document import group_cell

if TYPE_CHECKING:
    from detbalance.augmentation.packing import Packed
    from detbalance.reporting.document import AnyCell


_LISTED = 60
_NAMED = 10
_COUNTS = ("boxes", "donors", "small", "overlapping", "over_limit", "unreadable")
_TITLES = {"small": "too small", "over_limit": "over limit"}
logger = logging.getLogger(__name__)


@command(
    "donors",
    "detbalance donors --annotations train.json --images train --output donors.bin",
    overwrite="Replace the file.",
)
def donors_command(
    *,
    annotations: TrainedOn,
    images: Annotated[Path, "Folder of its images."],
    output: Annotated[Path, OUTPUT_FILE, "File to write, for example donors.safetensors."],
    classes: Annotated[
        tuple[str, ...],
        "--classes NAME",
        "Class to cut out, repeatable. Default: the rare and the common ones.",
    ] = (),
    margin: Annotated[
        float,
        Real(0, 1),
        "Context on each side as a part of the box; paste must be given the same.",
    ] = 0.2,
    min_size: Annotated[float, Real(0), "Least square root of width x height, in pixels."] = 8.0,
    max_overlap: Annotated[
        float, Real(0, 1), "Part of a box, or of the other, that it may share with another one."
    ] = 0.3,
    max_per_class: Annotated[
        int, Whole(1), "Boxes of a class; drawn at random where there are more."
    ] = 2000,
    seed: Seed = 0,
    drop_invalid: DropInvalid = False,
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
    print_table(
        ("class", "group", *(_TITLES.get(name, name) for name in _COUNTS)),
        _rows(train, packed),
        f"Written: {output} ({counted(packed.written.number, 'donor')},"
        f" {packed.written.megabytes:.1f} MB)."
        f" Use it with augmentation.paste.donor_file: {output}",
        num_texts=2,
    )


def _name_problems(packed: Packed) -> None:
    if not packed.problems:
        return
    logger.warning(
        "Images that cannot be used: %d, donors left out with them: %d.",
        len(packed.problems),
        packed.unreadable.sum(),
    )
    for problem in list(packed.problems.values())[:_NAMED]:
        logger.warning("  %s", problem)
    if len(packed.problems) > _NAMED:
        logger.warning("  and %s", ", ".join(list(packed.problems)[_NAMED:]))


def _rows(train: Annotations, packed: Packed) -> Iterator[list[str | int | AnyCell] | None]:
    """What became of the boxes of each class, the rarest first."""
    groups = frequency_groups(class_frequency(train))
    counts = np.stack([getattr(packed, name) for name in _COUNTS], axis=1)
    chosen = np.flatnonzero(packed.boxes)
    chosen = chosen[np.argsort(packed.boxes[chosen], kind="stable")]
    for label in chosen[:_LISTED].tolist():
        name, group = train.categories.name(label), group_cell(groups.group(label))
        yield [name, group, *counts[label].tolist()]
    if len(chosen) > _LISTED:
        yield [counted(len(chosen) - _LISTED, "more frequent class")]
    yield None
    yield ["all", "", *counts.sum(axis=0).tolist()]
