"""Factors that balance classes, backgrounds or data sets.

Factors as in `repeat_factors.py`: expected draws of each image in an epoch, which multiply.

Letters: M images, K classes, D data sets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Float64
from detbalance.data.checks import check_number
from detbalance.sampling.image_order import factors_of
from detbalance.sampling.labels import ImageLabels, LabelsLike
from detbalance.sampling.repeat_factors import factors_by_share, power_shape


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
    where = "background_factors()"
    image_labels = ImageLabels.of(where, data, arrays)
    others = (
        np.ones(len(image_labels)) if factors is None else np.asarray(factors, dtype=np.float64)
    )
    _check_factors(where, "factors", others, len(image_labels))
    # Where no draw is left a share cannot be had either.
    without = ~image_labels.shows_boxes
    shown, hidden = float(others[~without].sum()), float(others[without].sum())
    _check_background(where, "share", share, hidden, shown)
    result = np.ones(len(image_labels))
    if hidden:
        result[without] = share / (1.0 - share) * shown / hidden
    return factors_of(result, image_labels.image_ids)


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
    where = "dataset_factors()"
    weights = np.asarray(shares, dtype=np.float64)
    if not (len(lengths) == len(weights) and (factors is None or len(factors) == len(weights))):
        raise ValueError(
            f"{where}: {len(lengths)} lengths, {len(weights)} shares"
            + (f", {len(factors)} factors" if factors is not None else "")
            + ". Expected one of each per data set."
        )
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(
            f"{where}: shares are {weights.tolist()}. Expected numbers >= 0, one of them above 0."
        )
    parts = []
    for index, length in enumerate(lengths):
        part = np.ones(length) if factors is None else np.asarray(factors[index], dtype=np.float64)
        _check_factors(where, f"factors[{index}]", part, length)
        if weights[index] and not part.any():
            raise ValueError(
                f"{where}: data set {index} has the share {weights[index]} but no image to draw."
                " Expected images with factors above 0. Set its share to 0."
            )
        parts.append(part)
    total = sum(float(part.sum()) for part in parts) if target_length is None else target_length
    advice = "Leave it out for the sum of the factors."
    check_number(where, "target_length", total, above=0, advice=advice)
    draws = total * weights / weights.sum()
    return np.concatenate(
        [part * (draw / (part.sum() or 1.0)) for part, draw in zip(parts, draws, strict=True)]
    )


def background_share(where: str, image_labels: ImageLabels, share: float | None) -> float:
    """Give the share of the draws that images without boxes get; None for that of the images."""
    shown = int(np.count_nonzero(image_labels.shows_boxes))
    without = len(image_labels) - shown
    if share is None:
        return without / len(image_labels)
    _check_background(where, "background", share, without, shown)
    return share


def _check_background(where: str, name: str, share: float, without: float, shown: float) -> None:
    """Check that images without boxes can have the share; both kinds by number or by draws."""
    check_number(where, name, share, least=0, below=1, advice="0.1 is one draw in ten.")
    if share > 0 and not without > 0:
        raise ValueError(
            f"{where}: {name} is {share}, but no image without boxes can be drawn. Expected such"
            " images, or 0."
        )
    if not shown > 0:
        raise ValueError(
            f"{where}: {name} is {share}, but no image with boxes can be drawn. Expected some."
            " Check that the labels arrived."
        )


def _check_factors(where: str, name: str, factors: Float64, length: int) -> None:
    if factors.shape != (length,):
        raise ValueError(
            f"{where}: {name} has the shape {factors.shape} for {length} images. Expected one"
            " factor per image."
        )
    if not (np.isfinite(factors).all() and (factors >= 0).all()):
        raise ValueError(
            f"{where}: {name} go from {factors.min()} to {factors.max()}. Expected finite numbers"
            " >= 0. Build them with a factor function."
        )


def class_aware_factors(
    data: LabelsLike = None,
    *,
    target_length: float | None = None,
    background: float | None = None,
    **arrays: npt.ArrayLike,
) -> Float64:
    """Draw each class equally often, and of each class each of its images equally often.

    The expected draws of class-aware sampling: a class is chosen among those that have boxes, then
    an image among those that show it. An image with a class of n images, and no other, gets 1 / n
    of the class's draws; factors below 1 are usual, and the largest one is that of the rarest
    class: look at it before long training on few images.

    Args:
        data: annotations, `ImageLabels`, or a list with the labels of each image.
        target_length: sum of the factors, above 0. None for M.
        background: share of the draws that goes evenly to the images without boxes, in [0, 1).
            None for their share of the images; 0 never draws them.
        **arrays: instead of data: image_index, labels, num_images, is_crowd as of `ImageLabels`.

    Returns:
        float64 [M], sums to the target length.

    Raises:
        ValueError: if an option is out of range, or a background share is given where all images
            or none have boxes.
        TypeError: if labels are not integers.

    Example:
        >>> class_aware_factors([[1, 2], [1, 1], [1], []])
        array([2. , 0.5, 0.5, 1. ])

    Source: Shen et al., Relay Backpropagation, 2016, arXiv:1512.05830, "class-aware sampling".
    Differs: an image may show several classes, and images without boxes are kept.
    """
    where = "class_aware_factors()"
    image_labels = ImageLabels.of(where, data, arrays)
    length = float(len(image_labels)) if target_length is None else target_length
    advice = "Leave it out for one draw per image."
    check_number(where, "target_length", length, above=0, advice=advice)
    without = ~image_labels.shows_boxes
    num_without = int(without.sum())
    share = background_share(where, image_labels, background)
    counts = image_labels.image_counts
    num_shown = max(int(np.count_nonzero(counts)), 1)
    draws = length * (1.0 - share) / num_shown / np.maximum(counts, 1).astype(np.float64)
    images, labels, _ = image_labels.pairs
    factors = np.bincount(images, weights=draws[labels], minlength=len(image_labels)).astype(
        np.float64
    )
    factors[without] = length * share / max(num_without, 1)
    return factors_of(factors, image_labels.image_ids)


def oversampling_factors(
    data: LabelsLike = None,
    *,
    ratio: float = 1.0,
    cap: float | None = None,
    **arrays: npt.ArrayLike,
) -> Float64:
    """Repeat images until every class has a share of the images of the largest class.

    A class in n images gets r = max(1, ratio * n_largest / n), and an image the largest r of its
    classes: random over-sampling, where a picture may hold several classes. Each class is then
    drawn in `ratio` * n_largest images at least, unless the cap is lower than what that takes.

    Args:
        data: annotations, `ImageLabels`, or a list with the labels of each image.
        ratio: of the image count of the largest class, in (0, 1]; 1 for all classes alike.
        cap: 1 or more, the largest factor that an image can get. None for no limit.
        **arrays: instead of data: image_index, labels, num_images, is_crowd as of `ImageLabels`.

    Returns:
        float64 [M], >= 1; 1 for images without boxes.

    Raises:
        ValueError: if an option is out of range.
        TypeError: if labels are not integers.

    Example:
        >>> oversampling_factors([[1], [1], [1], [1], [2], []], ratio=0.5)
        array([1., 1., 1., 1., 2., 1.])
    """
    where = "oversampling_factors()"
    image_labels = ImageLabels.of(where, data, arrays)
    advice = "0.5 is half as many images as the largest class has."
    check_number(where, "ratio", ratio, above=0, most=1, advice=advice)
    # Where nothing is shown any threshold will do.
    threshold = ratio * int(image_labels.image_counts.max(initial=0)) / len(image_labels) or 1.0
    shape = power_shape(where, 1.0, cap)
    return factors_by_share(where, image_labels, image_labels.image_share, shape, threshold, None)


def undersampling_factors(
    data: LabelsLike = None,
    *,
    threshold: float | None = None,
    target_length: float | None = None,
    power: float = 1.0,
    floor: float = 0.0,
    **arrays: npt.ArrayLike,
) -> Float64:
    """Draw the images less often that hold frequent classes only.

    A class that is in the share f of all M images gets min(1, (threshold / f) ** power), and an
    image the largest of its classes: one class at or below the threshold keeps the image at 1.
    Images without boxes keep 1 too.

    Args:
        data: annotations, `ImageLabels`, or a list with the labels of each image.
        threshold: share of the images, in (0, 1]; images that hold only classes of a larger share
            are drawn less.
        target_length: instead of the threshold: expected images per epoch, <= M.
        power: above 0; how strongly frequency counts. Infinity drops the images to the floor at
            once: with the floor 0 they are never drawn, and a class that is in no other image is
            gone.
        floor: smallest factor that an image can get, in [0, 1].
        **arrays: instead of data: image_index, labels, num_images, is_crowd as of `ImageLabels`.

    Returns:
        float64 [M], floor to 1.

    Raises:
        ValueError: if arguments are missing, given twice or out of range, if no threshold gives
            the target length, or if no image would be left.
        TypeError: if labels are not integers.

    Example:
        >>> undersampling_factors([[1], [1], [1, 2], []], threshold=0.25).round(2)
        array([0.33, 0.33, 1.  , 1.  ])
        >>> undersampling_factors([[1], [1], [1, 2], []], threshold=0.25, power=float("inf"))
        array([0., 0., 1., 1.])
    """
    where = "undersampling_factors()"
    image_labels = ImageLabels.of(where, data, arrays)
    if power != np.inf:
        check_number(where, "power", power, above=0, advice="1 is linear, inf drops images.")
    elif target_length is not None:
        raise ValueError(
            f"{where}: target_length is {target_length}, but an infinite power has no lengths in"
            " between. Expected a threshold, or a finite power."
        )
    check_number(where, "floor", floor, least=0, most=1, advice="0 is no floor.")

    def shape(rarer: Float64) -> Float64:
        return np.clip(rarer**power, floor, 1.0)

    factors = factors_by_share(
        where, image_labels, image_labels.image_share, shape, threshold, target_length
    )
    if not factors.any():
        raise ValueError(
            f"{where}: all images hold only classes above the threshold {threshold}. Expected one"
            " image to keep. Choose a larger threshold or a floor above 0."
        )
    return factors
