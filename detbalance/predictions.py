"""Detections as arrays, read from and written as COCO results files.

Dimension letters: D detections, M images, K categories.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from detbalance.annotations import Annotations
from detbalance.annotations.categories import find
from detbalance.annotations.faults import show
from detbalance.annotations.files import open_file, parse_json, replace_file
from detbalance.annotations.packed import ReadOnlyArrays
from detbalance.annotations.reading import column
from detbalance.annotations.tolerant import four_numbers, number, whole

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
_CHUNK = 20_000  # entries encoded at a time on saving, so that memory stays small


@dataclass(frozen=True, eq=False)
class Predictions(ReadOnlyArrays):
    """Detections of one model on the images of one annotation file, in any order.

    Attributes:
        image_index: int64 [D], row of the image in the annotations.
        labels: int64 [D], 1..K.
        bbox: float64 [D, 4], xywh in pixels.
        scores: float64 [D].

    Raises:
        ValueError: if the arrays have different lengths or the wrong shape.

    Example:
        >>> one = Predictions(image_index=[0], labels=[2], bbox=[[5, 5, 10, 20]], scores=[0.9])
        >>> one.num_predictions, one.bbox.dtype
        (1, dtype('float64'))
    """

    image_index: Int64
    labels: Int64
    bbox: Float64
    scores: Float64

    def __post_init__(self) -> None:
        for name, dtype in (
            ("image_index", np.int64),
            ("labels", np.int64),
            ("bbox", np.float64),
            ("scores", np.float64),
        ):
            array = np.asarray(getattr(self, name), dtype=dtype)
            if name == "bbox" and array.size == 0:
                array = array.reshape(0, 4)
            object.__setattr__(self, name, array)
        count = len(self.scores)
        shapes = {
            "image_index": (self.image_index.shape, (count,)),
            "labels": (self.labels.shape, (count,)),
            "bbox": (self.bbox.shape, (count, 4)),
        }
        for name, (shape, expected) in shapes.items():
            if shape != expected:
                raise ValueError(
                    f"Predictions: {name} is {list(shape)} beside {count} scores. "
                    f"Expected {list(expected)}."
                )
        super().__post_init__()

    @property
    def num_predictions(self) -> int:
        """D, the number of detections."""
        return len(self.scores)


class _Result(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


def load_predictions(path: str | os.PathLike[str], annotations: Annotations) -> Predictions:
    """Read a COCO results file (a list of image_id, category_id, bbox, score).

    Args:
        path: JSON file; an empty list is fine.
        annotations: the file that the results belong to; it gives image rows and labels.

    Returns:
        The detections in file order.

    Raises:
        ValueError: if the file cannot be read, is not a list of detections with boxes, or names an
            image or a category that the annotations do not have; one line with the count and the
            first example of each kind.
    """
    data = open_file(path)
    try:
        results = msgspec.json.decode(data, type=list[_Result])
        count = len(results)
        image_ids = column((r.image_id for r in results), count, np.int64)
        category_ids = column((r.category_id for r in results), count, np.int64)
        boxes = chain.from_iterable(r.bbox for r in results)
        bbox = column(boxes, 4 * count, np.float64).reshape(-1, 4)
        scores = column((r.score for r in results), count, np.float64)
    except (msgspec.DecodeError, OverflowError, RecursionError, UnicodeDecodeError):
        entries = _tolerant_entries(parse_json(data, path), path)
        image_ids = np.array([e[0] for e in entries], dtype=np.int64)
        category_ids = np.array([e[1] for e in entries], dtype=np.int64)
        bbox = np.array([e[2] for e in entries], dtype=np.float64).reshape(-1, 4)
        scores = np.array([e[3] for e in entries], dtype=np.float64)

    order = np.argsort(annotations.image_ids)
    image_row = find(annotations.image_ids[order], image_ids)
    category = find(np.array(annotations.categories.ids, dtype=np.int64), category_ids)
    wrong_box = ~np.isfinite(bbox).all(axis=1) | (bbox[:, 2:] < 0).any(axis=1)
    problems = [
        f"{np.count_nonzero(rows)} of {len(rows)} detections {what} "
        f"(first: detection {np.argmax(rows)}, {key} {show(values[np.argmax(rows)])})"
        for what, rows, key, values in (
            (
                f"have an image_id that {annotations.source} does not list",
                image_row < 0,
                "image_id",
                image_ids,
            ),
            (
                f"have a category_id that {annotations.source} does not list",
                category < 0,
                "category_id",
                category_ids,
            ),
            ("have a bbox that is not finite or has a negative size", wrong_box, "bbox", bbox),
            ("have a score that is not finite", ~np.isfinite(scores), "score", scores),
        )
        if rows.any()
    ]
    if problems:
        raise ValueError(
            f"{path}: {'; '.join(problems)}. Expected results of these annotations. "
            "Name the annotation file that the predictions were made on."
        )
    return Predictions(order[image_row], category + 1, bbox, scores)


def _tolerant_entries(
    document: object, path: str | os.PathLike[str]
) -> list[tuple[int, int, list[float], float]]:
    """Return the entries of a document that the typed parser refused, or say what is wrong."""
    expected = "Expected a list of detections with image_id, category_id, bbox and score"
    if isinstance(document, dict):
        looks = "images" in document and "annotations" in document
        what = "looks like an annotation file" if looks else "is a JSON object"
        raise ValueError(f"{path}: the file {what}. {expected}. Name the results file.")
    if not isinstance(document, list):
        raise ValueError(f"{path}: the file holds {show(document)}. {expected}.")
    entries = []
    faults: dict[str, tuple[int, str]] = {}
    for position, entry in enumerate(document):
        found = _entry_fault(entry)
        if found is None:
            entries.append(
                (
                    whole(entry["image_id"]) or 0,
                    whole(entry["category_id"]) or 0,
                    four_numbers(entry["bbox"]) or [],
                    number(entry["score"]) or 0.0,
                )
            )
        else:
            kind, value = found
            count, first = faults.get(kind, (0, f"detection {position}, {value}"))
            faults[kind] = (count + 1, first)
    if faults:
        listed = "; ".join(
            f"{count} of {len(document)} detections {kind} (first: {first})"
            for kind, (count, first) in faults.items()
        )
        raise ValueError(f"{path}: {listed}. {expected}. Write the results file again.")
    return entries


def _entry_fault(entry: Any) -> tuple[str, str] | None:
    """Return what is wrong with the types of one entry, and the value."""
    if not isinstance(entry, dict):
        return "are not JSON objects", show(entry)
    for key, read in (
        ("image_id", whole),
        ("category_id", whole),
        ("bbox", four_numbers),
        ("score", number),
    ):
        if key not in entry:
            if key == "bbox" and "segmentation" in entry:
                return "have a segmentation and no bbox", "mask results are not boxes"
            return f"have no {key}", f"keys {show(list(entry))}"
        if read(entry[key]) is None:
            wanted = {"bbox": "four numbers", "score": "a number"}.get(key, "a whole number")
            return f"have a {key} that is not {wanted}", f"{key} {show(entry[key])}"
    return None


def save_predictions(
    path: str | os.PathLike[str], predictions: Predictions, annotations: Annotations
) -> None:
    """Write detections as a COCO results file, which any COCO tool reads.

    The file appears whole or not at all.

    Args:
        path: file to write; its folder must exist. An existing file is replaced.
        predictions: detections on the images of `annotations`.
        annotations: gives image ids and category ids.

    Raises:
        ValueError: if a label is not in 1..K, an image row does not exist, or a score or bbox is
            not finite.
    """
    rows = predictions.image_index
    wrong = (rows < 0) | (rows >= annotations.num_images)
    if wrong.any():
        raise ValueError(
            f"save_predictions(): image row {rows[wrong][0]} does not exist. "
            f"{annotations.source} has rows 0 to {annotations.num_images - 1}."
        )
    wrong = ~(np.isfinite(predictions.scores) & np.isfinite(predictions.bbox).all(axis=1))
    if wrong.any():
        raise ValueError(
            f"save_predictions(): {np.count_nonzero(wrong)} detections have a score or bbox that "
            f"is not finite (first: detection {np.argmax(wrong)}). Leave them out."
        )
    image_ids = annotations.image_ids[rows]
    category_ids = annotations.categories.category_ids(predictions.labels)

    def entries(start: int, stop: int) -> Iterator[bytes]:
        for image_id, category_id, bbox, score in zip(
            image_ids[start:stop].tolist(),
            category_ids[start:stop].tolist(),
            predictions.bbox[start:stop].tolist(),
            predictions.scores[start:stop].tolist(),
            strict=True,
        ):
            yield msgspec.json.encode(
                {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}
            )

    with replace_file(path) as file:
        file.write(b"[")
        for start in range(0, predictions.num_predictions, _CHUNK):
            file.write(b",\n" if start else b"\n")
            file.write(b",\n".join(entries(start, start + _CHUNK)))
        file.write(b"]\n")
