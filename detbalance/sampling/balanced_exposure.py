"""How often each image should be drawn so that an epoch shows the boxes of all classes alike.

Letters: M images, K classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detbalance.sampling.descent import Exposure, descend
from detbalance.sampling.labels import Float64, ImageLabels, LabelsLike
from detbalance.sampling.order import factors_of
from detbalance.sampling.shares import background_share
from detbalance.sampling.thresholds import check_positive

# Updates multiply, so 0 would be for ever: floor 0 stands for this share of the mean factor.
_LEAST = 1e-4


def balanced_exposure_factors(
    data: LabelsLike = None,
    *,
    strength: float = 1.0,
    target: list[float] | None = None,
    target_length: float | None = None,
    cap: float = 10.0,
    floor: float = 0.1,
    background: float | None = None,
    **arrays: npt.ArrayLike,
) -> Float64:
    """Bring the boxes that an epoch really shows of each class close to a target.

    An image is drawn with all its boxes: repeating it for its rare class shows its frequent ones
    once more too. Methods that look at one class at a time leave that out. These factors take it
    into account: of all factors within the limits they are those with the smallest max / min of
    e_c / target_c, to about 1%, where e_c = sum_i factor_i * boxes_ic. A class that the cap holds
    down (one image, drawn `cap` times) does not set the others free: they are brought together too.
    What was reached is told by `class_exposure(data, factors)`, and its max / min by
    `exposure_ratio`.

    An epoch is as long as without factors, unless a target length is given: images that hold only
    frequent classes make room for the others.

    Args:
        data: annotations, `ImageLabels`, or a list with the labels of each image.
        strength: how far to go from the boxes n_c in the data (0) to the target (1), as
            n_c ** (1 - strength) * target_c ** strength. 0.5 is the square root of the imbalance.
        target: [K + 1], the boxes wanted of each class in proportion to each other, above 0 for
            all classes that have a box; index 0 (background) and absent classes are not read. None
            for all classes alike.
        target_length: sum of the factors. None for M.
        cap: largest factor of an image with boxes. Rare images drawn much more often are learnt
            by heart: 10 is what repeat factor sampling gives to a class a hundred times rarer
            than its threshold.
        floor: least factor of an image with boxes. With 0.1, ten epochs still show each image once
            on average; 1 only repeats, and needs a target length above M to do anything; 0 lets
            factors come down to a ten-thousandth of their mean.
        background: share of the draws that goes evenly to the images without boxes, in [0, 1).
            None for their share of the images; 0 never draws them. Cap and floor do not concern
            them.
        **arrays: instead of data: image_index, labels, num_images, is_crowd as of `ImageLabels`.

    Returns:
        float64 [M], sums to the target length. Images with the same boxes get the same factor.

    Raises:
        ValueError: if an option is out of range, the target has not K + 1 entries or one that is
            not above 0, or no factors within the limits sum to the target length; the message says
            which lengths can be had.
        TypeError: if labels are not integers.

    Example:
        Class 2 has 2 boxes and class 1 has 7, 3 of them beside one of class 2:

        >>> images = [[1, 1, 1, 2], [1, 1], [1, 1], [2]]
        >>> factors = balanced_exposure_factors(images)
        >>> factors.round(2)
        array([0.66, 0.34, 0.34, 2.67])
        >>> from detbalance.sampling import class_exposure
        >>> class_exposure(images, factors).round(2)
        array([0.  , 3.33, 3.33])
    """
    where = "balanced_exposure_factors"
    held = ImageLabels.of(where, data, arrays)
    length = float(len(held)) if target_length is None else target_length
    check_positive(where, "target_length", length, "Leave it out for one draw per image.")
    _check_limits(where, cap, floor)
    without = ~held.shows_boxes
    num_without = int(without.sum())
    share = background_share(where, held, background)
    factors = np.full(len(held), length * share / max(num_without, 1))
    relative_target = _target(where, held, strength, target)
    if num_without < len(held):
        factors[~without] = _solved(where, held, relative_target, length, share, cap, floor)
    return factors_of(factors, held.image_ids)


def _solved(
    where: str,
    held: ImageLabels,
    target: Float64,
    length: float,
    background: float,
    cap: float,
    floor: float,
) -> Float64:
    """Factors of the images that have boxes."""
    num_shown = int(np.count_nonzero(held.shows_boxes))
    total = length * (1.0 - background)
    least, most = num_shown * floor, num_shown * cap
    tolerance = 1e-9 * total
    if not least - tolerance <= total <= most + tolerance:
        kept = 1.0 - background
        raise ValueError(
            f"{where}(): target_length is {length:g}. Expected {least / kept:g} to {most / kept:g}:"
            f" {num_shown} images with boxes, each drawn {floor:g} (floor) to {cap:g} (cap) times. "
            "Choose a length in between, or other limits."
        )
    total = float(np.clip(total, least, most))
    mean = total / num_shown
    images, labels, boxes = held.pairs
    # Numbers without gaps, for images and for classes.
    row = np.cumsum(held.shows_boxes) - 1
    column = np.cumsum(held.instance_counts > 0) - 1
    exposure = Exposure(row[images], column[labels], boxes / target[labels], column[-1] + 1)
    return descend(exposure, total, floor=max(floor, _LEAST * mean), cap=cap)


def _target(where: str, held: ImageLabels, strength: float, target: list[float] | None) -> Float64:
    """Boxes wanted of each class in proportion to each other, [K + 1]."""
    if not 0.0 <= strength <= 1.0:
        raise ValueError(
            f"{where}(): strength is {strength}. Expected 0 (classes as they are in the data) to 1 "
            "(as in the target). Pass 0.5 for half the way."
        )
    wanted = np.ones(held.num_classes)
    if target is not None:
        wanted = np.asarray(target, dtype=np.float64)
        if wanted.shape != (held.num_classes,):
            raise ValueError(
                f"{where}(): target has the shape {wanted.shape}. Expected {held.num_classes} "
                "numbers: background, which is not read, then each class by label. Pass None for "
                "all classes alike."
            )
    present = held.instance_counts > 0
    bad = np.flatnonzero(present & ~((wanted > 0) & np.isfinite(wanted)))
    if len(bad):
        raise ValueError(
            f"{where}(): target of {len(bad)} classes that have boxes cannot be met (first: "
            f"target[{bad[0]}] is {wanted[bad[0]]}). Expected finite numbers above 0. Pass a small "
            "one for a class that matters little."
        )
    counts = held.instance_counts
    # Only proportions count; the largest is 1, so that no number overflows.
    wanted = np.where(present, wanted, 0.0)
    relative: Float64 = (counts / counts.max(initial=1)) ** (1.0 - strength)
    relative *= (wanted / wanted.max(initial=1e-300)) ** strength
    return relative


def _check_limits(where: str, cap: float, floor: float) -> None:
    if not 0.0 < cap < np.inf:
        raise ValueError(
            f"{where}(): cap is {cap}. Expected a finite number above 0, the largest factor. "
            "Pass 10."
        )
    if not 0.0 <= floor <= cap:
        raise ValueError(
            f"{where}(): floor is {floor}. Expected 0 to {cap:g} (cap), the least factor. Pass 0.1."
        )
