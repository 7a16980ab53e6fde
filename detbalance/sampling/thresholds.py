"""From the share of each class to the factor of each image, by a threshold that is given or found.

All methods with a threshold are one: an image counts as its rarest class, that class is so many
times rarer than the threshold, and the method says which factor this makes.

Letters: M images, K classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from detbalance.sampling.labels import Float64, ImageLabels
from detbalance.sampling.order import factors_of

logger = logging.getLogger(__name__)

# From threshold / share of some classes to their factors; never falling.
Shape = Callable[[Float64], Float64]

# Stands for "nearly 0" where the shortest or longest epoch is asked for.
_SMALLEST = float(np.finfo(np.float64).tiny)


def factors_by_share(
    where: str,
    held: ImageLabels,
    share: Float64,
    shape: Shape,
    threshold: float | None,
    target_length: float | None,
) -> Float64:
    """Give each image the factor of its rarest class, and 1 without boxes."""
    if (threshold is None) == (target_length is None):
        given = "neither" if threshold is None else "both"
        raise ValueError(
            f"{where}(): {given} of threshold and target_length given. Expected exactly one. "
            "Pass the threshold, or the target_length you want."
        )
    rarest = _rarest_share(held, share)
    if target_length is not None:
        threshold = _solved(where, held, rarest, shape, target_length)
    assert threshold is not None
    if not 0.0 < threshold <= 1.0:
        raise ValueError(
            f"{where}(): threshold is {threshold}. Expected a share in (0, 1]. Try 0.001 for a set "
            "like LVIS, more for a small one, or pass target_length."
        )
    with np.errstate(over="ignore"):
        factors = shape(np.divide(threshold, rarest, out=rarest))
    if not np.isfinite(factors.max()):
        raise ValueError(
            f"{where}(): {int(np.isinf(factors).sum())} factors are too large for a number at "
            f"threshold {threshold}. Expected finite factors. Pass cap=10, or a lower threshold."
        )
    factors[~held.shows_boxes] = 1.0
    return factors_of(factors, held.image_ids)


def note_if_idle(where: str, held: ImageLabels, share: Float64, threshold: float | None) -> None:
    """Say that a threshold repeats nothing, since no class is rarer."""
    shown = share[held.instance_counts > 0]
    if threshold is not None and len(shown) and threshold <= shown.min():
        logger.warning(
            "%s(): threshold is %g, and no class has a smaller share than %.3g: all factors are 1"
            " and nothing is repeated. A larger one is expected to do something: detbalance plan"
            " says which, or pass target_length.",
            where,
            threshold,
            shown.min(),
        )


def threshold_of_length(
    where: str, held: ImageLabels, share: Float64, shape: Shape, target_length: float
) -> float:
    """Find the largest threshold whose factors sum to no more than the target length."""
    return _solved(where, held, _rarest_share(held, share), shape, target_length)


def image_share(held: ImageLabels) -> Float64:
    """Return the share of all M images, those without boxes included, that show each class."""
    return held.image_counts / len(held)


def power_shape(where: str, power: float, cap: float | None) -> Shape:
    """Raise how many times rarer than the threshold a class is to a power; 1 at least."""
    check_positive(where, "power", power, "Pass 0.5, or 1 for linear.")
    limit = limit_of(where, cap)

    def shape(rarer: Float64) -> Float64:
        # sqrt is exact to the last bit where a general power is not.
        raised = np.sqrt(rarer) if power == 0.5 else rarer**power
        return np.clip(raised, 1.0, limit, out=raised)

    return shape


def check_positive(where: str, name: str, value: float, advice: str) -> None:
    """Refuse what is not a finite number above 0."""
    if not 0.0 < value < np.inf:
        raise ValueError(
            f"{where}(): {name} is {value}. Expected a finite number above 0. {advice}"
        )


def limit_of(where: str, cap: float | None) -> float:
    """Check the largest factor and return it; infinity for none."""
    if cap is not None and not cap >= 1.0:
        raise ValueError(
            f"{where}(): cap is {cap}. Expected 1 or more, or None for no limit. Images without "
            "rare classes keep 1, so pass what the others may get at most."
        )
    return np.inf if cap is None else cap


def _rarest_share(held: ImageLabels, share: Float64) -> Float64:
    """For each image the share of its rarest class, [M]; infinity without boxes."""
    rarest = held.largest(-share, empty=-np.inf)
    return np.negative(rarest, out=rarest)


def _solved(
    where: str, held: ImageLabels, rarest: Float64, shape: Shape, target_length: float
) -> float:
    """`threshold_of_length` from the share of the rarest class of each image, [M]."""
    shares, images = np.unique(rarest[held.shows_boxes], return_counts=True)

    def extra(threshold: float) -> float:
        """What the factors add to one draw of each image, or take away."""
        with np.errstate(over="ignore"):
            return float(images @ (shape(threshold / shares) - 1.0))

    least, most = extra(_SMALLEST), extra(1.0)
    wanted = target_length - held.num_images
    tolerance = 1e-9 * held.num_images
    # NaN is refused too.
    if not least - tolerance <= wanted <= most + tolerance:
        raise ValueError(
            f"{where}(): target_length is {target_length}. Expected {held.num_images + least:.1f} "
            f"(threshold near 0) to {held.num_images + most:.1f} (threshold 1) for these images. "
            "Choose one in between."
        )
    if wanted >= most:
        return 1.0
    wanted = max(wanted, least)
    # Halving until no number lies in between: some 60 sums over the different shares, K at most.
    below, above = _SMALLEST, 1.0
    while below < (middle := (below + above) / 2) < above:
        if extra(middle) <= wanted:
            below = middle
        else:
            above = middle
    return below
