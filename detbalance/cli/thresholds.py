"""`detbalance thresholds`: a score threshold for each class, from a calibration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from detbalance.calibration import fit_thresholds, parse_objective, save_thresholds
from detbalance.cli.evaluating import training_frequency
from detbalance.cli.options import CalibrationOptions, command
from detbalance.cli.outputs import OUTPUT_FILE
from detbalance.cli.printing import say
from detbalance.data import load_annotations, load_predictions
from detbalance.reporting.calibration_document import thresholds_document
from detbalance.reporting.console import print_document


@command(
    "thresholds",
    "detbalance thresholds --annotations val.json --predictions found.json",
    overwrite="Replace the output file.",
)
def thresholds_command(
    *,
    options: CalibrationOptions,
    train_file: Annotated[
        Path | None, "--train", "COCO file of the training data, to show groups by."
    ] = None,
    output: Annotated[
        Path | None, OUTPUT_FILE, "File for the thresholds. Default: print only."
    ] = None,
    per_class: Annotated[
        Literal["auto", "always", "never"],
        "Thresholds that differ: auto has them only where they help on held-out images.",
    ] = "auto",
) -> None:
    """Read, fit, print, and write the thresholds where a file is given."""
    goal = parse_objective(options.objective)
    truth = load_annotations(options.annotations, drop_invalid=options.drop_invalid)
    fitted = fit_thresholds(
        truth,
        load_predictions(options.predictions, truth),
        goal,
        frequency=training_frequency(train_file, options.annotations, options.drop_invalid),
        per_class=per_class,
        rules=options.rules,
        iou=options.iou,
        confidence=options.confidence,
        num_folds=options.folds,
        seed=options.seed,
        predictions_file=str(options.predictions),
    )
    if output is not None:
        save_thresholds(output, fitted)
    print_document(thresholds_document(fitted))
    if output is not None:
        say(f"Written: {output}")
