"""From the bytes of a COCO file to columns: a typed fast parser, in small parts.

The structs below are what a sound file looks like. A file that does not fit them (a wrong type, a
missing key, a NaN token) goes through `tolerant.py` instead, which names what is wrong.

A structure of the whole file would take several hundred MB for a moment, and looking twice at every
byte (once to find the parts, once to decode them) a third more time. So the text is cut where one
entry ends and the next begins, without parsing. A wrong cut cannot give wrong values: each part is
decoded as a JSON list of its own, and if all parts are lists of entries, then so is the whole.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import PackedBytes, offsets_of
from detbalance.data.files import FileText

NO_SEGMENTATION = b"null"
# What stands for the list of annotations in the rest of the document.
PLACEHOLDER = b'["annotations are read apart"]'
_PART = 50_000  # bytes; from 128 kB on, each part would be mapped and unmapped by the system
_BATCH = 100
_KEY = re.compile(rb'"annotations"\s*:\s*\[\s*')
_NEXT = re.compile(rb"\}\s*,\s*\{")
_LAST = re.compile(rb"\}\s*\]")


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int | bool | None = 0
    ignore: int | bool | None = 0


class _AnnotationWithSegmentation(_Annotation, gc=False):
    segmentation: msgspec.Raw = msgspec.Raw(NO_SEGMENTATION)


class Rows:
    """Columns of annotations in file order, filled part by part."""

    def __init__(self, segmentations: bool) -> None:
        self._segmentations = segmentations
        entry = _AnnotationWithSegmentation if segmentations else _Annotation
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[entry])  # type: ignore[valid-type]
        self._id, self._image_id, self._category_id = array("q"), array("q"), array("q")
        self._iscrowd, self._ignore = array("b"), array("b")
        self._area, self._bbox = array("d"), array("d")
        self._lengths = array("q")
        self._texts: list[bytes] = []

    def add(self, text: bytes) -> None:
        """Add the entries of a JSON list."""
        notes = self._decoder.decode(text)
        self._id.fromlist([a.id for a in notes])
        self._image_id.fromlist([a.image_id for a in notes])
        self._category_id.fromlist([a.category_id for a in notes])
        self._iscrowd.fromlist([a.iscrowd or 0 for a in notes])
        self._ignore.fromlist([a.ignore or 0 for a in notes])
        self._area.fromlist([np.nan if a.area is None else a.area for a in notes])
        self._bbox.fromlist([value for a in notes for value in a.bbox])
        if self._segmentations:
            pieces = [memoryview(a.segmentation) for a in notes]
            self._lengths.fromlist([len(piece) for piece in pieces])
            self._texts.append(b"".join(pieces))

    def add_entries(self, entries: Sequence[msgspec.Raw]) -> None:
        """Add entries that are known to be one JSON value each."""
        for start in range(0, len(entries), _BATCH):
            self.add(b"[" + b",".join(entries[start : start + _BATCH]) + b"]")

    def add_cut(self, data: FileText) -> bytes | None:
        """Add the list of annotations of a document, cut into parts without parsing the rest."""
        name = max(0, data.find(b'"annotations"'))
        opening = _KEY.match(data[name : name + 4096])
        if opening is None:
            return None
        start = name + opening.end()
        end = start + 1 if data[start : start + 1] == b"]" else 0
        while not end:
            part, gap = data.cut(start, _PART, _NEXT)
            try:
                self.add(b"[" + part + b"]")
            except msgspec.DecodeError:
                # The list may end within this part: where all up to a "}]" is a list.
                last = self._add_last(part)
                if last is None:
                    return None
                end = start + last
            else:
                if gap is None:
                    return None
                start = gap
        return b"".join([data[:name], b'"annotations":', PLACEHOLDER, data[end:]])

    def _add_last(self, part: bytes) -> int | None:
        for closing in islice(_LAST.finditer(part), 4):
            try:
                self.add(b"[" + part[: closing.start() + 1] + b"]")
            except msgspec.DecodeError:
                continue
            return closing.end()
        return None

    def columns(self) -> dict[str, Any]:
        """Return one array per key; flags as int8, `area` NaN where the file has none."""
        return {
            "id": _array(self._id, np.int64),
            "image_id": _array(self._image_id, np.int64),
            "category_id": _array(self._category_id, np.int64),
            "iscrowd": _array(self._iscrowd, np.int8),
            "ignore": _array(self._ignore, np.int8),
            "area": _array(self._area, np.float64),
            "bbox": _array(self._bbox, np.float64).reshape(-1, 4),
            "segmentation": self._packed() if self._segmentations else None,
        }

    def _packed(self) -> PackedBytes:
        data = np.frombuffer(b"".join(self._texts), dtype=np.uint8)
        self._texts.clear()
        return PackedBytes(data, offsets_of(_array(self._lengths, np.int64)))


def _array(values: array[Any], dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.frombuffer(values, dtype=dtype)


_PLACEHOLDERS = [PLACEHOLDER[1:-1]]


@dataclass
class Columns:
    """A file as columns in file order: typed, not yet checked against each other."""

    image_ids: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    file_names: list[str]
    neg_category_ids: list[Sequence[int]] | None
    not_exhaustive_category_ids: list[Sequence[int]] | None
    category_ids: npt.NDArray[np.int64]
    category_names: list[str]
    frequency: list[str] | None
    supercategories: list[object]
    annotation_ids: npt.NDArray[np.int64]
    annotation_images: npt.NDArray[np.int64]
    annotation_categories: npt.NDArray[np.int64]
    bbox: npt.NDArray[np.float64]
    areas: npt.NDArray[np.float64]  # NaN where the file has none
    is_crowd: npt.NDArray[np.bool_]
    is_ignored: npt.NDArray[np.bool_]
    segmentations: PackedBytes | None
    num_listed: int  # annotations in the file, those that could not be read too
    places: npt.NDArray[np.int64] | None = None  # of the annotations in the list; None: all of it
    without_id: npt.NDArray[np.bool_] | None = None  # annotations; None: none
    # Ids of entries that were read but could not be used, so that what refers to them is not
    # called a dangling reference.
    refused_image_ids: set[int] = field(default_factory=set)
    refused_category_ids: set[int] = field(default_factory=set)


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str | None = None
    width: int | None = None
    height: int | None = None
    coco_url: str | None = None
    neg_category_ids: tuple[int, ...] | None = None
    not_exhaustive_category_ids: tuple[int, ...] | None = None


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str
    frequency: str | None = None
    supercategory: Any = None


class _File(msgspec.Struct, gc=False):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[msgspec.Raw]


def read_fast(data: FileText, *, segmentations: bool) -> Columns | None:
    """Return the columns of a sound file, or None when the tolerant reader must look at it."""
    try:
        rows = Rows(segmentations)
        rest = rows.add_cut(data)
        file = None if rest is None else msgspec.json.decode(rest, type=_File)
        if file is None or [bytes(raw) for raw in file.annotations] != _PLACEHOLDERS:
            # The first "annotations" in the text is not the list of the file, or holds values that
            # look like entries: let the parser find the entries, which takes a little longer.
            file = msgspec.json.decode(data[:], type=_File)
            rows = Rows(segmentations)
            rows.add_entries(file.annotations)
        return _columns(file, rows.columns())
    except (msgspec.DecodeError, OverflowError, RecursionError, UnicodeDecodeError):
        return None


def _columns(file: _File, notes: dict[str, Any]) -> Columns | None:
    images, categories = file.images, file.categories
    crowd, ignored = notes["iscrowd"], notes["ignore"]
    flags_are_sound = all(((flag == 0) | (flag == 1)).all() for flag in (crowd, ignored))
    if not flags_are_sound or (notes["area"] < 0).any():
        return None
    return Columns(
        image_ids=column((i.id for i in images), len(images), np.int64),
        sizes=column(
            chain.from_iterable((i.width or 0, i.height or 0) for i in images),
            2 * len(images),
            np.int64,
        ).reshape(-1, 2),
        file_names=[i.file_name or file_name_of(None, i.coco_url) for i in images],
        neg_category_ids=lists_of([i.neg_category_ids for i in images]),
        not_exhaustive_category_ids=lists_of([i.not_exhaustive_category_ids for i in images]),
        category_ids=column((c.id for c in categories), len(categories), np.int64),
        category_names=[c.name for c in categories],
        frequency=tags_of([c.frequency for c in categories]),
        supercategories=[c.supercategory for c in categories],
        annotation_ids=notes["id"],
        annotation_images=notes["image_id"],
        annotation_categories=notes["category_id"],
        bbox=notes["bbox"],
        areas=notes["area"],
        is_crowd=crowd.astype(np.bool_),
        is_ignored=ignored.astype(np.bool_),
        segmentations=notes["segmentation"],
        num_listed=len(notes["id"]),
    )


def column(values: Iterable[Any], count: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Return `count` values as an array."""
    return np.fromiter(values, dtype=np.dtype(dtype), count=count)


def file_name_of(file_name: str | None, coco_url: str | None) -> str:
    """Return the file name, from the last two parts of the address where LVIS v1 has only that."""
    if file_name:
        return file_name
    return "/".join(coco_url.split("/")[-2:]) if coco_url else ""


def lists_of(lists: list[Any]) -> list[Sequence[int]] | None:
    """Return one list per image, or None when no image has one."""
    if all(item is None for item in lists):
        return None
    return [item or () for item in lists]


def tags_of(tags: list[str | None]) -> list[str] | None:
    """Return the LVIS frequency tags when every category has one."""
    known = [tag for tag in tags if tag in ("r", "c", "f")]
    return known if known and len(known) == len(tags) else None
