"""`detbalance rescore`: rebalance the scores of a results file by the training frequencies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from detbalance.calibration import choose_strength, parse_objective, rescore
from detbalance.cli.evaluating import check_same_classes, load_probabilities, training_frequency
from detbalance.cli.options import CalibrationOptions, command
from detbalance.cli.outputs import OUTPUT_FILE
from detbalance.cli.printing import say
from detbalance.data import load_annotations, save_predictions
from detbalance.data.messages import counted
from detbalance.reporting.calibration_document import strength_document
from detbalance.reporting.console import print_document


@command(
    "rescore",
    "detbalance rescore --annotations val.json --predictions found.json --train train.json",
    overwrite="Replace the output file.",
)
def rescore_command(
    *,
    options: CalibrationOptions,
    train_file: Annotated[
        Path, "--train", "COCO file of the training data: scores are rebalanced by its counts."
    ],
    output: Annotated[
        Path | None, OUTPUT_FILE, "COCO results file for the new scores. Default: print only."
    ] = None,
    apply_to: Annotated[
        Path | None, "COCO results file to rescore, instead of --predictions."
    ] = None,
    apply_annotations: Annotated[
        Path | None, "COCO file with the images of --apply-to, instead of --annotations."
    ] = None,
) -> None:
    """Choose a strength, as far as it helps on held-out images; rescore where a file is given."""
    goal = parse_objective(options.objective)
    if output is None and (apply_to is not None or apply_annotations is not None):
        raise ValueError(
            "--apply-to, --apply-annotations: --output is missing. A file for the new scores is"
            " expected. Add --output rescored.json."
        )
    truth = load_annotations(options.annotations, drop_invalid=options.drop_invalid)
    target = truth
    if apply_annotations is not None:
        target = load_annotations(
            apply_annotations, drop_invalid=options.drop_invalid, needs_boxes=False
        )
        check_same_classes(target, truth)
    calibration = load_probabilities(options.predictions, truth)
    # Read before the work: a wrong file shall not be noticed after it.
    rescored_file = apply_to or options.predictions
    detections = load_probabilities(rescored_file, target) if output is not None else None
    frequency = training_frequency(train_file, options.annotations, options.drop_invalid)
    assert frequency is not None
    choice = choose_strength(
        truth,
        calibration,
        frequency,
        goal,
        rules=options.rules,
        iou=options.iou,
        confidence=options.confidence,
        num_folds=options.folds,
        seed=options.seed,
        predictions_file=str(options.predictions),
    )
    print_document(strength_document(choice))
    if output is None or detections is None:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    save_predictions(output, rescore(detections, choice.class_counts, gamma=choice.gamma), target)
    what = f"gamma {choice.gamma:g}" if choice.gamma else "scores as they were"
    number = counted(detections.num_predictions, "detection")
    say(f"Written: {output} ({number} of {rescored_file}, {what})")
