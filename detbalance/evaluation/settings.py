"""What figures were computed with, so that a reader can compare them with others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from detbalance.data.arrays import Float64
from detbalance.evaluation.backends import BackendName
from detbalance.evaluation.rules import RulesName


@dataclass(frozen=True)
class EvaluationSettings:
    """What the figures were computed with, so that they can be compared with others.

    Attributes:
        annotations: the ground-truth file.
        predictions: the results file, None if the predictions came from memory.
        backend: the evaluator that did the matching.
        iou_thresholds: overlaps that AP and AR are averaged over.
        recall_iou_threshold: overlap that recall and precision ask for.
        score_threshold: smallest score that recall and precision count, NaN where each class has
            its own; AP and AR count every score.
        max_detections: the caps of AR1, AR10 and AR, per image and class; by LVIS's rules the
            last, which is also AP's, is per image over all classes.
        area_ranges: smallest and largest area, in square pixels, of the size ranges.
        rules: whose rules the boxes were matched by.
        confidence: of the intervals.
        num_bootstrap: draws of images behind the intervals of AP and AR; 0 for none.
        seed: of the draws.
        beta: weight of recall in F-beta.
        min_precision: precision that recall_at_precision holds.
        max_fppi: false positives of a class per image that recall_at_fppi allows.
        thresholds: file of the classes' own score thresholds, None if there is none.
    """

    annotations: str
    predictions: str | None
    backend: BackendName
    iou_thresholds: tuple[float, ...]
    recall_iou_threshold: float
    score_threshold: float
    max_detections: tuple[int, ...]
    area_ranges: dict[str, tuple[float, float]]
    rules: RulesName = "coco"
    confidence: float = 0.95
    num_bootstrap: int = 0
    seed: int = 0
    beta: float = 1.0
    min_precision: float = 0.9
    max_fppi: float = 0.1
    thresholds: str | None = None


def check_settings(
    *,
    score_threshold: float | Float64,
    beta: float,
    min_precision: float,
    max_fppi: float,
    confidence: float,
) -> None:
    """Check numbers that a user chooses."""
    floors = np.atleast_1d(score_threshold)
    floors = floors[1:] if np.ndim(score_threshold) else floors
    floor = float(floors[np.argmin(np.isfinite(floors))])
    checks = {
        "score_threshold": (floor, math.isfinite(floor), "a finite number, usually 0..1"),
        "beta": (beta, math.isfinite(beta) and beta > 0, "a number above 0"),
        "min_precision": (min_precision, 0 <= min_precision <= 1, "a share in [0, 1]"),
        "max_fppi": (max_fppi, math.isfinite(max_fppi) and max_fppi >= 0, "a number of 0 or more"),
        "confidence": (confidence, 0 < confidence < 1, "a share in (0, 1), for example 0.95"),
    }
    for name, (value, fits, expected) in checks.items():
        if not fits:
            raise ValueError(
                f"evaluate(): {name} is {value:g}. Expected {expected}. Pass such a one."
            )
