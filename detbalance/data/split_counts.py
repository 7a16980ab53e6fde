"""What each group of images holds, as a sparse matrix, and how far a choice of groups is off.

Letters: M images, K classes, G groups, F columns = 2 K + 2. The columns are the images of each
class (column 0: images without boxes), all images, and the boxes of each class.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from detbalance.data.annotations import Annotations

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

# Of one per column of a class: the size of the parts is wished for more than any single share.
_WEIGHT_OF_SIZE = 10.0


class Holdings:
    """How many images and boxes of each class each group holds, crowd boxes left out."""

    def __init__(self, annotations: Annotations, groups: Int64) -> None:
        self.num_classes = annotations.categories.num_classes
        self.num_groups = int(groups.max(initial=-1)) + 1
        counted = ~annotations.is_crowd
        images, labels = annotations.image_index[counted], annotations.labels[counted]
        pairs = np.unique(images * self.num_classes + labels)
        empty = np.setdiff1d(np.arange(annotations.num_images), images)
        keys = np.concatenate(
            [
                groups[empty] * self.width,
                groups[pairs // self.num_classes] * self.width + pairs % self.num_classes,
                groups * self.width + self.num_classes,
                groups[images] * self.width + self.num_classes + labels,
            ]
        )
        entries, counts = np.unique(keys, return_counts=True)
        self.columns, self.values = entries % self.width, counts.astype(np.float64)
        sizes = np.bincount(entries // self.width, minlength=self.num_groups)
        self.starts = np.concatenate([[0], np.cumsum(sizes)])

    @property
    def width(self) -> int:
        """F, the number of columns."""
        return 2 * self.num_classes

    @property
    def num_shown(self) -> int:
        """K + 2: the first columns, which count images: what both parts should show."""
        return self.num_classes + 1

    @cached_property
    def group(self) -> Int64:
        """int64, the group of each entry."""
        return np.repeat(np.arange(self.num_groups), np.diff(self.starts))

    @cached_property
    def groups_with(self) -> Int64:
        """int64 [F], how many groups hold something of each column."""
        return np.bincount(self.columns, minlength=self.width)

    @cached_property
    def weights(self) -> Float64:
        """float64 [F], which make each column's mean squared deviation 1 in a random split."""
        squares = _sums(self.columns, self.values**2, self.width)
        weights = np.where(squares > 0, 1 / np.maximum(squares, 1), 0.0)
        weights[self.num_classes] *= _WEIGHT_OF_SIZE
        return weights

    @cached_property
    def own_cost(self) -> Float64:
        """float64 [G], the weighted squares of what each group holds."""
        return self.sums(self.values * self.weights[self.columns])

    def of(self, group: int) -> tuple[Int64, Float64]:
        """Return the columns and values of a group."""
        part = slice(self.starts[group], self.starts[group + 1])
        return self.columns[part], self.values[part]

    def shown_by(self, group: int) -> Int64:
        """Return those columns of a group that count images."""
        columns = self.of(group)[0]
        return columns[: np.searchsorted(columns, self.num_shown)]

    def sums(self, factors: Float64) -> Float64:
        """Return float64 [G], the sum of values * factors over the entries of each group."""
        return _sums(self.group, self.values * factors, self.num_groups)

    def totals(self, chosen: Bool) -> Float64:
        """Return float64 [F], what the chosen groups (bool [G]) hold together."""
        entries = chosen[self.group]
        return _sums(self.columns[entries], self.values[entries], self.width)

    def dense(self) -> Float64:
        """Return float64 [G, F], the whole matrix; for few groups."""
        matrix = np.zeros((self.num_groups, self.width))
        matrix[self.group, self.columns] = self.values
        return matrix


def _sums(index: Int64, values: Float64, length: int) -> Float64:
    """Sum the values of each index; without any, zeros of the same type."""
    return np.bincount(index, values, minlength=length).astype(np.float64)
