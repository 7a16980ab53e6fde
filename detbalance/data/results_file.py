"""Read a COCO results file, and check it against the annotations that it belongs to.

A structure of all detections would take five times the size of the file. So the text is cut where
one detection ends and the next begins, without parsing. A wrong cut cannot give wrong values: each
part is decoded as a JSON list of its own, and one that ends too early is made longer.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
import re
from array import array
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from detbalance.data.annotations import Annotations
from detbalance.data.arrays import Int64
from detbalance.data.categories import find
from detbalance.data.faults import show
from detbalance.data.files import FileText, is_json_lines, open_text, parse_json
from detbalance.data.predictions import Predictions
from detbalance.data.tolerant import four_numbers, id_fault, number, whole, whole_id

_logger = logging.getLogger(__name__)
EXPECTED = "Expected a list of detections with image_id, category_id, bbox and score"
_PART = 50_000  # bytes; from 128 kB on, each part would be mapped and unmapped by the system
_LONGEST_PART = 1 << 27
_ENOUGH_FAULTS = 10_000
_OPENING = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*")
_OBJECT = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{(?:\s*"(predictions|results|detections)"\s*:)?')
_START = 1 << 16  # bytes that tell what else a file is
_NEXT = re.compile(rb"\}\s*,\s*\{")


class _Result(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


class Results:
    """Columns of detections in file order; ids as in the file, numbers not yet checked."""

    def __init__(self, data: FileText, path: str | os.PathLike[str]) -> None:
        """Read a whole file."""
        self._data, self._path = data, path
        self._image_ids, self._category_ids = array("q"), array("q")
        self._bbox, self._scores = array("d"), array("d")
        self._names: dict[str, int] = {}
        self._named = array("q")
        self._text_category: tuple[int, str] = (0, "")
        self._count = 0
        self._faults: dict[str, tuple[int, str]] = {}
        self._read()
        self.image_ids: npt.NDArray[np.int64] = np.frombuffer(self._image_ids, dtype=np.int64)
        self.names = tuple(self._names)
        self.named: npt.NDArray[np.int64] = np.frombuffer(self._named, dtype=np.int64)
        self.category_ids: npt.NDArray[np.int64] = np.frombuffer(self._category_ids, dtype=np.int64)
        self.bbox: npt.NDArray[np.float64] = np.frombuffer(self._bbox).reshape(-1, 4)
        self.scores: npt.NDArray[np.float64] = np.frombuffer(self._scores)

    def _read(self) -> None:
        opening = _OPENING.match(self._data[:_PART])
        if opening is None:
            self._read_other()
            complete = True
        else:
            complete = self._read_list(opening.end())
        count, first = self._text_category
        if count:
            _logger.warning(
                "%s: %d of %d detections have a category_id as text (kept, read as a number)"
                " (first: %s)",
                *(self._path, count, self._count, first),
            )
        if self._faults:
            read = f"{self._count}" if complete else f"the first {self._count}"
            listed = "; ".join(
                f"{count} of {read} detections {kind} (first: {first})"
                for kind, (count, first) in self._faults.items()
            )
            raise ValueError(f"{self._path}: {listed}. {EXPECTED}. Write the results file again.")

    def _read_list(self, start: int) -> bool:
        """Read the entries from `start` on; False if it stopped early because of their faults."""
        decoder = msgspec.json.Decoder(list[_Result])
        size = _PART
        while True:
            part, gap = self._data.cut(start, size, _NEXT)
            text = b"[" + part + (b"]" if gap else b"")
            try:
                self._add(decoder.decode(text))
            except (msgspec.DecodeError, OverflowError, RecursionError, UnicodeDecodeError):
                may_grow = gap is not None and size < _LONGEST_PART
                if not self._add_tolerant(text, start, may_grow=may_grow):
                    size *= 2
                    continue
            if gap is None:
                return True
            if sum(count for count, _ in self._faults.values()) >= _ENOUGH_FAULTS:
                return False
            start, size = gap, _PART

    def _add(self, results: list[_Result]) -> None:
        # An id beyond int64 raises here, before anything is added.
        image_ids = array("q", [r.image_id for r in results])
        category_ids = array("q", [r.category_id for r in results])
        self._image_ids.extend(image_ids)
        self._category_ids.extend(category_ids)
        self._bbox.fromlist([value for r in results for value in r.bbox])
        self._scores.fromlist([r.score for r in results])
        self._count += len(results)

    def _add_tolerant(self, text: bytes, start: int, *, may_grow: bool) -> bool:
        """Add what the typed parser refused; False if it was cut within a detection."""
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError) as problem:
            at_end = isinstance(problem, json.JSONDecodeError) and (
                problem.pos >= len(problem.doc.rstrip()) or "Unterminated" in problem.msg
            )
            if at_end and may_grow:
                return False
            raise self._not_json(problem, start, at_end) from None
        sound: list[_Result] = []
        for position, entry in enumerate(entries, start=self._count):
            fault = _fault(entry)
            if fault is None:
                image_id, category_id = entry["image_id"], entry["category_id"]
                if isinstance(image_id, str):
                    self._named.append(len(self._scores) + len(sound))
                    image_id = self._names.setdefault(image_id, len(self._names))
                if isinstance(category_id, str):
                    count, first = self._text_category
                    self._text_category = count + 1, first or f"detection {position}"
                sound.append(
                    _Result(
                        whole(image_id) or 0,
                        whole_id(category_id) or 0,
                        tuple(four_numbers(entry["bbox"]) or ()),  # type: ignore[arg-type]
                        number(entry["score"]) or 0.0,
                    )
                )
            else:
                kind, value = fault
                count, first = self._faults.get(kind, (0, f"detection {position}, {value}"))
                self._faults[kind] = (count + 1, first)
        faulty = len(entries) - len(sound)
        self._add(sound)
        self._count += faulty
        return True

    def _not_json(self, problem: Exception, start: int, at_end: bool) -> ValueError:
        """The error for a text that is not JSON, with its place in the file."""
        if isinstance(problem, json.JSONDecodeError):
            # The part has one character that the file has not, the bracket that opens it.
            place = start + len(problem.doc[: problem.pos].encode()) - 1
            line, newline = 1, -1
            for block in range(0, place, 1 << 20):
                text = self._data[block : min(place, block + (1 << 20))]
                line += text.count(b"\n")
                if b"\n" in text:
                    newline = block + text.rindex(b"\n")
            end = ", where the text ends" if at_end else ""
            message = problem.msg.removesuffix(" at")
            what = f"{message} at line {line}, column {place - newline}{end}"
        elif isinstance(problem, UnicodeDecodeError):
            what = f"byte {start + problem.start - 1} is not {problem.encoding}"
        elif isinstance(problem, RecursionError):
            what = "nested too deeply"
        else:  # an integer of thousands of digits
            what = str(problem).split(";")[0]
        return ValueError(
            f"{self._path}: not JSON ({what}). Expected one JSON value. Write the file again."
        )

    def _read_other(self) -> None:
        """Read a list in UTF-16 or UTF-32, or say what the file is, which is no list."""
        head = self._data[:_START]
        if opening := _OBJECT.match(head):
            # Not parsed: an annotation file may have gigabytes.
            looks = all(self._data.find(key) >= 0 for key in (b'"images"', b'"annotations"'))
            what = "is a JSON object"
            if looks:
                what = "looks like an annotation file"
            elif is_json_lines(head):
                what = "holds JSON lines, one object a line, in place of one list"
            elif opening[1]:
                what += f' with the list in "{opening[1].decode()}"'
            raise ValueError(f"{self._path}: the file {what}. {EXPECTED}. Name the results file.")
        document = parse_json(self._data[:], self._path)
        if not isinstance(document, list):
            raise ValueError(f"{self._path}: the file holds {show(document)}. {EXPECTED}.")
        self._add_tolerant(json.dumps(document).encode(), 0, may_grow=False)


def _fault(entry: Any) -> tuple[str, str] | None:
    """Return what is wrong with the types of one entry, and the value."""
    if not isinstance(entry, dict):
        return "are not JSON objects", show(entry)
    for key, read in (
        ("image_id", _image_name),
        ("category_id", whole_id),
        ("bbox", four_numbers),
        ("score", number),
    ):
        article = "an" if key == "image_id" else "a"
        value = entry.get(key)
        if key not in entry:
            if key == "bbox" and "segmentation" in entry:
                return "have a segmentation and no bbox", "mask results are not boxes"
            return f"have no {key}", f"keys {show(list(entry))}"
        if read(value) is None:
            if key.endswith("_id") and id_fault(value) != "id":
                return (
                    f"have {article} {key} beyond 64 bits, above 2^63 - 1",
                    f"{key} {show(value)}",
                )
            wanted = {"bbox": "four numbers", "score": "a number"}.get(key, "a whole number")
            return f"have {article} {key} that is not {wanted}", f"{key} {show(value)}"
    return None


def _image_name(value: object) -> object:
    return value if isinstance(value, str) else whole(value)


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
