"""Intervals and p-values of differences between two sides, from the same draws of images.

Each side has the interval that its report has: Wilson's, with as many boxes as vary like the draws.
The two are put together with the correlation that the draws show, so that few boxes make a wide
interval even where both sides find all of them.

Letters: B draws, R runs of a side, n classes or groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Float64
from detbalance.evaluation.bootstrap import BootstrapFigures
from detbalance.evaluation.bootstrap_variance import (
    FORMS,
    BootstrapVariance,
    class_variance,
    defined_mean,
    group_means,
    group_variance,
    interval,
    student_quantile,
)

# Between these p-values are found; above the larger one there is no difference.
_LEAST_P, _LARGEST_P = 1e-9, 0.999


@dataclass(frozen=True, eq=False)
class Sides:
    """A figure of two sides; arrays of length n, NaN where a side has no figure."""

    baseline: BootstrapVariance
    ours: BootstrapVariance
    correlation: Float64
    run_variance: Float64
    run_degrees: Float64

    @property
    def difference(self) -> Float64:
        """Ours less baseline, NaN where a side is undefined."""
        return self.ours.estimate - self.baseline.estimate


def class_sides(
    figure: str, baseline: Sequence[BootstrapFigures], ours: Sequence[BootstrapFigures]
) -> Sides:
    """Put the draws of both sides beside each other, by class."""
    sides = [_Side.of(figure, runs) for runs in (baseline, ours)]
    spreads = [class_variance(side.mean, side.estimate, side.boxes, side.images) for side in sides]
    return _joined([side.mean for side in sides], spreads, [side.estimates for side in sides])


def group_sides(
    figure: str,
    baseline: Sequence[BootstrapFigures],
    ours: Sequence[BootstrapFigures],
    group_of_class: npt.NDArray[np.integer],
    size: int,
) -> Sides:
    """Put the draws of both sides beside each other, by group of classes."""
    sides = [_Side.of(figure, runs) for runs in (baseline, ours)]
    known = ~np.isnan(sides[0].estimate) & ~np.isnan(sides[1].estimate)
    groups = np.where(known, group_of_class, -1)
    # The same of single draws.
    shared = np.isnan(sides[0].mean) | np.isnan(sides[1].mean)
    means, spreads, estimates = [], [], []
    for side in sides:
        values = np.where(shared, np.nan, side.mean)
        single = class_variance(values, side.estimate, side.boxes, side.images)
        means.append(group_means(values, groups, size))
        spreads.append(group_variance(values, single, groups, size))
        estimates.append(group_means(side.estimates, groups, size))
    return _joined(means, spreads, estimates)


def difference_interval(
    sides: Sides, figure: str, *, confidence: float = 0.95
) -> tuple[Float64, Float64]:
    """Interval of ours less baseline.

    Source: Newcombe, Interval estimation for the difference between independent proportions,
    Statistics in Medicine 17, 1998, method 10, for paired proportions; Zou and Donner, Statistics
    in Medicine 27, 2008, for other figures. Differs: each side's interval and the correlation are
    from the bootstrap over images; the runs' part is added as Cochran did for two variances with
    degrees of freedom of their own, Biometrics 20, 1964.
    """
    (low1, high1), (low2, high2) = (
        interval(_unbiased(spread), confidence=confidence, **FORMS[figure])
        for spread in (sides.ours, sides.baseline)
    )
    p1, p2, r = sides.ours.estimate, sides.baseline.estimate, sides.correlation
    student = student_quantile((1 + confidence) / 2, sides.run_degrees)
    of_runs = student**2 * sides.run_variance

    def distance(one: Float64, other: Float64) -> Float64:
        return np.sqrt(np.maximum(one**2 - 2 * r * one * other + other**2, 0.0) + of_runs)

    low = sides.difference - distance(p1 - low1, high2 - p2)
    high = sides.difference + distance(high1 - p1, p2 - low2)
    return np.maximum(low, -1.0), np.minimum(high, 1.0)


def p_values(sides: Sides, figure: str, *, confidence: float = 0.95) -> Float64:
    """Two-sided p-values of no difference: 1 less the confidence whose interval ends at 0."""
    levels = np.sort(np.append(np.geomspace(_LEAST_P, _LARGEST_P, 36), 1 - confidence))
    nearest = []
    for level in levels:
        low, high = difference_interval(sides, figure, confidence=1 - level)
        nearest.append(np.where(sides.difference > 0, low, -high))
    ends = np.stack(nearest)  # ascending in the level
    # The first level whose interval leaves 0 out; none, and the difference is no difference.
    first = (ends <= 0).sum(axis=0)
    place = np.clip(first, 1, len(levels) - 1)
    columns = np.arange(ends.shape[1])
    below, above = ends[place - 1, columns], ends[place, columns]
    share = np.zeros(len(columns))
    np.divide(-below, above - below, out=share, where=above > below)
    logs = np.log(levels)
    result = np.exp(logs[place - 1] + np.clip(share, 0, 1) * (logs[place] - logs[place - 1]))
    result = np.where(first == 0, _LEAST_P, np.where(first == len(levels), 1.0, result))
    return np.where(np.isnan(sides.difference), np.nan, result)


@dataclass(frozen=True, eq=False)
class _Side:
    """Means over the runs of one side, over those where the figure is defined."""

    mean: Float64  # [B, K + 1]
    estimate: Float64  # [K + 1]
    estimates: Float64  # [R, K + 1]
    boxes: Float64  # [K + 1]
    images: Float64  # [K + 1]

    @classmethod
    def of(cls, figure: str, runs: Sequence[BootstrapFigures]) -> _Side:
        estimates = np.stack([one.estimates[figure][0] for one in runs])
        return cls(
            defined_mean(np.stack([one.values[figure][0] for one in runs]))[0],
            defined_mean(estimates)[0],
            estimates,
            np.mean([one.boxes[figure][0] for one in runs], axis=0),
            np.mean([one.images[figure][0] for one in runs], axis=0),
        )


def _joined(
    means: Sequence[Float64], spreads: Sequence[BootstrapVariance], estimates: Sequence[Float64]
) -> Sides:
    """Both sides from their draws [B, n], the spread of those, and each run's figures [R, n]."""
    correlation = _correlation(*means)
    # A few boxes that both sides find, or miss, feign that they always agree.
    both = np.prod([side.estimate * (1 - side.estimate) for side in spreads], axis=0)
    boxes = np.minimum(spreads[0].boxes, spreads[1].boxes)
    feigned = np.ones(len(correlation))
    np.divide(0.5, boxes * np.sqrt(both), out=feigned, where=(boxes > 0) & (both > 0))
    correlation = np.where(correlation > 0, np.maximum(correlation - feigned, 0.0), correlation)
    return Sides(spreads[0], spreads[1], correlation, *_between_runs(spreads, estimates))


