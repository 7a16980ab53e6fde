"""The commands on results files, declared; the work of each is in a module of its name."""

from __future__ import annotations

import click

from detbalance.cli.calibration_options import calibration_options
from detbalance.cli.evaluation_options import evaluation_options
from detbalance.cli.options import FILE, Real, Whole
from detbalance.cli.outputs import OUTPUT_FILE, Command


@click.command("report", cls=Command)
@click.argument("files", nargs=-1, type=FILE, metavar="[GT.JSON PREDICTIONS.JSON]")
@click.option("--annotations", type=FILE, help="COCO file with the ground truth, as GT.JSON.")
@click.option("--predictions", type=FILE, help="COCO results file, as PREDICTIONS.JSON.")
@click.option(
    "--baseline",
    type=FILE,
    help="COCO results file of another detector to compare with; `detbalance compare` has more.",
)
@evaluation_options
@click.option(
    "--suspects",
    type=FILE,
    help="Folder that `detbalance suspects` wrote: the HTML and Markdown files show labels that"
    " look wrong.",
)
@click.option(
    "--bootstrap",
    default="auto",
    show_default=True,
    metavar="auto|N",
    help="Draws of images for intervals of AP and AR, 0 for none; auto: 1000 if that is quick.",
)
@click.option(
    "--beta",
    default=1.0,
    show_default=True,
    type=Real(0, min_open=True),
    help="How many times recall weighs as much as precision in F-beta.",
)
@click.option(
    "--min-precision",
    default=0.9,
    show_default=True,
    type=Real(0, 1),
    help="Precision at which recall is given as recall_at_precision.",
)
@click.option(
    "--max-fppi",
    default=0.1,
    show_default=True,
    type=Real(0),
    help="False positives of a class per image at which recall is given as recall_at_fppi.",
)
def report(**options: object) -> None:
    """Report AP, recall, errors and how sure they are, per class, from two JSON files."""
    from detbalance.cli.report import report_command

    report_command(**options)  # type: ignore[arg-type]


@click.command("compare", cls=Command)
@click.argument("files", nargs=-1, type=FILE, metavar="[BASELINE.JSON OURS.JSON]")
@click.option(
    "--baseline",
    type=FILE,
    multiple=True,
    help="COCO results file of a run of the baseline. Repeatable: one for each seed.",
)
@click.option("--ours", type=FILE, multiple=True, help="The same of the other detector.")
@click.option("--annotations", required=True, type=FILE, help="COCO file with the ground truth.")
@click.option(
    "--figure",
    default="AP",
    show_default=True,
    type=click.Choice(["AP", "AP50", "AR", "recall", "precision"]),
    help="What the verdict is of.",
)
@click.option(
    "--fail-if",
    multiple=True,
    metavar="CONDITION",
    help='End with status 1 where it holds, for example "rare.recall < -0.01" (the difference),'
    ' "all.AP.low < -0.02" (an end of its interval), "copper.AP50.ours < 0.3". Repeatable.',
)
@evaluation_options
@click.option(
    "--bootstrap",
    default=1000,
    show_default=True,
    type=Whole(2, 100_000),
    help="Draws of images that intervals and p-values come from.",
)
def compare(**options: object) -> int:
    """Say which differences between two detectors are real, per class and group."""
    from detbalance.cli.compare import compare_command

    return compare_command(**options)  # type: ignore[arg-type]


@click.command("thresholds", cls=Command)
@calibration_options
@click.option(
    "--train", "train_file", type=FILE, help="COCO file of the training data, to show groups by."
)
@click.option("--output", type=OUTPUT_FILE, help="File for the thresholds. Default: print only.")
@click.option(
    "--per-class",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "always", "never"]),
    help="Thresholds that differ: auto has them only where they help on held-out images.",
)
def thresholds(**options: object) -> None:
    """Fit a score threshold for each class, and judge them on held-out images."""
    from detbalance.cli.thresholds import thresholds_command

    thresholds_command(**options)  # type: ignore[arg-type]


@click.command("rescore", cls=Command)
@calibration_options
@click.option(
    "--train",
    "train_file",
    required=True,
    type=FILE,
    help="COCO file of the training data: scores are rebalanced by its counts.",
)
@click.option(
    "--output",
    type=OUTPUT_FILE,
    help="COCO results file for the new scores. Default: print only.",
)
@click.option(
    "--apply-to", type=FILE, help="COCO results file to rescore, instead of --predictions."
)
@click.option(
    "--apply-annotations",
    type=FILE,
    help="COCO file with the images of --apply-to, instead of --annotations.",
)
def rescore(**options: object) -> None:
    """Rebalance scores by the training frequencies, as far as it helps on held-out images."""
    from detbalance.cli.rescore import rescore_command

    rescore_command(**options)  # type: ignore[arg-type]
