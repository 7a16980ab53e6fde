"""Detections whose right and wrong ones are known by construction, to calibrate on."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scenes import load, make_scene

from detbalance.data import Annotations, Predictions
from detbalance.evaluation.matching import Matches, match

SIDE = 20


def make_set(
    folder: Path,
    boxes: Sequence[int],
    *,
    shifts: Sequence[float] | None = None,
    images: int = 60,
    wrong: float = 1.0,
    missed: float = 0.1,
    seed: int = 0,
) -> tuple[Annotations, Predictions]:
    """Boxes of classes "c1", "c2", ... with one right detection each, and wrong ones beside them.

    Logits of scores are normal, around 1 for right and -1 for wrong detections, moved by the
    `shifts` of the class; a share of the boxes is missed.
    """
    rng = np.random.default_rng(seed)
    shifts = [0.0] * len(boxes) if shifts is None else shifts
    place = [0] * images
    annotations, found = [], []

    def cell(image: int) -> list[int]:
        """A place of its own, so that no two boxes of an image touch."""
        place[image] += 1
        row, column = divmod(place[image], 40)
        return [column * (SIDE + 2), row * (SIDE + 2), SIDE, SIDE]

    def detect(image: int, category: int, bbox: list[int], mean: float) -> None:
        score = 1 / (1 + np.exp(-(rng.normal(mean) + shifts[category - 1])))
        found.append(
            {"image_id": image, "category_id": category, "bbox": bbox, "score": float(score)}
        )

    for category, count in enumerate(boxes, start=1):
        for _ in range(count):
            image = int(rng.integers(images))
            bbox = cell(image)
            number = len(annotations) + 1
            annotations.append(
                {"id": number, "image_id": image, "category_id": category, "bbox": bbox}
            )
            if rng.random() >= missed:
                detect(image, category, bbox, 1.0)
        for _ in range(round(wrong * count)):
            image = int(rng.integers(images))
            detect(image, category, cell(image), -1.0)
    truth = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 2000, "height": 2000} for i in range(images)
        ],
        "categories": [{"id": c, "name": f"c{c}"} for c in range(1, len(boxes) + 1)],
        "annotations": annotations,
    }
    return load(folder, truth, found)


def logit(scores: np.ndarray) -> np.ndarray:
    return np.log(scores / (1 - scores))


def member(
    predictions: Predictions,
    seed: int,
    *,
    keep: float = 0.8,
    noise: float = 1.0,
    slope: float = 1.0,
    shift: float = 0.0,
) -> Predictions:
    """Another detector on the same images: detections missing, boxes moved, scores of its own."""
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(rng.random(predictions.num_predictions) < keep)
    z = logit(predictions.scores[rows])
    z = slope * (z + rng.normal(0, noise, len(z))) + shift
    return Predictions(
        predictions.image_index[rows],
        predictions.labels[rows],
        predictions.bbox[rows] + rng.normal(0, 1, (len(rows), 4)),
        1 / (1 + np.exp(-z)),
    )


def scene(seed: int) -> Matches:
    with tempfile.TemporaryDirectory() as folder:
        return match(*load(Path(folder), *make_scene(seed)))


def part(annotations: Annotations, predictions: Predictions, images: np.ndarray) -> Matches:
    """Matches of some of the images alone."""
    row = np.full(annotations.num_images, -1)
    row[images] = np.arange(len(images))
    moved = dataclasses.replace(predictions, image_index=row[predictions.image_index])
    return match(annotations.subset(images), moved.take(moved.image_index >= 0))


def counted(matches: Matches, floor: float, label: int) -> tuple[int, int, int]:
    """Right and wrong detections from a score on, and boxes, one by one."""
    rows = [
        d
        for d in range(len(matches.predictions.scores))
        if matches.predictions.labels[d] == label and matches.predictions.scores[d] >= floor
    ]
    right = sum(bool(matches.is_true_positive[d, 0]) for d in rows)
    wrong = sum(bool(matches.is_false_positive[d, 0]) for d in rows)
    return right, wrong, int(matches.num_positive[label])
