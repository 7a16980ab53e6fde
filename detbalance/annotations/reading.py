"""From the bytes of a COCO file to columns: a typed fast parser.

The structs below are what a sound file looks like. A file that does not fit them (a wrong type, a
missing key, a NaN token) goes through `tolerant.py` instead, which names what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from detbalance.annotations.packed import PackedBytes, offsets_of

Box = tuple[float, float, float, float]
NO_SEGMENTATION = b"null"
_BATCH = 1000  # annotations decoded at a time


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
    annotation_ids: npt.NDArray[np.int64]
    annotation_images: npt.NDArray[np.int64]
    annotation_categories: npt.NDArray[np.int64]
    bbox: npt.NDArray[np.float64]
    areas: npt.NDArray[np.float64]  # NaN where the file has none
    is_crowd: npt.NDArray[np.bool_]
    segmentations: PackedBytes | None
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


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: Box
    area: float | None = None
    iscrowd: int | bool | None = 0


class _AnnotationWithSegmentation(_Annotation, gc=False):
    segmentation: msgspec.Raw = msgspec.Raw(NO_SEGMENTATION)


class _File(msgspec.Struct, gc=False):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[msgspec.Raw]


def read_fast(data: bytes, *, segmentations: bool) -> Columns | None:
    """Return the columns of a sound file, or None when the tolerant reader must look at it."""
    try:
        file = msgspec.json.decode(data, type=_File)
        images, categories = file.images, file.categories
        notes = _read_annotations(file.annotations, segmentations)
        crowd = notes["iscrowd"]
        if ((crowd != 0) & (crowd != 1)).any() or (notes["area"] < 0).any():
            return None
        return Columns(
            image_ids=column((i.id for i in images), len(images), np.int64),
            sizes=column(
                chain.from_iterable((i.width or 0, i.height or 0) for i in images),
                2 * len(images),
                np.int64,
            ).reshape(-1, 2),
            file_names=[file_name_of(i.file_name, i.coco_url) for i in images],
            neg_category_ids=lists_of([i.neg_category_ids for i in images]),
            not_exhaustive_category_ids=lists_of([i.not_exhaustive_category_ids for i in images]),
            category_ids=column((c.id for c in categories), len(categories), np.int64),
            category_names=[c.name for c in categories],
            frequency=tags_of([c.frequency for c in categories]),
            annotation_ids=notes["id"],
            annotation_images=notes["image_id"],
            annotation_categories=notes["category_id"],
            bbox=notes["bbox"],
            areas=notes["area"],
            is_crowd=crowd.astype(np.bool_),
            segmentations=notes["segmentation"],
        )
    except (msgspec.DecodeError, OverflowError, RecursionError, UnicodeDecodeError):
        return None


def _read_annotations(raws: list[msgspec.Raw], segmentations: bool) -> dict[str, Any]:
    """Decode the annotations batch by batch, so that few objects exist at any time.

    A structure of the whole file costs no less time and several hundred MB, part of which the
    process would keep.
    """
    count = len(raws)
    columns: dict[str, Any] = {
        key: np.empty(count, dtype=np.int64) for key in ("id", "image_id", "category_id", "iscrowd")
    }
    columns["area"] = np.empty(count, dtype=np.float64)
    columns["bbox"] = np.empty((count, 4), dtype=np.float64)
    lengths = np.zeros(count, dtype=np.int64)
    texts: list[bytes] = []
    entry = _AnnotationWithSegmentation if segmentations else _Annotation
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(list[entry])  # type: ignore[valid-type]
    for start in range(0, count, _BATCH):
        notes = decoder.decode(b"[" + b",".join(raws[start : start + _BATCH]) + b"]")
        part, size = slice(start, start + len(notes)), len(notes)
        for key in ("id", "image_id", "category_id"):
            columns[key][part] = column(map(attrgetter(key), notes), size, np.int64)
        columns["iscrowd"][part] = column((a.iscrowd or 0 for a in notes), size, np.int64)
        areas = (np.nan if a.area is None else a.area for a in notes)
        columns["area"][part] = column(areas, size, np.float64)
        boxes = chain.from_iterable([a.bbox for a in notes])
        columns["bbox"][part] = column(boxes, 4 * size, np.float64).reshape(-1, 4)
        if segmentations:
            pieces = [memoryview(a.segmentation) for a in notes]
            lengths[part] = column(map(len, pieces), size, np.int64)
            texts.append(b"".join(pieces))
    columns["segmentation"] = None
    if segmentations:
        data = np.frombuffer(b"".join(texts), dtype=np.uint8)
        columns["segmentation"] = PackedBytes(data, offsets_of(lengths))
    return columns


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
