"""How many boxes a recall rests on, and how many more it takes to know it well.

Arrays have length K + 1, index 0 is background.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detbalance.data.intervals import boxes_for_half_width, wilson_interval
from detbalance.evaluation.matching import Matches

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

# Below this it says more of how few images there are than of the boxes on them.
_LEAST_EFFECT = 0.1


def recall_design_effect(matches: Matches, score_threshold: float, *, iou: float = 0.5) -> Float64:
    """How many times the variance of recall is as large as if each box had its own fate.

    Source: Kish, Survey Sampling, 1965, section 5.4; the variance of a ratio in section 6.3.
    """
    truth, t = matches.annotations, matches.at(iou)
    num_images, num_classes = truth.num_images, len(matches.num_positive)
    shown = matches.is_true_positive[:, t] & (matches.predictions.scores >= score_threshold)
    found = np.zeros(len(matches.positive), dtype=np.bool_)
    found[matches.annotation[shown, t]] = True
    rows = np.flatnonzero(matches.positive)
    pairs, place = np.unique(
        truth.labels[rows] * num_images + truth.image_index[rows], return_inverse=True
    )
    boxes, hits = np.bincount(place), np.bincount(place, found[rows])
    label = pairs // max(num_images, 1)
    total, images = matches.num_positive, np.bincount(label, minlength=num_classes)
    recall = np.bincount(label, hits, num_classes) / np.maximum(total, 1)
    squares = np.bincount(label, (hits - recall[label] * boxes) ** 2, num_classes)
    of_boxes = recall * (1 - recall) * total
    # The powers of N that both variances share are left out.
    result = np.full(num_classes, np.nan)
    known = (images > 1) & (of_boxes > 0)
    correction = images[known] / (images[known] - 1)
    result[known] = np.maximum(correction * squares[known] / of_boxes[known], _LEAST_EFFECT)
    return result


def more_boxes(
    recall: npt.ArrayLike,
    num_boxes: npt.ArrayLike,
    *,
    half_width: float = 0.05,
    design_effect: npt.ArrayLike = 1.0,
    confidence: float = 0.95,
) -> Int64:
    """How many boxes are missing until a recall is known to +- so much.

    Source: Wilson, JASA 22, 1927, his width solved for the number, times the design effect.
    """
    share, boxes, effect = np.broadcast_arrays(
        np.asarray(recall, np.float64),
        np.asarray(num_boxes, np.float64),
        np.fmax(np.asarray(design_effect, np.float64), 1.0),
    )
    known = ~np.isnan(share)
    size = np.where(known, boxes / effect, 0.0)
    low, high = wilson_interval(np.where(known, share, 0.0) * size, size, confidence=confidence)
    expected = np.where(size > 0, (low + high) / 2, 0.5)
    rates, place = np.unique(expected, return_inverse=True)  # very many classes have no box at all
    needed = np.array(
        [
            boxes_for_half_width(half_width, rate=rate, confidence=confidence)
            for rate in rates.tolist()
        ],
        dtype=np.float64,
    )[place].reshape(expected.shape)
    return np.asarray(np.maximum(np.ceil(needed * effect) - boxes, 0), dtype=np.int64)
