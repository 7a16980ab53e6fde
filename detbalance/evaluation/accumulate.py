"""COCO's and LVIS's grid of precision and recall: everything that AP and AR are averaged from.

Letters: T IoU thresholds, R recall levels, K categories, A area ranges, M detection caps.

Our own grid and hotcoco's (compiled, optional, about twice as fast as a whole command) are those of
pycocotools and lvis-api bit for bit.
"""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Float64, Int64
from detbalance.data.messages import needs
from detbalance.evaluation.average_precision import RECALL_LEVELS
from detbalance.evaluation.filters import (
    check_predictions,
    has_area,
    image_ranks,
    places_in_group,
    within_cap,
)
from detbalance.evaluation.matching import Matches, match, overlaps
from detbalance.evaluation.rules import AREA_RANGES, Rules, RulesChoice, choose_rules
from detbalance.evaluation.settings import Backend, BackendName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detbalance.data import Annotations, Predictions

_UNKNOWN = 16e9  # where the system does not tell


def check_memory(what: str, needed: float, advice: str) -> None:
    """Refuse what does not fit into the memory of the machine."""
    there_is = memory()
    if needed > there_is:
        raise ValueError(
            f"{what} would take about {needed / 1e9:,.1f} GB of memory, and the machine has"
            f" {there_is / 1e9:,.1f} GB. It has to fit. {advice}."
        )


def memory() -> float:
    """Bytes of physical memory."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return _UNKNOWN


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
            file does not allow the rules, or the grid of so many classes does not fit into the
            memory of the machine.
        ImportError: if hotcoco is asked for and not installed.

    Source: Lin et al., Microsoft COCO, 2014, arXiv:1405.0312, and pycocotools; Gupta et al., LVIS,
    2019, arXiv:1908.03195, and lvis-api. Differs: undefined entries are NaN instead of -1,
    annotation id 0 is an ordinary id, and LVIS's grid has the caps 1 and 10 too.
    """
    check_predictions(annotations, predictions)
    chosen = choose_rules(annotations, rules)
    name = _choose_backend(backend)
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
    compute = hotcoco_grid if name == "hotcoco" else numpy_grid
    arrays = compute(annotations, predictions, chosen, caps, labels)
    return Grid(*arrays, max_detections=caps, backend=name, rules=chosen, labels=labels)


def _choose_backend(backend: Backend) -> BackendName:
    if backend not in ("auto", "hotcoco", "numpy"):
        raise ValueError(f'backend is "{backend}". Known: auto, hotcoco, numpy. Choose one.')
    if backend == "numpy":
        return "numpy"
    if importlib.util.find_spec("hotcoco") is not None:
        return "hotcoco"
    if backend == "auto":
        return "numpy"
    raise needs("detbalance.evaluation", "hotcoco", "fast")


def hotcoco_grid(
    annotations: Annotations,
    predictions: Predictions,
    rules: Rules,
    caps: Sequence[int],
    labels: Int64,
) -> tuple[Float64, Float64, Float64]:
    """Precision, recall and scores as hotcoco computes them, NaN for undefined."""
    kept = within_cap(predictions, rules)
    if rules.name == "lvis":
        kept &= has_area(predictions)
    evaluator = hotcoco_evaluator(annotations, predictions, np.flatnonzero(kept), rules, labels)
    evaluator.params.iouThrs = np.array(rules.iou_thresholds)
    evaluator.params.maxDets = list(caps)
    evaluator.evaluate()
    evaluator.accumulate()
    # Written into without a copy: nobody else has the evaluator.
    precision, recall, scores = (
        np.asarray(evaluator.eval[key], dtype=np.float64)
        for key in ("precision", "recall", "scores")
    )
    # Scores may be negative, so what is undefined shows in the precision only.
    undefined = precision < 0
    precision[undefined] = np.nan
    scores[undefined] = np.nan
    recall[recall < 0] = np.nan
    return precision, recall, scores


