"""`detbalance refit`: refit the classifier of a trained detector on rebalanced region features."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import nn

from detbalance.annotations import Annotations, Categories, load_annotations
from detbalance.annotations.files import replace_file
from detbalance.augmentation import StandardAugmentation
from detbalance.cli.evaluate import chosen_device, labels_in
from detbalance.cli.refit_effect import show_effect
from detbalance.detection.dataset import DetectionDataset
from detbalance.frequency import class_frequency
from detbalance.images import usable_images
from detbalance.regions.classifier import Classifier, classifier_of
from detbalance.regions.collecting import collect_features, rare_repeats
from detbalance.regions.feature_file import RegionFeatures
from detbalance.regions.fitting import FitSettings
from detbalance.regions.methods import fits_of
from detbalance.regions.refit import Refit, refit
from detbalance.regions.samples import read_samples
from detbalance.regions.selection import Limits
from detbalance.regions.task import Task
from detbalance.sampling import repeat_factors
from detbalance.training.checkpoint import (
    load_checkpoint,
    model_from_checkpoint,
    save_checkpoint,
)
from detbalance.training.config import parse_config
from detbalance.training.interrupt import stop_request
from detbalance.training.setup import loader_workers

logger = logging.getLogger(__name__)

CHECKPOINT, REPORT = "refit.pt", "refit.json"


def refit_command(
    *,
    checkpoint: Path,
    annotations: Path,
    images: Path,
    method: str,
    params: tuple[str, ...],
    output: Path,
    features: Path | None,
    val: Path | None,
    val_images: Path | None,
    boxes_per_class: int,
    negatives: int,
    repeats: int,
    iterations: int,
    batch_size: int,
    workers: int | None,
    device: str | None,
    max_loss: float,
    seed: int,
    drop_invalid: bool,
    overwrite: bool,
) -> None:
    """Take the features out once, refit the classifier to them, write a checkpoint, show it."""
    options = parse_params(params)
    fits_of(method)  # an unknown method, or a missing library, before any work
    if (output / CHECKPOINT).exists() and not overwrite:
        raise ValueError(
            f"{output}: already holds a refit. An empty or new folder is expected. Pass --overwrite"
            " to replace it, or another --output."
        )
    if (val is None) != (val_images is None):
        raise ValueError(
            "--val, --val-images: one is missing. Both are expected, or none. Give the other one."
        )
    where = chosen_device(device)
    state = load_checkpoint(checkpoint)
    truth = load_annotations(annotations, drop_invalid=drop_invalid)
    truth = in_order(truth, Categories.from_dict(state["categories"]), checkpoint)
    usable_images(truth, images)
    if val is not None and val_images is not None:
        # Read before the work: a wrong file shall not be noticed after it.
        usable_images(load_annotations(val, drop_invalid=drop_invalid), val_images)
    model = model_from_checkpoint(state, str(checkpoint)).to(where)
    classifier = classifier_of(model)
    stored = taken_features(
        classifier,
        truth,
        images,
        features or output / "features",
        standard=parse_config(state["config"], str(checkpoint)).augmentation.standard,
        limits=Limits(boxes_per_class, negatives // 2, negatives - negatives // 2),
        most_repeats=repeats,
        seed=seed,
        batch_size=batch_size,
        workers=loader_workers(workers),
    )
    started = time.perf_counter()
    with told_progress("refitting", "fits") as tell:
        found = refit(
            Task(
                classifier,
                read_samples(stored, classifier),
                FitSettings(iterations=iterations, seed=seed),
                options,
                progress=tell,
            ),
            method,
        )
    minutes = round((time.perf_counter() - started) / 60, 2)
    classifier.write(found.weight.to(where), found.bias.to(where))
    output.mkdir(parents=True, exist_ok=True)
    saved = save_refit(
        output,
        state,
        model,
        found,
        {
            "method": method,
            "options": options,
            "checkpoint": str(checkpoint),
            "annotations": str(annotations),
            "minutes": minutes,
        },
    )
    _print(found, method, truth.categories, saved)
    if val is not None and val_images is not None:
        show_effect(
            model_from_checkpoint(state, str(checkpoint)).to(where),
            model,
            load_annotations(val, drop_invalid=drop_invalid),
            val_images,
            output,
            train_file=annotations,
            batch_size=batch_size,
            workers=loader_workers(workers),
            max_loss=max_loss,
            drop_invalid=drop_invalid,
        )


def parse_params(params: tuple[str, ...]) -> dict[str, Any]:
    """Read NAME=VALUE options; values are JSON, or else text.

    Example:
        >>> parse_params(("k_neighbors=3", "kind=borderline-2"))
        {'k_neighbors': 3, 'kind': 'borderline-2'}
    """
    options: dict[str, Any] = {}
    for param in params:
        name, equals, text = param.partition("=")
        if not (name and equals):
            raise ValueError(
                f'--param: "{param}" is not NAME=VALUE. For example k_neighbors=3 is expected.'
                " Correct it."
            )
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


def save_refit(
    folder: Path,
    state: Mapping[str, Any],
    model: nn.Module,
    found: Refit,
    asked: Mapping[str, Any],
) -> Path:
    """Write the checkpoint and what it came from; returns the checkpoint's path."""
    about = {
        **asked,
        "chosen": found.chosen,
        "chosen_on": "held-out images of the annotations above, by cross-fitting",
        "held_out_loss": found.held_out,
        "regions": found.regions.tolist(),
    }
    kept = ("iteration", "config", "categories", "frequency", "push", "exposure")
    weights = {
        name: value.cpu() if isinstance(value, torch.Tensor) else value
        for name, value in model.state_dict().items()
    }
    new = {name: state[name] for name in kept if name in state}
    save_checkpoint(folder / CHECKPOINT, {**new, "model": weights, "ema": None, "refit": about})
    with replace_file(folder / REPORT) as file:
        file.write(json.dumps(about, indent=1).encode())
    return folder / CHECKPOINT


