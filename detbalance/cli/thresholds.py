"""`detbalance thresholds`: a score threshold for each class, from a calibration file."""

from __future__ import annotations

from pathlib import Path

from detbalance.calibration import fit_thresholds, parse_objective, save_thresholds
from detbalance.calibration.threshold_fit import PerClass
from detbalance.data import load_annotations, load_predictions
from detbalance.data.frequency import Frequency, class_frequency
from detbalance.evaluation.rules import RulesChoice
from detbalance.reporting.terminal import Console
from detbalance.reporting.thresholds_console import print_thresholds


def thresholds_command(
    *,
    annotations: Path,
    predictions: Path,
    objective: str,
    train_file: Path | None,
    output: Path | None,
    per_class: PerClass,
    rules: RulesChoice,
    iou: float,
    confidence: float,
    folds: int,
    seed: int,
    drop_invalid: bool,
) -> None:
    """Read, fit, print, and write the thresholds where a file is given."""
    goal = parse_objective(objective)
    truth = load_annotations(annotations, drop_invalid=drop_invalid)
    fitted = fit_thresholds(
        truth,
        load_predictions(predictions, truth),
        goal,
        frequency=training_frequency(train_file, annotations, drop_invalid),
        per_class=per_class,
        rules=rules,
        iou=iou,
        confidence=confidence,
        num_folds=folds,
        seed=seed,
        predictions_file=str(predictions),
    )
    if output is not None:
        save_thresholds(output, fitted)
    console = Console()
    print_thresholds(fitted, console=console)
    if output is not None:
        console.print(f"Written: {output}", soft_wrap=True)


def training_frequency(
    train_file: Path | None, annotations: Path, drop_invalid: bool
) -> Frequency | None:
    """Count the training file; what a detector learned from cannot calibrate it."""
    if train_file is None:
        return None
    if train_file.resolve() == annotations.resolve():
        raise ValueError(
            f"--annotations: {annotations} is the training file too. Scores on images that the"
            " detector learned from are too high; other images are expected. Calibrate on the"
            " validation file."
        )
    return class_frequency(load_annotations(train_file, drop_invalid=drop_invalid))
