"""What `opinion` and `suspects` have in common: a detector, annotations, features of regions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from detbalance.annotations import Annotations, Categories, load_annotations
from detbalance.cli.evaluate import chosen_device
from detbalance.cli.refit import digest_of, in_order, taken_features
from detbalance.images import usable_images
from detbalance.regions.classifier import Classifier, classifier_of
from detbalance.regions.feature_file import STATE, RegionFeatures, read_state
from detbalance.regions.samples import Samples, read_samples
from detbalance.regions.selection import Limits
from detbalance.training.checkpoint import load_checkpoint, model_from_checkpoint
from detbalance.training.config import parse_config
from detbalance.training.setup import loader_workers


@dataclass(frozen=True, eq=False)
class Detector:
    """A trained detector.

    Attributes:
        path: of the checkpoint.
        state: the checkpoint.
        model: in eval mode on the device.
        classifier: of the model.
        categories: of its classes.
        weights: digest of its weights.
    """

    path: Path
    state: dict[str, Any]
    model: nn.Module
    classifier: Classifier
    categories: Categories
    weights: str

    @classmethod
    def read(cls, checkpoint: Path, device: str | None) -> Detector:
        """Load a checkpoint."""
        where = chosen_device(device)
        state = dict(load_checkpoint(checkpoint))
        model = model_from_checkpoint(state, str(checkpoint)).to(where)
        categories = Categories.from_dict(state["categories"])
        weights = digest_of(value for _, value in sorted(model.state_dict().items()))
        return cls(checkpoint, state, model, classifier_of(model), categories, weights)

    def annotations(self, file: Path, images: Path, drop_invalid: bool) -> Annotations:
        """Read annotations with the labels of the detector, and look for their images."""
        truth = load_annotations(file, drop_invalid=drop_invalid)
        truth = in_order(truth, self.categories, self.path)
        usable_images(truth, images)
        return truth


@dataclass(frozen=True, eq=False)
class RegionData:
    """Regions with what a detector says of them.

    Attributes:
        samples: the regions.
        rows: int64 [n], row of each region's object in the annotations, -1 for none.
        scores: float32 [n, K + 1]; background is 0 where each output speaks for itself.
        boxes: float32 [n, 4], xyxy in pixels of the image as it was looked at.
        plain: bool [n], whether the region is of an image as it is, not of an augmented look.
    """

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
    limits: Limits,
    repeats: int,
    seed: int,
    batch_size: int,
    workers: int | None,
) -> RegionData:
    """Read the region features in a folder, as many as were kept; take them out if it has none.

    Raises:
        ValueError: if those in the folder are of another detector or other annotations.
    """
    found = _finished(folder)
    labels = digest_of([truth.labels, truth.boxes])
    if found is not None:
        for key, now in (("weights", detector.weights), ("labels_and_boxes", labels)):
            if found["source"].get(key) != now:
                raise ValueError(
                    f"{folder}: holds region features made with {key}"
                    f" {found['source'].get(key)!r}, now it is {now!r}. Features of this checkpoint"
                    " and these annotations are expected. Name another --features folder."
                )
        stored = RegionFeatures(folder)
    else:
        stored = taken_features(
            detector.classifier,
            truth,
            images,
            folder,
            standard=parse_config(
                detector.state["config"], str(detector.path)
            ).augmentation.standard,
            limits=limits,
            most_repeats=repeats,
            seed=seed,
            batch_size=batch_size,
            workers=loader_workers(workers),
        )
    samples = read_samples(stored, detector.classifier)
    return RegionData(
        samples,
        stored.regions["row"].astype(np.int64),
        _scores(detector, samples),
        stored.regions["box"],
        _plain(samples.images),
    )


def _scores(detector: Detector, samples: Samples) -> NDArray[np.float32]:
    with torch.no_grad():
        where = next(detector.model.parameters()).device
        logits = torch.from_numpy(samples.logits).to(where)
        scores = detector.classifier.scores(logits).float().cpu().numpy()
    scores = np.nan_to_num(scores, nan=0.0)
    if detector.classifier.sigmoid:
        scores[:, 0] = 0.0
    return np.asarray(scores, np.float32)


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
