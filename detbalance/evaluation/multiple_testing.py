"""Many classes are many chances to be wrong: p-values that allow for all of them together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


def adjust_classes(p: Float64) -> Float64:
    """Adjust the p-values of classes, of which some may differ and most may not.

    Source: Benjamini and Hochberg, Controlling the false discovery rate, JRSS B 57, 1995.
    """
    return _adjusted(p, step_up=True)


def adjust_groups(p: Float64) -> Float64:
    """Adjust the p-values of a few groups, each of which makes a claim of its own.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6, 1979.
    """
    return _adjusted(p, step_up=False)


def _adjusted(p: Float64, *, step_up: bool) -> Float64:
    result = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    number = len(order)
    if step_up:
        raised = p[order] * number / np.arange(1, number + 1)
        values = np.minimum.accumulate(raised[::-1])[::-1]
    else:
        values = np.maximum.accumulate(p[order] * np.arange(number, 0, -1))
    result[order] = np.minimum(values, 1.0)
    return result
