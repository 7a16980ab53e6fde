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

from detbalance.evaluation.average_precision import RECALL_LEVELS
from detbalance.evaluation.backends import Backend, BackendName, build_evaluator, choose_backend
from detbalance.evaluation.filters import check_predictions, has_area, within_cap
from detbalance.evaluation.memory import check_memory
from detbalance.evaluation.numpy_grid import numpy_grid
from detbalance.evaluation.rules import AREA_RANGES, Rules, RulesChoice, choose_rules

if TYPE_CHECKING:
    from detbalance.data import Annotations, Predictions

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
# Precision and scores, in the evaluator and, for a while, once more.
_COPIES = 4
_SMALLER_CAPS = (1, 10)


@dataclass(frozen=True, eq=False)
class Grid:
    """Precision, recall and scores over the standard grid; NaN where there is nothing to find.

    Attributes:
        precision: float64 [T, R, K, A, M], the highest precision at this recall or more, 0 where
            the recall is not reached; entry k of the K axis is `labels[k]`.
        recall: float64 [T, K, A, M].
        scores: float64 [T, R, K, A, M], score of the detection with which the recall is reached.
        max_detections: the caps of the M axis. Each holds for an image and class, and by LVIS's
            rules the largest holds for all classes of an image together.
        backend: the evaluator that did the work.
        rules: what it matched by. The A axis is `AREA_RANGES`.
        labels: int64 [K], ascending, the classes of the K axis.
    """

    precision: Float64
    recall: Float64
    scores: Float64
    max_detections: tuple[int, ...]
    backend: BackendName
    rules: Rules
    labels: Int64


def compute_grid(
    annotations: Annotations,
    predictions: Predictions,
    *,
    rules: RulesChoice | Rules = "auto",
    backend: Backend = "auto",
    labels: Int64 | None = None,
) -> Grid:
    """Compute the arrays of the COCO and LVIS evaluators.

    Args:
        annotations: the ground truth.
        predictions: detections on the same images; none at all is fine.
        rules: "coco", "lvis", "auto" for what the file asks for, or rules of your own.
        backend: which evaluator runs; the figures do not depend on it.
        labels: int64, ascending, the classes of the grid, all others being without boxes and
            detections; None for all.

    Returns:
        The grid over the IoU thresholds of the rules, 101 recall levels, 4 area ranges and the
        caps 1, 10 and the one of the rules.

    Raises:
        ValueError: if a detection has a label, an image row, a box or a score that cannot be, the
            file does not allow the rules, the evaluator does not know them, or the grid of so many
            classes does not fit into the memory of the machine.
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
    if labels is None:
        labels = np.arange(1, annotations.categories.num_classes)
    cells = len(chosen.iou_thresholds) * len(RECALL_LEVELS) * len(AREA_RANGES) * len(caps)
    check_memory(
        f"{annotations.source}: the grid of precision and recall of {len(labels):,} classes",
        _COPIES * 8 * cells * len(labels),
        "Evaluate a part of the classes at a time",
    )
    if name == "numpy":
        arrays = numpy_grid(annotations, predictions, chosen, caps, labels)
    else:
        arrays = _run(name, annotations, predictions, chosen, caps, labels)
    return Grid(*arrays, max_detections=caps, backend=name, rules=chosen, labels=labels)


def _run(
    name: BackendName,
    annotations: Annotations,
    predictions: Predictions,
    rules: Rules,
    caps: tuple[int, ...],
    labels: Int64,
) -> tuple[Float64, Float64, Float64]:
    """Precision, recall and scores as an evaluator of others has them, NaN for undefined."""
    kept = within_cap(predictions, rules)
    if rules.name == "lvis":
        kept &= has_area(predictions)
    rows = np.flatnonzero(kept)
    evaluator = build_evaluator(name, annotations, predictions, rows, rules, labels)
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
