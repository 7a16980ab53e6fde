"""`detbalance evaluate`: run a trained detector over a data set and report per class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from detbalance import calibration
from detbalance.cli.evaluating import Evaluator, pictures, show, why_no_draws
from detbalance.cli.options import DetectorOptions, ScoreThreshold, Thresholds, command
from detbalance.cli.outputs import REPORT, Output
from detbalance.cli.printing import say
from detbalance.data import Annotations, Categories, Predictions, load_annotations, save_predictions
from detbalance.data.frequency import class_frequency
from detbalance.data.images import usable_images


@command(
    "evaluate",
    "detbalance evaluate --checkpoint runs/x/best.pt --annotations val.json --images val",
    overwrite="Replace results that the folder holds.",
)
def evaluate_command(
    *,
    options: DetectorOptions,
    annotations: Annotated[Path, "COCO file to evaluate on."],
    images: Annotated[Path, "Folder of its images."],
    output: Annotated[
        Path | None,
        Output(*REPORT, "predictions.json", "shown.json", holds="a report"),
        "Folder for predictions.json and the report. Default: print only.",
    ] = None,
    train_file: Annotated[
        Path | None,
        "--train",
        "COCO file to count class frequencies in, instead of the counts in the checkpoint.",
    ] = None,
    score_threshold: ScoreThreshold = 0.3,
    thresholds: Thresholds = None,
    autocast: Annotated[bool, "Mixed precision, on a GPU."] = False,
) -> None:
    """Predict, save the detections as COCO results, evaluate, print."""
    from detbalance.cli.runs import chosen_device, detect, judge
    from detbalance.training.checkpoint import (
        frequency_from_checkpoint,
        load_checkpoint,
        model_from_checkpoint,
    )
    from detbalance.training.gradient_ratio import by_label, positive_share
    from detbalance.training.setup import labels_in

    device = chosen_device(options.device)
    name, state = str(options.checkpoint), load_checkpoint(options.checkpoint)
    truth = load_annotations(annotations, drop_invalid=options.drop_invalid)
    labels = labels_in(truth, Categories.from_dict(state["categories"]), name)
    fitted = None if thresholds is None else calibration.load_thresholds(thresholds)
    usable_images(truth, images)
    if train_file is not None:
        train = load_annotations(train_file, drop_invalid=options.drop_invalid)
        frequency = class_frequency(train)
    else:
        frequency = frequency_from_checkpoint(state)
    evaluator = Evaluator(
        truth,
        frequency,
        score_threshold=score_threshold if fitted is None else fitted.by_label(truth.categories),
        thresholds=thresholds,
    )
    predictions = detect(
        model_from_checkpoint(state, name).to(device),
        truth,
        images,
        labels,
        batch_size=options.batch_size,
        workers=options.workers,
        autocast=autocast,
    )
    file = None if output is None else output / "predictions.json"
    written = [] if file is None else _save(predictions, file, fitted, truth)
    shares = None  # earlier versions did not count it
    if "push" in state:
        shares = by_label(positive_share(state["push"]["run"]), labels, truth)
    report, result = judge(evaluator, predictions, shares, file=file)
    gallery = None if output is None else pictures(result, report, images)
    show(report, output, gallery=gallery, hint=why_no_draws(result))
    if written:
        say(f"Detections: {', '.join(written)}")


def _save(
    predictions: Predictions,
    file: Path,
    thresholds: calibration.Thresholds | None,
    truth: Annotations,
) -> list[str]:
    """Write all detections, and those that reach the threshold of their class."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_predictions(file, predictions, truth)
    # An earlier run's selection would not be of these detections.
    selected = file.with_name("shown.json")
    selected.unlink(missing_ok=True)
    if thresholds is None:
        return [str(file)]
    shown = calibration.apply_thresholds(predictions, thresholds, truth.categories)
    save_predictions(selected, shown, truth)
    return [str(file), f"{selected} ({shown.num_predictions} that reach their class's threshold)"]
