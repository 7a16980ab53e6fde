"""How precisely a share is known from so many boxes: Wilson score intervals.

A recall of 0.5 measured on 5 boxes may in truth be anything from 0.2 to 0.8. These functions say so
in numbers, before a validation set is measured and after.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Float64

# What makes the results arrays; plain numbers give plain numbers.
_Numbers: TypeAlias = "npt.NDArray[Any] | Sequence[float]"


@overload
def wilson_interval(
    successes: float, n: float, *, confidence: float = ...
) -> tuple[float, float]: ...
@overload
def wilson_interval(
    successes: _Numbers, n: _Numbers | float, *, confidence: float = ...
) -> tuple[Float64, Float64]: ...
def wilson_interval(
    successes: _Numbers | float, n: _Numbers | float, *, confidence: float = 0.95
) -> tuple[Float64 | float, Float64 | float]:
    """Return the Wilson score interval of a share, for example of a recall.

    The shares p that n draws with so many successes do not contradict: |successes / n - p| <=
    z * sqrt(p (1 - p) / n). Unlike successes / n +- z * (standard error) it stays inside [0, 1] and
    has a width when all boxes or none are found.

    Args:
        successes: found boxes, in [0, n]; need not be whole.
        n: all boxes, >= 0, of a shape that broadcasts with `successes`.
        confidence: how often such intervals hold the true share, in (0, 1).

    Returns:
        The lower and the upper end, float64 in [0, 1] of the common shape; NaN where n is 0.

    Raises:
        ValueError: if `n` is negative or not finite, `successes` is outside [0, n], or `confidence`
            outside (0, 1).

    Example:
        >>> low, high = wilson_interval(3, 5)
        >>> print(f"{low:.3f} to {high:.3f}")
        0.231 to 0.882

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22,
    1927. Differs: no continuity correction.
    """
    found, total = np.asarray(successes, np.float64), _sizes("wilson_interval", n)
    outside = ~((found >= 0) & (found <= total))
    if outside.any():
        first = tuple(np.argwhere(outside)[0])
        raise ValueError(
            f"wilson_interval(): successes is {np.broadcast_to(found, outside.shape)[first]:g} of"
            f" n = {np.broadcast_to(total, outside.shape)[first]:g} ({outside.sum()} such values)."
            " Expected 0 to n. Correct the counts."
        )
    z = _quantile("wilson_interval", confidence)
    with np.errstate(invalid="ignore"):  # 0 of 0 is NaN
        center, half = _center_and_half(found / total, total, z)
    low = np.maximum(center - half, 0.0)
    # Rounding would leave a little less than the bound that finding all sets.
    high = np.where(found == total, np.where(total > 0, 1.0, np.nan), np.minimum(center + half, 1))
    return low[()], high[()]


@overload
def wilson_half_width(n: float, *, rate: float = ..., confidence: float = ...) -> float: ...
@overload
def wilson_half_width(
    n: _Numbers, *, rate: _Numbers | float = ..., confidence: float = ...
) -> Float64: ...
def wilson_half_width(
    n: _Numbers | float, *, rate: _Numbers | float = 0.5, confidence: float = 0.95
) -> Float64 | float:
    """Return half the width of the Wilson interval that n boxes will give, before measuring.

    Source: as for `wilson_interval`.
    """
    total, share = _sizes("wilson_half_width", n), np.asarray(rate, np.float64)
    _check_rate("wilson_half_width", share)
    z = _quantile("wilson_half_width", confidence)
    with np.errstate(invalid="ignore", divide="ignore"):
        half = _center_and_half(share, total, z)[1]
    return np.where(total > 0, half, np.nan)[()]


def boxes_for_half_width(half_width: float, *, rate: float = 0.5, confidence: float = 0.95) -> int:
    """Return the smallest number of boxes that gives an interval at most so wide.

    Source: as for `wilson_interval`, its width solved for n.
    """
    if not half_width > 0:
        raise ValueError(
            f"boxes_for_half_width(): half_width is {half_width}. Expected a share above 0, for"
            " example 0.1. Give how far off a measured share may be."
        )
    _check_rate("boxes_for_half_width", np.asarray(rate, np.float64))
    z = _quantile("boxes_for_half_width", confidence)
    # With m = n + z^2 the width formula is (half m)^2 = z^2 (v m + z^2 (1/4 - v)), v the variance.
    variance, square = rate * (1 - rate), z * z
    root = math.sqrt(variance**2 + 4 * half_width**2 * (0.25 - variance))
    n = math.ceil(max(1.0, square * (variance + root) / (2 * half_width**2) - square))
    # Rounding can put the solution on the wrong side of a whole number.
    while n > 1 and wilson_half_width(n - 1, rate=rate, confidence=confidence) <= half_width:
        n -= 1
    while wilson_half_width(n, rate=rate, confidence=confidence) > half_width:
        n += 1
    return n


def _center_and_half(share: Float64, n: Float64, z: float) -> tuple[Float64, Float64]:
    # Both written over n + z^2, so that n = 0 divides nothing by zero.
    spread = n + z * z
    center = (share * n + z * z / 2) / spread
    half = z * np.sqrt(share * (1 - share) * n + z * z / 4) / spread
    return center, half


def _sizes(where: str, n: _Numbers | float) -> Float64:
    sizes = np.asarray(n, dtype=np.float64)
    wrong = ~((sizes >= 0) & np.isfinite(sizes))
    if wrong.any():
        raise ValueError(
            f"{where}(): n is {sizes[wrong].flat[0]:g}. Expected a number of boxes, 0 or more."
            " Correct the counts."
        )
    return sizes


def _check_rate(where: str, rate: Float64) -> None:
    wrong = ~((rate >= 0) & (rate <= 1))
    if wrong.any():
        raise ValueError(
            f"{where}(): rate is {rate[wrong].flat[0]:g}. Expected a share in [0, 1]. Give the"
            " recall to expect, or leave it out for the widest interval."
        )


def _quantile(where: str, confidence: float) -> float:
    """How many standard errors on both sides hold such a share of a normal distribution."""
    if not 0 < confidence < 1:
        raise ValueError(
            f"{where}(): confidence is {confidence}. Expected a share in (0, 1), for example 0.95."
            " Give 95% as 0.95."
        )
    return NormalDist().inv_cdf((1 + confidence) / 2)
