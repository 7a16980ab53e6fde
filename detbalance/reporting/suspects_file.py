"""suspects.json, as `detbalance suspects` writes it: read, and checked before any of it is shown.

`{"format": "detbalance.suspects/1", "judge": "combined", "annotations": "train.json", "images":
"/data/train", "boxes_judged": 2, "boxes_not_judged": 0, "classes_with_too_few_boxes": [],
"suspects": [{"annotation_id": 7, "file_name": "a.png", "class": "copper", "looks_like": "iron",
"suspicion": 1.2, "bbox": [x, y, width, height]}, ...], "strange_images": [{"file_name": "b.png",
"strangeness": 3.1, "box": [left, top, right, bottom], "annotation_id": null}, ...]}`

Later versions of format 1 may have more keys.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from detbalance.data.faults import show
from detbalance.data.files import open_file, parse_json

FORMAT = "detbalance.suspects/1"
NAME = "suspects.json"
SHARES = "one-class"
"""The judge whose suspicion is a share of the boxes of a class, not the logarithm of odds."""

_WRITE = "Write it anew: detbalance suspects --output FOLDER"
Four = tuple[float, float, float, float]
_Entry = TypeVar("_Entry")
# What reading a value of another kind than expected raises.
_DAMAGE = (KeyError, TypeError, ValueError, OverflowError)


@dataclass(frozen=True)
class SuspectBox:
    """An annotated box that was judged."""

    annotation_id: int
    file_name: str
    class_name: str
    looks_like: str | None
    suspicion: float
    bbox: Four


@dataclass(frozen=True)
class StrangeImage:
    """An image with something that looks like no known class."""

    file_name: str
    strangeness: float
    bbox: Four
    annotation_id: int | None


@dataclass(frozen=True)
class SuspectsFile:
    """What `detbalance suspects` found."""

    path: Path
    annotations: str
    images: Path
    judge: str
    boxes_not_judged: int
    few: tuple[str, ...]
    boxes: tuple[SuspectBox, ...]
    strange: tuple[StrangeImage, ...]


def load_suspects(given: str | os.PathLike[str]) -> SuspectsFile:
    """Read suspects.json."""
    path = Path(given)
    if not path.exists():
        raise ValueError(
            f"{path}: there is no such folder. One with a {NAME} is expected. {_WRITE}"
        )
    path = path / NAME if path.is_dir() else path
    if not path.exists():
        raise ValueError(f"{path.parent}: holds no {NAME}. One is expected there. {_WRITE}")
    document = parse_json(open_file(path), path)
    if not isinstance(document, dict):
        raise ValueError(
            f'{path}: holds {show(document)}. {{"format": "{FORMAT}", ...}} is expected. {_WRITE}'
        )
    if document.get("format") != FORMAT:
        found = show(document["format"]) if "format" in document else "missing"
        raise ValueError(f'{path}: "format" is {found}. "{FORMAT}" is expected. {_WRITE}')
    return SuspectsFile(
        path,
        annotations=_value(document, "annotations", _text, path),
        images=Path(_value(document, "images", _text, path)),
        judge=_value(document, "judge", _text, path),
        boxes_not_judged=_value(document, "boxes_not_judged", _count, path),
        few=_each(document, "classes_with_too_few_boxes", _text, path),
        boxes=_each(document, "suspects", _suspect_box, path),
        strange=_each(document, "strange_images", _strange_image, path),
    )


def _value(document: dict[str, Any], key: str, read: Callable[[Any], _Entry], path: Path) -> _Entry:
    try:
        return read(document[key])
    except _DAMAGE:
        found = show(document[key]) if key in document else "missing"
        raise ValueError(
            f'{path}: "{key}" is {found}. What detbalance suspects writes there is expected.'
            f" {_WRITE}"
        ) from None


def _each(
    document: dict[str, Any], key: str, read: Callable[[Any], _Entry], path: Path
) -> tuple[_Entry, ...]:
    """Read a list, and name the first entry that is none."""
    done: list[_Entry] = []
    wrong: list[int] = []
    entries = _value(document, key, _list, path)
    for place, entry in enumerate(entries):
        try:
            done.append(read(entry))
        except _DAMAGE:
            wrong.append(place)
    if wrong:
        raise ValueError(
            f'{path}: {len(wrong)} of {len(entries)} entries of "{key}" are damaged (first:'
            f" {key}[{wrong[0]}] is {show(entries[wrong[0]])}). What detbalance suspects writes"
            f" there is expected. {_WRITE}"
        )
    return tuple(done)


def _suspect_box(entry: Any) -> SuspectBox:
    likely = entry["looks_like"]
    return SuspectBox(
        _count(entry["annotation_id"]),
        _text(entry["file_name"]),
        _text(entry["class"]),
        None if likely is None else _text(likely),
        _number(entry["suspicion"]),
        _four(entry["bbox"]),
    )


def _strange_image(entry: Any) -> StrangeImage:
    annotation = entry["annotation_id"]
    left, top, right, bottom = _four(entry["box"])
    return StrangeImage(
        _text(entry["file_name"]),
        _number(entry["strangeness"]),
        (left, top, right - left, bottom - top),
        None if annotation is None else _count(annotation),
    )


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _four(value: Any) -> Four:
    a, b, c, d = (_number(one) for one in _list(value))
    return a, b, c, d
