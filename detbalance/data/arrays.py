"""Many variable-length items in two flat arrays.

A list of a million `bytes` objects is copied page by page into every loader worker, because reading
an object writes its reference count. Two arrays are shared by all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
_CHUNK = 20_000  # strings gathered at a time


class ReadOnlyArrays:
    """Base of frozen dataclasses whose arrays cannot be written to, also after unpickling."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray) and value.flags.writeable:
                # A view, so that the array of the caller keeps the flag it had.
                view = value.view()
                view.flags.writeable = False
                object.__setattr__(self, field.name, view)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Unpickled arrays are writeable whatever they were before.
        self.__dict__.update(state)
        self.__post_init__()


def offsets_of(lengths: Int64) -> Int64:
    """Return the start of each item and the end of the last, [n + 1], from n lengths."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def take_slices(offsets: Int64, rows: npt.NDArray[Any]) -> tuple[Int64, Int64]:
    """Return the positions of all values of the items `rows`, and their offsets once packed."""
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    packed = offsets_of(lengths)
    return np.repeat(starts - packed[:-1], lengths) + np.arange(packed[-1]), packed


@dataclass(frozen=True, eq=False)
class PackedBytes(ReadOnlyArrays):
    """Many byte strings in two arrays, shared by forked loader workers.

    Attributes:
        data: uint8, all strings one after the other.
        offsets: int64 [n + 1], string i is data[offsets[i] : offsets[i + 1]].

    Example:
        >>> packed = PackedBytes.from_items([b"left", b"", b"right"])
        >>> len(packed), packed[2], list(packed.take(np.array([2, 0])))
        (3, b'right', [b'right', b'left'])
    """

    data: npt.NDArray[np.uint8]
    offsets: Int64

    @classmethod
    def from_items(cls, items: Sequence[bytes]) -> PackedBytes:
        """Pack byte strings (or anything with their buffer) in the order given."""
        lengths = np.fromiter(map(len, items), dtype=np.int64, count=len(items))
        return cls(np.frombuffer(b"".join(items), dtype=np.uint8), offsets_of(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"PackedBytes: item {index} of {len(self)}.")
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return (self[i] for i in range(len(self)))

    def take(self, rows: npt.NDArray[Any]) -> PackedBytes:
        """Return the strings of `rows` (int [m], from 0), in that order."""
        starts, stops = self.offsets[rows], self.offsets[rows + 1]
        offsets = offsets_of(stops - starts)
        data = np.empty(offsets[-1], dtype=np.uint8)
        view = self.data.data
        # In parts: an index array per byte, or a slice object per string, would take more memory
        # than the strings.
        for first in range(0, len(rows), _CHUNK):
            part = slice(first, first + _CHUNK)
            bounds = zip(starts[part].tolist(), stops[part].tolist(), strict=True)
            text = b"".join([view[a:b] for a, b in bounds])
            data[offsets[first] : offsets[first] + len(text)] = np.frombuffer(text, dtype=np.uint8)
        return PackedBytes(data, offsets)


@dataclass(frozen=True, eq=False)
class PackedLabels(ReadOnlyArrays):
    """One list of labels per image, in two arrays.

    Attributes:
        labels: int64, the labels of all images one after the other, each in 1..K.
        offsets: int64 [M + 1], image i has labels[offsets[i] : offsets[i + 1]].
    """

    labels: Int64
    offsets: Int64

    @classmethod
    def from_items(cls, items: Sequence[Iterable[int]]) -> PackedLabels:
        """Pack one iterable of labels per image in the order given."""
        lists = [list(item) for item in items]
        lengths = np.array([len(item) for item in lists], dtype=np.int64)
        labels = np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=int(lengths.sum()))
        return cls(labels, offsets_of(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Int64:
        if not 0 <= index < len(self):
            raise IndexError(f"PackedLabels: item {index} of {len(self)}.")
        return self.labels[self.offsets[index] : self.offsets[index + 1]]

    def take(self, rows: npt.NDArray[Any]) -> PackedLabels:
        """Return the lists of `rows` (int [m], from 0), in that order."""
        positions, offsets = take_slices(self.offsets, rows)
        return PackedLabels(self.labels[positions], offsets)

    def relabel(self, new_labels: Int64) -> PackedLabels:
        """Replace each label by new_labels[label]; labels that become 0 leave their list."""
        labels = new_labels[self.labels]
        kept = np.concatenate([[0], np.cumsum(labels > 0)])
        return PackedLabels(labels[labels > 0], kept[self.offsets])
