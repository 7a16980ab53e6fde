"""How often each image should be drawn in an epoch.

A sampling method is a function from the boxes of a training set to one factor per image: the
expected number of times that the image is drawn. Above 1 draws it more often, below 1 less often,
0 never; factors of several methods multiply.

Letters: M images, N boxes, K classes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from detbalance.annotations import Annotations

_Array = npt.NDArray[np.float64]
_Index = npt.NDArray[np.integer]


def repeat_factors(
    annotations: Annotations | None = None,
    *,
    image_index: npt.ArrayLike | None = None,
    labels: npt.ArrayLike | None = None,
    num_images: int | None = None,
    is_crowd: npt.ArrayLike | None = None,
    threshold: float | None = None,
    epoch_length: float | None = None,
) -> _Array:
    """Repeat the images that hold rare classes.

    A class that is in the share f of all images gets r = max(1, sqrt(threshold / f)); an image gets
    the largest r of its classes. "All images" are all M, those without boxes included, so the same
    threshold means less on a set that was filtered. Crowd boxes do not count. Images without
    boxes, or with crowd boxes only, get 1.

    Halving f multiplies r by 1.41, not by 2::

        f / threshold     1     1/2    1/4    1/16   1/100
        r                 1    1.41      2       4      10

    Pass either annotations or plain arrays, and either `threshold` or `epoch_length`.

    Args:
        annotations: anything with `image_index`, `labels`, `is_crowd` and `num_images`.
        image_index: int [N], 0..M-1, the image of each box, in any order.
        labels: int [N], 1..K.
        num_images: M.
        is_crowd: bool [N]; None where there are no crowd boxes.
        threshold: share of the images, in (0, 1]; classes in fewer images are repeated. The LVIS
            recipes use 0.001; a small data set needs more.
        epoch_length: expected images per epoch, from which the threshold is found; see
            `threshold_for_epoch_length`.

    Returns:
        float64 [M], >= 1, in the order of the images.

    Raises:
        ValueError: if arguments are missing, given twice or out of range, or if no threshold gives
            the epoch length.
        TypeError: if image_index or labels are not integers.

    Example:
        >>> repeat_factors(
        ...     image_index=[0, 0, 1], labels=[1, 2, 1], num_images=3, threshold=0.5
        ... ).round(2)
        array([1.22, 1.  , 1.  ])

    Source: Gupta et al., LVIS, 2019, arXiv:1908.03195, app. B.2. Differs: images without boxes,
    which the paper leaves open, get 1.
    """
    share = _rarest_share(annotations, image_index, labels, num_images, is_crowd)
    if (threshold is None) == (epoch_length is None):
        given = "neither" if threshold is None else "both"
        raise ValueError(
            f"repeat_factors(): {given} of threshold and epoch_length given. Expected exactly one. "
            "Pass threshold=0.001 (LVIS), or the epoch_length you want."
        )
    if epoch_length is not None:
        threshold = _solve(share, epoch_length)
    assert threshold is not None
    if not 0.0 < threshold <= 1.0:
        raise ValueError(
            f"repeat_factors(): threshold is {threshold}. Expected a share of the images in "
            "(0, 1]. Use 0.001 for LVIS, or pass epoch_length."
        )
    return _factors(share, threshold)


def threshold_for_epoch_length(
    annotations: Annotations | None = None,
    *,
    image_index: npt.ArrayLike | None = None,
    labels: npt.ArrayLike | None = None,
    num_images: int | None = None,
    is_crowd: npt.ArrayLike | None = None,
    epoch_length: float,
) -> float:
    """Find the threshold at which the repeat factors sum to an epoch length.

    The sum grows with the threshold, from M (nothing repeated) to its value at threshold 1.

    Args:
        annotations: as for `repeat_factors`.
        image_index: as for `repeat_factors`.
        labels: as for `repeat_factors`.
        num_images: as for `repeat_factors`.
        is_crowd: as for `repeat_factors`.
        epoch_length: expected images per epoch, >= M.

    Returns:
        The threshold, in (0, 1]. For `epoch_length` = M it is the largest that repeats nothing.

    Raises:
        ValueError: if no threshold gives the length; the message says which lengths can be had.
        TypeError: if image_index or labels are not integers.

    Example:
        >>> threshold = threshold_for_epoch_length(
        ...     image_index=[0, 0, 1], labels=[1, 2, 1], num_images=3, epoch_length=3.2
        ... )
        >>> round(threshold, 4)
        0.48
    """
    share = _rarest_share(annotations, image_index, labels, num_images, is_crowd)
    return _solve(share, epoch_length)


def _factors(share: _Array, threshold: float) -> _Array:
    """The factor of each image from the share of its rarest class: rarer is larger."""
    return np.maximum(1.0, np.sqrt(threshold / share))


def _solve(share: _Array, epoch_length: float) -> float:
    """The threshold whose factors sum to the length, without search.

    With the images sorted by share, a threshold t repeats the first k of them, and the length is
    sqrt(t) * sum_k(1 / sqrt(share)) + (M - k): a straight line in sqrt(t) between two shares.
    """
    lowest, highest = float(len(share)), float(_factors(share, 1.0).sum())
    tolerance = 1e-9 * highest
    if not lowest - tolerance <= epoch_length <= highest + tolerance:
        raise ValueError(
            f"repeat_factors(): epoch_length is {epoch_length}. Expected {lowest:.0f} (nothing "
            f"repeated) to {highest:.1f} (threshold 1) for these images. Choose one in between."
        )
    shares, images = np.unique(share[np.isfinite(share)], return_counts=True)
    if not len(shares):
        return 1.0
    if epoch_length <= lowest:
        return float(shares[0])
    slope = np.cumsum(images / np.sqrt(shares))
    rest = len(share) - np.cumsum(images)
    # The length when the threshold arrives at each share; the first is M.
    at_share = np.sqrt(shares) * slope + rest
    k = max(int(np.searchsorted(at_share, epoch_length, side="right")) - 1, 0)
    root = max((epoch_length - rest[k]) / slope[k], math.sqrt(shares[k]))
    return float(min(root * root, 1.0))


def _rarest_share(
    annotations: Annotations | None,
    image_index: npt.ArrayLike | None,
    labels: npt.ArrayLike | None,
    num_images: int | None,
    is_crowd: npt.ArrayLike | None,
) -> _Array:
    """For each image the share of images that hold its rarest class; infinity without boxes."""
    images, classes, num_images = _checked(annotations, image_index, labels, num_images, is_crowd)
    rarest = np.full(num_images, np.inf)
    if not len(images):
        return rarest
    if (images[1:] < images[:-1]).any():
        by_image = np.argsort(images, kind="stable")
        images, classes = images[by_image], classes[by_image]
    if classes.max() >= 1 << 24:
        # Sparse numbers would make the arrays by class very long.
        classes = np.unique(classes, return_inverse=True)[1]
    share = _image_counts(images, classes) / num_images
    np.minimum.at(rarest, images, share[classes])
    return rarest


def _image_counts(images: _Index, classes: _Index) -> _Index:
    """The number of images that hold each class; the boxes are sorted by image.

    32 bits hold the images and boxes of any set that fits into memory, and move twice as fast.
    """
    box_counts = np.bincount(classes)
    # NumPy sorts 16-bit integers by radix: linear, and several times faster than 64-bit ones.
    narrow = classes.astype(np.uint16) if len(box_counts) <= 1 << 16 else classes
    by_class = np.argsort(narrow, kind="stable")
    # Stable: within a class the images ascend, so an image's further boxes follow its first.
    sorted_images = images.astype(np.int32)[by_class]
    is_first = np.empty(len(images) + 1, dtype=bool)
    is_first[0] = False
    np.not_equal(sorted_images[1:], sorted_images[:-1], out=is_first[2:])
    starts = np.cumsum(box_counts) - box_counts
    is_first[1 + starts[box_counts > 0]] = True
    before = np.cumsum(is_first, dtype=np.uint32)
    image_counts: _Index = before[starts + box_counts] - before[starts]
    return image_counts


def _checked(
    annotations: Annotations | None,
    image_index: npt.ArrayLike | None,
    labels: npt.ArrayLike | None,
    num_images: int | None,
    is_crowd: npt.ArrayLike | None,
) -> tuple[_Index, _Index, int]:
    """Images and labels of the boxes that count, and M."""
    arrays = (image_index, labels, num_images, is_crowd)
    if annotations is not None:
        if any(value is not None for value in arrays):
            raise ValueError(
                "repeat_factors(): annotations and plain arrays given. Expected one of them. "
                "Leave out image_index, labels, num_images and is_crowd."
            )
        image_index, labels = annotations.image_index, annotations.labels
        num_images, is_crowd = annotations.num_images, annotations.is_crowd
    if image_index is None or labels is None or num_images is None:
        raise ValueError(
            "repeat_factors(): image_index, labels or num_images is missing. Expected annotations, "
            "or all three. Images without boxes count too, so num_images must be told."
        )
    images, classes = _integers("image_index", image_index), _integers("labels", labels)
    crowd = np.zeros(len(images), dtype=bool) if is_crowd is None else np.asarray(is_crowd)
    if not len(images) == len(classes) == len(crowd):
        raise ValueError(
            f"repeat_factors(): image_index has {len(images)} entries, labels {len(classes)}, "
            f"is_crowd {len(crowd)}. Expected one of each per box. Pass arrays of one length."
        )
    if num_images < 1:
        raise ValueError(
            f"repeat_factors(): num_images is {num_images}. Expected at least 1. "
            "Count the images without boxes too."
        )
    if len(images):
        _in_range("image_index", images, 0, num_images - 1)
        _in_range("labels", classes, 1, None)
    keep = ~crowd.astype(bool)
    if not keep.all():
        images, classes = images[keep], classes[keep]
    return images, classes, num_images


def _integers(name: str, values: npt.ArrayLike) -> _Index:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(
            f"repeat_factors(): {name} has the shape {array.shape}. Expected one number per box. "
            "Flatten it."
        )
    if not len(array):
        return array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(
            f"repeat_factors(): {name} is {array.dtype}. Expected integers. Call astype(int)."
        )
    return array


def _in_range(name: str, values: _Index, low: int, high: int | None) -> None:
    """Raise for the first value outside; two passes without a copy when all is well."""
    if values.min() >= low and (high is None or values.max() <= high):
        return
    outside = (values < low) | (values > (values.max() if high is None else high))
    first = int(np.flatnonzero(outside)[0])
    expected = f"{low}..{high}" if high is not None else f"{low} or more (0 is background)"
    raise ValueError(
        f"repeat_factors(): {int(outside.sum())} entries of {name} are out of range "
        f"(first: {name}[{first}] is {values[first]}). Expected {expected}. Check the mapping."
    )
