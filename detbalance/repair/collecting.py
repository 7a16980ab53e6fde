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
from detbalance.data.arrays import Float32, Float64, Int64
from detbalance.data.checks import check_number
from detbalance.detection.dataset import (
    MIN_SIDE,
    DetectionDataset,
    Draw,
    Example,
    collate,
    worker_init,
)
from detbalance.repair.classifier import Classifier, ImageRegions
from detbalance.repair.region_features import (
    REGION,
    FeatureWriter,
    Progress,
    RegionFeatures,
    silent,
)

logger = logging.getLogger(__name__)

_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class RegionQuota:
    """How many regions are kept."""

    boxes_per_class: int = 2000
    hard: int = 32  # background of an image with the highest scores
    random: int = 32  # of the rest of its background
    boxes: int = 100_000  # of all classes together
    background: int = 400_000  # regions of all images together

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name == "hard" else 1
            check_number("limits of region features", name, value, least=least, whole=True)

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
    progress: Progress = silent,
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
    loader = DataLoader(
        _Looks(dataset, augmentation, seed),
        batch_size=batch_size,
        sampler=draws[writer.images :],
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=worker_init,
        generator=torch.Generator(),
    )
    device = weight.device
    for images, targets in loader:
        regions = classifier.regions(
            [image.to(device) for image in images],
            [{name: t[name].to(device) for name in ("boxes", "labels")} for t in targets],
        )
        features, records = [], []
        for number, (own, target) in enumerate(zip(regions, targets, strict=True), writer.images):
            # Each look has its own draws, so that a pass that was stopped goes on as it would have.
            generator = np.random.default_rng([seed, number])
            own_features, own_records = _kept(classifier, own, share, some, generator)
            own_records["image"] = int(target["image_id"])
            _name_objects(own_records, dataset, draws[number])
            features.append(own_features)
            records.append(own_records)
        writer.append(
            *_finite(np.concatenate(features), np.concatenate(records), writer), images=len(images)
        )
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


def _kept(
    classifier: Classifier,
    regions: ImageRegions,
    share: Float64,
    background_limits: tuple[int, int, float],
    generator: np.random.Generator,
) -> tuple[Float32, NDArray[np.void]]:
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
    records["row"] = regions.objects[where].cpu().numpy()
    records["label"] = regions.labels[where].cpu().numpy()
    records["slot"] = regions.slots[where].cpu().numpy()
    records["weight"], records["score"] = weights, scores[rows]
    records["box"] = regions.boxes[where].cpu().numpy()
    return regions.features(where).float().cpu().numpy(), records


def _name_objects(records: NDArray[np.void], dataset: DetectionDataset, draw: int | Draw) -> None:
    """Turn rows of a target into rows of the annotations; an augmented object has none there."""
    if isinstance(draw, Draw):
        records["row"] = -1
        return
    rows = dataset.annotations.rows(draw)
    boxes = dataset.annotations.boxes[rows]
    # The same boxes as in a target of the data set.
    kept = np.flatnonzero((boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(axis=1))
    objects = records["row"] >= 0
    records["row"][objects] = rows.start + kept[records["row"][objects]]


def _finite(
    features: Float32, records: NDArray[np.void], writer: FeatureWriter
) -> tuple[NDArray[np.float16], NDArray[np.void]]:
    """Leave out rows that are not finite, and cut what float16 cannot hold."""
    good = np.isfinite(features).all(axis=1)
    if not good.all():
        writer.notes.setdefault("first_not_finite", int(records["image"][~good][0]))
        writer.notes["not_finite"] = writer.notes.get("not_finite", 0) + int((~good).sum())
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
