"""Which classes each image shows: what every factor function reads.

Letters: M images, N boxes, P pairs of an image and a class that it shows, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from detbalance.data import Annotations
from detbalance.data.arrays import Float64, Int64
from detbalance.data.checks import check_number

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
    if unknown := [name for name in arrays if name not in _ARRAYS]:
        raise TypeError(
            f"{where}: does not know {unknown[0]}. Expected its own arguments, or"
            f" {', '.join(_ARRAYS)}."
        )
    if data is not None:
        _refuse_both(where, arrays)
        arrays = _as_arrays(where, data)
    if any(arrays.get(name) is None for name in _ARRAYS[:3]):
        raise ValueError(
            f"{where}: image_index, labels or num_images is missing. Expected annotations, a list"
            " of the labels of each image, or all three: images without boxes count too."
        )
    images = _integers(where, "image_index", arrays["image_index"])
    labels = _integers(where, "labels", arrays["labels"])
    num_images: Any = arrays["num_images"]
    advice = "Count the images without boxes too."
    check_number(where, "num_images", num_images, least=1, whole=True, advice=advice)
    crowd = arrays.get("is_crowd")
    is_crowd = np.zeros(len(images), np.bool_) if crowd is None else np.asarray(crowd, np.bool_)
    if not len(images) == len(labels) == len(is_crowd):
        raise ValueError(
            f"{where}: image_index has {len(images)} entries, labels {len(labels)}, is_crowd"
            f" {len(is_crowd)}. Expected one of each per box."
        )
    if len(images):
        _check_range(where, "image_index", images, 0, int(num_images) - 1)
        _check_range(where, "labels", labels, 1, None)
    if is_crowd.any():
        images, labels = images[~is_crowd], labels[~is_crowd]
    if labels.max(initial=0) >= _LARGEST_LABEL:
        raise ValueError(
            f"{where}: labels go up to {labels.max()}. Expected contiguous labels 1..K below"
            f" {_LARGEST_LABEL}. Number the classes: np.unique(labels, return_inverse=True)[1] + 1."
        )
    return images, labels, int(num_images)


def _refuse_both(where: str, arrays: Mapping[str, npt.ArrayLike]) -> None:
    if arrays:
        raise ValueError(
            f"{where}: data and plain arrays given. Expected one of them. Leave out"
            f" {', '.join(arrays)}."
        )


def _as_arrays(where: str, data: Annotations | Sequence[Iterable[int]]) -> dict[str, npt.ArrayLike]:
    """The plain arrays of annotations, or of a list of labels per image."""
    if hasattr(data, "image_index"):
        return {name: getattr(data, name) for name in _ARRAYS}
    if isinstance(data, (str, bytes)) or not isinstance(data, Sequence):
        raise TypeError(
            f"{where}: data is a {type(data).__name__}. Expected annotations or a list with the"
            " labels of each image. Pass plain arrays as image_index=, labels=, num_images=."
        )
    lists = [
        # Sets and generators first become lists.
        np.asarray(
            list(each) if isinstance(each, Iterable) and not hasattr(each, "__getitem__") else each
        )
        for each in data
    ]
    for image, labels in enumerate(lists):
        if labels.ndim != 1 or (labels.size and not np.issubdtype(labels.dtype, np.integer)):
            raise TypeError(
                f"{where}: data[{image}] is {data[image]!r}. Expected the labels of the boxes of"
                f" image {image}, as integers. Pass [] for an image without boxes."
            )
    filled = [labels for labels in lists if labels.size]
    return {
        "image_index": np.repeat(np.arange(len(lists)), [len(labels) for labels in lists]),
        "labels": np.concatenate(filled) if filled else np.zeros(0, dtype=np.int64),
        "num_images": len(lists),
    }


def _integers(where: str, name: str, values: npt.ArrayLike) -> _Index:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(
            f"{where}: {name} has the shape {array.shape}. Expected one number per box."
        )
    if not len(array):
        return array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{where}: {name} is {array.dtype}. Expected integers. Call astype(int).")
    # NumPy would turn sums of these and of signed integers into floats.
    return array.astype(np.int64) if array.dtype == np.uint64 else array


def _check_range(where: str, name: str, values: _Index, low: int, high: int | None) -> None:
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


# Cells of a table by image and class that fits into the cache of one processor core.
_CELLS = 1 << 19
# With more classes too few images fit into that table.
_MANY_CLASSES = 1 << 13


class ImageLabels:
    """The labels of the boxes of each image, crowd boxes left out, in any of three forms.

    Build it once to give it to several factor functions; each of them also takes the forms
    themselves, with the same keywords.

    Args:
        data: annotations, or a list with the labels of each image: `[[1, 1, 2], [], [2]]`; None
            for the plain arrays that follow.
        image_index: int [N], 0..M-1, the image of each box, in any order.
        labels: int [N], 1..K.
        num_images: M, images without boxes included.
        is_crowd: bool [N], boxes to leave out. Without it none is.

    Attributes:
        num_images: M.
        num_classes: K + 1, from the annotations' categories, else one more than the largest label.
        image_index: int [N], ascending.
        labels: int [N], 1..K, in the order of image_index.
        image_ids: int64 [M], of annotations; None for the other forms.

    Raises:
        ValueError: if arguments are missing, given twice or out of range.
        TypeError: if image_index or labels are not integers, or an argument is unknown.

    Example:
        >>> images = ImageLabels([[1, 1, 2], [], [2]])
        >>> images.image_counts, images.instance_counts
        (array([0, 1, 2]), array([0, 2, 2]))
    """

    def __init__(
        self,
        data: Annotations | Sequence[Iterable[int]] | None = None,
        *,
        _where: str = "ImageLabels",
        **arrays: npt.ArrayLike,
    ) -> None:
        images, labels, self.num_images = checked_labels(_where, data, arrays)
        categories = getattr(data, "categories", None)
        self.num_classes: int = (
            int(labels.max(initial=0)) + 1 if categories is None else categories.num_classes
        )
        if (images[1:] < images[:-1]).any():
            by_image = np.argsort(images, kind="stable")
            images, labels = images[by_image], labels[by_image]
        self.image_index, self.labels = images, labels
        self.image_ids: Int64 | None = getattr(data, "image_ids", None)

    @classmethod
    def of(
        cls, where: str, data: LabelsLike, arrays: Mapping[str, npt.ArrayLike] | None = None
    ) -> ImageLabels:
        """Take what a function was given; its errors begin with `where`."""
        if isinstance(data, ImageLabels):
            _refuse_both(where, arrays or {})
            return data
        return cls(data, _where=where, **(arrays or {}))

    @classmethod
    def concatenate(
        cls, parts: Sequence[Annotations | ImageLabels | Sequence[Iterable[int]]]
    ) -> ImageLabels:
        """Put several data sets one after the other, as `torch.utils.data.ConcatDataset` does.

        Rarity is then that in all of them together.

        Args:
            parts: annotations, `ImageLabels` or lists of labels. A label must mean the same class
                in all.

        Returns:
            The labels of the images of all parts.

        Raises:
            ValueError: if there is no part, or annotations differ in their categories.

        Example:
            >>> ImageLabels.concatenate([[[1], [1, 2]], [[2], []]]).image_counts
            array([0, 2, 2])
        """
        where = "ImageLabels.concatenate()"
        if not parts:
            raise ValueError(f"{where}: no data set given. Expected at least one.")
        mappings = [part.categories for part in parts if hasattr(part, "categories")]
        for other in mappings[1:]:
            if (other.ids, other.names) != (mappings[0].ids, mappings[0].names):
                raise ValueError(
                    f"{where}: the data sets have different categories. Expected labels that mean"
                    ' the same classes. Write the same "categories" into all files.'
                )
        sets = [cls.of(where, part) for part in parts]
        starts = np.cumsum([0, *map(len, sets)])
        rows = [
            s.image_index.astype(np.int64) + start
            for s, start in zip(sets, starts[:-1], strict=True)
        ]
        joined = cls(
            image_index=np.concatenate(rows),
            labels=np.concatenate([s.labels for s in sets]),
            num_images=int(starts[-1]),
        )
        joined.num_classes = max(s.num_classes for s in sets)
        return joined

    def in_order(self, rows: Int64) -> ImageLabels:
        """The labels of some images, or of all in another order, by the row of each, int64 [D]."""
        starts, ends = (np.searchsorted(self.image_index, rows, side) for side in ("left", "right"))
        counts = ends - starts
        image_index = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(image_index)) - np.repeat(np.cumsum(counts) - counts, counts)
        moved = ImageLabels(
            image_index=image_index,
            labels=self.labels[starts[image_index] + within],
            num_images=len(rows),
        )
        moved.num_classes = self.num_classes
        return moved

    def __len__(self) -> int:
        """M, the number of images."""
        return self.num_images

    @cached_property
    def instance_counts(self) -> Int64:
        """int64 [K + 1], boxes of each class."""
        return np.bincount(self.labels, minlength=self.num_classes)

    @cached_property
    def image_counts(self) -> Int64:
        """int64 [K + 1], images that show each class."""
        if self.num_classes > _MANY_CLASSES:
            return np.bincount(self.pairs[1], minlength=self.num_classes)
        return np.bincount(self.labels[self._one_of_each_pair()], minlength=self.num_classes)

    @property
    def image_share(self) -> Float64:
        """float64 [K + 1], the share of all M images that show each class."""
        return self.image_counts / len(self)

    def _one_of_each_pair(self) -> npt.NDArray[np.bool_]:
        """Mark one box of each image and class, bool [N]."""
        step = _CELLS // self.num_classes
        table = np.empty(step * self.num_classes, dtype=np.int32)
        marked = np.empty(len(self.labels), dtype=np.bool_)
        bounds = np.searchsorted(self.image_index, np.arange(0, self.num_images + step, step))
        for block, (start, end) in enumerate(pairwise(bounds.tolist())):
            rows = self.image_index[start:end].astype(np.int64) - block * step
            cells = rows * self.num_classes + self.labels[start:end]
            numbers = np.arange(end - start, dtype=np.int32)
            table[cells] = numbers
            np.equal(table[cells], numbers, out=marked[start:end])
        return marked

    @cached_property
    def shows_boxes(self) -> npt.NDArray[np.bool_]:
        """Which images, bool [M], have a box."""
        shown = np.zeros(self.num_images, dtype=np.bool_)
        shown[self.image_index] = True
        return shown

    @cached_property
    def pairs(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], Float64]:
        """Images [P], labels [P] and boxes [P] of each pair, by image and then by label.

        The sparse matrix of boxes by image and class, as coordinates.
        """
        keys = self.image_index.astype(np.int64) * self.num_classes + self.labels
        # The images ascend already; a stable sort uses that and is several times faster.
        keys.sort(kind="stable")
        first = np.ones(len(keys) + 1, dtype=np.bool_)
        np.not_equal(keys[1:], keys[:-1], out=first[1:-1])
        starts = np.flatnonzero(first)
        images, labels = np.divmod(keys[starts[:-1]], self.num_classes)
        return images.astype(np.int32), labels.astype(np.int32), np.diff(starts).astype(np.float64)

    def largest(self, by_class: Float64, *, empty: float = 1.0) -> Float64:
        """Give each image the largest of a value by class [K + 1], float64 [M]."""
        values = np.full(self.num_images, -np.inf)
        np.maximum.at(values, self.image_index, by_class[self.labels])
        values[~self.shows_boxes] = empty
        return values


LabelsLike: TypeAlias = Annotations | ImageLabels | Sequence[Iterable[int]] | None
