"""The one mapping between labels, category ids and names."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Int64


@dataclass(frozen=True)
class Categories:
    """Classes in the order of their labels: label i + 1 is ids[i], names[i].

    Labels are 1..K without gaps, in ascending order of category id; label 0 is background. Two
    mappings are equal when ids, names and frequency tags are.

    Attributes:
        ids: category_id of each class in the file, strictly ascending, gaps allowed.
        names: name of each class, all different.
        frequency: "r", "c" or "f" of each class where the file has LVIS tags, else None.
        parents: names of the classes that others of the file have as their supercategory.

    Example:
        >>> categories = Categories(ids=(0, 7), names=("cat", "owl"))
        >>> categories.labels([7, 7, 0]), categories.category_ids([1, 2]), categories.name(2)
        (array([2, 2, 1]), array([0, 7]), 'owl')
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    frequency: tuple[str, ...] | None = None
    parents: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if len(self.names) != len(self.ids):
            raise ValueError(
                f"Categories: {len(self.ids)} ids and {len(self.names)} names. "
                "Give one name per id."
            )
        if any(a >= b for a, b in zip(self.ids, self.ids[1:], strict=False)):
            raise ValueError(f"Categories: ids are {self.ids}. Ids ascend strictly. Sort them.")
        if len(set(self.names)) != len(self.names):
            double = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f'Categories: name "{double}" occurs twice. Names are unique.')
        if self.frequency is not None and len(self.frequency) != len(self.ids):
            raise ValueError(
                f"Categories: {len(self.ids)} ids and {len(self.frequency)} frequency tags. "
                "Give one tag per id, or None."
            )

    @property
    def num_categories(self) -> int:
        """K, the number of classes without background."""
        return len(self.ids)

    @property
    def num_classes(self) -> int:
        """K + 1, the number of classes with background, as torchvision counts them."""
        return len(self.ids) + 1

    def labels(self, category_ids: npt.ArrayLike) -> Int64:
        """Return the labels (1..K) of category ids, in the shape given.

        Raises:
            ValueError: if a category id is not one of `ids`.
        """
        wanted = np.asarray(category_ids, dtype=np.int64)
        labels = find(np.array(self.ids, dtype=np.int64), wanted) + 1
        if not labels.all():
            unknown = wanted[labels == 0]
            raise ValueError(
                f"Categories: category_id {unknown.flat[0]} is unknown ({unknown.size} such ids in "
                f"all). Known: {shorten(self.ids)}."
            )
        return labels

    def category_ids(self, labels: npt.ArrayLike) -> Int64:
        """Return the category ids of labels (1..K), in the shape given.

        Raises:
            ValueError: if a label is not in 1..K; background (0) has no category id.
        """
        wanted = np.asarray(labels, dtype=np.int64)
        wrong = (wanted < 1) | (wanted > self.num_categories)
        if wrong.any():
            raise ValueError(
                f"Categories: label {wanted[wrong].flat[0]} has no category_id. Labels with one "
                f"are 1 to {self.num_categories}."
            )
        return np.array(self.ids, dtype=np.int64)[wanted - 1]

    def name(self, label: int) -> str:
        """Return the name of a label; label 0 is "background".

        Raises:
            ValueError: if the label is not in 0..K.
        """
        if not 0 <= label <= self.num_categories:
            raise ValueError(
                f"Categories: label {label} has no name. Labels are 0 to {self.num_categories}."
            )
        return "background" if label == 0 else self.names[label - 1]

    def labels_of_names(self, names: Sequence[str]) -> Int64:
        """Return the labels (1..K) of class names.

        Raises:
            ValueError: if a name is unknown; the message has the nearest known one.
        """
        label = {name: i + 1 for i, name in enumerate(self.names)}
        for name in names:
            if name not in label:
                near = difflib.get_close_matches(str(name), self.names, n=1)
                hint = f' Did you mean "{near[0]}"?' if near else ""
                raise ValueError(
                    f'Categories: no class is called "{name}". Known: {shorten(self.names)}.{hint}'
                )
        return np.array([label[name] for name in names], dtype=np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return a dict that JSON and checkpoints can hold; `from_dict` reads it."""
        return {
            "ids": list(self.ids),
            "names": list(self.names),
            "frequency": None if self.frequency is None else list(self.frequency),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Categories:
        """Build the mapping that `to_dict` wrote.

        Raises:
            ValueError: if "ids" or "names" is missing, or the values do not fit together.
        """
        missing = [key for key in ("ids", "names") if key not in values]
        if missing:
            raise ValueError(
                f'Categories: "{missing[0]}" is missing. Expected the keys ids, names, frequency.'
            )
        frequency = values.get("frequency")
        return cls(
            ids=tuple(int(i) for i in values["ids"]),
            names=tuple(str(name) for name in values["names"]),
            frequency=None if frequency is None else tuple(str(tag) for tag in frequency),
        )


def find(ids: Int64, wanted: Int64) -> Int64:
    """Return the position of each wanted id in the ascending `ids`, -1 where it is not there."""
    if not len(ids):
        return np.full(wanted.shape, -1, dtype=np.int64)
    low, high = int(ids[0]), int(ids[-1])
    if high - low < 16 * max(len(ids), len(wanted)):
        # Ids are mostly dense: a table of all of them answers faster than a binary search.
        table = np.full(high - low + 2, -1, dtype=np.int64)
        table[ids - low] = np.arange(len(ids))
        # The last entry, -1, is for every id outside the range.
        inside = (wanted >= low) & (wanted <= high)
        return table[np.where(inside, wanted - low, -1)]
    position = np.searchsorted(ids, wanted)
    position[position == len(ids)] = 0
    return np.where(ids[position] == wanted, position, -1)


def shorten(values: Sequence[object], limit: int = 8) -> str:
    """Join values for a message, the first `limit` of them and how many more there are."""
    text = ", ".join(str(value) for value in values[:limit])
    return text if len(values) <= limit else f"{text} and {len(values) - limit} more"
