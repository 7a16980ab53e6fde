"""Read Pascal VOC folders: Annotations/*.xml, images in JPEGImages, splits in ImageSets/Main.

Source: Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 88, 2010, and its
development kit: corners are pixels counted from 1, both of them inside the box.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from detbalance.data.faults import AnnotationError, Ledger
from detbalance.data.yolo import DIGITS, image_numbers, path_and_split

_EXPECTED = "A Pascal VOC folder, with Annotations/*.xml, is expected"
# Names in the order of their numbers, as CVAT writes them; else they are sorted.
LABELS = "labelmap.txt"


def is_voc(path: str | os.PathLike[str]) -> bool:
    """Whether a path is of a folder, maybe with a split behind it (VOC2007:val)."""
    return Path(path_and_split(path)[0]).is_dir()


def read_voc(path: str | os.PathLike[str], ledger: Ledger) -> dict[str, Any]:
    """The document that a COCO file of the same images would hold."""
    text, split = path_and_split(path)
    folder = Path(text)
    images: list[dict[str, Any]] = []
    objects: list[tuple[int, Path, ElementTree.Element]] = []
    files = _files(folder, split)
    for number, file in zip(image_numbers([f.stem for f in files]), files, strict=True):
        root = _root(file)
        size = root.find("size")
        width, height = (_number(size, key) or 0 for key in ("width", "height"))
        if not (0 < width < 2**31 and 0 < height < 2**31):  # NaN too
            ledger.add("XML size", str(file))
            continue
        name = (root.findtext("filename") or f"{file.stem}.jpg").strip()
        images.append({"id": number, "file_name": name, "width": int(width), "height": int(height)})
        objects += [(number, file, one) for one in root.iter("object")]
    if not images:
        raise AnnotationError(f"{path}: no XML file has a size. {_EXPECTED}. Add it.")
    names = _names(folder, [_text(one, "name") for _, _, one in objects])
    notes: list[dict[str, Any]] = []
    for number, file, one in objects:
        found = _annotation(one, names, ledger, file)
        if found is not None:
            notes.append({"id": len(notes) + 1, "image_id": number, **found})
    categories = [{"id": number, "name": name} for name, number in names.items()]
    return {"images": images, "annotations": notes, "categories": categories}


def _files(folder: Path, split: str) -> list[Path]:
    where = folder / "Annotations"
    if not where.is_dir():
        raise AnnotationError(
            f"{folder}: this is a folder without Annotations. A JSON file, or a Pascal VOC folder"
            " with Annotations/*.xml, is expected. Name the file in it."
        )
    if not split:
        files = sorted(where.glob("*.xml"))
        if not files:
            raise AnnotationError(f"{where}: holds no XML file. {_EXPECTED}. Name another folder.")
        return files
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = listed.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        known = sorted(file.stem for file in listed.parent.glob("*.txt") if "_" not in file.stem)
        raise AnnotationError(
            f"{folder}: has no split {split} ({listed}). One of its splits is expected:"
            f" {', '.join(known) or 'none is there'}. Name one."
        ) from error
    # Files of one class (car_train.txt) have 1, 0 or -1 behind each name.
    stems = [re.sub(r"\s+-?[01]$", "", line.strip()) for line in lines if line.strip()]
    missing = [stem for stem in stems if not (where / f"{stem}.xml").is_file()]
    if missing:
        raise AnnotationError(
            f"{listed}: {len(missing)} of its {len(stems)} images have no XML file (first:"
            f" {missing[0]}). {_EXPECTED}. Add them."
        )
    return [where / f"{stem}.xml" for stem in stems]


def _root(file: Path) -> ElementTree.Element:
    try:
        # Python's parser expands no external entity, and expat refuses those that grow.
        return ElementTree.fromstring(file.read_bytes())
    except (OSError, ElementTree.ParseError) as error:
        raise AnnotationError(
            f"{file}: is no readable XML ({error}). An annotation of VOC is expected. Mend it."
        ) from error


def _number(element: ElementTree.Element | None, key: str) -> float | None:
    try:
        return None if element is None else float(element.findtext(key) or "")
    except ValueError:
        return None


def _text(element: ElementTree.Element, key: str) -> str:
    return (element.findtext(key) or "").strip()


def _names(folder: Path, used: list[str]) -> dict[str, int]:
    listed: list[str] = []
    if (folder / LABELS).is_file():
        lines = (folder / LABELS).read_text(encoding="utf-8", errors="replace").splitlines()
        listed = [line.split(":")[0] for line in lines if line and not line.startswith("#")]
        listed = [name for name in listed if name != "background"]
    names = dict.fromkeys([*listed, *sorted({name for name in used if name})])
    return {name: number for number, name in enumerate(names, start=1)}


def _annotation(
    one: ElementTree.Element, names: Mapping[str, int], ledger: Ledger, file: Path
) -> dict[str, Any] | None:
    name, box = _text(one, "name"), one.find("bndbox")
    corners = [_number(box, key) for key in ("xmin", "ymin", "xmax", "ymax")]
    if name not in names or None in corners:
        ledger.add("XML object", f"{file}, {name or 'an object without a name'}")
        return None
    left, top, right, bottom = (value or 0.0 for value in corners)
    sides = (left - 1, top - 1, right - left + 1, bottom - top + 1)
    if _number(one, "difficult"):
        ledger.add("difficult", f"{file}, {name}")
    bbox = [round(side, DIGITS) for side in sides]
    return {"category_id": names[name], "bbox": bbox, "iscrowd": 0}
