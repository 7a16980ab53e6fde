"""`detbalance generate`: learn to draw the objects of rare classes, and keep what passes."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from detbalance.cli.evaluating import check_folder
from detbalance.cli.options import DROP_INVALID, FILE, SEED, Whole, command
from detbalance.cli.outputs import Output
from detbalance.cli.progress import progress
from detbalance.data import load_annotations
from detbalance.data.messages import counted
from detbalance.reporting.console import print_document
from detbalance.reporting.document import Cell, Column, Document, Table, lines

if TYPE_CHECKING:
    from detbalance.generation import ClassResult, Result


logger = logging.getLogger(__name__)


@command("generate", "detbalance generate --annotations train.json --images train --output donors")
@click.option("--annotations", required=True, type=FILE, help="COCO file of the training images.")
@click.option("--images", required=True, type=FILE, help="Folder of its images.")
@click.option(
    "--output",
    required=True,
    type=Output("*", lock="beside"),
    help="Folder for the crops and donors.json.",
)
@click.option(
    "--classes",
    multiple=True,
    metavar="NAME",
    help="Class to generate, repeatable. Default: the rare and the common ones.",
)
@click.option(
    "--size",
    default="32",
    type=click.Choice(["32", "48", "64"]),
    help="Side of what the generator draws, in pixels.",
)
@click.option(
    "--iterations",
    default=3000,
    type=Whole(1),
    help="Steps of training.",
)
@click.option(
    "--per-class",
    default=50,
    type=Whole(1),
    help="Crops to keep of each class.",
)
@click.option(
    "--min-donors",
    default=20,
    type=Whole(3),
    help="Leave out classes with fewer real objects: they would be learned by heart.",
)
@click.option(
    "--with-frequent/--rare-only",
    default=None,
    help="Whether to show the other classes in training, so that rare ones share what objects look"
    " like. Default: where a class has fewer than 200 donors.",
)
@click.option(
    "--symmetry",
    default="none",
    type=click.Choice(["none", "mirror", "square"]),
    help="What is as good as the real objects: mirrored ones, or all turned by 90 degrees as well.",
)
@SEED
@click.option("--device", help="For example cuda, cuda:1, cpu. Default: a GPU where there is one.")
@DROP_INVALID
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
@click.option("--overwrite", is_flag=True, help="Replace generated donors that the folder holds.")
def generate_command(
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
    """Learn to draw the objects of rare classes, and keep what passes as real and new."""
    from detbalance.cli.runs import chosen_device
    from detbalance.generation import Settings, Stopped, generate
    from detbalance.training.run import stop_request

    check_folder("--images", images)
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
    with stop_request() as stop, progress("learning") as tell:
        try:
            result = generate(
                train,
                images,
                output,
                settings,
                device=str(chosen_device(device)),
                overwrite=overwrite,
                resume=resume,
                progress=lambda stage, done, total: tell(done, total, stage=stage),
                should_stop=stop.is_set,
            )
        except Stopped as error:
            raise KeyboardInterrupt(str(error)) from error
    _show(result)


def _show(result: Result) -> None:
    print_document(
        Document("Generated", [_table(result.classes), *lines("sentence", *_sentences(result))])
    )


def _table(classes: tuple[ClassResult, ...]) -> Table:
    columns = [Column("class", numeric=False)]
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
        columns.append(Column(title))
    rows = [[Cell(row.name, name=True), *map(Cell, _cells(row))] for row in classes]
    return Table(columns, rows)


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
