"""`detbalance thresholds`: a score threshold for each class, from a calibration file."""

from __future__ import annotations

from pathlib import Path

import click

from detbalance.calibration import fit_thresholds, parse_objective, save_thresholds
from detbalance.calibration.threshold_fit import PerClass
from detbalance.cli.evaluating import training_frequency
from detbalance.cli.options import CALIBRATION, FILE, Calibrated, command
from detbalance.cli.outputs import OUTPUT_FILE
from detbalance.data import load_annotations, load_predictions
from detbalance.reporting.calibration_document import thresholds_document
from detbalance.reporting.console import print_document
from detbalance.reporting.terminal import say


@command("thresholds", "detbalance thresholds --annotations val.json --predictions found.json")
@CALIBRATION
@click.option(
    "--train", "train_file", type=FILE, help="COCO file of the training data, to show groups by."
)
@click.option("--output", type=OUTPUT_FILE, help="File for the thresholds. Default: print only.")
@click.option(
    "--per-class",
    default="auto",
    type=click.Choice(["auto", "always", "never"]),
    help="Thresholds that differ: auto has them only where they help on held-out images.",
)
def thresholds_command(
    given: Calibrated, train_file: Path | None, output: Path | None, per_class: PerClass
) -> None:
    """Read, fit, print, and write the thresholds where a file is given."""
    goal = parse_objective(given.objective)
    truth = load_annotations(given.annotations, drop_invalid=given.drop_invalid)
    fitted = fit_thresholds(
        truth,
        load_predictions(given.predictions, truth),
        goal,
        frequency=training_frequency(train_file, given.annotations, given.drop_invalid),
        per_class=per_class,
        rules=given.rules,
        iou=given.iou,
        confidence=given.confidence,
        num_folds=given.folds,
        seed=given.seed,
        predictions_file=str(given.predictions),
    )
    if output is not None:
        save_thresholds(output, fitted)
    print_document(thresholds_document(fitted))
    if output is not None:
        say(f"Written: {output}")
