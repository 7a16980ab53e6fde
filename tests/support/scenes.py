"""Small random data sets with what goes wrong in real ones, to evaluate and report on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from detbalance.data import Annotations, Predictions, load_annotations, load_predictions
from detbalance.data.frequency import Frequency, class_frequency, frequency_groups
from detbalance.evaluation import Evaluation, Report, build_report, evaluate

Truth = dict[str, list[dict[str, Any]]]
Found = list[dict[str, Any]]


def make_scene(
    seed: int, *, first_annotation_id: int = 0, crowded: bool = False
) -> tuple[Truth, Found]:
    """Images out of id order, gaps in all ids, crowds, ties, empty images, absent classes."""
    rng = np.random.default_rng(seed)
    image_ids = rng.permutation(200)[: rng.integers(3, 9)].tolist()
    category_ids = sorted(rng.permutation(40)[:6].tolist())
    present = category_ids[:4]  # the fifth and sixth have no ground truth
    annotations = []
    for number in range(int(rng.integers(5, 45))):
        x, y, w, h = (
            rng.integers(low, high) for low, high in ((0, 120), (0, 120), (4, 150), (4, 150))
        )
        annotations.append(
            {
                "id": first_annotation_id + 3 * number,
                "image_id": int(rng.choice(image_ids[1:])),  # the first image is empty
                "category_id": int(rng.choice(present)),
                "bbox": [int(x), int(y), int(w), int(h)],
                "area": int(w * h * rng.uniform(0.5, 1)),
                "iscrowd": int(rng.random() < 0.12),
            }
        )
    found = []
    for _ in range(450 if crowded else int(rng.integers(5, 90))):
        source = annotations[rng.integers(len(annotations))]
        box = np.array(source["bbox"]) + rng.integers(-6, 7, 4)
        box[2:] = np.maximum(box[2:], 1)
        same = rng.random() < 0.75
        found.append(
            {
                "image_id": source["image_id"] if same else int(rng.choice(image_ids)),
                "category_id": source["category_id"] if same else int(rng.choice(category_ids[:5])),
                "bbox": box.tolist(),
                "score": float(rng.integers(0, 11) / 10),  # coarse, so that scores tie
            }
        )
    if crowded:  # more than 100 of one class in one image
        for detection in found[:300]:
            detection["image_id"], detection["category_id"] = image_ids[1], present[0]
    images = [{"id": i, "file_name": f"{i}.png", "width": 300, "height": 300} for i in image_ids]
    categories = [{"id": c, "name": f"class {c}"} for c in category_ids]
    return {"images": images, "categories": categories, "annotations": annotations}, found


def load(
    folder: Path, truth: Truth, found: Found, name: str = "val.json"
) -> tuple[Annotations, Predictions]:
    """Write both as files and read them as a user would."""
    (folder / name).write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(found))
    annotations = load_annotations(folder / name)
    return annotations, load_predictions(folder / "results.json", annotations)


def training_file(folder: Path, counts: dict[str, int]) -> Annotations:
    """A training file with so many images, one box each, per class."""
    names = [name for name, count in counts.items() for _ in range(count)]
    ids = {name: 50 - i for i, name in enumerate(counts)}
    truth = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(len(names))],
        "categories": [{"id": category, "name": name} for name, category in ids.items()],
        "annotations": [
            {"id": i, "image_id": i, "category_id": ids[name], "bbox": [10, 10, 20, 20]}
            for i, name in enumerate(names)
        ],
    }
    return load(folder, truth, [], "train.json")[0]


def make_report(folder: Path, seed: int = 1) -> tuple[Report, Evaluation, Annotations]:
    """A report with classes in all three groups, two of them without ground truth."""
    annotations, predictions = load(folder, *make_scene(seed))
    names = annotations.categories.names
    counts = dict(zip(names, (30, 5, 120, 2, 60, 5), strict=True))
    frequency = class_frequency(training_file(folder, counts))
    groups = frequency_groups(frequency, limits=(5, 50))
    result = evaluate(annotations, predictions, predictions_file="results.json")
    report = build_report(result, annotations, train_frequency=frequency, groups=groups)
    return report, result, annotations


def scene_runs(folder: Path, number: int = 2, *, seed: int = 1) -> list[Evaluation]:
    """Runs on one set: the same detections, each a little moved and scored anew."""
    truth, found = make_scene(seed)
    annotations, predictions = load(folder, truth, found)
    runs = []
    for i in range(number):
        rng = np.random.default_rng(i)
        bbox = np.maximum(predictions.bbox + rng.integers(-3, 4, predictions.bbox.shape), 1)
        scores = rng.integers(0, 11, len(predictions.scores)) / 10
        moved = dataclasses.replace(predictions, bbox=bbox, scores=scores)
        runs.append(evaluate(annotations, moved, predictions_file=f"run{i}.json"))
    return runs


def frequency_of(annotations: Annotations, folder: Path) -> Frequency:
    counts = dict(zip(annotations.categories.names, (30, 5, 120, 2, 60, 5), strict=True))
    return class_frequency(training_file(folder, counts))