def taken_features(
    classifier: Classifier,
    truth: Annotations,
    images: Path,
    folder: Path,
    *,
    standard: Any,
    limits: Limits,
    most_repeats: int,
    seed: int,
    batch_size: int,
    workers: int,
) -> RegionFeatures:
    """Take the features of all regions out, or go on where that was stopped."""
    augmentation = None if standard is None else StandardAugmentation(**standard.model_dump())
    again = _repeats(truth, most_repeats)
    source = {
        "weights": digest_of(value for _, value in sorted(classifier.model.state_dict().items())),
        "labels_and_boxes": digest_of([truth.labels, truth.boxes]),
        "repeats": most_repeats,
    }
    with told_progress("taking features out", "images") as tell, stop_request() as stop:
        stored = collect_features(
            classifier,
            DetectionDataset(truth, images),
            folder,
            limits=limits,
            augmentation=augmentation,
            repeats=again,
            seed=seed,
            batch_size=batch_size,
            workers=workers,
            source=source,
            progress=tell,
            stop=stop.is_set,
        )
    if stored is None:
        raise KeyboardInterrupt(
            f"interrupted; the features so far are in {folder}. Run the same command to go on."
        )
    return stored


def _repeats(truth: Annotations, most: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Further looks at images of classes that are rarer than the median class."""
    counts = class_frequency(truth).image_counts[1:]
    present = counts[counts > 0]
    if not most or not len(present):
        return np.zeros(truth.num_images, np.int64)
    threshold = float(np.median(present)) / truth.num_images
    return rare_repeats(repeat_factors(truth, threshold=threshold), most)


def digest_of(values: Any) -> str:
    """A short digest of tensors and arrays; other values do not count."""
    digest = hashlib.sha256()
    for value in values:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        if isinstance(value, np.ndarray):
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]


def in_order(truth: Annotations, categories: Categories, checkpoint: Path) -> Annotations:
    """The annotations with the checkpoint's labels."""
    theirs = labels_in(truth, categories, checkpoint)
    ours = np.argsort(theirs)
    if (ours == np.arange(len(ours))).all():
        return truth
    return replace(truth, labels=ours[truth.labels], categories=categories)


def _print(found: Refit, method: str, categories: Categories, saved: Path) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{method}: loss per object on held-out images, classes alike")
    table.add_column("", justify="right")
    for name, value in found.held_out.items():
        mark = " <- taken" if name == (found.chosen or "as it was") else ""
        table.add_row(name, f"{value:.4f}{mark}")
    console.print(table)
    few = [
        f"{name} {count}"
        for name, count in zip(categories.names, found.regions[1:].tolist(), strict=True)
        if count < 10
    ]
    if few:
        console.print(f"Classes with fewer than 10 regions: {', '.join(few)}", highlight=False)
    if found.chosen is None:
        console.print("No setting did better on held-out images: the classifier is as it was.")
    console.print(f"Checkpoint: {saved}", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def told_progress(title: str, unit: str) -> Iterator[Any]:
    """A bar on a terminal; a line now and then elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    said = -1
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def tell(done: int, total: int) -> None:
            nonlocal said
            bar.update(task, completed=done, total=total)
            tenth = 10 * done // max(1, total)
            if not console.is_terminal and tenth != said:
                said = tenth
                logger.info("%s: %d of %d %s", title, done, total, unit)

        yield tell
