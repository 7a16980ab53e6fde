"""How often each image should be drawn so that all classes are drawn alike.

Factors as in `detbalance.sampling.factors`: expected draws of each image in an epoch, which
multiply.

Letters: M images, K classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detbalance.sampling.labels import Float64, ImageLabels, LabelsLike
from detbalance.sampling.order import factors_of
from detbalance.sampling.shares import background_share
from detbalance.sampling.thresholds import (
    check_positive,
    factors_by_share,
    image_share,
    power_shape,
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
    where = "class_aware_factors"
    held = ImageLabels.of(where, data, arrays)
    length = float(len(held)) if target_length is None else target_length
    check_positive(where, "target_length", length, "Leave it out for one draw per image.")
    without = ~held.shows_boxes
    num_without = int(without.sum())
    share = background_share(where, held, background)
    counts = held.image_counts
    num_shown = max(int(np.count_nonzero(counts)), 1)
    draws = length * (1.0 - share) / num_shown / np.maximum(counts, 1).astype(np.float64)
    images, labels, _ = held.pairs
    factors = np.bincount(images, weights=draws[labels], minlength=len(held)).astype(np.float64)
    factors[without] = length * share / max(num_without, 1)
    return factors_of(factors, held.image_ids)


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
    where = "oversampling_factors"
    held = ImageLabels.of(where, data, arrays)
    if not 0.0 < ratio <= 1.0:
        raise ValueError(
            f"{where}(): ratio is {ratio}. Expected a share of the largest class in (0, 1]. Pass "
            "0.5 for half as many images."
        )
    # Where nothing is shown any threshold will do.
    threshold = ratio * int(held.image_counts.max(initial=0)) / len(held) or 1.0
    shape = power_shape(where, 1.0, cap)
    return factors_by_share(where, held, image_share(held), shape, threshold, None)


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
    where = "undersampling_factors"
    held = ImageLabels.of(where, data, arrays)
    if not power > 0.0:
        raise ValueError(f"{where}(): power is {power}. Expected a number above 0. 1 is linear.")
    if np.isinf(power) and target_length is not None:
        raise ValueError(
            f"{where}(): target_length is {target_length}, but an infinite power has no lengths in "
            "between. Expected a threshold. Pass it instead, or a finite power."
        )
    if not 0.0 <= floor <= 1.0:
        raise ValueError(
            f"{where}(): floor is {floor}. Expected a factor in [0, 1]. 0 is no floor."
        )

    def shape(rarer: Float64) -> Float64:
        return np.clip(rarer**power, floor, 1.0)

    factors = factors_by_share(where, held, image_share(held), shape, threshold, target_length)
    if not factors.any():
        raise ValueError(
            f"{where}(): all images hold only classes above the threshold {threshold}. Expected "
            "one image to keep. Choose a larger threshold or a floor above 0."
        )
    return factors
