"""`detbalance reclassify`: a classifier or one-class models beside a detector's own scores."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from detbalance.cli.options import (
    COMPARED,
    Before,
    DetectorOptions,
    Features,
    MaxLoss,
    Params,
    Real,
    Seed,
    ShownFrom,
    TrainedOn,
    Whole,
    command,
)
from detbalance.cli.outputs import Output
from detbalance.cli.printing import print_table, progress, say
from detbalance.data import Annotations, Categories
from detbalance.data.files import replace_file
from detbalance.data.frequency import class_frequency, frequency_groups

if TYPE_CHECKING:
    from detbalance.repair.novelty import GateFigures, OneClassModels
    from detbalance.repair.second_classifier import Weighing


SAVED, ABOUT = "second_classifier.skops", "second_classifier.json"


@command(
    "reclassify",
    "detbalance reclassify --checkpoint best.pt --annotations train.json --images train"
    " --output second",
    overwrite="Replace what the folder holds.",
)
def reclassify_command(
    *,
    options: DetectorOptions,
    annotations: TrainedOn,
    images: Annotated[Path | None, "Folder of its images."] = None,
    method: Annotated[
        str,
        "--method NAME",
        "A classifier of scikit-learn or imbalanced-learn (BalancedBaggingClassifier,"
        " EasyEnsembleClassifier, RUSBoostClassifier, BalancedRandomForestClassifier,"
        " HistGradientBoostingClassifier ...), or one-class models of rare classes"
        " (measured: they bring back few rare boxes): Mahalanobis, OneClassSVM, IsolationForest,"
        " LocalOutlierFactor.",
    ] = "LogisticRegression",
    params: Params = (),
    output: Annotated[
        Path,
        Output("second_classifier.*", *COMPARED, holds="a second classifier"),
        "Folder for second_classifier.skops and more.",
    ],
    features: Features = None,
    saved: Annotated[
        Path | None,
        "--classifier",
        "second_classifier.skops of an earlier call, to predict with; none is fitted.",
    ] = None,
    classes: Annotated[
        tuple[str, ...],
        "--class NAME",
        "Class whose missed objects one-class models bring back. Repeatable. Default: rare ones.",
    ] = (),
    max_fppi: Annotated[
        float, Real(0), "False positives per image that one-class models may bring to a class."
    ] = 0.02,
    score_threshold: ShownFrom = 0.3,
    predict: Annotated[Path | None, "COCO file to compare before and after on."] = None,
    predict_images: Annotated[Path | None, "Folder of its images."] = None,
    before: Before = None,
    candidates: Annotated[
        int,
        Whole(1),
        "Regions of an image that are classified again, those with the highest scores.",
    ] = 300,
    max_background: Annotated[int, Whole(1), "Background regions that are learned from."] = 10_000,
    max_loss: MaxLoss = 0.02,
    seed: Seed = 0,
) -> None:
    """Fit a second classifier or read one, save it, and let the detector be told by it."""
    from detbalance.cli.region_data import Detector, parse_params, region_data, show_effect
    from detbalance.repair.collecting import RegionQuota
    from detbalance.repair.estimators import is_one_class, make_classifier, make_one_class
    from detbalance.repair.novelty import fit_gates
    from detbalance.repair.second_classifier import advised, fit_second_classifier
    from detbalance.repair.second_classifier_file import (
        Reclassifier,
        load_second_classifier,
        save_second_classifier,
    )

    method_options = parse_params(params)
    if saved is None:
        # An unknown method or option, or a missing library, is told before any work.
        if is_one_class(method):
            make_one_class(method, method_options, 10, seed)
        else:
            make_classifier(method, method_options, seed)
        if images is None:
            raise ValueError(
                "--images: is missing. The folder of the training images is expected, unless"
                " --classifier names a saved one. Add it."
            )
    elif predict is None:
        raise ValueError(
            "--classifier: there is nothing to do with it. --predict and --predict-images are"
            " expected. Add them."
        )
    detector = Detector.read(options)
    shown = detector.compared_on(predict, predict_images, before, "--predict")
    output.mkdir(parents=True, exist_ok=True)
    second: Reclassifier
    if saved is None:
        assert images is not None
        truth = detector.annotations(annotations, images)
        folder = features or output / "features"
        data = region_data(
            detector, truth, images, folder, limits=RegionQuota(), repeats=3, seed=seed
        )
        labels = _labels(truth, classes)
        regions = (data.samples, data.rows, data.scores)
        started = time.perf_counter()
        with progress("fitting", "fits") as tell:
            settings: dict[str, Any] = {
                "shared": not detector.classifier.sigmoid,
                "floor": score_threshold,
                "max_background": max_background,
                "seed": seed,
                "progress": tell,
            }
            if is_one_class(method):
                second, figures = fit_gates(
                    *regions, labels, method, method_options, max_fppi=max_fppi, **settings
                )
                about = _about_gates(second, figures, detector.categories, max_fppi)
            else:
                second, weighing = fit_second_classifier(
                    *regions, method, method_options, **settings
                )
                about = _about_weight(method, weighing, detector.categories)
        about = {
            "method": method,
            **about,
            "minutes": round((time.perf_counter() - started) / 60, 2),
            "options": method_options,
            "checkpoint": str(options.checkpoint),
            "annotations": str(annotations),
            "chosen_on": "held-out images of the annotations above, by cross-fitting",
        }
        save_second_classifier(
            output / SAVED,
            second,
            weights=detector.weights,
            categories=detector.categories,
            width=data.samples.features.shape[1],
        )
        with replace_file(output / ABOUT) as file:
            file.write(json.dumps(about, indent=1).encode())
        say(f"Second classifier: {output / SAVED}")
    else:
        second = load_second_classifier(
            saved, weights=detector.weights, categories=detector.categories
        )
    if shown is not None and predict_images is not None:
        show_effect(
            detector,
            before or detector.model,
            shown,
            predict_images,
            output,
            train_file=annotations,
            max_loss=max_loss,
            changed=advised(detector.classifier, second, candidates=candidates),
            name="second classifier",
        )


def _labels(truth: Annotations, classes: tuple[str, ...]) -> list[int]:
    """Labels of the classes that are named, or of the rare ones."""
    if classes:
        return sorted({int(label) for label in truth.categories.labels_of_names(classes)})
    groups = frequency_groups(class_frequency(truth)).of_class
    return [int(label) for label in np.flatnonzero(groups == 0)]


def _about_weight(method: str, weighing: Weighing, categories: Categories) -> dict[str, Any]:
    """Print how a weight was chosen; what to write of it."""
    means = {f"{weight:g}": float(np.nanmean(v)) for weight, v in weighing.precision.items()}
    shares = {f"{weight:g}": share for weight, share in weighing.shown.items()}
    taken = f"{weighing.weight:g}"
    few = [categories.name(label) for label in weighing.few]
    lines = [f"Too few boxes to learn from: {', '.join(few)}"] if few else []
    if not weighing.weight:
        lines.append("No weight did better on held-out images: the detector is left alone.")
    print_table(
        (f"weight of {method}", "mean AP of classes, regions of held-out images", "boxes shown"),
        (
            (
                f"{weight}{' (the detector alone)' if weight == '0' else ''}",
                f"{mean:.4f}",
                f"{shares[weight]:.3f}{' <- taken' if weight == taken else ''}",
            )
            for weight, mean in means.items()
        ),
        *lines,
    )
    return {
        "weight": weighing.weight,
        "power": weighing.power,
        "held_out_mean_ap": means,
        "held_out_shown": shares,
        "held_out_ap": {
            f"{weight:g}": [None if np.isnan(v) else float(v) for v in values[1:]]
            for weight, values in weighing.precision.items()
        },
        "classes": list(categories.names),
        "too_few_boxes": few,
    }


def _about_gates(
    models: OneClassModels, figures: list[GateFigures], categories: Categories, max_fppi: float
) -> dict[str, Any]:
    """Print what one-class models bring back; what to write of it."""
    lines = []
    better = [categories.name(o.label) for o in figures if o.used and o.by_score > o.regained]
    if better:
        lines.append(
            f"For {', '.join(better)} a lower threshold of the class alone brings back more at the"
            " same rate: see `detbalance thresholds`."
        )
    if not models.gates:
        lines.append("No class is recovered: the detector is left alone.")
    titles = ("boxes", "shown", "regained", "false an image", "by score alone", "")
    print_table(
        (f"{models.method}, held-out images", *titles),
        (
            (
                *(categories.name(one.label), one.boxes, one.shown, one.regained),
                *(f"{one.false_per_image:.3f}", one.by_score),
                "" if one.used else f"left alone: {one.why}",
            )
            for one in figures
        ),
        *lines,
    )
    return {
        "floor": models.floor,
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
