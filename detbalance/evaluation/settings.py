"""What figures were computed with, so that a reader can compare them with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from detbalance.evaluation.rules import RulesName

# Who computes precision and recall over the grid: the figures are the same.
BackendName: TypeAlias = Literal["hotcoco", "numpy"]
Backend: TypeAlias = Literal["auto", "hotcoco", "numpy"]


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
