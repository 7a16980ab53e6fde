"""From a JSON document with faults to columns: every fault counted, sound entries kept.

Slow beside `coco_file.py` (one Python step per value), and used only when that refuses a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from detbalance.data.arrays import PackedBytes
from detbalance.data.coco_file import (
    NO_SEGMENTATION,
    Columns,
    column,
    file_name_of,
    lists_of,
    tags_of,
)
from detbalance.data.faults import NOTES, AnnotationError, Ledger, show

_KEYS = ("images", "annotations", "categories")


def read_tolerant(
    document: object,
    source: str,
    ledger: Ledger,
    *,
    segmentations: bool,
    needs_boxes: bool = True,
) -> Columns:
    """Return the columns of the sound entries and count the others in `ledger`."""
    if not needs_boxes and isinstance(document, dict):
        document = {"annotations": [], **document}
    sections = _sections(document, source)
    refused_images: set[int] = set()
    refused_categories: set[int] = set()
    images = list(_images(sections["images"], ledger, refused_images))
    categories = list(_categories(sections["categories"], ledger, refused_categories))
    notes = list(_annotations(sections["annotations"], ledger, segmentations))
    bbox = [a["bbox"] for a in notes]
    return Columns(
        image_ids=column((i["id"] for i in images), len(images), np.int64),
        sizes=np.array([i["size"] for i in images], dtype=np.int64).reshape(-1, 2),
        file_names=[i["file_name"] for i in images],
        neg_category_ids=lists_of([i["neg_category_ids"] for i in images]),
        not_exhaustive_category_ids=lists_of([i["not_exhaustive_category_ids"] for i in images]),
        category_ids=column((c["id"] for c in categories), len(categories), np.int64),
        category_names=[c["name"] for c in categories],
        frequency=tags_of([c["frequency"] for c in categories]),
        supercategories=[c["supercategory"] for c in categories],
        annotation_ids=column((a["id"] or 0 for a in notes), len(notes), np.int64),
        annotation_images=column((a["image_id"] for a in notes), len(notes), np.int64),
        annotation_categories=column((a["category_id"] for a in notes), len(notes), np.int64),
        bbox=np.array(bbox, dtype=np.float64).reshape(-1, 4),
        areas=column((a["area"] for a in notes), len(notes), np.float64),
        is_crowd=column((a["iscrowd"] for a in notes), len(notes), np.bool_),
        is_ignored=column((a["ignore"] for a in notes), len(notes), np.bool_),
        segmentations=PackedBytes.from_items([a["segmentation"] for a in notes])
        if segmentations
        else None,
        num_listed=len(sections["annotations"]),
        places=column((a["place"] for a in notes), len(notes), np.int64),
        without_id=column((a["id"] is None for a in notes), len(notes), np.bool_),
        refused_image_ids=refused_images,
        refused_category_ids=refused_categories,
    )


def whole(value: object) -> int | None:
    """Return a JSON number that is an int64 whole number, also when written 12.0, else None."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    return None


def whole_id(value: object) -> int | None:
    """Return an id, which may be written as text of digits, else None."""
    return whole(_of_digits(value))


def _of_digits(value: object) -> object:
    """Return the number that a text of digits says, anything else as it is."""
    is_number = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 99
    return int(cast("str", value)) if is_number else value


def id_fault(value: object) -> str:
    """Say what is wrong with an id that `whole_id` does not take, as the end of a kind."""
    value = _of_digits(value)
    is_large = isinstance(value, int) and not -(2**63) <= value < 2**63
    return "id too large" if is_large else "id"


def number(value: object) -> float | None:
    """Return a JSON number as float (NaN and infinity too), else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def four_numbers(value: object) -> list[float] | None:
    """Return a JSON list of four numbers as floats, else None."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    numbers = [number(v) for v in value]
    return None if None in numbers else cast("list[float]", numbers)


def _sections(document: object, source: str) -> dict[str, list[Any]]:
    """Return the three lists of a COCO file."""
    expected = (
        'Expected a COCO annotation file: an object with "images", "annotations", "categories"'
    )
    if isinstance(document, list):
        looks = document and isinstance(document[0], dict) and "score" in document[0]
        what = "looks like a results file (a list of detections)" if looks else "is a list"
        raise AnnotationError(f"{source}: the file {what}. {expected}. Name the annotation file.")
    if not isinstance(document, dict):
        raise AnnotationError(f"{source}: the top level is {show(document)}. {expected}.")
    for key in _KEYS:
        if key not in document:
            raise AnnotationError(
                f'{source}: "{key}" is missing (found: {show(list(document))}). {expected}. '
                "Name the annotation file, or add the key."
            )
        if not isinstance(document[key], list):
            raise AnnotationError(f'{source}: "{key}" is {show(document[key])}. Expected a list.')
    notes = document["annotations"]
    if notes and isinstance(notes[0], dict) and "segments_info" in notes[0]:
        raise AnnotationError(
            f"{source}: the file looks like a panoptic one (it has segments_info). Expected"
            " an annotation file with one bbox an object. Name that file, or make it from this one."
        )
    return document


