"""Simulated detections: classes of one kind, found by detectors of known skill."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, ndtr

from detbalance.data import Annotations, Categories, PackedBytes, Predictions
from detbalance.evaluation.bootstrap import weighted_figures
from detbalance.evaluation.matching import Matches
from detbalance.evaluation.rules import COCO

# Of the detections that a user would see.
SCORE_THRESHOLD = 0.3


@dataclass(frozen=True)
class Detector:
    """How well boxes are found.

    Attributes:
        overlap: median overlap of the detections, as the quantile of a normal distribution.
        spread: how overlaps differ.
        separation: between the scores of good and of wrong detections, in standard deviations.
        wrong: false positives per box.
        shift: of all scores, in logits.
    """

    overlap: float
    spread: float
    separation: float
    wrong: float
    shift: float = 0.0


@dataclass(frozen=True)
class Sample:
    """How boxes are spread over images.

    Attributes:
        boxes: expected, of a class in the set.
        images: of the set.
        boxes_per_image: on images with the class.
        shared: share of a box's fate that it has in common with the others of its image.
    """

    boxes: float
    images: int
    boxes_per_image: float = 1.0
    shared: float = 0.0


DETECTORS = {
    "poor": Detector(overlap=0.2, spread=0.6, separation=1.2, wrong=1.0),
    "fair": Detector(overlap=0.9, spread=0.6, separation=1.6, wrong=0.5),
    "good": Detector(overlap=2.0, spread=0.6, separation=3.5, wrong=0.1),
    # Its scores are nearly all below the floor: recall is near 0.
    "shy": Detector(overlap=0.9, spread=0.6, separation=1.6, wrong=5.0, shift=-3.0),
}
SAMPLES = {
    f"{boxes} boxes, {kind}": Sample(boxes, images, per_image, shared)
    for boxes, images in ((5, 400), (10, 400), (20, 400), (40, 100), (200, 400))
    for kind, per_image, shared in (("one per image", 1.0, 0.0), ("three, alike", 3.0, 0.5))
} | {"100 boxes, eight, alike": Sample(100, 100, 8.0, 0.6)}


def simulate(detector: Detector, sample: Sample, classes: int, seed: int) -> Matches:
    """Matches of independent classes of one kind on the same images.

    A box is found at every IoU threshold up to the overlap of its detection, which scores the
    higher the better it fits. Half of the wrong detections are on images with the class.
    """
    return simulate_several([detector], sample, classes, seed)[0]


def simulate_several(
    detectors: Sequence[Detector],
    sample: Sample,
    classes: int,
    seed: int,
    *,
    alike: float = 0.0,
    training_noise: float = 0.0,
) -> list[Matches]:
    """As `simulate`, of several detectors or runs on the same boxes.

    Args:
        detectors: one for each result.
        sample: how boxes are spread over images.
        classes: how many.
        seed: of everything.
        alike: share of a box's own fate that is the same for all detectors.
        training_noise: standard deviation of a run's skill for each class, on the scale of
            `Detector.overlap`.
    """
    rng, others = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    chance = min(1.0, sample.boxes / sample.boxes_per_image / sample.images)
    label, image = np.nonzero(rng.random((classes, sample.images)) < chance)
    number = 1 + rng.poisson(sample.boxes_per_image - 1, len(label))
    fate = np.repeat(rng.normal(size=len(label)), number) * np.sqrt(sample.shared)
    label, image = np.repeat(label + 1, number), np.repeat(image, number)
    # Annotations are grouped by image.
    rows = np.argsort(image, kind="stable")
    label, image, fate = label[rows], image[rows], fate[rows]
    annotations = as_annotations(label, image, classes, sample.images)
    in_common = others.normal(size=len(label))
    results = []
    for detector in detectors:
        own = np.sqrt(alike) * in_common + np.sqrt(1 - alike) * rng.normal(size=len(label))
        quality = fate + np.sqrt(1 - sample.shared) * own
        skill = detector.overlap + training_noise * others.normal(size=classes + 1)[label]
        overlap = ndtr(skill + detector.spread * quality)
        wrong_label, wrong_image = wrong_detections(detector, sample, classes, label, image, rng)
        noise = rng.normal(size=len(label) + len(wrong_label))
        better = np.concatenate([0.5 + 0.5 * quality, np.full(len(wrong_label), -0.5)])
        scores = expit(detector.separation * better + detector.shift + noise)
        labels, images = np.concatenate([label, wrong_label]), np.concatenate([image, wrong_image])
        results.append(as_matches(annotations, overlap, labels, images, scores))
    return results


def as_matches(
    annotations: Annotations,
    overlap: np.ndarray,
    labels: np.ndarray,
    images: np.ndarray,
    scores: np.ndarray,
) -> Matches:
    """Detections of which the first ones are of the boxes, in their order, the others of none."""
    size, thresholds = len(labels), np.array(COCO.iou_thresholds)
    found = np.full((size, len(thresholds)), -1, dtype=np.int32)
    own = np.arange(len(overlap), dtype=np.int32)[:, None]
    found[: len(overlap)] = np.where(overlap[:, None] >= thresholds, own, -1)
    everything = np.ones(size, dtype=np.bool_)
    return Matches(
        annotations,
        Predictions(images, labels, np.ones((size, 4)), scores),
        COCO,
        found,
        np.zeros(found.shape, dtype=np.bool_),
        everything,
        everything,
        np.ones(len(overlap), dtype=np.bool_),
        np.lexsort((-scores, labels)),
        np.searchsorted(np.sort(labels), np.arange(annotations.categories.num_classes + 1)),
        np.arange(annotations.num_images),
    )


def wrong_detections(
    detector: Detector,
    sample: Sample,
    classes: int,
    label: np.ndarray,
    image: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and images of false positives, half of them beside boxes of their class."""
    beside = rng.random(len(label)) < detector.wrong / 2
    numbers = rng.poisson(detector.wrong / 2 * sample.boxes, classes)
    elsewhere = np.repeat(np.arange(1, classes + 1), numbers)
    anywhere = rng.integers(0, sample.images, len(elsewhere))
    return np.concatenate([label[beside], elsewhere]), np.concatenate([image[beside], anywhere])


def as_annotations(label: np.ndarray, image: np.ndarray, classes: int, images: int) -> Annotations:
    """Boxes of which only classes and images matter."""
    names = tuple(f"class {number}" for number in range(1, classes + 1))
    boxes = np.ones((len(label), 4))
    return Annotations(
        "simulated",
        Categories(tuple(range(1, classes + 1)), names),
        np.arange(images),
        np.ones((images, 2), dtype=np.int32),
        PackedBytes.from_items([b""] * images),
        np.searchsorted(image, np.arange(images + 1)),
        image,
        np.arange(len(label)),
        label,
        np.zeros(len(label), dtype=np.bool_),
        np.ones(len(label)),
        boxes,
        boxes.astype(np.float32),
    )


def truth(detector: Detector, sample: Sample, *, boxes: int = 500_000) -> dict[str, float]:
    """The figures on a set so large that they hardly vary."""
    # How many images are without the class makes no difference.
    large = replace(sample, boxes=boxes, images=2 * boxes)
    matches = simulate(detector, large, 1, seed=1_000_000)
    once = np.ones((1, large.images), dtype=np.int32)
    figures = weighted_figures(matches, once, score_threshold=SCORE_THRESHOLD)
    return {name: float(values[0, 1]) for name, values in figures.items()}
