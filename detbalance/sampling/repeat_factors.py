"""How often each image should be drawn in an epoch: repeat the images that hold rare classes.

A sampling method is a function from the boxes of a training set to one factor per image: the
expected number of times that the image is drawn. Above 1 draws it more often, below 1 less often,
0 never; factors of several methods multiply.

All methods with a threshold are one: an image counts as its rarest class, that class is so many
times rarer than the threshold, and the method says which factor this makes.

Letters: M images, N boxes, K classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Float64
from detbalance.data.checks import check_number
from detbalance.sampling.image_order import factors_of
from detbalance.sampling.labels import ImageLabels, LabelsLike

logger = logging.getLogger(__name__)

# What the recipes of LVIS use. There is no default: a small data set needs more.
LVIS_THRESHOLD = 0.001

# From threshold / share of some classes to their factors; never falling.
Shape = Callable[[Float64], Float64]

# Stands for "nearly 0" where the shortest or longest epoch is asked for.
_SMALLEST = float(np.finfo(np.float64).tiny)


def factors_by_share(
    where: str,
    image_labels: ImageLabels,
    share: Float64,
    shape: Shape,
    threshold: float | None,
    target_length: float | None,
) -> Float64:
    """Give each image the factor of its rarest class, and 1 without boxes."""
    if (threshold is None) == (target_length is None):
        number = "neither" if threshold is None else "both"
        raise ValueError(
            f"{where}: {number} of threshold and target_length given. Expected exactly one."
        )
    rarest = _rarest_share(image_labels, share)
    if target_length is not None:
        threshold = _threshold_of_length(where, image_labels, rarest, shape, target_length)
    assert threshold is not None
    advice = f"Try {LVIS_THRESHOLD:g} for a set like LVIS, more for a small one, or target_length."
    check_number(where, "threshold", threshold, above=0, most=1, advice=advice)
    with np.errstate(over="ignore"):
        factors = shape(np.divide(threshold, rarest, out=rarest))
    if not np.isfinite(factors.max()):
        raise ValueError(
            f"{where}: {int(np.isinf(factors).sum())} factors are too large for a number at "
            f"threshold {threshold}. Expected finite factors. Pass cap=10, or a lower threshold."
        )
    factors[~image_labels.shows_boxes] = 1.0
    return factors_of(factors, image_labels.image_ids)


def note_if_idle(
    where: str, image_labels: ImageLabels, share: Float64, threshold: float | None
) -> None:
    """Say that a threshold repeats nothing, since no class is rarer."""
    shown = share[image_labels.instance_counts > 0]
    if threshold is not None and len(shown) and threshold <= shown.min():
        logger.warning(
            "%s: threshold is %g, and no class has a smaller share than %.3g: all factors are 1"
            " and nothing is repeated. A larger one is expected to do something: detbalance plan"
            " says which, or pass target_length.",
            where,
            threshold,
            shown.min(),
        )


def _threshold_of_length(
    where: str, image_labels: ImageLabels, rarest: Float64, shape: Shape, target_length: float
) -> float:
    """The largest threshold whose factors sum to no more than the target length."""
    shares, images = np.unique(rarest[image_labels.shows_boxes], return_counts=True)

    def extra(threshold: float) -> float:
        """What the factors add to one draw of each image, or take away."""
        with np.errstate(over="ignore"):
            return float(images @ (shape(threshold / shares) - 1.0))

    num_images = image_labels.num_images
    least, most = extra(_SMALLEST), extra(1.0)
    target = target_length - num_images
    tolerance = 1e-9 * num_images
    # NaN is refused too.
    if not least - tolerance <= target <= most + tolerance:
        raise ValueError(
            f"{where}: target_length is {target_length}. Expected {num_images + least:.1f} "
            f"(threshold near 0) to {num_images + most:.1f} (threshold 1) for these images."
        )
    if target >= most:
        return 1.0
    target = max(target, least)
    # Halving until no number lies in between: some 60 sums over the different shares, K at most.
    below, above = _SMALLEST, 1.0
    while below < (middle := (below + above) / 2) < above:
        if extra(middle) <= target:
            below = middle
        else:
            above = middle
    return below


def power_shape(where: str, power: float, cap: float | None) -> Shape:
    """Raise how many times rarer than the threshold a class is to a power; 1 at least."""
    check_number(where, "power", power, above=0, advice="Pass 0.5, or 1 for linear.")
    limit = limit_of(where, cap)

    def shape(rarer: Float64) -> Float64:
        # sqrt is exact to the last bit where a general power is not.
        raised = np.sqrt(rarer) if power == 0.5 else rarer**power
        return np.clip(raised, 1.0, limit, out=raised)

    return shape


def limit_of(where: str, cap: float | None) -> float:
    """Check the largest factor and return it; infinity for none."""
    if cap is None:
        return np.inf
    advice = "Images without rare classes keep 1; None is no limit."
    check_number(where, "cap", cap, least=1, advice=advice)
    return cap


def _rarest_share(image_labels: ImageLabels, share: Float64) -> Float64:
    """For each image the share of its rarest class, [M]; infinity without boxes."""
    rarest = image_labels.largest(-share, empty=-np.inf)
    return np.negative(rarest, out=rarest)


Mean = Literal["geometric", "harmonic", "arithmetic", "quadratic"]


def repeat_factors(
    data: LabelsLike = None,
    *,
    threshold: float | None = None,
    target_length: float | None = None,
    power: float = 0.5,
    cap: float | None = None,
    **arrays: npt.ArrayLike,
) -> Float64:
    """Repeat the images that hold rare classes.

    A class that is in the share f of all images gets r = max(1, (threshold / f) ** power); an image
    gets the largest r of its classes. "All images" are all M, those without boxes included, so the
    same threshold means less on a set that was filtered. Crowd boxes do not count. Images without
    boxes, or with crowd boxes only, get 1.

    With the power of the paper, halving f multiplies r by 1.41, not by 2; power 1 makes it 2::

        f / threshold        1     1/2    1/4    1/16   1/100
        r, power 0.5         1    1.41      2       4      10
        r, power 1           1       2      4      16     100

    Args:
        data: annotations, `ImageLabels`, or a list with the labels of each image.
        threshold: share of the images, in (0, 1]; classes in fewer images are repeated. The LVIS
            recipes use 0.001; a small data set needs more.
        target_length: instead of the threshold: expected images per epoch, >= M, from which it is
            found; see `threshold_for_target_length`.
        power: above 0; how strongly rarity counts.
        cap: 1 or more, the largest factor that an image can get. None for no limit.
        **arrays: instead of data: image_index, labels, num_images, is_crowd as of `ImageLabels`.

    Returns:
        float64 [M], >= 1, in the order of the images.

    Raises:
        ValueError: if arguments are missing, given twice or out of range, or if no threshold gives
            the target length.
        TypeError: if labels are not integers.

    Example:
        >>> repeat_factors([[1, 2], [1], []], threshold=0.5).round(2)
        array([1.22, 1.  , 1.  ])
        >>> repeat_factors([[1, 2], [1], []], target_length=3.5).round(2)
        array([1.46, 1.04, 1.  ])

    Source: Gupta et al., LVIS, 2019, arXiv:1908.03195, app. B.2. Differs: images without boxes,
    which the paper leaves open, get 1; power (0.5 there) and cap (none) are options.
    """
    where = "repeat_factors()"
    image_labels = ImageLabels.of(where, data, arrays)
    shape, share = power_shape(where, power, cap), image_labels.image_share
    note_if_idle(where, image_labels, share, threshold)
    return factors_by_share(where, image_labels, share, shape, threshold, target_length)


def threshold_for_target_length(
    data: LabelsLike = None,
    *,
    target_length: float,
    power: float = 0.5,
    cap: float | None = None,
    **arrays: npt.ArrayLike,
) -> float:
    """Find the threshold at which the repeat factors sum to a length of the epoch.

    The sum grows with the threshold, from M (nothing repeated) to its value at threshold 1.

    Args:
        data: as for `repeat_factors`.
        target_length: expected images per epoch, >= M.
        power: as for `repeat_factors`.
        cap: as for `repeat_factors`.
        **arrays: as for `repeat_factors`.

    Returns:
        The threshold, in (0, 1]. Where several give the length, the largest of them: for
        `target_length` = M the largest that repeats nothing.

    Raises:
        ValueError: if no threshold gives the length; the message says which lengths can be had.
        TypeError: if labels are not integers.

    Example:
        >>> round(threshold_for_target_length([[1, 2], [1], []], target_length=3.2), 4)
        0.48
    """
    where = "threshold_for_target_length()"
    image_labels = ImageLabels.of(where, data, arrays)
    shape = power_shape(where, power, cap)
    rarest = _rarest_share(image_labels, image_labels.image_share)
    return _threshold_of_length(where, image_labels, rarest, shape, target_length)


def instance_aware_factors(
    data: LabelsLike = None,
    *,
    threshold: float | None = None,
    target_length: float | None = None,
    power: float = 0.5,
    cap: float | None = None,
    mean: Mean = "geometric",
    **arrays: npt.ArrayLike,
) -> Float64:
    """Repeat the images that hold classes with few images or few boxes (IRFS).

    `repeat_factors` with another f: the mean of the share of all M images that show the class and
    of its share of all boxes. A class with few boxes in its images then counts as rarer than one
    that comes in crowds. Shares of boxes are small numbers where there are many classes, so the
    same threshold repeats more than in `repeat_factors`.

    Args:
        data: annotations, `ImageLabels`, or a list with the labels of each image.
        threshold: mean share, in (0, 1]; rarer classes are repeated.
        target_length: instead of the threshold: expected images per epoch, >= M.
        power: above 0; how strongly rarity counts.
        cap: 1 or more, the largest factor that an image can get. None for no limit.
        mean: of both shares. The smaller share counts most in "harmonic", then "geometric",
            "arithmetic", "quadratic".
        **arrays: instead of data: image_index, labels, num_images, is_crowd as of `ImageLabels`.

    Returns:
        float64 [M], >= 1; 1 for images without boxes.

    Raises:
        ValueError: as `repeat_factors`, or if the mean is not one of the four.
        TypeError: if labels are not integers.

    Example:
        >>> instance_aware_factors([[1, 1, 1, 2], [1], []], threshold=0.5).round(2)
        array([1.39, 1.  , 1.  ])

    Source: Yaman et al., 2023, arXiv:2305.08069, section 3. Differs: images without boxes, which
    the paper leaves open, get 1 and count among all images; power (0.5 there) and cap (none) are
    options.
    """
    where = "instance_aware_factors()"
    image_labels = ImageLabels.of(where, data, arrays)
    shape = power_shape(where, power, cap)
    share = _mean_share(where, image_labels, mean)
    note_if_idle(where, image_labels, share, threshold)
    return factors_by_share(where, image_labels, share, shape, threshold, target_length)


def exponential_factors(
    data: LabelsLike = None,
    *,
    threshold: float | None = None,
    target_length: float | None = None,
    alpha: float = 2.0,
    cap: float | None = None,
    **arrays: npt.ArrayLike,
) -> Float64:
    """Repeat images exponentially in the rarity of their classes (E-IRFS).

    A class gets r = exp(alpha * sqrt(threshold / f)) with the geometric f of
    `instance_aware_factors`; an image gets the largest r of its classes. Frequent classes are
    repeated a little too, and rare ones soon very much::

        f / threshold       100       4      1    1/4    1/16
        r, alpha 2         1.22    2.72   7.39   54.6    2981

    so either the threshold is far below the rare shares (the paper has 0.0001) or a cap is needed.

    Args:
        data: annotations, `ImageLabels`, or a list with the labels of each image.
        threshold: mean share, in (0, 1], at which the factor is exp(alpha).
        target_length: instead of the threshold: expected images per epoch, >= M.
        alpha: above 0; how strongly rarity counts.
        cap: 1 or more, the largest factor that an image can get. None for no limit.
        **arrays: instead of data: image_index, labels, num_images, is_crowd as of `ImageLabels`.

    Returns:
        float64 [M], >= 1; 1 for images without boxes, all others are above. The paper draws M
        images with probabilities in proportion to r: multiply by M / factors.sum() for that.

    Raises:
        ValueError: as `repeat_factors`, or if a factor is too large for a number.
        TypeError: if labels are not integers.

    Example:
        >>> exponential_factors([[1, 1, 1, 2], [1], []], threshold=0.01).round(2)
        array([1.48, 1.26, 1.  ])

    Source: Ahmed et al., 2025, arXiv:2503.21893, eq. 3. Differs: images without boxes, which the
    paper leaves open, get 1, and cap is an option. The authors' published code differs from the
    paper and from this: it divides the image counts by their sum over the classes instead of by
    the number of images, starts the box counts at 1, counts a class without images as in 1 image,
    and draws with replacement.
    """
    where = "exponential_factors()"
    image_labels = ImageLabels.of(where, data, arrays)
    check_number(where, "alpha", alpha, above=0, advice="The paper has 2.")
    limit = limit_of(where, cap)

    def shape(rarer: Float64) -> Float64:
        return np.minimum(np.exp(alpha * np.sqrt(rarer)), limit)

    share = _mean_share(where, image_labels, "geometric")
    return factors_by_share(where, image_labels, share, shape, threshold, target_length)


def _mean_share(where: str, image_labels: ImageLabels, mean: Mean) -> Float64:
    """The mean of the share of images and of the share of boxes of each class, [K + 1]."""
    images: Float64 = image_labels.image_share
    boxes: Float64 = image_labels.instance_counts / max(len(image_labels.labels), 1)
    if mean == "geometric":
        return np.sqrt(images * boxes)
    if mean == "harmonic":
        # A class without boxes has the share 0, not 0 / 0.
        total: Float64 = np.maximum(images + boxes, np.finfo(np.float64).tiny)
        return 2.0 * images * boxes / total
    if mean == "arithmetic":
        return (images + boxes) / 2.0
    if mean != "quadratic":
        raise ValueError(
            f'{where}: mean is "{mean}". Expected geometric (as the paper), harmonic, arithmetic or'
            " quadratic."
        )
    return np.sqrt((images**2 + boxes**2) / 2.0)
