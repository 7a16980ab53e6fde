"""Which classes each image shows: what every factor function reads.

Letters: M images, N boxes, P pairs of an image and a class that it shows, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from detbalance.data import Annotations
from detbalance.sampling.checked_labels import GIVEN_TWICE, checked_labels

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

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
        >>> held = ImageLabels([[1, 1, 2], [], [2]])
        >>> held.image_counts, held.instance_counts
        (array([0, 1, 2]), array([0, 2, 2]))
    """

    def __init__(
        self,
        data: Annotations | Sequence[Iterable[int]] | None = None,
        **arrays: npt.ArrayLike,
    ) -> None:
        self._fill("ImageLabels", data, arrays)

    @classmethod
    def of(
        cls, where: str, data: LabelsLike, arrays: Mapping[str, npt.ArrayLike] | None = None
    ) -> ImageLabels:
        """Take what a function was given; its errors begin with `where`."""
        if isinstance(data, ImageLabels):
            if arrays:
                raise ValueError(GIVEN_TWICE.format(where=f"{where}()", names=", ".join(arrays)))
            return data
        held = cls.__new__(cls)
        held._fill(f"{where}()", data, arrays or {})
        return held

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
        where = "ImageLabels.concatenate"
        if not parts:
            raise ValueError(f"{where}(): no data set given. Expected at least one. Pass a list.")
        mappings = [part.categories for part in parts if hasattr(part, "categories")]
        for other in mappings[1:]:
            if (other.ids, other.names) != (mappings[0].ids, mappings[0].names):
                raise ValueError(
                    f"{where}(): the data sets have different categories. Expected labels that "
                    'mean the same classes. Write the same "categories" into all files.'
                )
        held = [cls.of(where, part) for part in parts]
        starts = np.cumsum([0, *map(len, held)])
        joined = cls(
            image_index=np.concatenate(
                [
                    part.image_index.astype(np.int64) + start
                    for part, start in zip(held, starts, strict=False)
                ]
            ),
            labels=np.concatenate([part.labels for part in held]),
            num_images=int(starts[-1]),
        )
        joined.num_classes = max(part.num_classes for part in held)
        return joined

    def _fill(
        self,
        where: str,
        data: Annotations | Sequence[Iterable[int]] | None,
        arrays: Mapping[str, npt.ArrayLike],
    ) -> None:
        images, labels, self.num_images = checked_labels(where, data, arrays)
        categories = getattr(data, "categories", None)
        self.num_classes: int = (
            int(labels.max(initial=0)) + 1 if categories is None else categories.num_classes
        )
        if (images[1:] < images[:-1]).any():
            by_image = np.argsort(images, kind="stable")
            images, labels = images[by_image], labels[by_image]
        self.image_index, self.labels = images, labels
        self.image_ids: Int64 | None = getattr(data, "image_ids", None)

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
        """Give each image the largest value among its classes.

        Args:
            by_class: [K + 1].
            empty: value of the images without boxes.

        Returns:
            float64 [M].
        """
        values = np.full(self.num_images, -np.inf)
        np.maximum.at(values, self.image_index, by_class[self.labels])
        values[~self.shows_boxes] = empty
        return values


LabelsLike: TypeAlias = Annotations | ImageLabels | Sequence[Iterable[int]] | None
