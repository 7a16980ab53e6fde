"""The figures of every class that are averaged from the grid, and the twelve COCO numbers.

Letters: T IoU thresholds, R recall levels, K categories.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from detbalance.evaluation.grid import Grid

Float64 = npt.NDArray[np.float64]
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
