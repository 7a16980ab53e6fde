"""Columns of a table of regions that are read, or computed, when they are asked for.

Letters: n regions, F features, D outputs, S slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Int64 = NDArray[np.int64]
Rows = NDArray[np.int64] | NDArray[np.bool_] | slice


class LazyColumn:
    """Rows of some table, which stay where they are until they are asked for."""

    def __init__(self, read: Callable[[Int64], NDArray[Any]], rows: Int64, width: int) -> None:
        self._read, self._rows = read, rows
        self.shape = (len(rows), width)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._rows)

    def __getitem__(self, rows: Rows) -> NDArray[Any]:
        """Read some rows, [n, width]."""
        return self._read(self._rows[rows])

    def take(self, rows: Rows) -> LazyColumn:
        """The same for some rows, which are not read."""
        return LazyColumn(self._read, self._rows[rows], self.shape[1])


Column = NDArray[Any] | LazyColumn


def part_of(column: Column, rows: Rows) -> Column:
    """Some rows of a column: a copy of those in memory, the others where they are."""
    return column.take(rows) if isinstance(column, LazyColumn) else column[rows]


def behind(first: Column, second: Column) -> Column:
    """One column after the other; in memory where both are."""
    if not len(first) or not len(second):
        return first if len(first) else second
    if not isinstance(first, LazyColumn) and not isinstance(second, LazyColumn):
        return np.concatenate([first, second])
    size = len(first)

    def read(rows: Int64) -> NDArray[Any]:
        after = rows >= size
        parts = first[rows[~after]], second[rows[after] - size]
        found = np.empty((len(rows), first.shape[1]), np.result_type(*parts))
        found[~after], found[after] = parts
        return found

    return LazyColumn(read, np.arange(size + len(second)), first.shape[1])


def stored_rows(table: NDArray[Any]) -> LazyColumn:
    """All rows of a table on disk."""
    plain = np.asarray(table)  # not read: indexing a memmap costs more than indexing what it maps
    return LazyColumn(plain.__getitem__, np.arange(len(plain)), plain.shape[1])


def float32(values: NDArray[Any]) -> Tensor:
    """Values as float32, of which torch makes float16 several times faster than NumPy."""
    return torch.from_numpy(values).float()


class FrozenLogits(LazyColumn):
    """What a classifier says of regions, float32 [n, D], computed when it is asked for."""

    def __init__(self, features: Column, slots: Int64, weight: Tensor, bias: Tensor) -> None:
        self._features, self._slots, self._weight, self._bias = features, slots, weight, bias
        super().__init__(self._said, np.arange(len(slots)), weight.shape[1])

    def take(self, rows: Rows) -> FrozenLogits:
        """The same for some rows, which are not computed."""
        features = part_of(self._features, rows)
        return FrozenLogits(features, self._slots[rows], self._weight, self._bias)

    def given(self, features: Tensor) -> Tensor:
        """All logits, float32 [n, D], from the features float32 [n, F] that were read already."""
        return linear(features, torch.from_numpy(self._slots), self._weight, self._bias)

    def _said(self, rows: Int64) -> NDArray[np.float32]:
        return self.take(rows).given(float32(self._features[rows])).numpy()


def linear(features: Tensor, slots: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply the classifier of each region's slot."""
    if len(weight) == 1:
        return features @ weight[0].T + bias[0]
    out = features.new_empty(len(features), weight.shape[1])
    for slot in torch.unique(slots).tolist():
        here = torch.where(slots == slot)[0]
        out[here] = features[here] @ weight[slot].T + bias[slot]
    return out
