"""`detbalance rescore`: rebalance the scores of a results file by the training frequencies."""

from __future__ import annotations

from pathlib import Path

import click

from detbalance.calibration import choose_strength, parse_objective, rescore
from detbalance.cli.evaluating import check_same_classes, load_probabilities, training_frequency
from detbalance.cli.options import CALIBRATION, FILE, Calibrated, command
from detbalance.cli.outputs import OUTPUT_FILE
from detbalance.data import load_annotations, save_predictions
from detbalance.data.messages import counted
from detbalance.reporting.calibration_document import strength_document
from detbalance.reporting.console import print_document
from detbalance.reporting.terminal import say


@command(
    "rescore",
    "detbalance rescore --annotations val.json --predictions found.json --train train.json",
)
@CALIBRATION
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
def rescore_command(
    given: Calibrated,
    train_file: Path,
    output: Path | None,
    apply_to: Path | None,
    apply_annotations: Path | None,
) -> None:
    """Choose a strength, as far as it helps on held-out images; rescore where a file is given."""
    goal = parse_objective(given.objective)
    if output is None and (apply_to is not None or apply_annotations is not None):
        raise ValueError(
            "--apply-to, --apply-annotations: --output is missing. A file for the new scores is"
            " expected. Add --output rescored.json."
        )
    truth = load_annotations(given.annotations, drop_invalid=given.drop_invalid)
    target = truth
    if apply_annotations is not None:
        target = load_annotations(
            apply_annotations, drop_invalid=given.drop_invalid, needs_boxes=False
        )
        check_same_classes(target, truth)
    calibration = load_probabilities(given.predictions, truth)
    # Read before the work: a wrong file shall not be noticed after it.
    applied = apply_to or given.predictions
    detections = load_probabilities(applied, target) if output is not None else None
    frequency = training_frequency(train_file, given.annotations, given.drop_invalid)
    assert frequency is not None
    choice = choose_strength(
        truth,
        calibration,
        frequency,
        goal,
        rules=given.rules,
        iou=given.iou,
        confidence=given.confidence,
        num_folds=given.folds,
        seed=given.seed,
        predictions_file=str(given.predictions),
    )
    print_document(strength_document(choice))
    if output is None or detections is None:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    save_predictions(output, rescore(detections, choice.class_counts, gamma=choice.gamma), target)
    what = f"gamma {choice.gamma:g}" if choice.gamma else "scores as they were"
    say(
        f"Written: {output} ({counted(detections.num_predictions, 'detection')} of {applied},"
        f" {what})"
    )
