"""`detbalance refit`: refit the classifier of a trained detector on rebalanced region features."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from detbalance.cli.options import (
    BATCH_SIZE,
    BEFORE,
    CHECKPOINT,
    COMPARED,
    DEVICE,
    DROP_INVALID,
    FILE,
    SEED,
    STORED,
    TRAINED_ON,
    WORKERS,
    Real,
    Whole,
    command,
)
from detbalance.cli.outputs import Output, overwrite
from detbalance.cli.progress import progress
from detbalance.data import Categories
from detbalance.data.files import replace_file
from detbalance.reporting.terminal import Console

if TYPE_CHECKING:
    from torch import nn

    from detbalance.repair.refit import Refit


SAVED, ABOUT = "refit.pt", "refit.json"

_ALLOW_FOR_FREQUENCY = ("balanced_softmax", "logit_adjustment", "balanced_sigmoid")


@command(
    "refit",
    "detbalance refit --checkpoint best.pt --annotations train.json --images train --output refit",
)
@CHECKPOINT
@TRAINED_ON
@click.option("--images", required=True, type=FILE, help="Folder of its images.")
@click.option(
    "--method",
    default="crt",
    metavar="NAME",
    help="crt, lws, tau, fasa, or any sampler of imbalanced-learn: SMOTE, BorderlineSMOTE,"
    " ADASYN, RandomOverSampler, RandomUnderSampler, NearMiss, SMOTEENN ...",
)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Option of the method, for example k_neighbors=3 or balance=0.5. Repeatable.",
)
@click.option(
    "--output",
    required=True,
    type=Output("refit.pt", "refit.json", *COMPARED, holds="a refit"),
    help="Folder for refit.pt and refit.json.",
)
@click.option(
    "--features",
    type=STORED,
    help="Folder of the region features, made if it is not there: several methods can share it."
    " Default: features/ in the output.",
)
@click.option("--val", type=FILE, help="COCO file to compare before and after on.")
@click.option("--val-images", type=FILE, help="Folder of its images.")
@BEFORE
@click.option(
    "--boxes-per-class",
    default=2000,
    type=Whole(1),
    help="Boxes of a class whose regions are kept, drawn at random where there are more.",
)
@click.option(
    "--negatives",
    default=64,
    type=Whole(2),
    help="Background regions of an image that are kept: half of them those with the highest"
    " scores, half drawn from the rest.",
)
@click.option(
    "--max-boxes",
    default=100_000,
    type=Whole(1),
    help="Boxes of all classes together whose regions are kept; where there are more, fewer of the"
    " largest classes are.",
)
@click.option(
    "--max-negatives",
    default=400_000,
    type=Whole(1),
    help="Background regions of all images together that are kept; where there would be more, fewer"
    " of each image are.",
)
@click.option(
    "--repeats",
    default=3,
    type=Whole(0),
    help="At most so many further looks at an image of rare classes, augmented.",
)
@click.option(
    "--iterations",
    default=400,
    type=Whole(1),
    help="Steps of each fit.",
)
@BATCH_SIZE
@WORKERS
@DEVICE
@click.option(
    "--max-loss",
    default=0.02,
    type=Real(0, 1),
    help="A group that loses more AP50 or recall on --val is named at the end.",
)
@SEED
@DROP_INVALID
@overwrite("Replace the refit that the folder holds.")
def refit_command(
    checkpoint: Path,
    annotations: Path,
    images: Path,
    method: str,
    params: tuple[str, ...],
    output: Path,
    features: Path | None,
    val: Path | None,
    val_images: Path | None,
    before: Path | None,
    boxes_per_class: int,
    negatives: int,
    max_boxes: int,
    max_negatives: int,
    repeats: int,
    iterations: int,
    batch_size: int,
    workers: int | None,
    device: str | None,
    max_loss: float,
    seed: int,
    drop_invalid: bool,
) -> None:
    """Take the features out once, refit the classifier to them, write a checkpoint, show it."""
    from detbalance.cli.region_data import Detector, parse_params, show_effect, taken_features
    from detbalance.repair.collecting import RegionQuota
    from detbalance.repair.fitting import FitSettings
    from detbalance.repair.refit import RefitContext, fits_of, refit
    from detbalance.repair.region_features import read_samples
    from detbalance.training.checkpoint import model_from_checkpoint

    options = parse_params(params)
    fits_of(method)  # an unknown method, or a missing library, before any work
    detector = Detector.read(checkpoint, device)
    truth = detector.annotations(annotations, images, drop_invalid)
    shown = detector.judged_on(val, val_images, before, "--val", drop_invalid)
    started = time.perf_counter()
    stored = taken_features(
        detector,
        truth,
        images,
        features or output / "features",
        limits=RegionQuota(
            boxes_per_class,
            negatives // 2,
            negatives - negatives // 2,
            max_boxes,
            max_negatives,
        ),
        most_repeats=repeats,
        seed=seed,
        batch_size=batch_size,
        workers=workers,
    )
    minutes_of_features = _minutes_since(started)
    model, classifier = detector.model, detector.classifier
    started = time.perf_counter()
    with progress("refitting", "fits") as tell:
        found = refit(
            RefitContext(
                classifier,
                read_samples(stored, classifier),
                FitSettings(iterations=iterations, seed=seed),
                options,
                progress=tell,
            ),
            method,
        )
    minutes = _minutes_since(started)
    where = next(model.parameters()).device
    classifier.write(found.weight.to(where), found.bias.to(where))
    output.mkdir(parents=True, exist_ok=True)
    saved = save_refit(
        output,
        detector.state,
        model,
        found,
        {
            "method": method,
            "options": options,
            "checkpoint": str(checkpoint),
            "annotations": str(annotations),
            "minutes": minutes,
            "minutes_of_features": minutes_of_features,
        },
    )
    _print(found, method, truth.categories, saved)
    _caution(detector.state["config"]["loss"]["name"], method, options)
    if shown is not None and val_images is not None:
        show_effect(
            before or model_from_checkpoint(detector.state, str(checkpoint)).to(where),
            model,
            shown,
            val_images,
            output,
            train_file=annotations,
            batch_size=batch_size,
            workers=workers,
            max_loss=max_loss,
            drop_invalid=drop_invalid,
        )


def _minutes_since(started: float) -> float:
    return round((time.perf_counter() - started) / 60, 2)


def save_refit(
    folder: Path,
    state: Mapping[str, Any],
    model: nn.Module,
    found: Refit,
    asked: Mapping[str, Any],
) -> Path:
    """Write the checkpoint and what it came from; returns the checkpoint's path."""
    import torch

    from detbalance.training.checkpoint import save_checkpoint

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
    save_checkpoint(folder / SAVED, {**new, "model": weights, "ema": None, "refit": about})
    with replace_file(folder / ABOUT) as file:
        file.write(json.dumps(about, indent=1).encode())
    return folder / SAVED


def _caution(loss: str, method: str, options: Mapping[str, Any]) -> None:
    """Two ways to rebalance that do not know of each other add up."""
    if loss in _ALLOW_FOR_FREQUENCY and method != "tau" and options.get("balance") != 0:
        Console().print(
            f"The detector was trained with {loss}, which allows for how frequent classes are; on"
            " balanced regions rare classes gain a second time. --method crt --param balance=0"
            " refits to regions as frequent as they are.",
            soft_wrap=True,
            highlight=False,
        )


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