def _images(entries: list[Any], ledger: Ledger, refused: set[int]) -> Iterator[dict[str, Any]]:
    spellings: dict[int, object] = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            ledger.add("image entry", f"images[{position}] is {show(entry)}")
            continue
        raw = entry.get("id")
        words = f"images[{position}], id {show(raw)}"
        image_id = whole_id(raw)
        if image_id is None:
            ledger.add(f"image {id_fault(raw)}", words)
            continue
        if spellings.setdefault(image_id, raw) != raw:
            ledger.add("image id in another spelling", words)
        if isinstance(raw, str):
            ledger.add("image id as text", words)
        faults = dict(_image_faults(entry))
        for kind, words in faults.items():
            ledger.add(kind, f"image {image_id}, {words}")
        if faults.keys() - {"image category list"}:
            refused.add(image_id)
            continue
        yield {
            "id": image_id,
            "file_name": file_name_of(entry.get("file_name"), entry.get("coco_url")),
            "size": [whole(entry.get(key) or 0) for key in ("width", "height")],
            **{key: _id_list(entry, key) for key in _LISTS},
        }


_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def _image_faults(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key in ("width", "height"):
        if entry.get(key) is not None and whole(entry[key]) is None:
            yield "image size", f"{key} {show(entry[key])}"
    for key in ("file_name", "coco_url"):
        if not _is_text(entry.get(key, "")) and entry[key] is not None:
            yield "file_name", f"{key} {show(entry[key])}"
    for key in _LISTS:
        if entry.get(key) is not None and _id_list(entry, key) is None:
            yield "image category list", f"{key} {show(entry[key])}"


def _id_list(entry: dict[str, Any], key: str) -> list[int] | None:
    value = entry.get(key)
    if not isinstance(value, list):
        return None
    ids = [whole_id(v) for v in value]
    return None if None in ids else cast("list[int]", ids)


def _categories(entries: list[Any], ledger: Ledger, refused: set[int]) -> Iterator[dict[str, Any]]:
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            ledger.add("category entry", f"categories[{position}] is {show(entry)}")
            continue
        raw = entry.get("id")
        words = f"categories[{position}], id {show(raw)}"
        category_id = whole_id(raw)
        if category_id is None:
            ledger.add(f"category {id_fault(raw)}", words)
            continue
        if isinstance(raw, str):
            ledger.add("category id as text", words)
        if not _is_text(entry.get("name")):
            ledger.add("category name", f"category {category_id}, name {show(entry.get('name'))}")
            refused.add(category_id)
        else:
            tags = {key: entry.get(key) for key in ("frequency", "supercategory")}
            yield {"id": category_id, "name": entry["name"], **tags}


def _annotations(
    entries: list[Any], ledger: Ledger, segmentations: bool
) -> Iterator[dict[str, Any]]:
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            ledger.add("annotation entry", f"annotations[{position}] is {show(entry)}")
            continue
        where = f"annotation {show(entry['id'])}" if "id" in entry else f"annotations[{position}]"
        faults = dict(_annotation_faults(entry, segmentations))
        is_kept = faults.keys() <= NOTES
        for kind, words in faults.items():
            if is_kept or kind not in NOTES:
                ledger.add(kind, f"{where}, {words}")
        if not is_kept:
            continue
        area = entry.get("area")
        yield {
            **{key: whole_id(entry.get(key)) for key in ("id", *_REFERENCES)},
            "place": position,
            "bbox": four_numbers(entry["bbox"]),
            "area": math.nan if area is None or "area" in faults else number(area),
            "iscrowd": bool(entry.get("iscrowd")),
            "ignore": bool(entry.get("ignore")),
            "segmentation": json.dumps(entry.get("segmentation")).encode()
            if segmentations
            else NO_SEGMENTATION,
        }


_REFERENCES = ("image_id", "category_id")


def _annotation_faults(entry: dict[str, Any], segmentations: bool) -> Iterator[tuple[str, str]]:
    only_outline = not entry.get("bbox") and bool(entry.get("segmentation"))
    if only_outline:
        yield "no bbox", f"segmentation {show(entry['segmentation'])}"
    missing = [key for key in (*_REFERENCES, "bbox") if key not in entry]
    if missing and not (only_outline and missing == ["bbox"]):
        yield "missing key", f"no {missing[0]}"
    for key in ("id", *_REFERENCES):
        value = entry.get(key)
        if whole_id(value) is not None:
            if isinstance(value, str):
                yield "annotation id as text", f"{key} {show(value)}"
        elif key in entry and key != "id":
            yield f"annotation {id_fault(value)}", f"{key} {show(value)}"
    if "bbox" in entry and not only_outline and four_numbers(entry["bbox"]) is None:
        yield "bbox", f"bbox {show(entry['bbox'])}"
    if entry.get("area") is not None:
        area = number(entry["area"])
        if area is None or not 0 <= area < math.inf:
            yield "area", f"area {show(entry['area'])}"
    for key in ("iscrowd", "ignore"):
        flag = entry.get(key)
        if flag is not None and not (isinstance(flag, (bool, int, float)) and flag in (0, 1)):
            yield key, f"{key} {show(flag)}"
    if segmentations:
        try:
            json.dumps(entry.get("segmentation"), allow_nan=False)
        except (ValueError, RecursionError):
            yield "segmentation", f"segmentation {show(entry['segmentation'])}"


def _is_text(value: object) -> bool:
    """Whether a value is a string that UTF-8 can hold (JSON may escape half a surrogate pair)."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
