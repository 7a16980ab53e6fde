"""Weights per class from the counts of a training set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from detbalance.losses.counts import ClassCounts, checked_counts

if TYPE_CHECKING:
    from torch import Tensor

WeightMethod = Literal["none", "inverse", "inverse_sqrt", "effective_number"]
ClassWeights: TypeAlias = WeightMethod | dict[str, float]
"""A method of `class_weights`, or weights by class name; classes that are not named weigh 1."""


def class_weights(
    class_counts: npt.ArrayLike | Tensor, method: WeightMethod, *, beta: float = 0.999
) -> npt.NDArray[np.float64]:
    """Weigh classes by how seldom they are, for a loss that counts rare classes more.

    With n boxes of a class, before normalising:

    - `none`: 1
    - `inverse`: 1 / n
    - `inverse_sqrt`: 1 / sqrt(n)
    - `effective_number`: (1 - beta) / (1 - beta^n); the ratio of any two stays below 1 / (1 - beta)

    Normalised so that the weights of the classes with boxes have mean 1 over those *classes*. Over
    the *boxes* the mean is then below 1 (frequent classes have the small weights), so the loss of
    frequent classes shrinks. Classes without a box get 1 and take no part in the mean.

    Args:
        class_counts: [K + 1] training boxes per class, >= 0; index 0 (background) is not used.
        method: one of the four above.
        beta: in [0, 1), for `effective_number` only; 0 gives equal weights.

    Returns:
        float64 [K + 1], positive and finite; index 0, the weight of background, is 1.

    Raises:
        ValueError: if the counts, the method or beta are not as described.

    Example:
        >>> class_weights([0, 100, 25, 0], "inverse_sqrt").round(3)
        array([1.   , 0.667, 1.333, 1.   ])

    Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019,
    arXiv:1901.05555, sec. 3-4 (`effective_number`). Differs: classes without boxes, whose weight
    would be infinite, get 1 and do not count in the normalisation.
    """
    counts = checked_counts(class_counts)
    if method not in get_args(WeightMethod):
        raise ValueError(
            f"class_weights(): method is {method!r}. "
            f"Known: {', '.join(get_args(WeightMethod))}. Choose one of them."
        )
    if not 0.0 <= beta < 1.0:
        raise ValueError(
            f"class_weights(): beta is {beta}. Expected a number in [0, 1). "
            'Use method="inverse" for the limit at 1.'
        )
    weights = np.ones(len(counts))
    present = counts > 0
    present[0] = False
    if method == "none" or not present.any():
        return weights
    n = counts[present]
    if method == "inverse":
        raw = 1.0 / n
    elif method == "inverse_sqrt":
        raw = 1.0 / np.sqrt(n)
    else:
        # 1 - beta^n by expm1: exact where beta^n is close to 1. beta = 0 has no logarithm.
        log_beta = math.log(beta) if beta > 0.0 else -math.inf
        raw = (1.0 - beta) / -np.expm1(n * log_beta)
    weights[present] = raw / raw.mean()
    return weights


def label_weights(
    counts: ClassCounts, weights: ClassWeights, *, beta: float, where: str
) -> npt.NDArray[np.float64] | None:
    """Weigh whole rows by their label, as a loss was asked to."""
    if not isinstance(weights, Mapping):
        values = class_weights(counts.instance_counts, weights, beta=beta)
        return None if weights == "none" else values
    by_class = np.asarray(counts.per_class(weights, where, "class_weights"))
    if not (np.isfinite(by_class) & (by_class >= 0)).all():
        raise ValueError(
            f"{where}: class_weights is {weights}. Expected finite weights >= 0. 1 leaves a class"
            " as it is."
        )
    return np.concatenate([[1.0], by_class])
