"""Multiplicative updates that bring the boxes shown per class close to a target.

Letters: M images (here all have a box), P pairs of an image and a class that it shows, C classes
that have a box, u[C] the boxes that an epoch shows of each class divided by the target.

What is minimised is max(u) / min(u), made smooth: the ratio of two power means, M_p(u) / M_-p(u),
with p growing from stage to stage. A convex function of the factors over a positive concave one
has no local minimum but the global one, so plain descent is enough. The steps multiply the factors
instead of adding to them (mirror descent with the entropy): they keep them above 0, they stay as
near to equal factors as the target allows, and their projection is one number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detbalance.sampling.labels import Float64

_POWERS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
# The share of M_1 / M_-1 in what is minimised. Where the cap holds one class down, max / min says
# nothing about the classes between the two ends; this part does. It may cost about 1% of max / min.
_BETWEEN = 0.05
# Updates per stage: as many pairs as this are visited, within the limits, so that large sets take
# seconds. At the scale of LVIS 15 come within about 1% of what 200 give, 30 within 0.3%.
_VISITS = 12e6
_ROUNDS = (15, 200)
# A stage ends when so many updates have brought less than this, in the logarithm of the ratio.
_PATIENCE, _GAIN = 10, 1e-6
# No update may change the ratio of two factors by more than exp(30).
_REACH = 30.0


class Exposure:
    """The boxes of each class that some factors show, relative to a target, and the way back."""

    def __init__(
        self,
        images: npt.NDArray[np.int64],
        classes: npt.NDArray[np.int64],
        shown: Float64,
        num_classes: int,
    ) -> None:
        self._images, self._classes, self._shown = images, classes, shown
        self._num_classes = num_classes
        self._starts = np.flatnonzero(np.diff(images, prepend=-1))
        self.num_images, self.num_pairs = len(self._starts), len(images)

    def of(self, factors: Float64) -> Float64:
        """u, float64 [C], of factors [M]."""
        by_pair = self._shown * factors[self._images]
        return np.bincount(self._classes, by_pair, self._num_classes).astype(np.float64)

    def back(self, by_class: Float64) -> Float64:
        """For each image the sum over its boxes of a value by class: float64 [M]."""
        by_pair = self._shown * by_class[self._classes]
        sums: Float64 = np.add.reduceat(by_pair, self._starts)
        return sums


def descend(exposure: Exposure, total: float, *, floor: float, cap: float) -> Float64:
    """Bring the classes as close to their targets as the limits allow."""
    rounds = int(np.clip(_VISITS / exposure.num_pairs, *_ROUNDS))
    factors = np.full(exposure.num_images, total / exposure.num_images)
    levels, step = exposure.of(factors), 1.0
    for power in _POWERS:
        spreads = [_spread(levels, power)]
        while len(spreads) <= rounds:
            slope = exposure.back(_slope(levels, power))
            step = min(step, _REACH / max(float(np.ptp(slope)), 1e-300))
            while True:
                moved = project(factors * np.exp(-step * slope), total, floor, cap)
                reached = exposure.of(moved)
                spread = _spread(reached, power)
                if spread <= spreads[-1] or step < 1e-12:
                    break
                step /= 2
            if spread > spreads[-1]:
                break
            factors, levels = moved, reached
            spreads.append(spread)
            step *= 1.5
            if len(spreads) > _PATIENCE and spreads[-1 - _PATIENCE] - spread < _GAIN:
                break
        step = max(step, 1e-3)
    return factors


def project(weights: Float64, total: float, floor: float, cap: float) -> Float64:
    """Scale weights so that they sum to a total when cut off at a floor and a cap."""
    low, high = floor / weights.max(), cap / weights.min()
    scale = total / weights.sum()
    # The sum is a rising line in s between the points where a factor meets a limit: Newton's
    # method arrives exactly once it is on the right piece; the bracket leads it there.
    for _ in range(100):
        factors: Float64 = np.clip(scale * weights, floor, cap)
        excess = float(factors.sum()) - total
        if abs(excess) <= 1e-12 * total:
            break
        low, high = (low, scale) if excess > 0 else (scale, high)
        rise = float(weights[(factors > floor) & (factors < cap)].sum())
        scale = scale - excess / rise if rise > 0 else 0.0
        if not low < scale < high:
            scale = float(np.sqrt(low * high))
    return factors


def _spread(levels: Float64, power: float) -> float:
    """Logarithm of M_p / M_-p, and the share of that of M_1 / M_-1."""
    logs = np.log(levels)
    ends = _log_mean(logs, power) - _log_mean(logs, -power)
    between = _log_mean(logs, 1.0) - _log_mean(logs, -1.0)
    return ends + _BETWEEN * between


def _slope(levels: Float64, power: float) -> Float64:
    """Derivative of `_spread` by each level."""
    logs = np.log(levels)
    slope: Float64 = (
        _soft(power * logs) - _soft(-power * logs) + _BETWEEN * (_soft(logs) - _soft(-logs))
    ) / levels
    return slope


def _log_mean(logs: Float64, power: float) -> float:
    """Logarithm of the power mean."""
    scaled = power * logs
    top = float(scaled.max())
    return (top + float(np.log(np.exp(scaled - top).mean()))) / power


def _soft(scaled: Float64) -> Float64:
    """Shares of the exponentials, which sum to 1."""
    powers = np.exp(scaled - scaled.max())
    shares: Float64 = powers / powers.sum()
    return shares
