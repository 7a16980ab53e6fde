"""`detbalance evaluate`: run a trained detector over a data set and report per class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from detbalance.calibration import Thresholds, apply_thresholds, load_thresholds
from detbalance.cli.evaluating import check_output
from detbalance.cli.report import pictures, show, with_draws
from detbalance.data import Annotations, Categories, Predictions, load_annotations, save_predictions
from detbalance.data.frequency import class_frequency, frequency_groups
from detbalance.data.images import usable_images
from detbalance.detection.dataset import DetectionDataset
from detbalance.detection.predict import predict
from detbalance.evaluation import build_report, evaluate
from detbalance.reporting.terminal import Console
from detbalance.training.checkpoint import (
    frequency_from_checkpoint,
    load_checkpoint,
    model_from_checkpoint,
)
from detbalance.training.gradient_ratio import by_label, positive_share
from detbalance.training.setup import labels_in, loader_workers


def evaluate_command(
    *,
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
    overwrite: bool,
) -> None:
    """Predict, save the detections as COCO results, evaluate, print."""
    check_output(output, overwrite)
    where = chosen_device(device)
    state = load_checkpoint(checkpoint)
    categories = Categories.from_dict(state["categories"])
    truth = load_annotations(annotations, drop_invalid=drop_invalid)
    labels = labels_in(truth, categories, str(checkpoint))
    floors = None if thresholds is None else load_thresholds(thresholds)
    floor = score_threshold if floors is None else floors.by_label(truth.categories)
    usable_images(truth, images)
    if train_file is not None:
        frequency = class_frequency(load_annotations(train_file, drop_invalid=drop_invalid))
    else:
        frequency = frequency_from_checkpoint(state)
    model = model_from_checkpoint(state, str(checkpoint)).to(where)
    console = Console(stderr=True)
    with image_progress(console, truth.num_images) as progress:
        predictions = predict(
            model,
            DetectionDataset(truth, images),
            batch_size=batch_size,
            workers=loader_workers(workers),
            device=where,
            autocast=autocast,
            progress=progress,
        ).relabelled(labels)
    file = None if output is None else output / "predictions.json"
    written = []
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        written = _save(predictions, file, floors, truth)
    shares = None  # earlier versions did not count it
    if "push" in state:
        shares = by_label(positive_share(state["push"]["run"]), labels, truth)
    result, hint = with_draws(
        evaluate(
            truth,
            predictions,
            score_threshold=floor,
            predictions_file=None if file is None else str(file),
            thresholds_file=None if thresholds is None else str(thresholds),
        ),
        None,
        seed=0,
    )
    report = build_report(
        result,
        truth,
        train_frequency=frequency,
        groups=frequency_groups(frequency),
        positive_share=shares,
    )
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
    save_predictions(file, predictions, truth)
    # An earlier run's selection would not be of these detections.
    selected = file.with_name("shown.json")
    selected.unlink(missing_ok=True)
    if thresholds is None:
        return [str(file)]
    shown = apply_thresholds(predictions, thresholds, truth.categories)
    save_predictions(selected, shown, truth)
    return [str(file), f"{selected} ({shown.num_predictions} that reach their class's threshold)"]


def chosen_device(name: str | None) -> torch.device:
    """The device of an option, or a GPU where there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f'--device: "{name}" cannot be used here. A device that torch sees is expected, for'
            " example cpu or cuda:0. Leave the option out to choose one."
        ) from error


@contextmanager
def image_progress(console: Console, total: int) -> Iterator[Callable[[int, int], None]]:
    """A bar that counts images, silent where there is no terminal."""
    columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("predicting", total=total)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tell
