"""`detbalance reclassify`: a classifier or one-class models beside a detector's own scores."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.table import Table

from detbalance.cli.options import (
    BATCH_SIZE,
    BEFORE,
    CHECKPOINT,
    COMPARED,
    DEVICE,
    DROP_INVALID,
    FEATURES,
    FILE,
    SEED,
    SHOWN_FROM,
    TRAINED_ON,
    WORKERS,
    Real,
    Whole,
    command,
)
from detbalance.cli.outputs import Output, overwrite
from detbalance.cli.progress import progress
from detbalance.data import Annotations, Categories
from detbalance.data.files import replace_file
from detbalance.data.frequency import class_frequency, frequency_groups
from detbalance.reporting.terminal import Console

if TYPE_CHECKING:
    from detbalance.cli.region_data import Detector, RegionData
    from detbalance.repair.novelty import GateFigures, OneClassModels
    from detbalance.repair.second_classifier import Weighing
    from detbalance.repair.second_classifier_file import Reclassifier


SAVED, ABOUT = "second_classifier.skops", "second_classifier.json"


@command(
    "reclassify",
    "detbalance reclassify --checkpoint best.pt --annotations train.json --images train"
    " --output second",
)
@CHECKPOINT
@TRAINED_ON
@click.option("--images", type=FILE, help="Folder of its images.")
@click.option(
    "--method",
    default="LogisticRegression",
    metavar="NAME",
    help="A classifier of scikit-learn or imbalanced-learn (BalancedBaggingClassifier,"
    " EasyEnsembleClassifier, RUSBoostClassifier, BalancedRandomForestClassifier,"
    " HistGradientBoostingClassifier ...), or one-class models of rare classes"
    " (measured: they bring back few rare boxes): Mahalanobis, OneClassSVM, IsolationForest,"
    " LocalOutlierFactor.",
)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="Option of the method, for example n_estimators=50. Repeatable.",
)
@click.option(
    "--output",
    required=True,
    type=Output("second_classifier.*", *COMPARED, holds="a second classifier"),
    help="Folder for second_classifier.skops and more.",
)
@FEATURES
@click.option(
    "--classifier",
    "saved",
    type=FILE,
    help="second_classifier.skops of an earlier call, to predict with; none is fitted.",
)
@click.option(
    "--class",
    "classes",
    multiple=True,
    metavar="NAME",
    help="Class whose missed objects one-class models bring back. Repeatable. Default: rare ones.",
)
@click.option(
    "--max-fppi",
    default=0.02,
    type=Real(0),
    help="False positives per image that one-class models may bring to a class.",
)
@SHOWN_FROM
@click.option("--predict", type=FILE, help="COCO file to compare before and after on.")
@click.option("--predict-images", type=FILE, help="Folder of its images.")
@BEFORE
@click.option(
    "--candidates",
    default=300,
    type=Whole(1),
    help="Regions of an image that are classified again, those with the highest scores.",
)
@click.option(
    "--max-background",
    default=10_000,
    type=Whole(1),
    help="Background regions that are learned from.",
)
@BATCH_SIZE
@WORKERS
@DEVICE
@click.option(
    "--max-loss",
    default=0.02,
    type=Real(0, 1),
    help="A group that loses more AP50 or recall on --predict is named at the end.",
)
@SEED
@DROP_INVALID
@overwrite("Replace what the folder holds.")
def reclassify_command(
    checkpoint: Path,
    annotations: Path,
    images: Path | None,
    method: str,
    params: tuple[str, ...],
    output: Path,
    features: Path | None,
    saved: Path | None,
    classes: tuple[str, ...],
    max_fppi: float,
    score_threshold: float,
    predict: Path | None,
    predict_images: Path | None,
    before: Path | None,
    candidates: int,
    max_background: int,
    batch_size: int,
    workers: int | None,
    device: str | None,
    max_loss: float,
    seed: int,
    drop_invalid: bool,
) -> None:
    """Fit a second classifier or read one, save it, and let the detector be told by it."""
    from detbalance.cli.region_data import Detector, parse_params, region_data, show_effect
    from detbalance.repair.collecting import RegionQuota
    from detbalance.repair.second_classifier import advised
    from detbalance.repair.second_classifier_file import (
        load_second_classifier,
        save_second_classifier,
    )

    options = parse_params(params)
    if saved is None:
        _check_method(method, options, seed)
    if saved is None and images is None:
        raise ValueError(
            "--images: is missing. The folder of the training images is expected, unless"
            " --classifier names a saved one. Add it."
        )
    if saved is not None and predict is None:
        raise ValueError(
            "--classifier: there is nothing to do with it. --predict and --predict-images are"
            " expected. Add them."
        )
    detector = Detector.read(checkpoint, device)
    shown = detector.judged_on(predict, predict_images, before, "--predict", drop_invalid)
    output.mkdir(parents=True, exist_ok=True)
    if saved is None:
        assert images is not None
        truth = detector.annotations(annotations, images, drop_invalid)
        data = region_data(
            detector,
            truth,
            images,
            features or output / "features",
            limits=RegionQuota(),
            repeats=3,
            seed=seed,
            batch_size=batch_size,
            workers=workers,
        )
        recovered = _labels(truth, classes)
        found, about = _fit(
            detector,
            data,
            method,
            options,
            recovered,
            max_fppi,
            score_threshold,
            max_background,
            seed,
        )
        about |= {
            "options": options,
            "checkpoint": str(checkpoint),
            "annotations": str(annotations),
            "chosen_on": "held-out images of the annotations above, by cross-fitting",
        }
        save_second_classifier(
            output / SAVED,
            found,
            weights=detector.weights,
            categories=detector.categories,
            width=data.samples.features.shape[1],
        )
        with replace_file(output / ABOUT) as file:
            file.write(json.dumps(about, indent=1).encode())
        line = f"Second classifier: {output / SAVED}"
        Console().print(line, soft_wrap=True, highlight=False, markup=False)
    else:
        found = load_second_classifier(
            saved, weights=detector.weights, categories=detector.categories
        )
    if shown is not None and predict_images is not None:
        show_effect(
            before or detector.model,
            detector.model,
            shown,
            predict_images,
            output,
            train_file=annotations,
            batch_size=batch_size,
            workers=workers,
            max_loss=max_loss,
            drop_invalid=drop_invalid,
            changed=partial(advised, detector.classifier, found, candidates=candidates),
            name="second classifier",
        )


def _check_method(method: str, options: dict[str, Any], seed: int) -> None:
    """An unknown method or option, or a missing library, is told before any work."""
    from detbalance.repair.estimators import is_one_class, make_classifier, make_one_class

    if is_one_class(method):
        make_one_class(method, options, 10, seed)
    else:
        make_classifier(method, options, seed)


def _labels(truth: Annotations, classes: tuple[str, ...]) -> list[int]:
    """Labels of the classes that are named, or of the rare ones."""
    if classes:
        return sorted({int(label) for label in truth.categories.labels_of_names(classes)})
    groups = frequency_groups(class_frequency(truth)).of_class
    return [int(label) for label in np.flatnonzero(groups == 0)]


def _fit(
    detector: Detector,
    data: RegionData,
    method: str,
    options: dict[str, Any],
    labels: list[int],
    max_fppi: float,
    floor: float,
    max_background: int,
    seed: int,
) -> tuple[Reclassifier, dict[str, Any]]:
    """The second_classifier, and what to write of it."""
    from detbalance.repair.estimators import is_one_class
    from detbalance.repair.novelty import fit_gates
    from detbalance.repair.second_classifier import fit_second_classifier

    started = time.perf_counter()
    given = (data.samples, data.rows, data.scores)
    shared = not detector.classifier.sigmoid
    names = detector.categories
    with progress("fitting", "fits") as tell:
        if is_one_class(method):
            gates, figures = fit_gates(
                *given,
                labels,
                method,
                options,
                shared=shared,
                max_fppi=max_fppi,
                floor=floor,
                max_background=max_background,
                seed=seed,
                progress=tell,
            )
            about = _about_gates(gates, figures, names, max_fppi)
            found: Reclassifier = gates
        else:
            found, weighing = fit_second_classifier(
                *given,
                method,
                options,
                shared=shared,
                floor=floor,
                max_background=max_background,
                seed=seed,
                progress=tell,
            )
            about = _about_weight(method, weighing, names)
    about["minutes"] = round((time.perf_counter() - started) / 60, 2)
    return found, {"method": method, **about}


def _about_weight(method: str, found: Weighing, categories: Categories) -> dict[str, Any]:
    console = Console()
    table = Table(box=None, pad_edge=False)
    table.add_column(f"weight of {method}")
    table.add_column("mean AP of classes, regions of held-out images", justify="right")
    table.add_column("boxes shown", justify="right")
    means = {weight: float(np.nanmean(values)) for weight, values in found.precision.items()}
    for weight, mean in means.items():
        mark = " <- taken" if weight == found.weight else ""
        alone = " (the detector alone)" if not weight else ""
        shown = f"{found.shown[weight]:.3f}"
        table.add_row(f"{weight:g}{alone}", f"{mean:.4f}", f"{shown}{mark}")
    console.print(table, highlight=False)
    few = [categories.name(label) for label in found.few]
    if few:
        console.print(f"Too few boxes to learn from: {', '.join(few)}", highlight=False)
    if not found.weight:
        console.print("No weight did better on held-out images: the detector is left alone.")
    return {
        "weight": found.weight,
        "power": found.power,
        "held_out_mean_ap": {f"{weight:g}": mean for weight, mean in means.items()},
        "held_out_shown": {f"{weight:g}": share for weight, share in found.shown.items()},
        "held_out_ap": {
            f"{weight:g}": [None if np.isnan(v) else float(v) for v in values[1:]]
            for weight, values in found.precision.items()
        },
        "classes": list(categories.names),
        "too_few_boxes": few,
    }


def _about_gates(
    found: OneClassModels, figures: list[GateFigures], categories: Categories, max_fppi: float
) -> dict[str, Any]:
    console = Console()
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{found.method}, held-out images")
    columns = ("boxes", "shown", "regained", "false an image", "by score alone")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("")
    for one in figures:
        false = f"{one.false_per_image:.3f}"
        values = (one.boxes, one.shown, one.regained, false, one.by_score)
        note = "" if one.used else f"left alone: {one.why}"
        table.add_row(categories.name(one.label), *map(str, values), note)
    console.print(table, highlight=False)
    better = [categories.name(o.label) for o in figures if o.used and o.by_score > o.regained]
    if better:
        console.print(
            f"For {', '.join(better)} a lower threshold of the class alone brings back more at the"
            " same rate: see `detbalance thresholds`.",
            highlight=False,
            soft_wrap=True,
        )
    if not found.gates:
        console.print("No class is recovered: the detector is left alone.")
    return {
        "floor": found.floor,
        "max_false_per_image": max_fppi,
        "recovered": [
            {
                "class": categories.name(one.label),
                "boxes": one.boxes,
                "shown": one.shown,
                "regained": one.regained,
                "false_per_image": one.false_per_image,
                "regained_by_score_alone": one.by_score,
                "used": one.used,
                "why_not": one.why,
            }
            for one in figures
        ],
    }
