"""The commands around augmentation, declared; the work of each is in a module of its name."""

from __future__ import annotations

from pathlib import Path

import click

from detbalance.cli.options import (
    CONFIG,
    DATA_ROOT,
    DROP_INVALID,
    FILE,
    OVERRIDES,
    SEED,
    Real,
    Whole,
)
from detbalance.cli.outputs import OUTPUT_FILE, Command, Output, overwrite


@click.command("donors", cls=Command)
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
    show_default=True,
    type=Real(0, 1),
    help="Context on each side as a part of the box; paste must be given the same.",
)
@click.option(
    "--min-size",
    default=8.0,
    show_default=True,
    type=Real(0),
    help="Least square root of width x height, in pixels.",
)
@click.option(
    "--max-overlap",
    default=0.3,
    show_default=True,
    type=Real(0, 1),
    help="Part of a box, or of the other, that it may share with another one.",
)
@click.option(
    "--max-per-class",
    default=2000,
    show_default=True,
    type=Whole(1),
    help="Boxes of a class; drawn at random where there are more.",
)
@SEED
@DROP_INVALID
@overwrite("Replace the file.")
def donors(**options: object) -> None:
    """Cut out the objects that may be pasted, once, so that training opens no image for them."""
    from detbalance.cli.donors import donors_command

    donors_command(**options)  # type: ignore[arg-type]


@click.command("generate", cls=Command)
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
    show_default=True,
    type=click.Choice(["32", "48", "64"]),
    help="Side of what the generator draws, in pixels.",
)
@click.option(
    "--iterations",
    default=3000,
    show_default=True,
    type=Whole(1),
    help="Steps of training.",
)
@click.option(
    "--per-class",
    default=50,
    show_default=True,
    type=Whole(1),
    help="Crops to keep of each class.",
)
@click.option(
    "--min-donors",
    default=20,
    show_default=True,
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
    show_default=True,
    type=click.Choice(["none", "mirror", "square"]),
    help="What is as good as the real objects: mirrored ones, or all turned by 90 degrees as well.",
)
@SEED
@click.option("--device", help="For example cuda, cuda:1, cpu. Default: a GPU where there is one.")
@DROP_INVALID
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped.")
@click.option("--overwrite", is_flag=True, help="Replace generated donors that the folder holds.")
def generate(**options: object) -> None:
    """Learn to draw the objects of rare classes, and keep what passes as real and new."""
    from detbalance.cli.generate import generate_command

    generate_command(**options)  # type: ignore[arg-type]


@click.command("preview", cls=Command)
@CONFIG
@OVERRIDES
@DATA_ROOT
@click.option(
    "--output",
    default=Path("runs/preview.png"),
    show_default=True,
    type=OUTPUT_FILE,
    help="PNG file to write.",
)
@click.option("--images", default=24, show_default=True, type=Whole(1, 500), help="Images to draw.")
@click.option(
    "--draws",
    default=200,
    show_default=True,
    type=Whole(1, 1_000_000),
    help="Images to make for the counts; the first of them are drawn.",
)
@overwrite("Replace the file.")
def preview(**options: object) -> None:
    """Show what a training would see: its first images with boxes, and what was pasted."""
    from detbalance.cli.preview import preview_command

    preview_command(**options)  # type: ignore[arg-type]
