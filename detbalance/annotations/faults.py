"""What can be wrong in an annotation file: one entry per kind, counted, with the first example."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# kind -> (what has it, what is wrong with one of them). The verb comes first, for the plural.
PHRASES = {
    "image entry": ("image", "is not a JSON object"),
    "image id": ("image", "has no id that is a whole number"),
    "duplicate image id": ("image", "has the id of an earlier image"),
    "image size": ("image", "has a width or height that is not a whole number of pixels"),
    "file_name": ("image", "has a file_name that is not text"),
    "unsafe file_name": ("image", "has a file_name that points outside the image folder"),
    "image category list": (
        "image",
        "has a neg_category_ids or not_exhaustive_category_ids that is not a list of ids listed in"
        ' "categories"',
    ),
    "category entry": ("category", "is not a JSON object"),
    "category id": ("category", "has no id that is a whole number"),
    "duplicate category id": ("category", "has the id of an earlier category"),
    "category name": ("category", "has no name that is text"),
    "duplicate category name": ("category", "has the name of an earlier category"),
    "annotation entry": ("annotation", "is not a JSON object"),
    "missing key": ("annotation", "has no id, image_id, category_id or bbox"),
    "annotation id": (
        "annotation",
        "has an id, image_id or category_id that is not a whole number",
    ),
    "duplicate annotation id": ("annotation", "has the id of an earlier annotation"),
    "unknown image": ("annotation", 'has an image_id that "images" does not list'),
    "unknown category": ("annotation", 'has a category_id that "categories" does not list'),
    "bbox": ("annotation", "has a bbox that is not four numbers"),
    "non-finite bbox": ("annotation", "has a bbox with NaN or infinity"),
    "negative bbox size": ("annotation", "has a bbox of negative width or height"),
    "empty bbox": ("annotation", "has a bbox of zero width or height"),
    "bbox outside": ("annotation", "has a bbox wholly outside its image"),
    "area": ("annotation", "has an area that is not a number >= 0"),
    "iscrowd": ("annotation", "has an iscrowd that is not 0 or 1"),
    "ignore": ("annotation", "has an ignore that is not 0 or 1"),
    "segmentation": ("annotation", "has a segmentation with NaN or infinity"),
    "image left out": ("annotation", "is left out with its image"),
    "category left out": ("annotation", "is left out with its category"),
    "clipped bbox": ("annotation", "has a bbox that reaches beyond its image (kept, clipped)"),
}
# Faults that follow from another one, and notes: they do not stop loading by themselves.
CONSEQUENCES = {"image left out", "category left out"}
NOTES = {"clipped bbox"}
_PLURAL = {"has": "have", "is": "are"}


class AnnotationError(ValueError):
    """An annotation file that cannot be used as it is; the message is one line."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault in a file.

    Attributes:
        kind: short name, a key of `PHRASES`, e.g. "unknown category".
        count: how many entries have it, at least 1.
        first: the first of them in words, e.g. "annotation 912, category_id 7".

    Example:
        >>> print(Fault("unknown category", 3, "annotation 912, category_id 7"))
        3 annotations have a category_id that "categories" does not list
        (first: annotation 912, category_id 7)
    """

    kind: str
    count: int
    first: str

    @property
    def is_note(self) -> bool:
        """Whether the entries were kept (clipped), so that nothing was left out for it."""
        return self.kind in NOTES

    def __str__(self) -> str:
        noun, phrase = PHRASES[self.kind]
        if self.count > 1:
            verb, rest = phrase.split(" ", 1)
            noun = "categories" if noun == "category" else f"{noun}s"
            phrase = f"{_PLURAL[verb]} {rest}"
        return f"{self.count} {noun} {phrase} (first: {self.first})"


class Ledger:
    """Counts faults by kind while a file is checked."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, kind: str, first: str, count: int = 1) -> None:
        """Count `count` entries of a kind; `first` is kept when it is the first of the kind."""
        self._counts[kind] = self._counts.get(kind, 0) + count
        self._first.setdefault(kind, first)

    def add_rows(
        self, kind: str, rows: npt.NDArray[np.bool_], describe: Callable[[int], str]
    ) -> None:
        """Count the rows that are True; `describe` says which entry the first of them is."""
        count = int(np.count_nonzero(rows))
        if count:
            self.add(kind, describe(int(np.argmax(rows))), count)

    def faults(self) -> tuple[Fault, ...]:
        """Return what was counted, in the order of `PHRASES`."""
        return tuple(
            Fault(kind, self._counts[kind], self._first[kind])
            for kind in PHRASES
            if kind in self._counts
        )

    def errors(self) -> tuple[Fault, ...]:
        """Return the faults that stop loading unless the caller lets them be left out."""
        return tuple(f for f in self.faults() if not f.is_note and f.kind not in CONSEQUENCES)


def show(value: object) -> str:
    """Return a value for a message: short, on one line, strings in double quotes."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    text = reprlib.repr(value)
    return f'"{text[1:-1]}"' if isinstance(value, str) else text
