"""Figures per class, and the twelve COCO numbers, from annotations and predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from detbalance.evaluation.backends import Backend, BackendName
from detbalance.evaluation.grid import MAX_DETECTIONS, Curves, compute_curves, match_boxes
from detbalance.evaluation.rules import AREA_RANGES, IOU_THRESHOLDS, RulesName

if TYPE_CHECKING:
    from detbalance.annotations import Annotations
    from detbalance.predictions import Predictions

RECALL_IOU_THRESHOLD = 0.5
SUMMARY_NAMES = (
    "AP",
    "AP50",
    "AP75",
    "APs",
    "APm",
    "APl",
    "AR1",
    "AR10",
    "AR100",
    "ARs",
    "ARm",
    "ARl",
)


@dataclass(frozen=True)
class EvaluationSettings:
    """What the figures were computed with, so that they can be compared with others.

    Attributes:
        annotations: the ground-truth file.
        predictions: the results file, None if the predictions came from memory.
        backend: the evaluator that did the matching.
        iou_thresholds: overlaps that AP and AR are averaged over.
        recall_iou_threshold: overlap that recall and precision ask for.
        score_floor: smallest score that recall and precision count; AP and AR count every score.
        max_detections: caps per image and class of AR1, AR10 and AR100; the last is AP's.
        area_ranges: smallest and largest area, in square pixels, of the size ranges.
        rules: whose rules the boxes were matched by.
        confidence: of the intervals.
        replicates: draws of images behind the intervals of AP and AR; 0 for none.
        beta: weight of recall in F-beta.
        min_precision: precision that recall_at_precision holds.
        max_fppi: false positives of a class per image that recall_at_fppi allows.
    """

    annotations: str
    predictions: str | None
    backend: BackendName
    iou_thresholds: tuple[float, ...]
    recall_iou_threshold: float
    score_floor: float
    max_detections: tuple[int, ...]
    area_ranges: dict[str, tuple[float, float]]
    rules: RulesName = "coco"
    confidence: float = 0.95
    replicates: int = 0
    beta: float = 1.0
    min_precision: float = 0.9
    max_fppi: float = 0.1


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of one set of predictions; NaN where a figure is undefined.

    Arrays by class have length K+1; index 0 (background) is NaN, or 0 for counts.

    Attributes:
        AP: float64 [K+1], average precision over IoU .50:.95.
        AP50: float64 [K+1], average precision at IoU .50.
        AR: float64 [K+1], recall averaged over IoU .50:.95, all scores.
        recall: float64 [K+1], share of the boxes found at IoU .50 with a score >= the floor.
        precision: float64 [K+1], share of the detections at or above the floor that are right. It
            is 0 for a class without boxes that was detected, NaN for a class never detected.
        true_positives: int64 [K+1], right detections at or above the floor.
        false_positives: int64 [K+1], wrong ones; detections on crowd regions are neither.
        val_boxes: int64 [K+1], boxes to find, crowd regions excluded.
        summary: the twelve COCO numbers by their usual names, AP to ARl.
        settings: what the figures were computed with.
    """

    AP: npt.NDArray[np.float64]
    AP50: npt.NDArray[np.float64]
    AR: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]
    true_positives: npt.NDArray[np.int64]
    false_positives: npt.NDArray[np.int64]
    val_boxes: npt.NDArray[np.int64]
    summary: dict[str, float]
    settings: EvaluationSettings


def evaluate(
    annotations: Annotations,
    predictions: Predictions,
    *,
    score_floor: float = 0.3,
    backend: Backend = "auto",
    predictions_file: str | None = None,
) -> Evaluation:
    """Evaluate predictions per class, by COCO's rules.

    AP and AR look at detections of every score; recall and precision only at those that a user
    would see, with a score of at least `score_floor`. The rules are COCO's on an LVIS file too:
    its lists of unchecked classes are not used, so the figures are not LVIS AP.

    Args:
        annotations: the ground truth, with its crowd regions.
        predictions: detections on the same images; none at all is fine.
        score_floor: smallest score that recall and precision count.
        backend: "hotcoco" or "pycocotools"; "auto" takes hotcoco where it is installed. The
            figures are the same.
        predictions_file: where the predictions came from, for the record.

    Returns:
        Evaluation with arrays by class and the COCO summary.

    Raises:
        ValueError: if the floor is not finite, or a detection has a label, an image row, a box
            or a score that cannot be.
        ImportError: if no evaluator is installed.

    Source: Lin et al., Microsoft COCO, 2014, arXiv:1405.0312, and its reference code pycocotools.
    Differs: undefined figures are NaN instead of -1; recall and precision at a floor are added.
    """
    if not math.isfinite(score_floor):
        raise ValueError(
            f"evaluate(): score_floor is {score_floor}. Expected a finite number, usually in 0..1."
        )
    curves = compute_curves(annotations, predictions, backend=backend)
    precision = curves.precision[:, :, :, 0, -1]  # T, R, K: all areas, the largest cap
    recall = curves.recall[:, :, 0, -1]  # T, K
    matches = match_boxes(
        annotations,
        predictions,
        iou_threshold=RECALL_IOU_THRESHOLD,
        score_floor=score_floor,
        backend=curves.backend,
    )
    num_classes = annotations.categories.num_classes
    right = _count(predictions.labels[matches.is_true_positive], num_classes)
    wrong = _count(predictions.labels[matches.is_false_positive], num_classes)
    wanted = _count(annotations.labels[matches.positive], num_classes)
    return Evaluation(
        AP=_mean_by_class(precision),
        AP50=_mean_by_class(precision[:1]),
        AR=_mean_by_class(recall),
        recall=_ratio(right, wanted),
        precision=_ratio(right, right + wrong),
        true_positives=right,
        false_positives=wrong,
        val_boxes=wanted,
        summary=_summarize(curves),
        settings=EvaluationSettings(
            annotations=str(annotations.source),
            predictions=predictions_file,
            backend=curves.backend,
            iou_thresholds=IOU_THRESHOLDS,
            recall_iou_threshold=RECALL_IOU_THRESHOLD,
            score_floor=float(score_floor),
            max_detections=MAX_DETECTIONS,
            area_ranges=dict(AREA_RANGES),
        ),
    )


def _mean_by_class(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over all axes but the last, [..., K] -> [K+1], NaN for background."""
    columns = [_mean_of_defined(values[..., k]) for k in range(values.shape[-1])]
    return np.array([math.nan, *columns])


def _summarize(curves: Curves) -> dict[str, float]:
    """The twelve numbers, averaged in the order of the reference, so that the last bit agrees."""
    precision, recall = curves.precision, curves.recall
    at_75 = int(np.argmin(np.abs(np.asarray(IOU_THRESHOLDS) - 0.75)))
    values = [
        *(precision[t, :, :, 0, -1] for t in (slice(None), 0, at_75)),
        *(precision[:, :, :, area, -1] for area in (1, 2, 3)),
        *(recall[:, :, 0, cap] for cap in (0, 1, 2)),
        *(recall[:, :, area, -1] for area in (1, 2, 3)),
    ]
    return {
        name: _mean_of_defined(value) for name, value in zip(SUMMARY_NAMES, values, strict=True)
    }


def _mean_of_defined(values: npt.NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(np.mean(defined)) if defined.size else math.nan


def _count(labels: npt.NDArray[np.int64], num_classes: int) -> npt.NDArray[np.int64]:
    return np.bincount(labels, minlength=num_classes).astype(np.int64)


def _ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Part / whole, NaN where the whole is 0."""
    ratio = np.full(len(whole), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio
