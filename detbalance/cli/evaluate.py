"""`detbalance evaluate`: run a trained detector over a data set and report per class."""

from __future__ import annotations

from pathlib import Path

import click

from detbalance.calibration import Thresholds, apply_thresholds, load_thresholds
from detbalance.cli.options import (
    BATCH_SIZE,
    CHECKPOINT,
    DEVICE,
    DROP_INVALID,
    FILE,
    SCORE_THRESHOLD,
    THRESHOLDS,
    WORKERS,
    command,
)
from detbalance.cli.outputs import REPORT, Output, overwrite
from detbalance.data import Annotations, Categories, Predictions, load_annotations, save_predictions
from detbalance.data.frequency import class_frequency, frequency_groups
from detbalance.reporting.terminal import Console


@command(
    "evaluate",
    "detbalance evaluate --checkpoint runs/x/best.pt --annotations val.json --images val",
)
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
@overwrite("Replace results that the folder holds.")
def evaluate_command(
    checkpoint: Path,
    annotations: Path,
    images: Path,
    output: Path | None,
    train_file: Path | None,
    batch_size: int,
    workers: int | None,
    score_threshold: float,
    thresholds: Path | None,
    device: str | None,
    autocast: bool,
    drop_invalid: bool,
) -> None:
    """Predict, save the detections as COCO results, evaluate, print."""
    from detbalance.cli.evaluating import Ground, pictures, show
    from detbalance.cli.runs import chosen_device, detect, judge
    from detbalance.data.images import usable_images
    from detbalance.training.checkpoint import (
        frequency_from_checkpoint,
        load_checkpoint,
        model_from_checkpoint,
    )
    from detbalance.training.gradient_ratio import by_label, positive_share
    from detbalance.training.setup import labels_in

    where = chosen_device(device)
    state = load_checkpoint(checkpoint)
    truth = load_annotations(annotations, drop_invalid=drop_invalid)
    labels = labels_in(truth, Categories.from_dict(state["categories"]), str(checkpoint))
    fitted = None if thresholds is None else load_thresholds(thresholds)
    usable_images(truth, images)
    if train_file is not None:
        frequency = class_frequency(load_annotations(train_file, drop_invalid=drop_invalid))
    else:
        frequency = frequency_from_checkpoint(state)
    ground = Ground(
        truth,
        frequency,
        frequency_groups(frequency),
        score_threshold if fitted is None else fitted.by_label(truth.categories),
        thresholds,
    )
    found = detect(
        model_from_checkpoint(state, str(checkpoint)).to(where),
        truth,
        images,
        labels,
        batch_size=batch_size,
        workers=workers,
        device=where,
        autocast=autocast,
    )
    file = None if output is None else output / "predictions.json"
    written = [] if file is None else _save(found, file, fitted, truth)
    shares = None  # earlier versions did not count it
    if "push" in state:
        shares = by_label(positive_share(state["push"]["run"]), labels, truth)
    report, result, hint = judge(ground, found, shares, file=file)
    show(report, output, gallery=None if output is None else pictures(result, report, images))
    if hint:
        Console().print(hint, style="dim", highlight=False, soft_wrap=True)
    if written:
        line = f"Detections: {', '.join(written)}"
        Console().print(line, soft_wrap=True, highlight=False, markup=False)


def _save(
    predictions: Predictions, file: Path, thresholds: Thresholds | None, truth: Annotations
) -> list[str]:
    """Write all detections, and those that reach the threshold of their class."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_predictions(file, predictions, truth)
    # An earlier run's selection would not be of these detections.
    selected = file.with_name("shown.json")
    selected.unlink(missing_ok=True)
    if thresholds is None:
        return [str(file)]
    shown = apply_thresholds(predictions, thresholds, truth.categories)
    save_predictions(selected, shown, truth)
    return [str(file), f"{selected} ({shown.num_predictions} that reach their class's threshold)"]
