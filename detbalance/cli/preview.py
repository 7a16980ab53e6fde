"""`detbalance preview`: the images that a training would see, with boxes, and what was pasted."""

from __future__ import annotations

from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import numpy.typing as npt

from detbalance.cli.options import CONFIG, DATA_ROOT, OVERRIDES, Whole, command
from detbalance.cli.outputs import OUTPUT_FILE, overwrite, refuse_configured
from detbalance.cli.progress import progress
from detbalance.data.frequency import frequency_groups
from detbalance.data.messages import counted
from detbalance.reporting.console import print_document
from detbalance.reporting.document import AnyCell, Cell, Column, Document, Table, group_cell, lines

if TYPE_CHECKING:
    from torch import Tensor

    from detbalance.reporting.pictures import Tile
    from detbalance.training.setup import Data


_MANY = 8  # own boxes, from which on only rare and pasted ones are named
_TITLE = "blue: own boxes and those of mixed images; orange: pasted; grey: crowd regions, ignored"


@command("preview", "detbalance preview --config configs/bccd.yaml --images 12")
@CONFIG
@OVERRIDES
@DATA_ROOT
@click.option(
    "--output",
    default=Path("runs/preview.png"),
    type=OUTPUT_FILE,
    help="PNG file to write.",
)
@click.option("--images", default=24, type=Whole(1, 500), help="Images to draw.")
@click.option(
    "--draws",
    default=200,
    type=Whole(1, 1_000_000),
    help="Images to make for the counts; the first of them are drawn.",
)
@overwrite("Replace the file.")
def preview_command(
    config: Path,
    overrides: tuple[str, ...],
    data_root: Path | None,
    output: Path,
    images: int,
    draws: int,
) -> None:
    """Make the first draws of the configured training, draw some, count all."""
    from detbalance.detection.dataset import Draw
    from detbalance.reporting.pictures import save_sheet
    from detbalance.sampling import RepeatFactorSampler
    from detbalance.training.config import load_config
    from detbalance.training.setup import load_data

    settings = load_config(config, overrides, data_root=data_root)
    refuse_configured(output, OUTPUT_FILE, settings.to_dict())
    data = load_data(settings)
    sampler = RepeatFactorSampler(data.factors, seed=settings.seed, infinite=True)
    labels: list[npt.NDArray[np.int64]] = []
    pastes: list[npt.NDArray[np.int64]] = []
    tiles: list[Tile] = []
    draws = max(draws, images)
    with progress("making images") as tell:
        for done, draw in enumerate(islice(map(Draw, sampler, count()), draws), start=1):
            tell(done, draws)
            image, target = data.train_dataset[draw]
            labels.append(target["labels"][target["labels"] > 0].numpy())
            if "pastes" in target:
                pastes.append(target["pastes"].numpy())
            if len(tiles) < images:
                tiles.append(_tile(data, draw.index, image, target))
    output.parent.mkdir(parents=True, exist_ok=True)
    save_sheet(tiles, output, title=_TITLE)
    words = (
        f"boxes: in {data.train.source}. shown: in the first {draws:,} drawn images, pasted ones"
        f" included. asked: donors drawn, {sum(map(len, pastes)):,} in all.",
        f"The first {counted(len(tiles), 'image')} of the training: {output}",
    )
    table = _counts_table(data, np.concatenate(labels), pastes)
    print_document(Document("Preview", [table, *lines("legend", *words)]))


def _tile(data: Data, index: int, image: Tensor, target: dict[str, Tensor]) -> Tile:
    from detbalance.reporting.pictures import CROWD, OWN, PASTED, Tile

    categories, groups = data.train.categories, frequency_groups(data.frequency)
    labels, pasted = target["labels"].tolist(), target["pasted"].tolist()
    crowded = len(labels) - sum(pasted) > _MANY

    def name(label: int, is_pasted: bool) -> str:
        hidden = crowded and not is_pasted and groups.group(label) != "rare"
        return "" if label <= 0 or hidden else categories.name(label)

    return Tile(
        image=(image.permute(1, 2, 0) * 255).round().byte().numpy(),
        caption=data.train.file_name(index),
        boxes=target["boxes"].numpy(),
        names=[name(label, marked) for label, marked in zip(labels, pasted, strict=True)],
        colors=[
            CROWD if label <= 0 else PASTED if is_pasted else OWN
            for label, is_pasted in zip(labels, pasted, strict=True)
        ],
    )


def _counts_table(
    data: Data, labels: npt.NDArray[np.int64], pastes: list[npt.NDArray[np.int64]]
) -> Table:
    """Boxes of each class in the file and as shown, and what became of its donors."""
    from detbalance.augmentation.paste import OUTCOMES

    categories, frequency = data.train.categories, data.frequency
    groups = frequency_groups(frequency)
    shown = np.bincount(labels, minlength=categories.num_classes)
    asked = np.concatenate([np.zeros((0, 2), np.int64), *pastes])
    outcomes = np.zeros((categories.num_classes, len(OUTCOMES)), np.int64)
    np.add.at(outcomes, (asked[:, 0], asked[:, 1]), 1)
    reasons = [n for n in range(1, len(OUTCOMES)) if outcomes[:, n].any()]
    refused = [OUTCOMES[n].replace("_", " ") for n in reasons]
    columns = [Column("class", numeric=False), Column("group", numeric=False)]
    columns += [Column(title) for title in ("boxes", "shown", "asked", "pasted", *refused)]
    rows: list[list[AnyCell]] = []
    for label in np.argsort(frequency.image_counts[1:], kind="stable") + 1:
        row = outcomes[label]
        numbers = [frequency.instance_counts[label], shown[label], row.sum(), row[0]]
        rows.append(
            [
                Cell(categories.name(int(label)), name=True),
                group_cell(groups.group(int(label))),
                *(Cell(f"{int(n):,}") for n in [*numbers, *row[reasons]]),
            ]
        )
    return Table(columns, rows)
