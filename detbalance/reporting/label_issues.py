"""label_issues.json, as `detbalance label-issues` writes it, and what a report shows of it.

`{"format": "detbalance.label_issues/1", "judge": "combined", "annotations": "train.json", "images":
"/data/train", "boxes_judged": 2, "boxes_not_judged": 0, "classes_with_too_few_boxes": [],
"label_issues": [{"annotation_id": 7, "file_name": "a.png", "class": "copper", "looks_like": "iron",
"suspicion": 1.2, "bbox": [x, y, width, height]}, ...], "novel_images": [{"file_name": "b.png",
"ood_score": 3.1, "box": [left, top, right, bottom], "annotation_id": null}, ...]}`

Later versions of format 1 may have more keys.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from detbalance.data.faults import show
from detbalance.data.files import open_file, parse_json
from detbalance.data.images import import_cv2, read_image
from detbalance.data.messages import counted
from detbalance.reporting.gallery import Box, box_at, cut_thumbnail, image_notes

FORMAT = "detbalance.label_issues/1"
NAME = "label_issues.json"
_WRITE = "Write it anew: detbalance label-issues --output FOLDER"
Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Four = tuple[Finite, Finite, Finite, Finite]
_Entry = TypeVar("_Entry")
# What reading a value of another kind than expected raises.
_DAMAGE = (KeyError, msgspec.ValidationError, OverflowError)


class LabelIssue(msgspec.Struct, frozen=True, rename={"class_name": "class"}):
    """An annotated box that was judged."""

    annotation_id: int
    file_name: str
    class_name: str
    looks_like: str | None
    suspicion: Finite
    bbox: Four


class NovelImage(msgspec.Struct, frozen=True):
    """An image with something that looks like no known class; its box has the corners."""

    file_name: str
    ood_score: Finite
    box: Four
    annotation_id: int | None

    @property
    def bbox(self) -> Four:
        """The box as x, y, width, height."""
        left, top, right, bottom = self.box
        return left, top, right - left, bottom - top


@dataclass(frozen=True)
class LabelIssuesFile:
    """What `detbalance label-issues` found."""

    path: Path
    annotations: str
    images: Path
    judge: str
    boxes_not_judged: int
    few: tuple[str, ...]
    boxes: tuple[LabelIssue, ...]
    novel: tuple[NovelImage, ...]


def load_label_issues(given: str | os.PathLike[str]) -> LabelIssuesFile:
    """Read label_issues.json."""
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
    return LabelIssuesFile(
        path,
        annotations=_value(document, "annotations", str, path),
        images=Path(_value(document, "images", str, path)),
        judge=_value(document, "judge", str, path),
        boxes_not_judged=_value(document, "boxes_not_judged", int, path),
        few=_each(document, "classes_with_too_few_boxes", str, path),
        boxes=_each(document, "label_issues", LabelIssue, path),
        novel=_each(document, "novel_images", NovelImage, path),
    )


def _value(document: dict[str, Any], key: str, kind: type[_Entry], path: Path) -> _Entry:
    try:
        return msgspec.convert(document[key], kind)
    except _DAMAGE:
        found = show(document[key]) if key in document else "missing"
        raise ValueError(
            f'{path}: "{key}" is {found}. What detbalance label-issues writes there is expected.'
            f" {_WRITE}"
        ) from None


def _each(document: dict[str, Any], key: str, kind: type[_Entry], path: Path) -> tuple[_Entry, ...]:
    """Read a list, and name the first entry that is none."""
    done: list[_Entry] = []
    wrong: list[int] = []
    entries = _value(document, key, list, path)
    for place, entry in enumerate(entries):
        try:
            done.append(msgspec.convert(entry, kind))
        except _DAMAGE:
            wrong.append(place)
    if wrong:
        raise ValueError(
            f'{path}: {len(wrong)} of {len(entries)} entries of "{key}" are damaged (first:'
            f" {key}[{wrong[0]}] is {show(entries[wrong[0]])}). What detbalance label-issues writes"
            f" there is expected. {_WRITE}"
        )
    return tuple(done)


# Names of classes that a sentence lists.
_NAMED = 20
# Share of a class's boxes from which so many suspicions speak against their judge.
_DOUBTED = 0.5
_JUDGES = {
    "combined": "a classifier that has not seen their image and by the detector",
    "classifier": "a classifier that has not seen their image",
    "detector": "the detector",
}


@dataclass(frozen=True)
class Cutout:
    """A part of an image with a box on it."""

    image: str
    width: int
    height: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class ClassIssues:
    """The suspicious boxes of a class."""

    name: str
    judged: int
    suspicious: int
    boxes: tuple[LabelIssue, ...]


@dataclass(frozen=True)
class LabelIssuesSection:
    """What a report says of labels that look wrong."""

    about: tuple[str, ...]
    classes: tuple[ClassIssues, ...]
    rest: str
    novel: tuple[NovelImage, ...]
    pictures: Mapping[LabelIssue | NovelImage, Cutout]
    notes: tuple[str, ...]


def label_issues_section(
    found: LabelIssuesFile,
    *,
    max_of_class: int = 12,
    max_boxes: int = 120,
    max_novel: int = 6,
    thumbnail: int = 200,
) -> LabelIssuesSection:
    """Choose the boxes to show, and cut them out of their images."""
    by_class: dict[str, list[LabelIssue]] = {}
    for box in found.boxes:
        by_class.setdefault(box.class_name, []).append(box)
    classes: list[ClassIssues] = []
    left = max_boxes
    for name in sorted(by_class, key=lambda name: (len(by_class[name]), name)):
        boxes = sorted(by_class[name], key=lambda box: -box.suspicion)
        wrong = [box for box in boxes if box.suspicion > 0]
        shown = tuple(wrong[: min(left, max_of_class)])
        left -= len(shown)
        classes.append(ClassIssues(name, len(boxes), len(wrong), shown))
    shown_classes = tuple(one for one in classes if one.boxes)
    novel = found.novel[:max_novel]
    pictures, notes = _pictures(
        [*(box for one in shown_classes for box in one.boxes), *novel], found, thumbnail
    )
    return LabelIssuesSection(
        about=_about(found, sum(one.suspicious for one in classes)),
        classes=shown_classes,
        rest=_rest(classes),
        novel=novel,
        pictures=pictures,
        notes=(*_doubts(classes), *notes),
    )


def _about(found: LabelIssuesFile, suspicious: int) -> tuple[str, ...]:
    """Say what was judged, by what, and what its figure means."""
    by = _JUDGES.get(found.judge)
    by = f'judge "{found.judge}"' if by is None else f'{by} (judge "{found.judge}")'
    unjudged = counted(found.boxes_not_judged, "was", "were")
    left_out = f", {unjudged} not" if found.boxes_not_judged else ""
    number = len(found.boxes)
    were = "was" if number == 1 else "were"
    boxes = counted(number, "box")
    judged = f"{boxes} of {found.annotations} {were} judged by {by}{left_out}."
    few = "Every class had enough boxes to be judged."
    if found.few:
        few = f"Too few boxes to be judged: {_listed(found.few)}."
    meaning = (
        f"Another class is likelier than the label of {suspicious:,} of them: their suspicion, the"
        " logarithm of how many times likelier, allowing for how frequent classes are, is above 0."
    )
    return judged, few, f"{meaning} It is a reason to look, no proof."


def _doubts(classes: Sequence[ClassIssues]) -> tuple[str, ...]:
    """Say of which classes so many boxes look wrong that the judge is to be doubted."""
    names = [one.name for one in classes if one.suspicious >= _DOUBTED * one.judged]
    if not names:
        return ()
    return (
        f"At least half of the boxes look wrong of: {_listed(names)}. More likely the judge does"
        " not know these classes well than that so many labels are wrong; look at the first ones.",
    )


def _rest(classes: Sequence[ClassIssues]) -> str:
    """Say which boxes that look wrong are not shown, all of classes that are less rare."""
    hidden = [one for one in classes if one.suspicious and not one.boxes]
    if not hidden:
        return ""
    boxes = sum(one.suspicious for one in hidden)
    names = _listed([one.name for one in hidden])
    number = counted(boxes, "box")
    return f"Not shown here: {number} of less rare classes ({names}); see label_issues.csv."


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _pictures(
    subjects: Sequence[LabelIssue | NovelImage], found: LabelIssuesFile, size: int
) -> tuple[dict[LabelIssue | NovelImage, Cutout], tuple[str, ...]]:
    """Cut out what can be, each image read once, and say what cannot."""
    if not subjects:
        return {}, ()
    if not found.images.is_dir():
        return {}, (
            f"There are no pictures: the folder of the images, {found.images}, is not there."
            f' Correct "images" in {found.path}, or run detbalance label-issues again.',
        )
    try:
        import_cv2()
    except ImportError as error:
        return {}, (f"There are no pictures: {error}",)
    by_file: dict[str, list[LabelIssue | NovelImage]] = {}
    for subject in subjects:
        by_file.setdefault(subject.file_name, []).append(subject)
    pictures: dict[LabelIssue | NovelImage, Cutout] = {}
    problems: list[str] = []
    for name, those in by_file.items():
        try:
            pixels = read_image(found.images / name)
            pictures |= {one: _cutout(pixels, one, found.images / name, size) for one in those}
        except ValueError as error:
            problems.append(str(error))
    return pictures, image_notes(problems)


def _cutout(
    pixels: npt.NDArray[np.uint8], subject: LabelIssue | NovelImage, path: Path, size: int
) -> Cutout:
    """The box of a subject with what is around it."""
    height, width = pixels.shape[:2]
    x, y, wide, high = subject.bbox
    if x >= width or y >= height or x + wide <= 0 or y + high <= 0:
        raise ValueError(
            f"{path}: is {width}x{height} pixels, and a box begins at {x:g}, {y:g}. The image that"
            " was judged is expected. Correct the image folder."
        )
    bbox = np.array(subject.bbox, dtype=np.float64)
    cut = cut_thumbnail(pixels, bbox, np.zeros((0, 4)), size)
    corners = cut.place(bbox[None])[0]
    inside = np.clip(corners, 1, np.array([cut.width, cut.height] * 2) - 1)
    role = "subject-truth" if isinstance(subject, LabelIssue) else "subject-found"
    return Cutout(cut.image, cut.width, cut.height, (box_at(inside, role),))
