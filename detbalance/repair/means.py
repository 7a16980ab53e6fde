"""Which of two means a region is nearer to, as a linear form.

Letters: F features, D outputs.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detbalance.data.arrays import Float64
from detbalance.repair.region_features import Samples


def mean_directions(samples: Samples, class_of: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """The linear form that tells which of two means is nearer, class or background."""
    outputs, width = len(class_of), samples.features.shape[1]
    weight, bias, scale = np.zeros((outputs, width)), np.zeros(outputs), np.ones(outputs)
    means, deviation = _class_means(samples)
    scaled = {label: mean / deviation for label, mean in means.items()}
    asked = [output for output, label in enumerate(class_of) if label and label in means]
    if 0 in means:
        away = scaled[0]
        for output in asked:
            mean = scaled[class_of[output]]
            weight[output] = (mean - away) / deviation
            bias[output] = -0.5 * (mean @ mean - away @ away)
            scale[output] = 0.0
        spread = _spread(samples, weight)
        weight, bias = weight / spread[:, None], bias / spread
    return tuple(torch.from_numpy(v).float() for v in (weight, bias, scale))  # type: ignore[return-value]


def _class_means(samples: Samples) -> tuple[dict[int, Float64], Float64]:
    """Mean of each class that there is, float64 [F], and the deviation of all, 1 where it is 0."""
    width, count = samples.features.shape[1], max(1, len(samples))
    labels, place = np.unique(samples.labels, return_inverse=True)
    # Background counts as often as it stands for, every object once.
    counts = np.where(samples.labels > 0, 1.0, samples.weights)
    sums, every, squares = np.zeros((len(labels), width)), np.zeros(width), np.zeros(width)
    for chunk in samples.chunks():
        features = np.asarray(samples.features[chunk], np.float64)
        here, group = np.unique(place[chunk], return_inverse=True)
        # Of each class in the chunk a row of counts.
        rows = (group == np.arange(len(here))[:, None]) * counts[chunk]
        sums[here] += rows @ features
        every += features.sum(axis=0)
        squares += (features**2).sum(axis=0)
    total = np.bincount(place, weights=counts, minlength=len(labels))
    deviation = np.sqrt(np.maximum(squares / count - (every / count) ** 2, 0.0))
    # What rounding leaves of a feature that is always the same is no deviation.
    deviation[deviation <= 1e-7 * np.sqrt(squares / count)] = 0.0
    found = {int(label): sums[i] / total[i] for i, label in enumerate(labels)}
    return found, np.where(deviation > 0, deviation, 1.0)


def _spread(samples: Samples, weight: Float64) -> Float64:
    """Standard deviation of each linear form over the regions, float64 [D]; 1 where it is 0."""
    every, squares, count = np.zeros(len(weight)), np.zeros(len(weight)), max(1, len(samples))
    for chunk in samples.chunks():
        form = np.asarray(samples.features[chunk], np.float64) @ weight.T
        every += form.sum(axis=0)
        squares += (form**2).sum(axis=0)
    variance = squares / count - (every / count) ** 2
    spread = np.sqrt(np.maximum(variance, 0.0))
    return np.where(spread > 1e-7 * np.sqrt(squares / count), spread, 1.0)