def hotcoco_evaluator(
    annotations: Annotations,
    predictions: Predictions,
    rows: Int64,
    rules: Rules,
    labels: Int64,
) -> Any:
    """Hotcoco's COCOeval of some detections, with ids of its own from 1: it takes 0 for none."""
    import hotcoco

    lvis = rules.name == "lvis"
    ranks = image_ranks(annotations)
    images: list[dict[str, Any]] = [{"id": rank + 1} for rank in ranks.tolist()]
    if lvis:
        neg, not_exhaustive = annotations.neg_labels, annotations.not_exhaustive_labels
        assert neg is not None
        assert not_exhaustive is not None
        for row, image in enumerate(images):
            image["neg_category_ids"] = neg[row].tolist()
            image["not_exhaustive_category_ids"] = not_exhaustive[row].tolist()
    areas = annotations.areas
    if lvis and annotations.is_ignored is not None:
        # An area that belongs to no size range is ignored in the same way.
        areas = np.where(annotations.is_ignored, np.inf, areas)
    truth = hotcoco.COCO.from_arrays(
        images,
        [{"id": label, "name": str(label)} for label in labels.tolist()],
        ranks[annotations.image_index] + 1,
        annotations.labels,
        annotations.bbox,
        area=areas,
        iscrowd=annotations.is_crowd & (not lvis),
    )
    taken = predictions.take(rows)
    columns = (ranks[taken.image_index] + 1, taken.bbox, taken.scores, taken.labels)
    results = truth.load_res(np.column_stack(columns))
    return hotcoco.COCOeval(truth, results, "bbox", lvis_style=lvis)


_TINY = np.spacing(1)


def numpy_grid(
    annotations: Annotations,
    predictions: Predictions,
    rules: Rules,
    caps: Sequence[int],
    labels: Int64,
) -> tuple[Float64, Float64, Float64]:
    """Precision, recall and scores from our own matches.

    Source: the rules of pycocotools and lvis-api, whose arrays these are, bit for bit.
    """
    num_thresholds = len(rules.iou_thresholds)
    sizes = (len(labels), len(AREA_RANGES), len(caps))
    precision = np.full((num_thresholds, len(RECALL_LEVELS), *sizes), np.nan)
    scores = np.full_like(precision, np.nan)
    recall = np.full((num_thresholds, *sizes), np.nan)
    floor = rules.iou_thresholds[0]
    pairs = overlaps(annotations, predictions, floor=floor, same_class=True, rules=rules)
    for a, area_range in enumerate(AREA_RANGES.values()):
        matches = match(annotations, predictions, rules=rules, area_range=area_range, pairs=pairs)
        places = _places(matches)
        for k in np.flatnonzero(matches.num_positive[labels]):
            label = labels[k]
            part = slice(matches.offsets[label], matches.offsets[label + 1])
            for m, cap in enumerate(caps):
                rows = matches.order[part][places[part] < cap]
                _fill(
                    matches,
                    rows,
                    int(matches.num_positive[label]),
                    precision[:, :, k, a, m],
                    scores[:, :, k, a, m],
                    recall[:, k, a, m],
                )
    return precision, recall, scores


def _places(matches: Matches) -> Int64:
    """int64 [P], how many detections of the same image and class go before each in `order`."""
    predictions = matches.predictions
    classes = matches.annotations.categories.num_classes
    groups = predictions.image_index[matches.order] * classes + predictions.labels[matches.order]
    return places_in_group(groups)


def _fill(
    matches: Matches,
    rows: Int64,
    num_positive: int,
    precision: Float64,
    scores: Float64,
    recall: Float64,
) -> None:
    """Write the figures of one class, size and cap into views [T, R], [T, R] and [T]."""
    precision[:] = 0.0
    scores[:] = 0.0
    recall[:] = 0.0
    if not len(rows):
        return
    own_scores = matches.predictions.scores[rows]
    right = matches.is_true_positive[rows]
    counted = np.cumsum(~matches.is_ignored[rows], axis=0)
    scores[:, 0] = own_scores[0]
    for t in range(right.shape[1]):
        found = np.flatnonzero(right[:, t])
        if not len(found):
            continue
        number = np.arange(1, len(found) + 1, dtype=np.float64)
        exact = number / (counted[found, t] + _TINY)
        best = np.maximum.accumulate(exact[::-1])[::-1]
        reached = number / num_positive
        recall[t] = reached[-1]
        at = np.searchsorted(reached, RECALL_LEVELS)
        levels = int(np.searchsorted(at, len(found)))
        precision[t, :levels] = best[at[:levels]]
        scores[t, 1:levels] = own_scores[found[at[1:levels]]]


