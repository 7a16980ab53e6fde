"""What draws of images say of a figure: its spread, for classes and for the means of groups.

Letters: B draws, K categories.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detbalance.evaluation.bootstrap_intervals import Spread

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def class_spread(
    values: Float32 | Float64, estimate: Float64, boxes: Float64, images: Float64
) -> Spread:
    """Spread of a figure of each class over the draws."""
    mean, variance = moments(values)
    # One image says nothing of how images differ: at least half a degree of freedom is taken.
    degrees = np.maximum(images - 1, 0.5)
    return Spread(estimate, mean, variance * (degrees + 1) / degrees, boxes, degrees)


def group_spread(
    values: Float32 | Float64, single: Spread, group_of_class: npt.ArrayLike, size: int
) -> Spread:
    """Spread of the mean of each group over the draws."""
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
    return Spread(
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
