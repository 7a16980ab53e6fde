"""How often the bootstrap's nominal 95 % intervals hold the true figure: a simulation.

Hundreds of classes of one kind are hundreds of repeats on the same images. The truth is the figure
of the same generator on a hundred thousand boxes or more. The percentiles of the draws stand
beside ours, to show why they are not used.
"""

import sys
import time
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, ndtr

from detbalance.annotations import Annotations, Categories, PackedBytes
from detbalance.evaluation.bootstrap import Replicates, bootstrap
from detbalance.evaluation.matching import Matches
from detbalance.evaluation.resampling import FIGURES, weighted_figures
from detbalance.evaluation.rules import COCO
from detbalance.predictions import Predictions

SCORE_FLOOR = 0.3
GROUP_SIZE = 10  # classes of a group


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


def main() -> dict[str, dict[str, dict[str, float]]]:
    """Simulate every detector on every sample, print and give the coverage.

    Returns:
        For each detector and sample ("good, 10 boxes, one per image") the coverage of each figure,
        of its percentile interval and of groups, and true figures.
    """
    figures = {}
    for name, detector in DETECTORS.items():
        for of, sample in SAMPLES.items():
            start = time.perf_counter()
            figures[f"{name}, {of}"] = row = measure(detector, sample)
            cells = " ".join(f"{what} {value:.3f}" for what, value in row.items())
            print(f"{name}, {of} ({time.perf_counter() - start:.1f} s): {cells}", flush=True)
    return figures


def measure(
    detector: Detector, sample: Sample, *, repeats: int = 400, draws: int = 300, seed: int = 0
) -> dict[str, float]:
    """Coverage in one setting, of as many classes as there are repeats."""
    true = truth(detector, sample)
    matches = simulate(detector, sample, repeats, seed)
    drawn = bootstrap([matches], replicates=draws, seed=seed, score_floor=SCORE_FLOOR)
    # Every group as large as any other; those left over are in none.
    groups = np.arange(repeats + 1) // GROUP_SIZE
    groups[0], groups[groups >= repeats // GROUP_SIZE] = -1, -1
    result = {}
    for figure in FIGURES:
        low, high = drawn.interval(figure)
        result[figure] = held(low, high, true[figure])
        result[f"{figure}, width"] = float(np.nanmean(high - low))
        result[f"{figure}, percentiles"] = held(*percentiles(drawn, figure), true[figure])
        result[f"{figure}, groups"] = held(*drawn.group_interval(figure, groups), true[figure])
        result[f"{figure}, reliable"] = float(drawn.reliable(figure)[1:].mean())
        result[f"{figure}, true"] = true[figure]
        result[f"{figure}, mean"] = float(np.nanmean(drawn.estimates[figure]))
    return {name: round(value, 4) for name, value in result.items()}


def percentiles(drawn: Replicates, figure: str) -> tuple[np.ndarray, np.ndarray]:
    """The 2.5 % and the 97.5 % of the draws, for classes with a box."""
    known = ~np.isnan(drawn.estimates[figure][0])
    low, high = np.nanpercentile(drawn.values[figure][0][:, known], [2.5, 97.5], axis=0)
    return low, high


def held(low: np.ndarray, high: np.ndarray, true: float) -> float:
    """Share of the defined intervals that hold the truth."""
    known = ~np.isnan(low)
    return float(((low <= true) & (true <= high))[known].mean())


def truth(detector: Detector, sample: Sample, *, boxes: int = 500_000) -> dict[str, float]:
    """The figures on a set so large that they hardly vary."""
    # How many images are without the class makes no difference.
    large = replace(sample, boxes=boxes, images=2 * boxes)
    matches = simulate(detector, large, 1, seed=1_000_000)
    once = np.ones((1, large.images), dtype=np.int32)
    figures = weighted_figures(matches, once, score_floor=SCORE_FLOOR)
    return {name: float(values[0, 1]) for name, values in figures.items()}


def simulate(detector: Detector, sample: Sample, classes: int, seed: int) -> Matches:
    """Matches of independent classes of one kind on the same images.

    A box is found at every IoU threshold up to the overlap of its detection, which scores the
    higher the better it fits. Half of the wrong detections are on images with the class.
    """
    rng = np.random.default_rng(seed)
    chance = min(1.0, sample.boxes / sample.boxes_per_image / sample.images)
    label, image = np.nonzero(rng.random((classes, sample.images)) < chance)
    number = 1 + rng.poisson(sample.boxes_per_image - 1, len(label))
    fate = np.repeat(rng.normal(size=len(label)), number) * np.sqrt(sample.shared)
    label, image = np.repeat(label + 1, number), np.repeat(image, number)
    # Annotations are grouped by image.
    rows = np.argsort(image, kind="stable")
    label, image, fate = label[rows], image[rows], fate[rows]
    quality = fate + np.sqrt(1 - sample.shared) * rng.normal(size=len(label))
    overlap = ndtr(detector.overlap + detector.spread * quality)
    wrong_label, wrong_image = wrong_detections(detector, sample, classes, label, image, rng)
    noise = rng.normal(size=len(label) + len(wrong_label))
    better = np.concatenate([0.5 + 0.5 * quality, np.full(len(wrong_label), -0.5)])
    scores = expit(detector.separation * better + detector.shift + noise)
    annotations = as_annotations(label, image, classes, sample.images)
    labels, images = np.concatenate([label, wrong_label]), np.concatenate([image, wrong_image])
    size, thresholds = len(labels), np.array(COCO.iou_thresholds)
    found = np.full((size, len(thresholds)), -1, dtype=np.int32)
    own = np.arange(len(label), dtype=np.int32)[:, None]
    found[: len(label)] = np.where(overlap[:, None] >= thresholds, own, -1)
    everything = np.ones(size, dtype=np.bool_)
    return Matches(
        annotations,
        Predictions(images, labels, np.ones((size, 4)), scores),
        COCO,
        found,
        np.zeros(found.shape, dtype=np.bool_),
        everything,
        everything,
        np.ones(len(label), dtype=np.bool_),
        np.lexsort((-scores, labels)),
        np.searchsorted(np.sort(labels), np.arange(classes + 2)),
        np.arange(sample.images),
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


def table(figures: dict[str, dict[str, float]]) -> str:
    """Rows: samples. Columns: figures, lowest and highest coverage among the detectors.

    Groups of all detectors are taken together: of each there are only 40.
    """
    heads = [*FIGURES, "their percentiles", f"means of {GROUP_SIZE} classes"]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for of in SAMPLES:
        rows = [figures[f"{name}, {of}"] for name in DETECTORS]
        kinds = [[row[figure] for row in rows] for figure in FIGURES]
        kinds.append([row[f"{figure}, percentiles"] for row in rows for figure in FIGURES])
        kinds.append([np.mean([row[f"{figure}, groups"] for row in rows]) for figure in FIGURES])
        cells = (f"{100 * min(values):.0f}-{100 * max(values):.0f} %" for values in kinds)
        lines.append(f"| {of} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit("Run it by: python tools/benchmark.py coverage")