def _between_runs(
    spreads: Sequence[BootstrapVariance], estimates: Sequence[Float64]
) -> tuple[Float64, Float64]:
    """Variance [n] of the difference between the runs of a side, and its degrees of freedom."""
    runs = [(~np.isnan(side)).sum(axis=0) for side in estimates]
    squares, degrees, shares = (np.zeros(len(runs[0])) for _ in range(3))
    for side, spread, number in zip(estimates, spreads, runs, strict=True):
        apart = np.where(np.isnan(side), 0.0, side - np.nan_to_num(spread.estimate))
        squares += (apart**2).sum(axis=0)
        degrees += np.maximum(number - 1, 0)
        shares += np.where(number > 1, 1 / np.maximum(number, 1), 0.0)
    return shares * squares / np.maximum(degrees, 1), degrees


def _correlation(baseline: Float64, ours: Float64) -> Float64:
    """Correlation [n] of two sides over the draws [B, n], 0 where one of them never differs."""
    both = ~np.isnan(baseline) & ~np.isnan(ours)
    number = np.maximum(both.sum(axis=0), 1)
    apart = []
    for values in (baseline, ours):
        mean = np.where(both, values, 0.0).sum(axis=0) / number
        apart.append(np.where(both, values - mean, 0.0))
    scale = np.sqrt((apart[0] ** 2).sum(axis=0) * (apart[1] ** 2).sum(axis=0))
    result = np.zeros(len(number))
    np.divide((apart[0] * apart[1]).sum(axis=0), scale, out=result, where=scale > 0)
    return np.clip(result, -1.0, 1.0)


def _unbiased(spread: BootstrapVariance) -> BootstrapVariance:
    """The spread without the bias that the draws show: two sides have about the same."""
    return replace(spread, mean=spread.estimate)
