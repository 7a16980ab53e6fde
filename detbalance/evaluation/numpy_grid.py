"""The COCO and LVIS grid counted from matches of our own, for where no compiled evaluator is.

Letters: T IoU thresholds, R recall levels, K categories, A area ranges, M detection caps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from detbalance.evaluation.average_precision import RECALL_LEVELS
from detbalance.evaluation.filters import places_in_group
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.overlaps import overlaps
from detbalance.evaluation.rules import AREA_RANGES, Rules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from detbalance.data import Annotations, Predictions

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
_TINY = np.spacing(1)


def numpy_grid(
    annotations: Annotations,
    predictions: Predictions,
    rules: Rules,
    caps: Sequence[int],
    labels: Int64 | None = None,
) -> tuple[Float64, Float64, Float64]:
    """Compute precision, recall and scores over thresholds, levels, classes, sizes and caps.

    Source: the rules of pycocotools and lvis-api, whose arrays these are, bit for bit.
    """
    num_thresholds = len(rules.iou_thresholds)
    if labels is None:
        labels = np.arange(1, annotations.categories.num_classes)
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
