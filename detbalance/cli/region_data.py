"""What refit, reclassify and label-issues share: a detector and features of its regions."""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from detbalance.augmentation import StandardAugmentation
from detbalance.cli.evaluating import Evaluator, compare_runs, show_comparison
from detbalance.cli.options import DetectorOptions
from detbalance.cli.printing import progress, say
from detbalance.cli.runs import chosen_device, detect
from detbalance.data import (
    Annotations,
    Categories,
    load_annotations,
    load_predictions,
    save_predictions,
)
from detbalance.data.files import lock_folder
from detbalance.data.frequency import class_frequency
from detbalance.data.images import usable_images
from detbalance.detection.dataset import DetectionDataset, worker_deaths
from detbalance.evaluation import Evaluation
from detbalance.repair.classifier import Classifier, classifier_of
from detbalance.repair.collecting import RegionQuota, collect_features, rare_repeats
from detbalance.repair.region_features import (
    STATE,
    RegionFeatures,
    Samples,
    read_samples,
    read_state,
)
from detbalance.sampling import repeat_factors
from detbalance.training.checkpoint import (
    config_from_checkpoint,
    load_checkpoint,
    model_from_checkpoint,
)
from detbalance.training.run import stop_request
from detbalance.training.setup import labels_in, loader_workers


@dataclass(frozen=True, eq=False)
class Detector:
    """A trained detector."""

    options: DetectorOptions
    state: dict[str, Any]
    model: nn.Module
    classifier: Classifier
    categories: Categories
    weights: str  # a digest

    @classmethod
    def read(cls, options: DetectorOptions) -> Detector:
        """Load a checkpoint."""
        device = chosen_device(options.device)
        state = dict(load_checkpoint(options.checkpoint))
        model = model_from_checkpoint(state, str(options.checkpoint)).to(device)
        categories = Categories.from_dict(state["categories"])
        weights = digest_of(value for _, value in sorted(model.state_dict().items()))
        return cls(options, state, model, classifier_of(model), categories, weights)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    def load(self, file: Path) -> Annotations:
        """Read annotations, whatever the order of their classes."""
        return load_annotations(file, drop_invalid=self.options.drop_invalid)

    def annotations(self, file: Path, images: Path) -> Annotations:
        """Read annotations with the labels of the detector, and look for their images."""
        truth = self.load(file)
        theirs = labels_in(truth, self.categories, str(self.options.checkpoint))
        if truth.categories.names != self.categories.names:
            ours = np.zeros(truth.categories.num_classes, dtype=np.int64)
            ours[theirs] = np.arange(len(theirs))
            ours[0] = 0
            truth = replace(truth, labels=ours[truth.labels], categories=self.categories)
        usable_images(truth, images)
        return truth

    def compared_on(
        self, file: Path | None, images: Path | None, before: Path | None, option: str
    ) -> Annotations | None:
        """Read the annotations to show an effect on, before any work; None where none are named."""
        if (file is None) != (images is None):
            raise ValueError(
                f"{option}, {option}-images: one is missing. Both are expected, or none. Give the"
                " other one."
            )
        if file is None or images is None:
            if before is not None:
                raise ValueError(
                    f"--before: {before} is given, and nothing to compare on. {option} and"
                    f" {option}-images are expected with it. Add them, or leave it out."
                )
            return None
        truth = self.load(file)
        labels_in(truth, self.categories, str(self.options.checkpoint))
        usable_images(truth, images)
        if before is not None:
            load_predictions(before, truth)
        return truth


@dataclass(frozen=True, eq=False)
class RegionData:
    """Regions with what a detector says of them."""

    samples: Samples
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]
    plain: NDArray[np.bool_]


def region_data(
    detector: Detector,
    truth: Annotations,
    images: Path,
    folder: Path,
    *,
    limits: RegionQuota,
    repeats: int,
    seed: int,
) -> RegionData:
    """Read the region features in a folder, as many as were kept; take them out if it has none."""
    state = _finished(folder)
    if state is not None:
        for key, now in {**_source(detector, truth), "images": truth.num_images}.items():
            before = state["source"].get(key)
            if before != now:
                raise ValueError(
                    f"{folder}: holds region features made with {key} {before!r}, now it is"
                    f" {now!r}. Features of this checkpoint and these annotations are expected."
                    " Name another --features folder."
                )
        stored = RegionFeatures(folder)
    else:
        stored = taken_features(
            detector, truth, images, folder, limits=limits, repeats=repeats, seed=seed
        )
    samples = read_samples(stored, detector.classifier)
    for what, most, all_ in (
        ("image", stored.regions["image"].max(initial=-1), truth.num_images),
        ("annotation", stored.regions["row"].max(initial=-1), len(truth.labels)),
    ):
        if most >= all_:
            raise ValueError(
                f"{folder}: a region is of {what} {most}, of {all_}, counted from 0. Features of"
                f" {truth.source} are expected. Delete the folder, to take them out again."
            )
    return RegionData(
        samples,
        stored.regions["row"].astype(np.int64),
        _scores(detector, samples),
        stored.regions["box"],
        _plain(samples.images),
    )


