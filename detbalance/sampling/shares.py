"""How often each image should be drawn so that backgrounds or data sets get a share of the draws.

Factors as in `detbalance.sampling.factors`: expected draws of each image in an epoch, which
multiply.

Letters: M images, D data sets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detbalance.sampling.labels import Float64, ImageLabels, LabelsLike
from detbalance.sampling.order import factors_of
from detbalance.sampling.thresholds import check_positive


def background_factors(
    data: LabelsLike = None,
    *,
    share: float,
    factors: npt.ArrayLike | None = None,
    **arrays: npt.ArrayLike,
) -> Float64:
    """Draw the images without boxes, crowd boxes not counted, as a share of all draws.

    They get one factor, all other images 1. Factors of other methods move the share, so give them
    here before multiplying.

    Args:
        data: annotations, `ImageLabels`, or a list with the labels of each image.
        share: of the draws, in [0, 1); 0 never draws them.
        factors: [M], >= 0, that the result will be multiplied with; None for 1 each.
        **arrays: instead of data: image_index, labels, num_images, is_crowd as of `ImageLabels`.

    Returns:
        float64 [M], to be multiplied with `factors`; the product has the share.

    Raises:
        ValueError: if the share is out of range, all images have boxes and the share is not 0, none
            has, or there is not one factor per image.
        TypeError: if labels are not integers.

    Example:
        >>> background_factors([[1], [1], [], [], [], []], share=0.2)
        array([1.   , 1.   , 0.125, 0.125, 0.125, 0.125])
        >>> background_factors([[1], [1], []], share=0.2, factors=[3.0, 1.0, 1.0])
        array([1., 1., 1.])
    """
    where = "background_factors"
    held = ImageLabels.of(where, data, arrays)
    others = np.ones(len(held)) if factors is None else np.asarray(factors, dtype=np.float64)
    _check_factors(where, "factors", others, len(held))
    # Where no draw is left a share cannot be had either.
    without = ~held.shows_boxes
    shown, hidden = float(others[~without].sum()), float(others[without].sum())
    check_background(where, "share", share, hidden, shown)
    result = np.ones(len(held))
    if hidden:
        result[without] = share / (1.0 - share) * shown / hidden
    return factors_of(result, held.image_ids)


def dataset_factors(
    lengths: Sequence[int],
    shares: Sequence[float],
    *,
    factors: Sequence[npt.ArrayLike] | None = None,
    target_length: float | None = None,
) -> Float64:
    """Draw several data sets, one after the other in one index, with given shares.

    The order is that of `torch.utils.data.ConcatDataset`. To balance classes over all sets instead,
    give a factor function `ImageLabels.concatenate([...])`; to do both, give the parts of that as
    `factors`.

    Args:
        lengths: images of each of D data sets.
        shares: of the draws, [D], >= 0, in proportion: [3, 1] is [0.75, 0.25].
        factors: D arrays of factors, to be scaled. None for equal ones within each set.
        target_length: sum of the result, above 0. None for the sum of `factors`, or of `lengths`.

    Returns:
        float64 [sum of lengths].

    Raises:
        ValueError: if numbers do not fit each other or are out of range, or a set with a share has
            no image to draw.

    Example:
        >>> dataset_factors([4, 2], [0.5, 0.5])
        array([0.75, 0.75, 0.75, 0.75, 1.5 , 1.5 ])
        >>> from detbalance.sampling import repeat_factors
        >>> sets = [[[1], [1, 2]], [[1], [1], []]]
        >>> rare = repeat_factors(ImageLabels.concatenate(sets), threshold=0.4, power=1)
        >>> dataset_factors([2, 3], [1, 2], factors=np.split(rare, [2]), target_length=9)
        array([1., 2., 2., 2., 2.])
    """
    where = "dataset_factors"
    weights = np.asarray(shares, dtype=np.float64)
    if not (len(lengths) == len(weights) and (factors is None or len(factors) == len(weights))):
        raise ValueError(
            f"{where}(): {len(lengths)} lengths, {len(weights)} shares"
            + (f", {len(factors)} factors" if factors is not None else "")
            + ". Expected one of each per data set. Pass lists of one length."
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(
            f"{where}(): shares are {weights.tolist()}. Expected numbers >= 0, one of them above "
            "0. Pass the share of the draws of each data set."
        )
    parts = []
    for index, length in enumerate(lengths):
        part = np.ones(length) if factors is None else np.asarray(factors[index], dtype=np.float64)
        _check_factors(where, f"factors[{index}]", part, length)
        if weights[index] and not part.any():
            raise ValueError(
                f"{where}(): data set {index} has the share {weights[index]} but no image to draw. "
                "Expected images with factors above 0. Set its share to 0."
            )
        parts.append(part)
    total = sum(float(part.sum()) for part in parts) if target_length is None else target_length
    check_positive(where, "target_length", total, "Leave it out for the sum of the factors.")
    draws = total * weights / weights.sum()
    return np.concatenate(
        [part * (draw / (part.sum() or 1.0)) for part, draw in zip(parts, draws, strict=True)]
    )


def background_share(where: str, held: ImageLabels, asked: float | None) -> float:
    """Give the share of the draws that images without boxes get."""
    shown = int(np.count_nonzero(held.shows_boxes))
    without = len(held) - shown
    if asked is None:
        return without / len(held)
    check_background(where, "background", asked, without, shown)
    return asked


def check_background(where: str, name: str, share: float, without: float, shown: float) -> None:
    """Check that images without boxes can have the share; both kinds by number or by draws."""
    if not 0.0 <= share < 1.0:
        raise ValueError(
            f"{where}(): {name} is {share}. Expected a share of the draws in [0, 1). Pass 0.1 for "
            "one in ten."
        )
    if share > 0 and not without > 0:
        raise ValueError(
            f"{where}(): {name} is {share}, but no image without boxes can be drawn. Expected such "
            "images, or 0. Add some to the data, or pass 0."
        )
    if not shown > 0:
        raise ValueError(
            f"{where}(): {name} is {share}, but no image with boxes can be drawn. Expected some. "
            "Check that the labels arrived."
        )


def _check_factors(where: str, name: str, factors: Float64, length: int) -> None:
    if factors.shape != (length,):
        raise ValueError(
            f"{where}(): {name} has the shape {factors.shape} for {length} images. Expected one "
            "factor per image. Build them from the same data."
        )
    if not (np.isfinite(factors).all() and (factors >= 0).all()):
        raise ValueError(
            f"{where}(): {name} go from {factors.min()} to {factors.max()}. Expected finite "
            "numbers >= 0. Build them with a factor function."
        )
