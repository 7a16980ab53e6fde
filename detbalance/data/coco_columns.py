"""From the bytes of a COCO file to columns: a typed fast parser.

The structs below are what a sound file looks like. A file that does not fit them (a wrong type, a
missing key, a NaN token) goes through `tolerant.py` instead, which names what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import PackedBytes
from detbalance.data.files import FileText
from detbalance.data.rows import PLACEHOLDER, Rows

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
