"""The commands, as `detbalance <command>` and as `python tools/<command>.py`.

Options are declared here; the work is in one module a command, imported when it runs, so that
`detbalance report` needs neither torch nor any other part of the training stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from detbalance.cli import (
    augmentation_commands,
    ensembling_commands,
    evaluation_commands,
    repair_commands,
)
from detbalance.cli.options import (
    BATCH_SIZE,
    CHECKPOINT,
    COMMON,
    CONFIG,
    DATA_ROOT,
    DEVICE,
    DROP_INVALID,
    FILE,
    OVERRIDES,
    RARE,
    SCORE_THRESHOLD,
    SEED,
    THRESHOLDS,
    WORKERS,
    Real,
    Whole,
)
from detbalance.cli.outputs import REPORT, RUN, Command, Output
from detbalance.cli.running import run


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="detbalance")
def cli() -> None:
    """Make object detectors find the classes that their training data shows too rarely."""


@cli.command("train", cls=Command)
@CONFIG
@OVERRIDES
@DATA_ROOT
@click.option("--output", type=RUN, help="The run's folder, instead of the config's output.")
@DROP_INVALID
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the run's folder.")
@click.option("--overwrite", is_flag=True, help="Replace the run that the folder holds.")
def _train(**options: object) -> None:
    """Train a detector, and report AP and recall per class."""
    from detbalance.cli.train import train_command

    train_command(**options)  # type: ignore[arg-type]


@cli.command("evaluate", cls=Command)
@CHECKPOINT
@click.option("--annotations", required=True, type=FILE, help="COCO file to evaluate on.")
@click.option("--images", required=True, type=FILE, help="Folder of its images.")
@click.option(
    "--output",
    type=Output(*REPORT, "predictions.json", "shown.json", holds="a report"),
    help="Folder for predictions.json and the report. Default: print only.",
)
@click.option(
    "--train",
    "train_file",
    type=FILE,
    help="COCO file to count class frequencies in, instead of the counts in the checkpoint.",
)
@BATCH_SIZE
@WORKERS
@SCORE_THRESHOLD
@THRESHOLDS
@DEVICE
@click.option("--autocast", is_flag=True, help="Mixed precision, on a GPU.")
@DROP_INVALID
@click.option("--overwrite", is_flag=True, help="Replace results that the folder holds.")
def _evaluate(**options: object) -> None:
    """Run a trained detector over a data set, and report AP and recall per class."""
    from detbalance.cli.evaluate import evaluate_command

    evaluate_command(**options)  # type: ignore[arg-type]


@cli.command("plan", cls=Command)
@click.argument("train_file", metavar="TRAIN.JSON", type=FILE)
@click.option("--val", "val_file", type=FILE, help="COCO file of the validation data.")
@click.option(
    "--images", type=FILE, help="Folder of the training images, to find images that occur twice."
)
@click.option(
    "--val-images", type=FILE, help="Folder of the validation images, to find those in training."
)
@click.option(
    "--output",
    type=Output("plan.json", "plan.csv", "plan.png", "plan.svg", holds="a plan"),
    help="Folder for plan.json, plan.csv, plan.png and plan.svg. Default: print only.",
)
@click.option(
    "--target-length",
    type=Whole(1),
    help="Images per epoch to compare settings at. Default: chosen from the data.",
)
@click.option(
    "--images-per-second",
    type=Real(0, min_open=True),
    help="Speed of your training, to show how long an epoch takes.",
)
@RARE
@COMMON
@click.option("--overwrite", is_flag=True, help="Replace a plan that the folder holds.")
def _plan(**options: object) -> None:
    """Say how imbalanced a training set is, what to do about it, and what that costs."""
    from detbalance.cli.plan import plan_command

    plan_command(**options)  # type: ignore[arg-type]


@cli.command("split", cls=Command)
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
    show_default=True,
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
def _split(**options: object) -> None:
    """Split one annotation file so that both parts show every class and share no source."""
    from detbalance.cli.split import split_command

    split_command(**options)  # type: ignore[arg-type]


@cli.command("digits", cls=Command)
@click.option(
    "--output",
    default=Path("runs/quickstart/data"),
    show_default=True,
    type=Output("*", lock="beside"),
    help="Folder for the data set.",
)
@SEED
@click.option("--overwrite", is_flag=True, help="Replace digits of other settings.")
def _digits(**options: object) -> None:
    """Make the embedded data set: handwritten digits in scenes, most of them rare."""
    from detbalance.cli.quickstart import digits_command

    digits_command(**options)  # type: ignore[arg-type]


@cli.command("quickstart", cls=Command)
@click.option(
    "--output",
    default=Path("runs/quickstart"),
    show_default=True,
    type=Output("data*", "plain*", "balanced*", "comparison*", "predictions.png"),
    help="Folder for the data set and both runs.",
)
@click.option(
    "--config",
    default=Path("configs/digits.yaml"),
    show_default=True,
    type=FILE,
    help="The balanced configuration.",
)
@SEED
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of both runs."
)
@click.option("--overwrite", is_flag=True, help="Replace the data and the runs that are there.")
def _quickstart(**options: object) -> None:
    """Train a plain and a balanced detector on the embedded data, and compare them per class."""
    from detbalance.cli.quickstart import quickstart_command

    quickstart_command(**options)  # type: ignore[arg-type]


cli.add_command(evaluation_commands.report)
cli.add_command(evaluation_commands.compare)
cli.add_command(evaluation_commands.thresholds)
cli.add_command(evaluation_commands.rescore)
cli.add_command(augmentation_commands.donors)
cli.add_command(augmentation_commands.generate)
cli.add_command(augmentation_commands.preview)
cli.add_command(ensembling_commands.bag)
cli.add_command(ensembling_commands.fuse)
cli.add_command(repair_commands.refit)
cli.add_command(repair_commands.opinion)
cli.add_command(repair_commands.suspects)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; whatever a user can cause ends in one line and exit status 2."""
    run(cli, arguments)
