"""`detbalance preview`: the images that a training would see, with boxes, and what was pasted."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from detbalance.cli.options import Configured, Whole, command
from detbalance.cli.outputs import OUTPUT_FILE, refuse_configured
from detbalance.cli.printing import print_table, progress
from detbalance.data.arrays import Int64
from detbalance.data.frequency import frequency_groups
from detbalance.data.messages import counted
from detbalance.reporting.document import group_cell

if TYPE_CHECKING:
    from torch import Tensor

    from detbalance.reporting.document import AnyCell
    from detbalance.reporting.pictures import Tile
    from detbalance.training.setup import Data


_MANY = 8  # own boxes, from which on only rare and pasted ones are named
_TITLE = "blue: own boxes and those of mixed images; orange: pasted; grey: crowd regions, ignored"


@command(
    "preview",
    "detbalance preview --config configs/bccd.yaml --images 12",
    overwrite="Replace the file.",
)
def preview_command(
    *,
    options: Configured,
    output: Annotated[Path, OUTPUT_FILE, "PNG file to write."] = Path("runs/preview.png"),
    images: Annotated[int, Whole(1, 500), "Images to draw."] = 24,
    draws: Annotated[
        int, Whole(1, 1_000_000), "Images to make for the counts; the first of them are drawn."
    ] = 200,
) -> None:
    """Make the first draws of the configured training, draw some, count all."""
    from detbalance.augmentation.paste import OUTCOMES
    from detbalance.detection.dataset import Draw
    from detbalance.reporting.pictures import save_sheet
    from detbalance.sampling import RepeatFactorSampler
    from detbalance.training.setup import load_data

    config = options.load()
    refuse_configured(output, OUTPUT_FILE, config.to_dict())
    data = load_data(config)
    num_classes = data.train.categories.num_classes
    sampler = RepeatFactorSampler(data.factors, seed=config.seed, infinite=True)
    shown = np.zeros(num_classes, np.int64)
    outcomes = np.zeros((num_classes, len(OUTCOMES)), np.int64)
    cells: list[Tile] = []
    draws = max(draws, images)
    with progress("making images") as tell:
        for done, draw in enumerate(islice(map(Draw, sampler, count()), draws), start=1):
            tell(done, draws)
            image, target = data.train_dataset[draw]
            np.add.at(shown, target["labels"][target["labels"] > 0].numpy(), 1)
            if "pastes" in target:
                np.add.at(outcomes, tuple(target["pastes"].numpy().T), 1)
            if len(cells) < images:
                cells.append(_cell(data, draw.index, image, target))
    output.parent.mkdir(parents=True, exist_ok=True)
    save_sheet(cells, output, title=_TITLE)
    reasons = [n for n in range(1, len(OUTCOMES)) if outcomes[:, n].any()]
    names = [OUTCOMES[n].replace("_", " ") for n in reasons]
    print_table(
        ("class", "group", "boxes", "shown", "asked", "pasted", *names),
        _rows(data, shown, outcomes, reasons),
        f"boxes: in {data.train.source}. shown: in the first {draws:,} drawn images, pasted ones"
        f" included. asked: donors drawn, {outcomes.sum():,} in all.",
        f"The first {counted(len(cells), 'image')} of the training: {output}",
        num_texts=2,
    )


def _cell(data: Data, index: int, image: Tensor, target: dict[str, Tensor]) -> Tile:
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


def _rows(
    data: Data, shown: Int64, outcomes: Int64, reasons: list[int]
) -> Iterator[list[str | int | AnyCell]]:
    """Boxes of each class in the file and as shown, and what became of its donors."""
    groups = frequency_groups(data.frequency)
    for label in (np.argsort(data.frequency.image_counts[1:], kind="stable") + 1).tolist():
        row = outcomes[label]
        numbers = [data.frequency.instance_counts[label], shown[label], row.sum(), row[0]]
        yield [
            data.train.categories.name(label),
            group_cell(groups.group(label)),
            *(int(number) for number in (*numbers, *row[reasons])),
        ]
