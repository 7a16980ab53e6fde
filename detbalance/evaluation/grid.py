"""COCO's and LVIS's grid of precision and recall: everything that AP and AR are averaged from.

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
from detbalance.evaluation.numpy_grid import numpy_grid
from detbalance.evaluation.participants import check_predictions, within_cap
from detbalance.evaluation.rules import AREA_RANGES, Rules, RulesChoice, choose_rules

if TYPE_CHECKING:
    from detbalance.annotations import Annotations
    from detbalance.predictions import Predictions

Float64 = npt.NDArray[np.float64]
MAX_DETECTIONS = (1, 10, 100)
_SMALLER_CAPS = (1, 10)


@dataclass(frozen=True, eq=False)
class Grid:
    """Precision, recall and scores over the standard grid; NaN where there is nothing to find.

    Attributes:
        precision: float64 [T, R, K, A, M], the highest precision at this recall or more, 0 where
            the recall is not reached; entry k of the K axis is label k + 1.
        recall: float64 [T, K, A, M].
        scores: float64 [T, R, K, A, M], score of the detection with which the recall is reached.
        max_detections: the caps of the M axis. Each holds for an image and class, and by LVIS's
            rules the largest holds for all classes of an image together.
        backend: the evaluator that did the work.
        rules: what it matched by. The A axis is `AREA_RANGES`.
    """

    precision: Float64
    recall: Float64
    scores: Float64
    max_detections: tuple[int, ...]
    backend: BackendName
    rules: Rules


def compute_grid(
    annotations: Annotations,
    predictions: Predictions,
    *,
    rules: RulesChoice | Rules = "auto",
    backend: Backend = "auto",
) -> Grid:
    """Compute the arrays of the COCO and LVIS evaluators.

    Args:
        annotations: the ground truth.
        predictions: detections on the same images; none at all is fine.
        rules: "coco", "lvis", "auto" for what the file asks for, or rules of your own.
        backend: which evaluator runs; the figures do not depend on it.

    Returns:
        The grid over the IoU thresholds of the rules, 101 recall levels, 4 area ranges and the
        caps 1, 10 and the one of the rules.

    Raises:
        ValueError: if a detection has a label, an image row, a box or a score that cannot be, the
            file does not allow the rules, or the evaluator does not know them.
        ImportError: if the evaluator asked for is not installed.

    Source: Lin et al., Microsoft COCO, 2014, arXiv:1405.0312, and pycocotools; Gupta et al., LVIS,
    2019, arXiv:1908.03195, and lvis-api. Differs: undefined entries are NaN instead of -1,
    annotation id 0 is an ordinary id, and LVIS's grid has the caps 1 and 10 too.
    """
    check_predictions(annotations, predictions)
    chosen = choose_rules(annotations, rules)
    name = choose_backend(backend, chosen)
    largest = chosen.max_detections
    if largest is None:
        largest = max(len(predictions.scores), 1)
    caps = (*(cap for cap in _SMALLER_CAPS if cap < largest), largest)
    if name == "numpy":
        arrays = numpy_grid(annotations, predictions, chosen, caps)
    else:
        arrays = _run(name, annotations, predictions, chosen, caps)
    return Grid(*arrays, max_detections=caps, backend=name, rules=chosen)


def _run(
    name: BackendName,
    annotations: Annotations,
    predictions: Predictions,
    rules: Rules,
    caps: tuple[int, ...],
) -> tuple[Float64, Float64, Float64]:
    """Precision, recall and scores as an evaluator of others has them, NaN for undefined."""
    rows = np.flatnonzero(within_cap(predictions, rules))
    evaluator = build_evaluator(name, annotations, predictions, rows, rules)
    evaluator.params.iouThrs = np.array(rules.iou_thresholds)
    evaluator.params.maxDets = list(caps)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress with print
        evaluator.evaluate()
        evaluator.accumulate()
    result = evaluator.eval
    # Written into without a copy: nobody else has the evaluator.
    precision, recall, scores = (
        np.asarray(result[key], dtype=np.float64) for key in ("precision", "recall", "scores")
    )
    # Scores may be negative, so what is undefined shows in the precision only.
    undefined = precision < 0
    precision[undefined] = np.nan
    scores[undefined] = np.nan
    recall[recall < 0] = np.nan
    return precision, recall, scores


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
