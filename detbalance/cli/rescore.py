"""`detbalance rescore`: rebalance the scores of a results file by the training frequencies."""

from __future__ import annotations

from pathlib import Path

from detbalance.calibration import choose_strength, parse_objective, rescore
from detbalance.cli.evaluating import check_same_classes, load_probabilities
from detbalance.cli.thresholds import training_frequency
from detbalance.data import load_annotations, save_predictions
from detbalance.data.messages import counted
from detbalance.evaluation.rules import RulesChoice
from detbalance.reporting.terminal import Console
from detbalance.reporting.thresholds_console import print_strength


def rescore_command(
    *,
    annotations: Path,
    predictions: Path,
    train_file: Path,
    objective: str,
    apply_to: Path | None,
    apply_annotations: Path | None,
    output: Path | None,
    rules: RulesChoice,
    iou: float,
    confidence: float,
    folds: int,
    seed: int,
    drop_invalid: bool,
) -> None:
    """Choose a strength on the calibration file, print it, and rescore where a file is given."""
    goal = parse_objective(objective)
    if output is None and (apply_to is not None or apply_annotations is not None):
        raise ValueError(
            "--apply-to, --apply-annotations: --output is missing. A file for the new scores is"
            " expected. Add --output rescored.json."
        )
    truth = load_annotations(annotations, drop_invalid=drop_invalid)
    target = truth
    if apply_annotations is not None:
        target = load_annotations(apply_annotations, drop_invalid=drop_invalid, needs_boxes=False)
        check_same_classes(target, truth)
    calibration = load_probabilities(predictions, truth)
    # Read before the work: a wrong file shall not be noticed after it.
    applied = apply_to or predictions
    detections = load_probabilities(applied, target) if output is not None else None
    frequency = training_frequency(train_file, annotations, drop_invalid)
    assert frequency is not None
    choice = choose_strength(
        truth,
        calibration,
        frequency,
        goal,
        rules=rules,
        iou=iou,
        confidence=confidence,
        num_folds=folds,
        seed=seed,
        predictions_file=str(predictions),
    )
    console = Console()
    print_strength(choice, console=console)
    if output is None or detections is None:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    save_predictions(output, rescore(detections, choice.class_counts, gamma=choice.gamma), target)
    what = f"gamma {choice.gamma:g}" if choice.gamma else "scores as they were"
    console.print(
        f"Written: {output} ({counted(detections.num_predictions, 'detection')} of {applied},"
        f" {what})",
        soft_wrap=True,
    )
