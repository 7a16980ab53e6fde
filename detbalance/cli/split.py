"""`detbalance split`: one annotation file into a training and a validation file."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import click

from detbalance.cli.options import DROP_INVALID, FILE, SEED, Real, command
from detbalance.cli.outputs import Output
from detbalance.data import (
    ClassShare,
    Split,
    check_paths,
    load_annotations,
    split_annotations,
    write_split,
)
from detbalance.data.messages import counted
from detbalance.reporting.console import print_document
from detbalance.reporting.document import Cell, Column, Document, Table, lines
from detbalance.reporting.terminal import say

_LISTED = 60


@command("split", "detbalance split all.json --output parts --val-share 0.2")
@click.argument("annotations", type=FILE)
@click.option(
    "--output",
    required=True,
    type=Output("train.json", "val.json"),
    help="Folder for train.json and val.json.",
)
@click.option(
    "--val-share",
    default=0.2,
    type=Real(0, 1, min_open=True, max_open=True),
    help="Share of the images and boxes for validation.",
)
@click.option(
    "--group-key",
    metavar="KEY",
    help="Key of the image entries (a.b: nested) whose value images of one source share.",
)
@click.option(
    "--group-regex",
    metavar="REGEX",
    help="The same, as a regular expression on file names; its first group names the source.",
)
@SEED
@DROP_INVALID
@click.option("--overwrite", is_flag=True, help="Replace files that the folder holds.")
def split_command(
    annotations: Path,
    output: Path,
    val_share: float,
    group_key: str | None,
    group_regex: str | None,
    seed: int,
    drop_invalid: bool,
    overwrite: bool,
) -> None:
    """Read, split, write both parts, and print the share of each class."""
    if group_key is not None and group_regex is not None:
        raise ValueError(
            "--group-key, --group-regex: both are given. One way to group is expected. Leave one"
            " out."
        )
    check_paths(annotations, output, overwrite=overwrite)
    split = split_annotations(
        load_annotations(annotations, drop_invalid=drop_invalid),
        val_share=val_share,
        group_by=group_key if group_regex is None else _pattern(group_regex),
        seed=seed,
    )
    train_path, val_path = write_split(split, output, overwrite=overwrite)
    grouped = group_key or group_regex or split.num_groups < len(split.is_val)
    by_group = f", in {counted(split.num_groups, 'group')}" if grouped else ""
    written = (
        f"Written: {train_path} ({counted(split.train.num_images, 'image')}), {val_path}"
        f" ({counted(split.val.num_images, 'image')}){by_group}"
    )
    print_document(Document("Split", [_table(split), *lines("note", *split.notes)]))
    say(written)


def _pattern(regex: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a later Python may read otherwise
            return re.compile(regex)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f'--group-regex: "{regex}" is no regular expression ({error}). Its first group is to'
            r' be the same for images that belong together, as in "(.+)_\d+\.jpg". Correct it.'
        ) from None


def _table(split: Split) -> Table:
    """The shares of each class, the rarest first."""
    classes = sorted(split.classes, key=lambda c: (c.train_images + c.val_images, c.name))
    columns = [Column("class", numeric=False)]
    for title in (
        "groups",
        "train\nimages",
        "val\nimages",
        "val\nshare",
        "train\nboxes",
        "val\nboxes",
        "val\nshare",
    ):
        columns.append(Column(title))
    rows = [[Cell(row.name, name=True), *map(Cell, _cells(row))] for row in classes]
    images = split.is_val
    boxes = [sum(getattr(row, f"{side}_boxes") for row in classes) for side in ("train", "val")]
    every = [
        str(split.num_groups),
        str(int((~images).sum())),
        str(int(images.sum())),
        _share(float(images.mean())),
        *(str(count) for count in boxes),
        _share(boxes[1] / sum(boxes) if sum(boxes) else float("nan")),
    ]
    few = range(_LISTED) if len(rows) > _LISTED else None
    left_out = counted(len(rows) - _LISTED, "more frequent class") if few else ""
    head = [[Cell("all", "bold"), *map(Cell, every)]]
    return Table(columns, rows, head, few=few, left_out=left_out)


def _cells(row: ClassShare) -> list[str]:
    return [
        str(row.num_groups),
        str(row.train_images),
        str(row.val_images),
        _share(row.image_share),
        str(row.train_boxes),
        str(row.val_boxes),
        _share(row.box_share),
    ]


def _share(value: float) -> str:
    return "-" if value != value else f"{value:.1%}"
