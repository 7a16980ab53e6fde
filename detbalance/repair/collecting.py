"""One pass over a data set that takes the features of its regions out of a frozen detector.

Letters: A regions of an image, n kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from detbalance.augmentation.transform import Augmentation
from detbalance.data.arrays import Float64, Int64
from detbalance.detection.dataset import (
    MIN_SIDE,
    DetectionDataset,
    Draw,
    Example,
    collate,
    worker_init,
)
from detbalance.repair.classifier import Classifier, ImageRegions
from detbalance.repair.region_features import REGION, FeatureWriter, RegionFeatures


@dataclass(frozen=True)
class RegionQuota:
    """How many regions are kept."""

    boxes_per_class: int = 2000
    hard: int = 32
    random: int = 32
    boxes: int = 100_000
    background: int = 400_000

    def check(self) -> None:
        """Refuse limits that leave nothing."""
        least = {"boxes_per_class": 1, "hard": 0, "random": 1, "boxes": 1, "background": 1}
        given = asdict(self)
        wrong = [f"{name} {given[name]}" for name in least if given[name] < least[name]]
        if wrong:
            raise ValueError(
                f"limits of region features: {', '.join(wrong)}. At least 1 of each, and at least 0"
                " hard ones, are expected. Change them."
            )

    def of_background(self, looks: int) -> tuple[int, int, float]:
        """How much background of an image is kept, where so many are looked at."""
        usual = self.hard + self.random
        if usual * looks <= self.background:
            return self.hard, self.random, 1.0
        each = max(1, self.background // looks)
        hard = self.hard * each // usual
        return hard, each - hard, min(1.0, self.background / looks)


def kept_share(box_counts: Int64, limits: RegionQuota) -> Float64:
    """Tell which share of the boxes of each class is kept."""
    most = min(float(limits.boxes_per_class), cap_per_class(box_counts, limits.boxes))
    return np.minimum(1.0, most / np.maximum(box_counts, 1))


def cap_per_class(counts: Int64, total: int) -> float:
    """How many of each class at most, so that there are `total` together."""
    if counts.sum() <= total:
        return float("inf")
    ordered = np.sort(counts)
    # With the level at a class's size: that and all smaller ones whole, the larger ones as it.
    below = np.concatenate([[0], ordered.cumsum()[:-1]])
    larger = len(ordered) - np.arange(len(ordered))
    first = int(np.flatnonzero(below + ordered * larger > total)[0])
    return float((total - below[first]) / larger[first])


def choose_regions(
    labels: Int64,
    objects: Int64,
    scores: Float64,
    background: int,
    share: Float64,
    background_limits: tuple[int, int, float],
    generator: np.random.Generator,
) -> tuple[Int64, Float64]:
    """Keep the regions of some objects, the hardest background and some of the rest."""
    weights = np.zeros(len(labels))
    positive = np.flatnonzero(labels > 0)
    if len(positive):
        draws = generator.random(int(objects[positive].max()) + 1)
        chances = share[labels[positive]]
        kept = draws[objects[positive]] < chances
        weights[positive[kept]] = 1.0 / chances[kept]
    negative = np.flatnonzero(labels == 0)
    most_hard, most_drawn, chance = background_limits
    if len(negative) and (chance >= 1.0 or generator.random() < chance):
        order = negative[np.argsort(-scores[negative], kind="stable")]
        hard, rest = order[:most_hard], order[most_hard:]
        drawn = generator.choice(rest, min(most_drawn, len(rest)), replace=False)
        weights[hard] = 1.0
        weights[drawn] = len(rest) / max(1, len(drawn))
        weights[negative] *= background / len(negative) / chance
    rows = np.flatnonzero(weights)
    return rows, weights[rows]


logger = logging.getLogger(__name__)

_LARGEST = float(np.finfo(np.float16).max)


def collect_features(
    classifier: Classifier,
    dataset: DetectionDataset,
    folder: Path,
    *,
    limits: RegionQuota | None = None,
    augmentation: Augmentation | None = None,
    repeats: Int64 | None = None,
    seed: int = 0,
    batch_size: int = 8,
    workers: int = 0,
    source: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> RegionFeatures | None:
    """Take out the features of all images, or go on where a pass before was stopped.

    Memory does not grow with the number of images: rows go to disk as they come, and all of them
    are no more than the limits say.

    Args:
        classifier: of the detector; its model must be in eval mode and is not changed.
        dataset: without augmentation.
        folder: for the features.
        limits: how many regions are kept; None for the usual ones.
        augmentation: of the images that are looked at again.
        repeats: int64 [M], how many times more each image is looked at, augmented; None for none.
        seed: of all draws.
        batch_size: images at a time.
        workers: processes that load images.
        source: what tells these features from others, beside the settings and the annotations.
        progress: called after every batch with the images done and the number of all.
        stop: asked after every batch whether to stop.

    Returns:
        The features; None when it was stopped.

    Raises:
        ValueError: if the folder holds other features or is full, an image cannot be read, or no
            feature at all is finite.
    """
    limits = limits or RegionQuota()
    limits.check()
    weight, _ = classifier.weights()
    notes = dataset.annotations
    repeats = np.zeros(len(dataset), np.int64) if repeats is None else repeats
    draws: list[int | Draw] = list(range(len(dataset)))
    again = np.repeat(np.arange(len(dataset)), repeats)
    draws += [Draw(int(index), len(draws) + i) for i, index in enumerate(again)]
    writer = FeatureWriter(
        folder,
        weight.shape[2],
        {
            **(source or {}),
            "annotations": Path(notes.source).name,
            "images": notes.num_images,
            "boxes": len(notes.labels),
            "looks": len(draws),
            "seed": seed,
            **asdict(limits),
        },
    )
    if writer.images:
        logger.info("%s: going on after %d of %d images", folder, writer.images, len(draws))
    counts = np.bincount(notes.labels[~notes.is_crowd], minlength=notes.categories.num_classes)
    # Repeated looks at an image are further chances of its boxes to be kept.
    share, some = kept_share(counts, limits), limits.of_background(len(draws))
    both = _Looks(dataset, augmentation, seed)
    loader = DataLoader(
        both,
        batch_size=batch_size,
        sampler=draws[writer.images :],
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=worker_init,
        generator=torch.Generator(),
    )
    device = weight.device
    for images, targets in loader:
        looked = classifier.regions(
            [image.to(device) for image in images],
            [{name: t[name].to(device) for name in ("boxes", "labels")} for t in targets],
        )
        parts = [
            _kept(classifier, regions, int(target["image_id"]), share, some, generator)
            for regions, target, generator in zip(
                looked, targets, _generators(seed, writer.images), strict=False
            )
        ]
        for i, (_, records) in enumerate(parts):
            draw = draws[writer.images + i]
            if isinstance(draw, Draw):
                records["row"] = -1  # an augmented object is none of the file
            else:
                _name_objects(records, dataset, draw)
        features = np.concatenate([values for values, _ in parts])
        records = np.concatenate([values for _, values in parts])
        features, records = _finite(features, records, writer)
        writer.append(features, records, images=len(images))
        if progress is not None:
            progress(writer.images, len(draws))
        if stop is not None and stop() and writer.images < len(draws):
            return None
    _tell(writer)
    return RegionFeatures(folder)


class _Looks(Dataset[Example]):
    """Images as they are by row, and augmented by `Draw`."""

    def __init__(
        self, dataset: DetectionDataset, augmentation: Augmentation | None, seed: int
    ) -> None:
        self._plain = dataset
        self._augmented = DetectionDataset(
            dataset.annotations, dataset.image_dir, augmentation=augmentation, seed=seed
        )

    def __getitem__(self, draw: int | Draw) -> Example:
        return (self._augmented if isinstance(draw, Draw) else self._plain)[draw]


def _generators(seed: int, first: int) -> Any:
    """A generator for each look, so that a pass that was stopped goes on as it would have."""
    while True:
        yield np.random.default_rng([seed, first])
        first += 1


def _kept(
    classifier: Classifier,
    regions: ImageRegions,
    image: int,
    share: NDArray[np.float64],
    background_limits: tuple[int, int, float],
    generator: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.void]]:
    scores = classifier.scores(regions.logits)[:, 1:].amax(dim=1).cpu().numpy()
    rows, weights = choose_regions(
        regions.labels.cpu().numpy(),
        regions.objects.cpu().numpy(),
        np.nan_to_num(scores, nan=0.0),
        regions.background,
        share,
        background_limits,
        generator,
    )
    where = torch.from_numpy(rows).to(regions.labels.device)
    records = np.zeros(len(rows), REGION)
    records["image"] = image
    records["row"] = regions.objects[where].cpu().numpy()
    records["label"] = regions.labels[where].cpu().numpy()
    records["slot"] = regions.slots[where].cpu().numpy()
    records["weight"], records["score"] = weights, scores[rows]
    records["box"] = regions.boxes[where].cpu().numpy()
    return regions.features(where).float().cpu().numpy(), records


def _name_objects(records: NDArray[np.void], dataset: DetectionDataset, index: int) -> None:
    """Turn rows of a target into rows of the annotations."""
    rows = dataset.annotations.rows(index)
    boxes = dataset.annotations.boxes[rows]
    # The same boxes as in a target of the data set.
    kept = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(axis=1))
    found = records["row"] >= 0
    records["row"][found] = rows.start + kept[records["row"][found]]


def _finite(
    features: NDArray[np.float32], records: NDArray[np.void], writer: FeatureWriter
) -> tuple[NDArray[np.float16], NDArray[np.void]]:
    """Leave out rows that are not finite, and cut what float16 cannot hold."""
    good = np.isfinite(features).all(axis=1)
    if not good.all():
        writer.notes.setdefault("first_not_finite", int(records["image"][~good][0]))
        before = writer.notes.get("not_finite", 0)
        writer.notes["not_finite"] = before + int((~good).sum())
        features, records = features[good], records[good]
    large = np.abs(features) > _LARGEST
    if large.any():
        writer.notes["too_large"] = writer.notes.get("too_large", 0) + int(large.sum())
        features = features.clip(-_LARGEST, _LARGEST)
    return features.astype(np.float16), records


def _tell(writer: FeatureWriter) -> None:
    lost, cut = writer.notes.get("not_finite", 0), writer.notes.get("too_large", 0)
    if lost and not writer.regions:
        raise ValueError(
            f"{writer.folder}: none of the {lost} region features is finite. A detector whose"
            " weights are finite is expected. Use a checkpoint from before the training diverged."
        )
    if lost:
        logger.warning(
            "%s: %d regions have features that are not finite (first in image row %d); they are"
            " left out",
            writer.folder,
            lost,
            writer.notes["first_not_finite"],
        )
    if cut:
        logger.warning(
            "%s: %d values are beyond what float16 holds, and were cut to it", writer.folder, cut
        )


def rare_repeats(image_factors: Sequence[float] | NDArray[np.float64], most: int = 8) -> Int64:
    """Tell how many times more each image is looked at, from repeat factors."""
    return np.clip(np.rint(np.asarray(image_factors) - 1.0), 0, most).astype(np.int64)
