"""Results that name images otherwise than by id: ids as text, or file names as YOLO tools write."""

from __future__ import annotations

import logging
import os
import posixpath

import numpy as np

from detbalance.data.annotations import Annotations
from detbalance.data.faults import show
from detbalance.data.results_file import Results
from detbalance.data.tolerant import whole_id

_logger = logging.getLogger(__name__)


def resolve_images(
    results: Results, annotations: Annotations, path: str | os.PathLike[str]
) -> list[str]:
    """Put the id of its image in the place of each name, and say what is wrong with the names."""
    is_named = np.zeros(len(results.image_ids), dtype=np.bool_)
    is_named[results.named] = True
    numbers = np.unique(results.image_ids[~is_named])
    values = [*results.names, *numbers.tolist()]
    row_of_id = {int(i): row for row, i in enumerate(annotations.image_ids)}
    ids = [row_of_id.get(whole_id(value)) for value in values]  # type: ignore[arg-type]
    row_of_name = _file_names(annotations)
    files = [row_of_name.get(value) for value in values]
    by_file = None not in files
    if None not in ids and by_file and ids != files:
        at = next(n for n in range(len(ids)) if ids[n] != files[n])
        return [
            f"image_id fits the ids of {annotations.source} as well as its file names, and they are"
            f" other images (first: {show(values[at])} is an id, and the image"
            f" {annotations.file_name(files[at] or 0)} has another one)"
        ]
    by_file = by_file and None in ids
    rows = np.array([-1 if row is None else row for row in (files if by_file else ids)])
    codes = results.image_ids[results.named]
    unknown = rows[codes] < 0
    if unknown.any():
        first = int(np.argmax(unknown))
        return [
            f"{np.count_nonzero(unknown)} of {len(is_named)} detections have an image_id that is no"
            f" id in {annotations.source}, and not every image_id is the name of just one image"
            f" file there (first: detection {results.named[first]}, image_id"
            f" {show(results.names[codes[first]])})"
        ]
    results.image_ids[results.named] = annotations.image_ids[rows[codes]]
    if by_file:
        places = len(results.names) + np.searchsorted(numbers, results.image_ids[~is_named])
        results.image_ids[~is_named] = annotations.image_ids[rows[places]]
        _logger.warning(
            "%s: image_id is the name of an image file of %s (kept, matched by it) (first: %s is"
            " %s)",
            *(path, annotations.source, show(values[0])),
            show(annotations.file_name(int(rows[0]))),
        )
    elif results.names:
        _logger.warning(
            "%s: %d of %d detections have an image_id as text (kept, read as a number) (first: %s)",
            *(path, len(results.named), len(is_named), show(results.names[0])),
        )
    return []


def _file_names(annotations: Annotations) -> dict[object, int | None]:
    """The row of each file name, with and without folder and ending; None where two have it."""
    rows: dict[object, int | None] = {}
    for row in range(annotations.num_images):
        full = annotations.file_name(row).replace("\\", "/")
        last = posixpath.basename(full)
        stem = posixpath.splitext(last)[0]
        names = {full, last, posixpath.splitext(full)[0], stem, whole_id(stem)}
        for name in names - {"", None}:
            rows[name] = row if rows.setdefault(name, row) == row else None
    return rows
