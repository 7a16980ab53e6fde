"""Run a COCO evaluator on flat arrays, and give back flat arrays.

Letters: T IoU thresholds, R recall levels, K categories, A area ranges, M detection caps,
N annotations, D detections.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from detbalance.evaluation.backends import (
    Backend,
    BackendName,
    build_evaluator,
    choose_backend,
)
from detbalance.evaluation.participants import check_predictions
from detbalance.evaluation.rules import AREA_RANGES

if TYPE_CHECKING:
    from detbalance.annotations import Annotations
    from detbalance.predictions import Predictions

MAX_DETECTIONS = (1, 10, 100)


@dataclass(frozen=True, eq=False)
class Curves:
    """Precision and recall over COCO's standard grid; NaN where a category has no ground truth.

    Attributes:
        precision: float64 [T, R, K, A, M], interpolated; entry k of the K axis is label k + 1.
        recall: float64 [T, K, A, M].
        backend: the evaluator that did the work.
    """

    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    backend: BackendName


@dataclass(frozen=True, eq=False)
class Matches:
    """Which annotation each detection found at one IoU threshold.

    Attributes:
        annotation: int64 [D], row of the matched annotation, -1 where there is none.
        counted: bool [D], False for detections below the score floor, beyond the detection cap,
            or on an ignored (crowd) region: those are neither right nor wrong.
        positive: bool [N], the annotations that should be found: every one that is not a crowd.
    """

    annotation: npt.NDArray[np.int64]
    counted: npt.NDArray[np.bool_]
    positive: npt.NDArray[np.bool_]

    @property
    def is_true_positive(self) -> npt.NDArray[np.bool_]:
        """Bool [D], detections that count and found an annotation."""
        return self.counted & (self.annotation >= 0)

    @property
    def is_false_positive(self) -> npt.NDArray[np.bool_]:
        """Bool [D], detections that count and found nothing."""
        return self.counted & (self.annotation < 0)


def compute_curves(
    annotations: Annotations, predictions: Predictions, *, backend: Backend = "auto"
) -> Curves:
    """Compute COCO's precision and recall arrays, for everything that is averaged from them.

    Args:
        annotations: the ground truth.
        predictions: detections on the same images; none at all is fine.
        backend: which evaluator runs; the figures do not depend on it.

    Returns:
        Curves over 10 IoU thresholds, 101 recall levels, 4 area ranges and 3 detection caps.

    Raises:
        ValueError: if a detection has a label, an image row, a box or a score that cannot be.
        ImportError: if no evaluator is installed.

    Source: Lin et al., Microsoft COCO, 2014, arXiv:1405.0312, and its reference code pycocotools.
    Differs: undefined entries are NaN instead of -1, and annotation id 0 is an ordinary id.
    """
    check_predictions(annotations, predictions)
    name = choose_backend(backend)
    rows = np.arange(len(predictions.scores))
    evaluator = build_evaluator(name, annotations, predictions, rows)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress with print
        evaluator.evaluate()
        evaluator.accumulate()
    precision = np.array(evaluator.eval["precision"], dtype=np.float64)
    recall = np.array(evaluator.eval["recall"], dtype=np.float64)
    precision[precision < 0] = np.nan
    recall[recall < 0] = np.nan
    return Curves(precision, recall, name)


def match_boxes(
    annotations: Annotations,
    predictions: Predictions,
    *,
    iou_threshold: float = 0.5,
    score_floor: float = 0.0,
    backend: Backend = "auto",
) -> Matches:
    """Match detections to annotations by COCO's greedy rule, highest score first.

    Detections below the floor are left out before matching. That changes nothing for the others:
    a detection can only take an annotation from those that score lower.

    Args:
        annotations: the ground truth.
        predictions: detections on the same images.
        iou_threshold: smallest overlap of a match, in (0, 1].
        score_floor: detections with a lower score are left out.
        backend: which evaluator runs; the result does not depend on it.

    Returns:
        Matches, with at most 100 detections of an image and class taking part.

    Raises:
        ValueError: if a detection has a label, an image row, a box or a score that cannot be.
        ImportError: if no evaluator is installed.
    """
    check_predictions(annotations, predictions)
    rows = np.flatnonzero(predictions.scores >= score_floor)
    evaluator = build_evaluator(choose_backend(backend), annotations, predictions, rows)
    parameters = evaluator.params
    parameters.iouThrs = [iou_threshold]
    parameters.areaRng = [list(AREA_RANGES["all"])]
    parameters.areaRngLbl = ["all"]
    parameters.maxDets = [MAX_DETECTIONS[-1]]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
    # Entries are found by what they hold, never by position: hotcoco leaves empty ones out.
    entries = [entry for entry in evaluator.evalImgs if entry is not None and len(entry["dtIds"])]
    annotation = np.full(len(predictions.scores), -1, dtype=np.int64)
    counted = np.zeros(len(predictions.scores), dtype=np.bool_)
    if entries:
        found = rows[np.concatenate([entry["dtIds"] for entry in entries]).astype(np.int64) - 1]
        matched = np.concatenate([entry["dtMatches"][0] for entry in entries]).astype(np.int64)
        annotation[found] = matched - 1
        counted[found] = ~np.concatenate([entry["dtIgnore"][0] for entry in entries]).astype(bool)
    low, high = AREA_RANGES["all"]
    positive = ~annotations.is_crowd & (annotations.areas >= low) & (annotations.areas <= high)
    return Matches(annotation, counted, positive)
