"""From draws of images to variances and intervals, and how many boxes a recall rests on.

Letters: B draws, K categories.

The percentiles of the draws are no use for few boxes: all found once means all found in every draw.
Simulated (`python tools/benchmark.py coverage`), nominal 95 % of them hold the true recall of a
class of 10 boxes in 52 to 92 % of cases, and the intervals made here in 96 to 99 %.

Arrays have length K + 1, index 0 is background.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Float32, Float64, Int64
from detbalance.data.intervals import boxes_for_half_width, wilson_interval
from detbalance.evaluation.matching import Matches


def class_variance(
    values: Float32 | Float64, estimate: Float64, boxes: Float64, images: Float64
) -> BootstrapVariance:
    """BootstrapVariance of a figure of each class over the draws."""
    mean, variance = moments(values)
    # One image says nothing of how images differ: at least half a degree of freedom is taken.
    degrees = np.maximum(images - 1, 0.5)
    return BootstrapVariance(estimate, mean, variance * (degrees + 1) / degrees, boxes, degrees)


def group_variance(
    values: Float32 | Float64, single: BootstrapVariance, group_of_class: npt.ArrayLike, size: int
) -> BootstrapVariance:
    """BootstrapVariance of the mean of each group over the draws."""
    groups = np.where(np.isnan(single.estimate), -1, np.asarray(group_of_class))
    mean, raw = moments(group_means(values, groups, size))

    def summed(values: Float64) -> Float64:
        return np.bincount(groups[groups >= 0], values[groups >= 0], size).astype(np.float64)

    # The classes' own variances say by how much images are too few, and how well that is known.
    total, uncorrected = summed(single.variance), summed(moments(values)[1])
    square = summed(single.variance**2 / single.degrees)
    factor, degrees = np.ones(size), np.maximum(summed(single.degrees), 0.5)
    np.divide(total, uncorrected, out=factor, where=uncorrected > 0)
    np.divide(total**2, square, out=degrees, where=square > 0)
    number = summed(np.ones(len(groups)))
    return BootstrapVariance(
        group_means(single.estimate, groups, size),
        mean,
        raw * factor,
        number**2 / np.maximum(summed(1 / np.maximum(single.boxes, 1)), 1e-9),
        degrees,
    )


def moments(values: Float32 | Float64) -> tuple[Float64, Float64]:
    """Mean and variance over the draws."""
    mean, variance = np.full(values.shape[1], np.nan), np.zeros(values.shape[1])
    known = np.flatnonzero(~np.isnan(values).all(axis=0))  # of very many classes maybe a few
    own = values[:, known]
    mean[known], number = defined_mean(own)
    squares = (np.where(np.isnan(own), 0.0, own - mean[known]) ** 2).sum(axis=0)
    variance[known] = squares / np.maximum(number - 1, 1)
    return mean, variance


def defined_mean(values: Float32 | Float64) -> tuple[Float64, npt.NDArray[np.int64]]:
    """Mean over the first axis, over what is not NaN."""
    defined = ~np.isnan(values)
    number = defined.sum(axis=0)
    mean = np.full(values.shape[1:], np.nan)
    total = np.where(defined, values, 0).sum(axis=0, dtype=np.float64)
    np.divide(total, number, out=mean, where=number > 0)
    return mean, number


def group_means(values: Float32 | Float64, groups: npt.NDArray[np.integer], size: int) -> Float64:
    """Means over the defined classes of each group."""
    result = np.full((*values.shape[:-1], size), np.nan)
    for group in range(size):
        chosen = values[..., groups == group].astype(np.float64)
        defined = ~np.isnan(chosen)
        number = defined.sum(axis=-1)
        total = np.where(defined, chosen, 0.0).sum(axis=-1)
        np.divide(total, number, out=result[..., group], where=number > 0)
    return result


# Which form the interval of a figure has: the options of `interval`.
FORMS = {
    "AP": {"counts_boxes": False, "envelope": True},
    "AP50": {"counts_boxes": True, "envelope": True},
    "AR": {"counts_boxes": False, "envelope": False},
    "recall": {"counts_boxes": True, "envelope": False},
    "precision": {"counts_boxes": True, "envelope": False},
}


@dataclass(frozen=True, eq=False)
class BootstrapVariance:
    """What the draws say of some figures; arrays of one length."""

    estimate: Float64
    mean: Float64
    variance: Float64
    boxes: Float64
    degrees: Float64


def interval(
    spread: BootstrapVariance, *, confidence: float = 0.95, counts_boxes: bool, envelope: bool
) -> tuple[Float64, Float64]:
    """Set Wilson's interval with the number of boxes that would vary as the draws do.

    Source: Wilson, JASA 22, 1927; effective sample sizes as for surveys: Korn and Graubard,
    Confidence intervals for proportions with small expected number of positive counts estimated
    from survey data, Survey Methodology 24, 1998. Differs: the variance is the bootstrap's, its
    bias is taken off, and the interval holds the estimate.
    """
    known = ~np.isnan(spread.estimate) & (spread.boxes > 0)
    estimate = np.where(known, spread.estimate, 0.0)
    boxes = np.where(known, spread.boxes, 0.0)
    mean = np.where(known & ~np.isnan(spread.mean), spread.mean, estimate)
    center = np.clip(estimate - (2 if envelope else 1) * (mean - estimate), 0.0, 1.0)
    share = center * (1 - center)
    size = boxes.copy()
    np.divide(share, spread.variance, out=size, where=(spread.variance > 0) & (share > 0))
    normal = NormalDist().inv_cdf((1 + confidence) / 2)
    student = student_quantile((1 + confidence) / 2, spread.degrees)
    if counts_boxes:
        clustered = 1 - np.minimum(size / np.maximum(boxes, 1), 1)
        student = normal + (student - normal) * clustered
        size = np.minimum(size, boxes)
    # Wilson's ends depend on size / quantile^2 alone.
    size = np.where(known, size * (normal / student) ** 2, 0.0)
    low, high = wilson_interval(center * size, size, confidence=confidence)
    return np.minimum(low, spread.estimate), np.maximum(high, spread.estimate)


def student_quantile(probability: float, degrees: Float64) -> Float64:
    """Quantile of Student's t distribution.

    Source: Hill, Algorithm 396: Student's t-quantiles, Communications of the ACM 13, 1970.
    """
    tails = 2 * (1 - probability)
    n = np.clip(degrees, 2.0, 1e9)
    a = 1 / (n - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * np.sqrt(a * np.pi / 2) * n
    y = (d * tails) ** (2 / n)
    # Near the middle from the normal quantile, far out from the first terms of the tail.
    x = NormalDist().inv_cdf(1 - probability)
    near = c + np.where(n < 5, 0.3 * (n - 4.5) * (x + 0.6), 0.0)
    near = (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b + near
    square = x * x
    middle = (
        ((((0.4 * square + 6.3) * square + 36) * square + 94.5) / near - square - 3) / b + 1
    ) * x
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        middle = np.expm1(a * middle**2)
        tail = 1 / (((n + 6) / (n * y) - 0.089 * d - 0.822) * (n + 2) * 3) + 0.5 / (n + 4)
        tail = (tail * y - 1) * (n + 1) / (n + 2) + 1 / y
    result = np.sqrt(n * np.where(y > 0.05 + a, middle, tail))
    # Two degrees have a closed form, which the terms above miss by more.
    exact = np.sqrt(max(2 / (tails * (2 - tails)) - 2, 0.0))
    return np.asarray(np.where(n == 2, exact, result))


# Below this it says more of how few images there are than of the boxes on them.
_LEAST_EFFECT = 0.1


def recall_design_effect(matches: Matches, score_threshold: float, *, iou: float = 0.5) -> Float64:
    """How many times the variance of recall is as large as if each box had its own fate.

    Source: Kish, Survey Sampling, 1965, section 5.4; the variance of a ratio in section 6.3.
    """
    truth, t = matches.annotations, matches.at(iou)
    num_images, num_classes = truth.num_images, len(matches.num_positive)
    shown = matches.is_true_positive[:, t] & (matches.predictions.scores >= score_threshold)
    found = np.zeros(len(matches.positive), dtype=np.bool_)
    found[matches.annotation[shown, t]] = True
    rows = np.flatnonzero(matches.positive)
    pairs, place = np.unique(
        truth.labels[rows] * num_images + truth.image_index[rows], return_inverse=True
    )
    boxes, hits = np.bincount(place), np.bincount(place, found[rows])
    label = pairs // max(num_images, 1)
    total, images = matches.num_positive, np.bincount(label, minlength=num_classes)
    recall = np.bincount(label, hits, num_classes) / np.maximum(total, 1)
    squares = np.bincount(label, (hits - recall[label] * boxes) ** 2, num_classes)
    of_boxes = recall * (1 - recall) * total
    # The powers of N that both variances share are left out.
    result = np.full(num_classes, np.nan)
    known = (images > 1) & (of_boxes > 0)
    correction = images[known] / (images[known] - 1)
    result[known] = np.maximum(correction * squares[known] / of_boxes[known], _LEAST_EFFECT)
    return result


def more_boxes(
    recall: npt.ArrayLike,
    num_boxes: npt.ArrayLike,
    *,
    half_width: float = 0.05,
    design_effect: npt.ArrayLike = 1.0,
    confidence: float = 0.95,
) -> Int64:
    """How many boxes are missing until a recall is known to +- so much.

    Source: Wilson, JASA 22, 1927, his width solved for the number, times the design effect.
    """
    share, boxes, effect = np.broadcast_arrays(
        np.asarray(recall, np.float64),
        np.asarray(num_boxes, np.float64),
        np.fmax(np.asarray(design_effect, np.float64), 1.0),
    )
    known = ~np.isnan(share)
    size = np.where(known, boxes / effect, 0.0)
    low, high = wilson_interval(np.where(known, share, 0.0) * size, size, confidence=confidence)
    expected = np.where(size > 0, (low + high) / 2, 0.5)
    rates, place = np.unique(expected, return_inverse=True)  # very many classes have no box at all
    needed = np.array(
        [
            boxes_for_half_width(half_width, rate=rate, confidence=confidence)
            for rate in rates.tolist()
        ],
        dtype=np.float64,
    )[place].reshape(expected.shape)
    return np.asarray(np.maximum(np.ceil(needed * effect) - boxes, 0), dtype=np.int64)
