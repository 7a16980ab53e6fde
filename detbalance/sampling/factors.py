"""How often each image should be drawn in an epoch: repeat the images that hold rare classes.

A sampling method is a function from the boxes of a training set to one factor per image: the
expected number of times that the image is drawn. Above 1 draws it more often, below 1 less often,
0 never; factors of several methods multiply.

Letters: M images, N boxes, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from detbalance.sampling.labels import Float64, ImageLabels, LabelsLike


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
        target_length: instead of the threshold: expected images per epoch, from which it is found;
            see `threshold_for_target_length`.
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
    which the paper leaves open, get 1; power and cap are 0.5 and none in the paper.
    """
    held = ImageLabels.of("repeat_factors", data, arrays)
    shape = _power_shape("repeat_factors", power, cap)
    return _factors("repeat_factors", held, _image_share(held), shape, threshold, target_length)


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
    where = "threshold_for_target_length"
    held = ImageLabels.of(where, data, arrays)
    shape = _power_shape(where, power, cap)
    return _solved(where, _rarest_share(held, _image_share(held)), shape, target_length)


_Shape = Callable[[Float64], Float64]


def _image_share(held: ImageLabels) -> Float64:
    """The share of all M images that show each class, [K + 1]."""
    return held.image_counts / held.num_images


def _rarest_share(held: ImageLabels, share: Float64) -> Float64:
    """For each image the share of its rarest class, [M]; infinity without boxes."""
    return -held.largest(-share, empty=-np.inf)


def _power_shape(where: str, power: float, cap: float | None) -> _Shape:
    """The factor by how many times rarer than the threshold a class is."""
    _positive(where, "power", power, "0.5 is the paper's")
    limit = _limit(where, cap)

    def shape(rarer: Float64) -> Float64:
        # sqrt is exact to the last bit where a general power is not.
        raised = np.sqrt(rarer) if power == 0.5 else rarer**power
        return np.clip(raised, 1.0, limit)

    return shape


def _factors(
    where: str,
    held: ImageLabels,
    share: Float64,
    shape: _Shape,
    threshold: float | None,
    target_length: float | None,
) -> Float64:
    """Factors of the images from the share of each class, [M]."""
    if (threshold is None) == (target_length is None):
        given = "neither" if threshold is None else "both"
        raise ValueError(
            f"{where}(): {given} of threshold and target_length given. Expected exactly one. "
            "Pass threshold=0.001 (LVIS), or the target_length you want."
        )
    rarest = _rarest_share(held, share)
    if target_length is not None:
        threshold = _solved(where, rarest, shape, target_length)
    assert threshold is not None
    if not 0.0 < threshold <= 1.0:
        raise ValueError(
            f"{where}(): threshold is {threshold}. Expected a share in (0, 1]. Use 0.001 for LVIS, "
            "or pass target_length."
        )
    with np.errstate(over="ignore"):
        factors = shape(threshold / rarest)
    if not np.isfinite(factors).all():
        raise ValueError(
            f"{where}(): {int(np.isinf(factors).sum())} factors are too large for a number at "
            f"threshold {threshold}. Expected finite factors. Pass cap=10, or a lower threshold."
        )
    return factors


def _solved(where: str, rarest: Float64, shape: _Shape, target_length: float) -> float:
    """The largest threshold in (0, 1] whose factors sum to the target length at most."""
    shares, images = np.unique(rarest, return_counts=True)

    def extra(threshold: float) -> float:
        with np.errstate(over="ignore"):
            return float(images @ (shape(threshold / shares) - 1.0))

    lowest, longest = len(rarest), extra(1.0)
    wanted = max(target_length - lowest, 0.0)
    # NaN is refused too.
    if not (target_length >= lowest * (1 - 1e-9) and wanted <= longest + 1e-9 * lowest):
        raise ValueError(
            f"{where}(): target_length is {target_length}. Expected {lowest} (nothing repeated) to "
            f"{lowest + longest:.1f} (threshold 1) for these images. Choose one in between."
        )
    if wanted >= longest:
        return 1.0
    # Halving until no number lies in between: some 60 sums over the different shares, K at most.
    below, above = 0.0, 1.0
    while below < (middle := (below + above) / 2) < above:
        if extra(middle) <= wanted:
            below = middle
        else:
            above = middle
    return below


def _positive(where: str, name: str, value: float, advice: str) -> None:
    if not 0.0 < value < np.inf:
        raise ValueError(
            f"{where}(): {name} is {value}. Expected a finite number above 0. {advice}."
        )


def _limit(where: str, cap: float | None) -> float:
    """The largest factor; infinity for none."""
    if cap is None:
        return np.inf
    if not cap >= 1.0:
        raise ValueError(
            f"{where}(): cap is {cap}. Expected 1 or more, or None for no limit. An image's factor "
            "is 1 at least."
        )
    return cap
