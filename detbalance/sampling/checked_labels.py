"""The labels of boxes as plain arrays, checked once at the border.

Letters: M images, N boxes, K classes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detbalance.data import Annotations

GIVEN_TWICE = "{where}: data and plain arrays given. Expected one of them. Leave out {names}."

# Labels above this would make arrays by class longer than the boxes are worth.
_LARGEST_LABEL = 1 << 24
_ARRAYS = ("image_index", "labels", "num_images", "is_crowd")
_Index = npt.NDArray[np.integer[Any]]


def checked_labels(
    where: str,
    data: Annotations | Sequence[Iterable[int]] | None,
    arrays: Mapping[str, npt.ArrayLike],
) -> tuple[_Index, _Index, int]:
    """Read the boxes that count from any of the forms that factor functions take."""
    unknown = [name for name in arrays if name not in _ARRAYS]
    if unknown:
        raise TypeError(
            f"{where}: does not know {unknown[0]}. Expected its own arguments, or "
            f"{', '.join(_ARRAYS)}. Correct the name."
        )
    if data is not None:
        if arrays:
            raise ValueError(GIVEN_TWICE.format(where=where, names=", ".join(arrays)))
        arrays = _as_arrays(where, data)
    if any(arrays.get(name) is None for name in _ARRAYS[:3]):
        raise ValueError(
            f"{where}: image_index, labels or num_images is missing. Expected annotations, a list "
            "of the labels of each image, or all three. Images without boxes count too, so "
            "num_images must be told."
        )
    images = _integers(where, "image_index", arrays["image_index"])
    labels = _integers(where, "labels", arrays["labels"])
    num_images = _whole(where, arrays["num_images"])
    crowd = arrays.get("is_crowd")
    is_crowd = np.zeros(len(images), np.bool_) if crowd is None else np.asarray(crowd, np.bool_)
    if not len(images) == len(labels) == len(is_crowd):
        raise ValueError(
            f"{where}: image_index has {len(images)} entries, labels {len(labels)}, is_crowd "
            f"{len(is_crowd)}. Expected one of each per box. Pass arrays of one length."
        )
    if num_images < 1:
        raise ValueError(
            f"{where}: num_images is {num_images}. Expected at least 1. Count the images without "
            "boxes too."
        )
    if len(images):
        _in_range(where, "image_index", images, 0, num_images - 1)
        _in_range(where, "labels", labels, 1, None)
    if is_crowd.any():
        images, labels = images[~is_crowd], labels[~is_crowd]
    if labels.max(initial=0) >= _LARGEST_LABEL:
        raise ValueError(
            f"{where}: labels go up to {labels.max()}. Expected contiguous labels 1..K below "
            f"{_LARGEST_LABEL}. Number the classes: np.unique(labels, return_inverse=True)[1] + 1."
        )
    return images, labels, num_images


def _as_arrays(where: str, data: Annotations | Sequence[Iterable[int]]) -> dict[str, npt.ArrayLike]:
    """The plain arrays of annotations, or of a list of labels per image."""
    if hasattr(data, "image_index"):
        return {name: getattr(data, name) for name in _ARRAYS}
    if isinstance(data, (str, bytes)) or not isinstance(data, Sequence):
        raise TypeError(
            f"{where}: data is a {type(data).__name__}. Expected annotations or a list with the "
            "labels of each image. Pass plain arrays as image_index=, labels=, num_images=."
        )
    held = [
        # Sets and generators first become lists.
        np.asarray(list(labels) if _has_no_order(labels) else labels)
        for labels in data
    ]
    for image, labels in enumerate(held):
        if labels.ndim != 1 or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
            raise TypeError(
                f"{where}: data[{image}] is {data[image]!r}. Expected the labels of the boxes of "
                f"image {image}, as integers. Pass [] for an image without boxes."
            )
    filled = [labels for labels in held if labels.size]
    return {
        "image_index": np.repeat(np.arange(len(held)), [len(labels) for labels in held]),
        "labels": np.concatenate(filled) if filled else np.zeros(0, dtype=np.int64),
        "num_images": len(held),
    }


def _has_no_order(labels: Any) -> bool:
    return isinstance(labels, Iterable) and not hasattr(labels, "__getitem__")


def _whole(where: str, number: Any) -> int:
    try:
        return operator.index(number)
    except TypeError:
        raise TypeError(
            f"{where}: num_images is {number!r}. Expected an integer. Pass the number of images."
        ) from None


def _integers(where: str, name: str, values: npt.ArrayLike) -> _Index:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(
            f"{where}: {name} has the shape {array.shape}. Expected one number per box. Flatten it."
        )
    if not len(array):
        return array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{where}: {name} is {array.dtype}. Expected integers. Call astype(int).")
    # NumPy would turn sums of these and of signed integers into floats.
    return array.astype(np.int64) if array.dtype == np.uint64 else array


def _in_range(where: str, name: str, values: _Index, low: int, high: int | None) -> None:
    """Raise for the first value outside; two passes without a copy when all is well."""
    if values.min() >= low and (high is None or values.max() <= high):
        return
    outside = (values < low) | (values > (values.max() if high is None else high))
    first = int(np.flatnonzero(outside)[0])
    expected = f"{low}..{high}" if high is not None else f"{low} or more (0 is background)"
    raise ValueError(
        f"{where}: {int(outside.sum())} entries of {name} are out of range (first: {name}[{first}] "
        f"is {values[first]}). Expected {expected}. Check the mapping."
    )
