"""`detbalance split`: one annotation file into a training and a validation file."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from detbalance.cli.options import DropInvalid, Positional, Real, Seed, command
from detbalance.cli.outputs import Output
from detbalance.cli.printing import print_table, say
from detbalance.data import Split, check_paths, load_annotations, split_annotations, write_split
from detbalance.data.messages import counted

_LISTED = 60


@command("split", "detbalance split all.json --output parts --val-share 0.2")
def split_command(
    *,
    annotations: Annotated[Path, Positional("ANNOTATIONS")],
    output: Annotated[
        Path, Output("train.json", "val.json"), "Folder for train.json and val.json."
    ],
    val_share: Annotated[
        float,
        Real(0, 1, min_open=True, max_open=True),
        "Share of the images and boxes for validation.",
    ] = 0.2,
    group_key: Annotated[
        str | None,
        "--group-key KEY",
        "Key of the image entries (a.b: nested) whose value images of one source share.",
    ] = None,
    group_regex: Annotated[
        str | None,
        "--group-regex REGEX",
        "The same, as a regular expression on file names; its first group names the source.",
    ] = None,
    seed: Seed = 0,
    drop_invalid: DropInvalid = False,
    overwrite: Annotated[bool, "Replace files that the folder holds."] = False,
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
    images, boxes = ("train\nimages", "val\nimages"), ("train\nboxes", "val\nboxes")
    print_table(("class", "groups", *images, "val\nshare", *boxes, "val\nshare"), _rows(split))
    is_grouped = group_key or group_regex or split.num_groups < len(split.is_val)
    by_group = f", in {counted(split.num_groups, 'group')}" if is_grouped else ""
    say(
        *(f"Note: {note}" for note in split.notes),
        f"Written: {train_path} ({counted(split.train.num_images, 'image')}), {val_path}"
        f" ({counted(split.val.num_images, 'image')}){by_group}",
    )


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


def _rows(split: Split) -> Iterator[list[str | int] | None]:
    """The shares of each class, the rarest first, and of all."""
    classes = sorted(split.classes, key=lambda c: (c.train_images + c.val_images, c.name))
    for row in classes[:_LISTED]:
        images = (row.train_images, row.val_images, _share(row.image_share))
        boxes = (row.train_boxes, row.val_boxes, _share(row.box_share))
        yield [row.name, row.num_groups, *images, *boxes]
    if len(classes) > _LISTED:
        yield [counted(len(classes) - _LISTED, "more frequent class")]
    yield None
    val_images = int(split.is_val.sum())
    train_boxes, val_boxes = (
        sum(getattr(row, f"{side}_boxes") for row in classes) for side in ("train", "val")
    )
    num_boxes = train_boxes + val_boxes
    yield [
        *("all", split.num_groups, len(split.is_val) - val_images, val_images),
        *(_share(float(split.is_val.mean())), train_boxes, val_boxes),
        _share(val_boxes / num_boxes if num_boxes else float("nan")),
    ]


def _share(value: float) -> str:
    return "-" if value != value else f"{value:.1%}"