def _scores(detector: Detector, samples: Samples) -> NDArray[np.float32]:
    scores = np.empty((len(samples), detector.classifier.num_classes), np.float32)
    with torch.no_grad():
        for chunk in samples.chunks():
            logits = torch.from_numpy(samples.logits[chunk]).to(detector.device)
            scores[chunk] = detector.classifier.scores(logits).float().cpu().numpy()
    scores = np.nan_to_num(scores, nan=0.0)
    if detector.classifier.sigmoid:
        scores[:, 0] = 0.0
    return scores


def _plain(images: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Augmented looks come after all images as they are, and begin with a lower row again."""
    back = np.flatnonzero(np.diff(images) < 0)
    return np.arange(len(images)) <= (back[0] if len(back) else len(images))


def _finished(folder: Path) -> dict[str, Any] | None:
    """The state of features that are all there; None where a pass is to begin or to go on."""
    if not (folder / STATE).exists():
        return None
    state = read_state(folder)
    return state if state["images"] == state["source"].get("looks") else None


def taken_features(
    detector: Detector,
    truth: Annotations,
    images: Path,
    folder: Path,
    *,
    limits: RegionQuota,
    repeats: int,
    seed: int,
) -> RegionFeatures:
    """Take the features of all regions out, or go on where that was stopped."""
    options = detector.options
    config = config_from_checkpoint(detector.state, str(options.checkpoint))
    standard = config.augmentation.standard
    augmentation = None if standard is None else StandardAugmentation(**standard.model_dump())
    # Features that are all there are read by as many as like.
    lock = nullcontext() if _finished(folder) else lock_folder(folder)
    bar = progress("taking features out")
    with lock, worker_deaths(), bar as tell, stop_request() as stop:
        stored = collect_features(
            detector.classifier,
            DetectionDataset(truth, images),
            folder,
            limits=limits,
            augmentation=augmentation,
            repeats=_repeats(truth, repeats),
            seed=seed,
            batch_size=options.batch_size,
            workers=loader_workers(options.workers),
            source={**_source(detector, truth), "repeats": repeats},
            progress=tell,
            stop=stop.is_set,
        )
    if stored is None:
        raise KeyboardInterrupt(
            f"interrupted; the features so far are in {folder}. Run the same command to go on."
        )
    return stored


def _source(detector: Detector, truth: Annotations) -> dict[str, Any]:
    """What features are of."""
    labels = digest_of([truth.labels, truth.boxes])
    return {"weights": detector.weights, "labels_and_boxes": labels}


def _repeats(truth: Annotations, most: int) -> NDArray[np.int64]:
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


def show_effect(
    detector: Detector,
    before: nn.Module | Path,
    truth: Annotations,
    images: Path,
    output: Path,
    *,
    train_file: Path,
    max_loss: float,
    changed: AbstractContextManager[Any] | None = None,
    name: str = "refit",
) -> None:
    """Predict with both, compare, and say plainly which groups lost more than is allowed."""
    labels = labels_in(truth, detector.categories, "the checkpoint")
    frequency = class_frequency(detector.load(train_file))
    evaluator = Evaluator(truth, frequency, rules="coco")

    def evaluated(model: nn.Module, file: Path) -> Evaluation:
        options = detector.options
        predictions = detect(
            model, truth, images, labels, batch_size=options.batch_size, workers=options.workers
        )
        save_predictions(file, predictions, truth)
        return evaluator.evaluate(predictions, file=file)

    if isinstance(before, Path):
        old = evaluator.evaluate(before)
    else:
        old = evaluated(before, output / "predictions_before.json")
    with changed or nullcontext():
        new = evaluated(detector.model, output / "predictions.json")
    comparison, (old,), (new,) = compare_runs(
        evaluator, [old], [new], figure="AP50", num_bootstrap=500
    )
    show_comparison(evaluator, comparison, old, new, output / "comparison")
    lost = [
        f"{group} {figure} {one.baseline:.2f} -> {one.ours:.2f}"
        for group in ("rare", "common", "frequent")
        for figure in ("AP50", "recall")
        if (one := comparison.groups[group].figures[figure]).baseline - one.ours > max_loss
    ]
    if lost:
        say(
            f"This {name} harms: {'; '.join(lost)} (limit {max_loss:g}, --max-loss). The detector"
            " before it may be the better one.",
            style="bold yellow",
        )
    else:
        say(f"No group lost more than {max_loss:g} in AP50 or recall.")


def parse_params(params: tuple[str, ...]) -> dict[str, Any]:
    """Read NAME=VALUE options; values are JSON, or else text."""
    options: dict[str, Any] = {}
    for param in params:
        name, equals, text = param.partition("=")
        if not (name and equals):
            raise ValueError(
                f'--param: "{param}" is not NAME=VALUE. For example k_neighbors=3 is expected.'
                " Correct it."
            )
        try:
            options[name] = json.loads(text, parse_constant=str)
        except (ValueError, RecursionError):
            options[name] = text
        if not _is_bounded(options[name]):
            raise ValueError(
                f'--param: "{param[:80]}" has a number that is not finite, or far beyond what'
                " options are. A smaller one is expected. Correct it."
            )
    return options


def _is_bounded(value: Any) -> bool:
    if isinstance(value, (list, dict)):
        return all(map(_is_bounded, value.values() if isinstance(value, dict) else value))
    if isinstance(value, str):
        return value.lower().lstrip("+-") not in ("nan", "inf", "infinity")
    return value is None or abs(value) < 2**63
