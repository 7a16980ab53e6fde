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
    "image id too large": ("image", "has an id beyond 64 bits, above 2^63 - 1"),
    "image id in another spelling": ("image", "has the id of an earlier image, spelled otherwise"),
    "duplicate image id": ("image", "has the id of an earlier image"),
    "image size": ("image", "has a width or height that is not a whole number of pixels"),
    "file_name": ("image", "has a file_name that is not text"),
    "image category list": (
        "image",
        "has a neg_category_ids or not_exhaustive_category_ids that is not a list of ids listed in"
        ' "categories"',
    ),
    "category entry": ("category", "is not a JSON object"),
    "category id": ("category", "has no id that is a whole number"),
    "category id too large": ("category", "has an id beyond 64 bits, above 2^63 - 1"),
    "duplicate category id": ("category", "has the id of an earlier category, but not its name"),
    "category name": ("category", "has no name that is text"),
    "duplicate category name": ("category", "has the name of an earlier category, but not its id"),
    "annotation entry": ("annotation", "is not a JSON object"),
    "missing key": ("annotation", "has no image_id, category_id or bbox"),
    "no bbox": ("annotation", "has a segmentation and no bbox (make one from its outline)"),
    "annotation id": ("annotation", "has an image_id or category_id that is not a whole number"),
    "annotation id too large": (
        "annotation",
        "has an image_id or category_id beyond 64 bits, above 2^63 - 1",
    ),
    "unknown image": ("annotation", 'has an image_id that "images" does not list'),
    "unknown category": ("annotation", 'has a category_id that "categories" does not list'),
    "bbox": ("annotation", "has a bbox that is not four numbers"),
    "non-finite bbox": ("annotation", "has a bbox with NaN or infinity"),
    "negative bbox size": ("annotation", "has a bbox of negative width or height"),
    "empty bbox": ("annotation", "has a bbox of zero width or height"),
    "bbox outside": ("annotation", "has a bbox wholly outside its image"),
    "iscrowd": ("annotation", "has an iscrowd that is not 0 or 1"),
    "ignore": ("annotation", "has an ignore that is not 0 or 1"),
    "segmentation": ("annotation", "has a segmentation with NaN or infinity"),
    "unreadable image": ("image", "has no size that can be read"),
    "XML size": ("XML file", "has no size with a width and a height"),
    "XML object": ("object", "has no name or no bndbox of four numbers"),
    "label line": (
        "label line",
        "is not a class and four numbers, or a class and the points of an outline",
    ),
    "label class": ("label line", "has a class that names lacks"),
    "label share": ("label line", "has numbers that are no shares of the image's size (0 to 1)"),
    "image left out": ("annotation", "is left out with its image"),
    "category left out": ("annotation", "is left out with its category"),
    # From here on notes: such entries are kept.
    "image id as text": ("image", "has an id as text (kept, read as a number)"),
    "category id as text": ("category", "has an id as text (kept, read as a number)"),
    "annotation id as text": (
        "annotation",
        "has an id, image_id or category_id as text (kept, read as a number)",
    ),
    "annotation number": (
        "annotation",
        "has the id of an earlier one, or none (all kept, numbered anew)",
    ),
    "repeated category": ("category", "is listed again (kept once)"),
    "unsafe file_name": (
        "image",
        "has a file_name that points outside the image folder (kept, but it will not be opened)",
    ),
    "area": ("annotation", "has an area that is not a number >= 0 (kept, width x height taken)"),
    "clipped bbox": ("annotation", "has a bbox that reaches beyond its image (kept, clipped)"),
    "repeated label": ("label line", "is there twice (kept once)"),
    "difficult": ("object", "is marked as difficult (kept, like any other)"),
    "crowd only": (
        "category",
        "has crowd regions only (kept, not counted; a single object has iscrowd 0)",
    ),
}
# Faults that follow from another one, and notes: they do not stop loading by themselves.
CONSEQUENCES = {"image left out", "category left out"}
NOTES = frozenset(list(PHRASES)[list(PHRASES).index("image id as text") :])
# Leaving one of the entries out would give its boxes to the other one.
AMBIGUOUS = {
    "image id in another spelling",
    "duplicate category id",
    "duplicate category name",
}
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
        """Whether the entries were kept, so that nothing was left out for it."""
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
