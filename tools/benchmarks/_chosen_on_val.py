"""NorCal and thresholds, each half of val by what the other half says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detbalance.calibration import load_thresholds
from detbalance.data import (
    Annotations,
    Predictions,
    load_annotations,
    load_predictions,
    save_predictions,
)
from detbalance.data.split import deal_images
from detbalance.training.config import DataSection

FLOOR = 0.3
Half = tuple[Annotations, Predictions]
Command = Callable[..., None]


def rescored(method: str, data: DataSection, results: Path, place: Path, command: Command) -> None:
    """Write predictions.json and minutes.json.

    Args:
        method: one of `CHOSEN`.
        data: of the detector.
        results: what it found on val.
        place: folder to write to.
        command: runs one of the tools by its name and words.
    """
    started = time.perf_counter()
    truth = load_annotations(data.path("val"))
    found = load_predictions(results, truth)
    half = deal_images(truth.labels, truth.image_index, truth.num_images, 2, seed=0)
    scores = found.scores.copy()
    place.mkdir(parents=True, exist_ok=True)
    names = {name: place / f"{name}.json" for name in ("truth", "found", "asked", "of")}
    for here in (0, 1):
        chosen, applied = (_part(truth, found, half == side) for side in (1 - here, here))
        chosen[0].save(names["truth"])
        save_predictions(names["found"], chosen[1], chosen[0])
        applied[0].save(names["of"])
        save_predictions(names["asked"], applied[1], applied[0])
        given = ["--annotations", names["truth"], "--predictions", names["found"]]
        given += ["--train", data.path("train"), "--overwrite"]
        new = CHOSEN[method](command, given, names, applied, place)
        scores[half[found.image_index] == here] = new
    changed = Predictions(found.image_index, found.labels, found.bbox, scores)
    save_predictions(place / "predictions.json", changed, truth)
    minutes = {"minutes": (time.perf_counter() - started) / 60}
    (place / "minutes.json").write_text(json.dumps(minutes))


def _part(truth: Annotations, found: Predictions, images: np.ndarray) -> Half:
    """The images that are asked for, and the detections on them."""
    place = np.cumsum(images) - 1
    here = images[found.image_index]
    own = (found.labels[here], found.bbox[here], found.scores[here])
    return truth.subset(np.flatnonzero(images)), Predictions(place[found.image_index[here]], *own)


def _norcal(
    command: Command, given: list[Any], names: Mapping[str, Path], half: Half, place: Path
) -> np.ndarray:
    output = place / "rescored.json"
    applied = ("--apply-to", names["asked"], "--apply-annotations", names["of"])
    command("rescore", *given, *applied, "--output", output)
    return load_predictions(output, half[0]).scores


def _thresholds(
    command: Command, given: list[Any], names: Mapping[str, Path], half: Half, place: Path
) -> np.ndarray:
    """Scores in the same order, with the threshold of each class at the floor of the figures."""
    output = place / "thresholds.json"
    command("thresholds", *given, "--output", output)
    truth, found = half
    floors = load_thresholds(output).by_label(truth.categories)
    at = np.clip(floors[found.labels], 1e-6, 1 - 1e-6)
    below = found.scores * FLOOR / at
    above = FLOOR + (found.scores - at) * (1 - FLOOR) / (1 - at)
    return np.where(found.scores < at, below, above)


CHOSEN = {"NorCal": _norcal, "thresholds": _thresholds}
