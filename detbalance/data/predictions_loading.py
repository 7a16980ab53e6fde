"""Read a COCO results file and check it against the annotations that it belongs to."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from detbalance.data.annotations import Annotations
from detbalance.data.categories import find
from detbalance.data.faults import show
from detbalance.data.files import open_text
from detbalance.data.predictions import Predictions
from detbalance.data.result_names import resolve_images
from detbalance.data.results_file import Results

Int64 = npt.NDArray[np.int64]
_OTHER_ANNOTATIONS = (
    "Expected results of these annotations. Name the annotation file that the predictions were made"
    " on."
)
_NUMBERS = (
    "Expected a score, and left, top, width and height, all finite, sizes >= 0. Write the results"
    " file again."
)
_BLOCK = 1 << 18  # ids looked up at a time, so that memory stays small


def load_predictions(path: str | os.PathLike[str], annotations: Annotations) -> Predictions:
    """Read a COCO results file (a list of image_id, category_id, bbox, score).

    The file is read in parts: 20 million detections take little more memory than their arrays.

    Args:
        path: JSON file; an empty list is fine. An image may be named by its id, also as text of
            digits, or by its file name with or without folder and ending, where that is unique; a
            log line says so.
        annotations: the file that the results belong to; it gives image rows and labels.

    Returns:
        The detections in file order. A bbox may lie outside its image.

    Raises:
        ValueError: if the file cannot be read, is not a list of detections with boxes, or names an
            image or a category that the annotations do not have; one line with the count and the
            first example of each kind.
    """
    with open_text(path) as text:
        results = Results(text, path)
    order = np.argsort(annotations.image_ids)
    category_ids = np.array(annotations.categories.ids, dtype=np.int64)
    known = annotations.image_ids[order]
    problems: list[str] = []
    if results.names or _has_unknown(results.image_ids, known):
        problems = resolve_images(results, annotations, path)
    if not problems:
        problems = _look_up(results.image_ids, known, order, "image_id", annotations)
    labels = np.arange(1, len(category_ids) + 1)
    problems += _look_up(results.category_ids, category_ids, labels, "category_id", annotations)
    advice = [_OTHER_ANNOTATIONS] if problems else []
    bbox, scores = results.bbox, results.scores
    wrong_box = ~np.isfinite(bbox).all(axis=1) | (bbox[:, 2] < 0) | (bbox[:, 3] < 0)
    for what, wrong, key, values in (
        ("have a bbox that is not finite or has a negative size", wrong_box, "bbox", bbox),
        ("have a score that is not finite", ~np.isfinite(scores), "score", scores),
    ):
        if wrong.any():
            first = int(np.argmax(wrong))
            problems.append(
                f"{np.count_nonzero(wrong)} of {len(wrong)} detections {what} "
                f"(first: detection {first}, {key} {show(values[first])})"
            )
            if _NUMBERS not in advice:
                advice.append(_NUMBERS)
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}. {' '.join(advice)}")
    return Predictions(results.image_ids, results.category_ids, bbox, scores)


def _has_unknown(ids: Int64, known: Int64) -> bool:
    starts = range(0, len(ids), _BLOCK)
    return any((find(known, ids[start : start + _BLOCK]) < 0).any() for start in starts)


def _look_up(
    ids: Int64, known: Int64, replacements: Int64, key: str, annotations: Annotations
) -> list[str]:
    """Put the replacement of each id in its place, and say how many ids are not known."""
    unknown, first = 0, ""
    for start in range(0, len(ids), _BLOCK):
        block = ids[start : start + _BLOCK]
        position = find(known, block)
        wrong = position < 0
        if wrong.any():
            row = int(np.argmax(wrong))
            first = first or f"detection {start + row}, {key} {block[row]}"
            unknown += int(np.count_nonzero(wrong))
        if len(known):
            block[:] = replacements[position]
    if not unknown:
        return []
    article = "an" if key == "image_id" else "a"
    return [
        f"{unknown} of {len(ids)} detections have {article} {key} that {annotations.source} does "
        f"not list (first: {first})"
    ]
