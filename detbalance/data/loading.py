"""Load a COCO or LVIS annotation file, YOLO labels or a Pascal VOC folder."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

from detbalance.data.annotations import Annotations
from detbalance.data.checking import Check
from detbalance.data.coco_file import read_fast
from detbalance.data.faults import AnnotationError, Ledger
from detbalance.data.files import open_file, open_text, parse_json
from detbalance.data.tolerant import read_tolerant
from detbalance.data.voc import is_voc, read_voc
from detbalance.data.yolo import is_yolo, path_and_split, read_yolo, yolo_images


def load_annotations(
    path: str | os.PathLike[str],
    *,
    segmentations: bool = False,
    drop_invalid: bool = False,
    tolerance: float = 2.0,
    needs_boxes: bool = True,
) -> Annotations:
    """Read a COCO or LVIS annotation file into flat arrays and check all of it.

    YOLO labels (`data.yaml:train`) and Pascal VOC folders (`VOC2007:val`) are read too, see
    `yolo.py` and `voc.py`; what follows holds for the COCO file that would say the same.

    What may be missing in the file: `file_name` (LVIS v1: the last two parts of `coco_url`),
    `width` and `height` (then boxes are not checked against the image), `area` (then width *
    height), `iscrowd` (then 0). Ids may have gaps and may be 0.

    A fault is a duplicate image id, a reference to an image or category that is not listed, a bbox
    that is not finite, not positive in size, or wholly outside its image, a missing key, or a wrong
    type. Kept, and counted in `faults` as a note: ids written as text of digits; annotation ids
    that repeat or lack, which are numbered anew by place; a category that is listed again; a
    file_name that is absolute or climbs with "..", which `Annotations.image_path` refuses; an area
    that is not a number >= 0, for which width * height is taken; a class of crowd regions only; and
    a bbox that reaches beyond its image by more than `tolerance`. Such a bbox keeps its numbers in
    `bbox` and is clipped in `boxes`.

    Args:
        path: JSON file; or a data.yaml or a VOC folder, with a split behind a colon.
        segmentations: keep the segmentation of each annotation (as JSON text, off by default).
        drop_invalid: leave out entries with a fault, and what belongs to them, and say how many in
            `faults`, instead of stopping. Of duplicates the first one stays.
        tolerance: pixels that a bbox may reach beyond its image without being reported, >= 0.
        needs_boxes: refuse a file without "annotations"; off where images and classes suffice.

    Returns:
        The annotations, images in file order.

    Raises:
        AnnotationError: if the file cannot be read, is not a COCO file, or has faults and
            `drop_invalid` is off; one line with every kind of fault, its count and first example.
            Also if faults leave no image, category or annotation, or if an id has two names or a
            name two ids, whatever `drop_invalid` is.
        ValueError: if `tolerance` is negative or NaN.
    """
    if not tolerance >= 0:
        raise ValueError(f"load_annotations(): tolerance is {tolerance}. Expected pixels >= 0.")
    source = os.fspath(path)
    ledger = Ledger()
    document = folder_document(path, ledger, segmentations=segmentations)
    if document is not None:
        rows = read_tolerant(document, source, ledger, segmentations=segmentations)
        return Check(rows, source, ledger, tolerance).annotations(drop_invalid)
    with open_text(path, AnnotationError) as text:
        columns = read_fast(text, segmentations=segmentations)
        if columns is None:
            content = parse_json(text[:], path, AnnotationError)
            columns = read_tolerant(
                content, source, ledger, segmentations=segmentations, needs_boxes=needs_boxes
            )
            del content
    del text
    annotations = Check(columns, source, ledger, tolerance).annotations(drop_invalid)
    del columns
    _return_freed_memory()
    return annotations


def folder_document(
    path: str | os.PathLike[str], ledger: Ledger, *, segmentations: bool = False
) -> dict[str, Any] | None:
    """The document that a COCO file of YOLO labels or a VOC folder would hold; None for a file."""
    if is_yolo(path):
        return read_yolo(path, ledger, segmentations=segmentations)
    return read_voc(path, ledger) if is_voc(path) else None


def source_text(path: str | os.PathLike[str]) -> bytes:
    """The JSON text of a file; for YOLO labels or a VOC folder, of the file that would say it."""
    document = folder_document(path, Ledger(), segmentations=True)
    return open_file(path) if document is None else json.dumps(document).encode()


def image_folder(path: str | os.PathLike[str]) -> Path | None:
    """Where the images of YOLO labels or a VOC folder are; None for a file, which does not say."""
    if is_yolo(path):
        return yolo_images(path)[1]
    return Path(path_and_split(path)[0]) / "JPEGImages" if is_voc(path) else None


def _return_freed_memory() -> None:
    """Give what was freed back to the system, where the C library would keep it (glibc)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
