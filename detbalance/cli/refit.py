"""`detbalance refit`: refit the classifier of a trained detector on rebalanced region features."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from detbalance.cli.options import (
    COMPARED,
    Before,
    DetectorOptions,
    Features,
    MaxLoss,
    Params,
    Seed,
    TrainedOn,
    Whole,
    command,
)
from detbalance.cli.outputs import Output
from detbalance.cli.printing import print_table, progress, say
from detbalance.data import Categories
from detbalance.data.files import replace_file

if TYPE_CHECKING:
    from torch import nn

    from detbalance.repair.refit import Refit


SAVED, ABOUT = "refit.pt", "refit.json"

_ALLOW_FOR_FREQUENCY = ("balanced_softmax", "logit_adjustment", "balanced_sigmoid")


@command(
    "refit",
    "detbalance refit --checkpoint best.pt --annotations train.json --images train --output refit",
    overwrite="Replace the refit that the folder holds.",
)
def refit_command(
    *,
    options: DetectorOptions,
    annotations: TrainedOn,
    images: Annotated[Path, "Folder of its images."],
    method: Annotated[
        str,
        "--method NAME",
        "crt, lws, tau, fasa, or any sampler of imbalanced-learn: SMOTE, BorderlineSMOTE,"
        " ADASYN, RandomOverSampler, RandomUnderSampler, NearMiss, SMOTEENN ...",
    ] = "crt",
    params: Params = (),
    output: Annotated[
        Path,
        Output(SAVED, ABOUT, *COMPARED, holds="a refit"),
        "Folder for refit.pt and refit.json.",
    ],
    features: Features = None,
    val: Annotated[Path | None, "COCO file to compare before and after on."] = None,
    val_images: Annotated[Path | None, "Folder of its images."] = None,
    before: Before = None,
    boxes_per_class: Annotated[
        int,
        Whole(1),
        "Boxes of a class whose regions are kept, drawn at random where there are more.",
    ] = 2000,
    negatives: Annotated[
        int,
        Whole(2),
        "Background regions of an image that are kept: half of them those with the highest"
        " scores, half drawn from the rest.",
    ] = 64,
    max_boxes: Annotated[
        int,
        Whole(1),
        "Boxes of all classes together whose regions are kept; where there are more, fewer of the"
        " largest classes are.",
    ] = 100_000,
    max_negatives: Annotated[
        int,
        Whole(1),
        "Background regions of all images together that are kept; where there would be more, fewer"
        " of each image are.",
    ] = 400_000,
    repeats: Annotated[
        int, Whole(0), "At most so many further looks at an image of rare classes, augmented."
    ] = 3,
    iterations: Annotated[int, Whole(1), "Steps of each fit."] = 400,
    max_loss: MaxLoss = 0.02,
    seed: Seed = 0,
) -> None:
    """Take the features out once, refit the classifier to them, write a checkpoint, show it."""
    from detbalance.cli.region_data import Detector, parse_params, show_effect, taken_features
    from detbalance.repair.collecting import RegionQuota
    from detbalance.repair.fitting import FitSettings
    from detbalance.repair.refit import RefitContext, fits_of, refit
    from detbalance.repair.region_features import read_samples
    from detbalance.training.checkpoint import model_from_checkpoint

    method_options = parse_params(params)
    fits_of(method)  # an unknown method, or a missing library, before any work
    detector = Detector.read(options)
    truth = detector.annotations(annotations, images)
    shown = detector.compared_on(val, val_images, before, "--val")
    started = time.perf_counter()
    hard = negatives // 2
    stored = taken_features(
        detector,
        truth,
        images,
        features or output / "features",
        limits=RegionQuota(boxes_per_class, hard, negatives - hard, max_boxes, max_negatives),
        repeats=repeats,
        seed=seed,
    )
    minutes_of_features = _minutes_since(started)
    started = time.perf_counter()
    with progress("refitting", "fits") as tell:
        context = RefitContext(
            detector.classifier,
            read_samples(stored, detector.classifier),
            FitSettings(iterations=iterations, seed=seed),
            method_options,
            progress=tell,
        )
        result = refit(context, method)
    minutes = _minutes_since(started)
    device = detector.device
    detector.classifier.write(result.weight.to(device), result.bias.to(device))
    output.mkdir(parents=True, exist_ok=True)
    about = {
        "method": method,
        "options": method_options,
        "checkpoint": str(options.checkpoint),
        "annotations": str(annotations),
        "minutes": minutes,
        "minutes_of_features": minutes_of_features,
        "chosen": result.chosen,
        "chosen_on": "held-out images of the annotations above, by cross-fitting",
        "held_out_loss": result.held_out,
        "regions": result.regions.tolist(),
    }
    _save(output, detector.state, detector.model, about)
    _print(result, method, truth.categories, output / SAVED)
    _caution(detector.state["config"]["loss"]["name"], method, method_options)
    if shown is not None and val_images is not None:
        if before is None:
            name = str(options.checkpoint)
            earlier: nn.Module | Path = model_from_checkpoint(detector.state, name).to(device)
        else:
            earlier = before
        show_effect(
            detector, earlier, shown, val_images, output, train_file=annotations, max_loss=max_loss
        )


def _minutes_since(started: float) -> float:
    return round((time.perf_counter() - started) / 60, 2)


def _save(
    folder: Path, state: Mapping[str, Any], model: nn.Module, about: Mapping[str, Any]
) -> None:
    """Write the checkpoint and what it came from."""
    import torch

    from detbalance.training.checkpoint import save_checkpoint

    kept = ("iteration", "config", "categories", "frequency", "push", "exposure")
    weights = {
        name: value.cpu() if isinstance(value, torch.Tensor) else value
        for name, value in model.state_dict().items()
    }
    new = {name: state[name] for name in kept if name in state}
    save_checkpoint(folder / SAVED, {**new, "model": weights, "ema": None, "refit": about})
    with replace_file(folder / ABOUT) as file:
        file.write(json.dumps(about, indent=1).encode())


def _caution(loss: str, method: str, options: Mapping[str, Any]) -> None:
    """Two ways to rebalance that do not know of each other add up."""
    if loss in _ALLOW_FOR_FREQUENCY and method != "tau" and options.get("balance") != 0:
        say(
            f"The detector was trained with {loss}, which allows for how frequent classes are; on"
            " balanced regions rare classes gain a second time. --method crt --param balance=0"
            " refits to regions as frequent as they are."
        )


def _print(result: Refit, method: str, categories: Categories, saved: Path) -> None:
    taken = result.chosen or "as it was"
    counts = zip(categories.names, result.regions[1:].tolist(), strict=True)
    few = [f"{name} {count}" for name, count in counts if count < 10]
    print_table(
        (f"{method}: loss per object on held-out images, classes alike", ""),
        (
            (name, f"{value:.4f}{' <- taken' if name == taken else ''}")
            for name, value in result.held_out.items()
        ),
        *([f"Classes with fewer than 10 regions: {', '.join(few)}"] if few else []),
        *([_NONE_BETTER] if result.chosen is None else []),
    )
    say(f"Checkpoint: {saved}")


_NONE_BETTER = "No setting did better on held-out images: the classifier is as it was."