# Places on the area axis of the grid, in the order of AREA_RANGES.
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)


def class_figures(grid: Grid) -> dict[str, Float64]:
    """Average the grid over everything but the classes."""
    half, strict = at_iou(grid, 0.5), at_iou(grid, 0.75)
    precision, recall = grid.precision[..., -1], grid.recall[..., -1]  # the largest cap
    return {
        "AP": _by_class(precision[..., _ALL]),
        "AP50": _by_class(precision[half, ..., _ALL]),
        "AP75": _by_class(precision[strict, ..., _ALL]),
        "APs": _by_class(precision[..., _SMALL]),
        "APm": _by_class(precision[..., _MEDIUM]),
        "APl": _by_class(precision[..., _LARGE]),
        "AR": _by_class(recall[..., _ALL]),
        "AR1": _by_class(grid.recall[..., _ALL, 0]),
        "AR10": _by_class(grid.recall[..., _ALL, 1]),
        "ARs": _by_class(recall[..., _SMALL]),
        "ARm": _by_class(recall[..., _MEDIUM]),
        "ARl": _by_class(recall[..., _LARGE]),
    }


def summarize(grid: Grid) -> dict[str, float]:
    """Give the twelve numbers as the reference averages them, equal to the last bit."""
    half, strict = at_iou(grid, 0.5), at_iou(grid, 0.75)
    precision, recall = grid.precision, grid.recall
    values = {
        "AP": precision[..., _ALL, -1],
        "AP50": precision[half, ..., _ALL, -1],
        "AP75": precision[strict, ..., _ALL, -1],
        "APs": precision[..., _SMALL, -1],
        "APm": precision[..., _MEDIUM, -1],
        "APl": precision[..., _LARGE, -1],
        **{f"AR{cap}": recall[..., _ALL, m] for m, cap in enumerate(grid.max_detections)},
        "ARs": recall[..., _SMALL, -1],
        "ARm": recall[..., _MEDIUM, -1],
        "ARl": recall[..., _LARGE, -1],
    }
    return {name: mean_of_defined(value) for name, value in values.items()}


def curves_at_half(grid: Grid) -> tuple[Float64, Float64]:
    """Take precision and scores at IoU .50, over boxes of all sizes, from the grid."""
    half = at_iou(grid, 0.5)
    curves = (values[half, :, :, _ALL, -1] for values in (grid.precision, grid.scores))
    precision, scores = (np.hstack([np.full((len(curve), 1), np.nan), curve]) for curve in curves)
    return precision, scores


def of_all_classes(values: Float64, labels: npt.NDArray[np.int64], num_classes: int) -> Float64:
    """Put figures [..., K + 1] of the classes of a grid among all; NaN for the others."""
    result = np.full((*values.shape[:-1], num_classes), np.nan)
    result[..., labels] = values[..., 1:]
    return result


def mean_of_defined(values: npt.ArrayLike) -> float:
    """Mean of what is not NaN; NaN where that is nothing."""
    known = np.asarray(values)
    known = known[~np.isnan(known)]
    return float(np.mean(known)) if known.size else math.nan


def at_iou(grid: Grid, iou: float) -> int:
    """Index of the IoU threshold on the T axis."""
    return int(np.argmin(np.abs(np.asarray(grid.rules.iou_thresholds) - iou)))


def _by_class(values: Float64) -> Float64:
    """Mean over all axes but the last, [..., K] -> [K + 1]; each class is NaN wholly or nowhere."""
    return np.append(np.nan, values.mean(axis=tuple(range(values.ndim - 1))))
