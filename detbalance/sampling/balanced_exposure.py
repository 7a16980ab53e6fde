"""How often each image should be drawn so that an epoch shows the boxes of all classes alike.

Letters: M images, K classes; in the solver M images that have a box, P pairs of an image and a
class that it shows, C classes that have a box, u[C] the boxes that an epoch shows of each class
divided by the target.

What is minimised is max(u) / min(u), made smooth: the ratio of two power means, M_p(u) / M_-p(u),
with p growing from stage to stage. A convex function of the factors over a positive concave one
has no local minimum but the global one, so plain descent is enough. The steps multiply the factors
instead of adding to them (mirror descent with the entropy): they keep them above 0, they stay as
near to equal factors as the target allows, and their projection is one number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Float64
from detbalance.data.checks import check_number
from detbalance.sampling.balance import background_share
from detbalance.sampling.image_order import factors_of
from detbalance.sampling.labels import ImageLabels, LabelsLike


def class_exposure(
    data: LabelsLike = None, factors: npt.ArrayLike | None = None, **arrays: npt.ArrayLike
) -> Float64:
    """Count the boxes of each class that an epoch shows, in expectation.

    Drawing an image for the sake of its rare box shows its frequent boxes once more too; this
    count has them all.

    Args:
        data: annotations, `ImageLabels`, or a list with the labels of each image.
        factors: [M], expected draws of each image; None for one draw of each.
        **arrays: instead of data: image_index, labels, num_images, is_crowd as of `ImageLabels`.

    Returns:
        float64 [K + 1], expected boxes per epoch, NaN for classes without a box in the data;
        index 0 holds the draws of images without boxes.

    Raises:
        ValueError: if there is not one factor per image, or the labels are not as described.
        TypeError: if labels are not integers.

    Example:
        >>> class_exposure([[1, 1, 2], [1], []], [3.0, 1.0, 0.5])
        array([0.5, 7. , 3. ])
    """
    image_labels = ImageLabels.of("class_exposure()", data, arrays)
    drawn = np.ones(len(image_labels)) if factors is None else np.asarray(factors, dtype=np.float64)
    if drawn.shape != (len(image_labels),):
        raise ValueError(
            f"class_exposure(): factors have the shape {drawn.shape} for {len(image_labels)}"
            " images. Expected one factor per image."
        )
    shown = np.bincount(
        image_labels.labels,
        weights=drawn[image_labels.image_index],
        minlength=image_labels.num_classes,
    ).astype(np.float64)
    shown[image_labels.instance_counts == 0] = np.nan
    shown[0] = drawn[~image_labels.shows_boxes].sum()
    return shown


def exposure_ratio(exposure: npt.ArrayLike) -> float:
    """Divide the boxes of the most shown class by those of the least shown one.

    Args:
        exposure: [K + 1] from `class_exposure`; index 0 and classes that are not in the data (NaN)
            are left out. A class that is in the data but never drawn makes the ratio infinite.

    Returns:
        1 or more; NaN without classes.

    Example:
        >>> exposure_ratio([7.0, 10.0, 2.5])
        4.0
    """
    classes = np.asarray(exposure, dtype=np.float64)[1:]
    classes = classes[~np.isnan(classes)]
    if not len(classes):
        return float("nan")
    if not classes.min() > 0:
        return float("inf")
    return float(classes.max() / classes.min())


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
    where = "balanced_exposure_factors()"
    image_labels = ImageLabels.of(where, data, arrays)
    length = float(len(image_labels)) if target_length is None else target_length
    advice = "Leave it out for one draw per image."
    check_number(where, "target_length", length, above=0, advice=advice)
    check_number(where, "cap", cap, above=0, advice="It is the largest factor; usual is 10.")
    check_number(where, "floor", floor, least=0, most=cap, advice="It is the least factor.")
    without = ~image_labels.shows_boxes
    num_without = int(without.sum())
    share = background_share(where, image_labels, background)
    factors = np.full(len(image_labels), length * share / max(num_without, 1))
    relative_target = _target(where, image_labels, strength, target)
    if num_without < len(image_labels):
        factors[~without] = _solved(where, image_labels, relative_target, length, share, cap, floor)
    return factors_of(factors, image_labels.image_ids)


def _solved(
    where: str,
    image_labels: ImageLabels,
    target: Float64,
    length: float,
    background: float,
    cap: float,
    floor: float,
) -> Float64:
    """Factors of the images that have boxes."""
    num_shown = int(np.count_nonzero(image_labels.shows_boxes))
    total = length * (1.0 - background)
    least, most = num_shown * floor, num_shown * cap
    tolerance = 1e-9 * total
    if not least - tolerance <= total <= most + tolerance:
        kept = 1.0 - background
        raise ValueError(
            f"{where}: target_length is {length:g}. Expected {least / kept:g} to {most / kept:g}:"
            f" {num_shown} images with boxes, each drawn {floor:g} (floor) to {cap:g} (cap) times."
        )
    total = float(np.clip(total, least, most))
    mean = total / num_shown
    images, labels, boxes = image_labels.pairs
    # Numbers without gaps, for images and for classes.
    row = np.cumsum(image_labels.shows_boxes) - 1
    column = np.cumsum(image_labels.instance_counts > 0) - 1
    exposure = Exposure(row[images], column[labels], boxes / target[labels], column[-1] + 1)
    return descend(exposure, total, floor=max(floor, _LEAST * mean), cap=cap)


def _target(
    where: str, image_labels: ImageLabels, strength: float, target: list[float] | None
) -> Float64:
    """Boxes wanted of each class in proportion to each other, [K + 1]."""
    advice = "0 leaves the classes as in the data, 1 is the target."
    check_number(where, "strength", strength, least=0, most=1, advice=advice)
    counts = image_labels.instance_counts
    boxes = np.ones(len(counts)) if target is None else np.asarray(target, dtype=np.float64)
    if boxes.shape != counts.shape:
        raise ValueError(
            f"{where}: target has the shape {boxes.shape}. Expected {len(counts)} numbers:"
            " background, which is not read, then each class by label."
        )
    bad = np.flatnonzero((counts > 0) & ~((boxes > 0) & np.isfinite(boxes)))
    if len(bad):
        raise ValueError(
            f"{where}: target of {len(bad)} classes that have boxes cannot be met (first:"
            f" target[{bad[0]}] is {boxes[bad[0]]}). Expected finite numbers above 0. Pass a small"
            " one for a class that matters little."
        )
    # Only proportions count; the largest is 1, so that no number overflows.
    boxes = np.where(counts > 0, boxes, 0.0)
    relative: Float64 = (counts / counts.max(initial=1)) ** (1.0 - strength)
    relative *= (boxes / boxes.max(initial=1e-300)) ** strength
    return relative
