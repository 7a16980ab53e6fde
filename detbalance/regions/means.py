"""Which of two means a region is nearer to, as a linear form.

Letters: F features, D outputs.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detbalance.regions.samples import Samples


def mean_directions(samples: Samples, class_of: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
    """The linear form that tells which of two means is nearer, for each class and the background.

    Args:
        samples: of the data.
        class_of: int64 [D], the class of each output, 0 for none.

    Returns:
        Weight float32 [D, F], bias [D] and the factor of the present weights [D]. Forms have a
        standard deviation of 1 over the regions. Outputs without a class, or whose class has no
        region, have weights of 0 and the factor 1, all others the factor 0.
    """
    features = np.asarray(samples.features, np.float64)
    deviation = features.std(axis=0)
    scaled_features = features / np.where(deviation > 0, deviation, 1.0)
    weight = np.zeros((len(class_of), features.shape[1]))
    bias, scale = np.zeros(len(class_of)), np.ones(len(class_of))
    background = samples.labels == 0
    if not background.any():
        return tuple(torch.from_numpy(v).float() for v in (weight, bias, scale))  # type: ignore[return-value]
    away = np.average(scaled_features[background], axis=0, weights=samples.weights[background])
    for output, label in enumerate(class_of):
        own = samples.labels == label
        if label == 0 or not own.any():
            continue
        mean = scaled_features[own].mean(axis=0)
        form = scaled_features @ (mean - away)
        spread = form.std() or 1.0
        weight[output] = (mean - away) / np.where(deviation > 0, deviation, 1.0) / spread
        bias[output] = -0.5 * (mean @ mean - away @ away) / spread
        scale[output] = 0.0
    return tuple(torch.from_numpy(v).float() for v in (weight, bias, scale))  # type: ignore[return-value]
