"""Read YOLO labels: a data.yaml with one text file of boxes or outlines for each image.

Source: the layout of Ultralytics (docs.ultralytics.com/datasets/detect): a split is a folder of
images, a list of such, or a text file that lists images; the labels of `.../images/a.jpg` are in
`.../labels/a.txt`, a line `class x y width height` for each box, in shares of the image's size, or
`class x1 y1 x2 y2 ...` for an outline, whose box is taken.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from detbalance.data.faults import AnnotationError, Ledger, show
from detbalance.data.images import SUFFIXES, UnreadableImage, header_size
from detbalance.data.messages import needs

_EXPECTED = "A data.yaml with names and the splits train and val is expected"
_SPLITS = ("train", "val", "test", "minival")
_THREADS = 8
# Shares in a text have six digits or so: pixels finer than this are not in it.
DIGITS = 6


def is_yolo(path: str | os.PathLike[str]) -> bool:
    """Whether a path is of a data.yaml, maybe with a split behind it (data.yaml:val)."""
    return Path(path_and_split(path)[0]).suffix in (".yaml", ".yml")


def path_and_split(path: str | os.PathLike[str]) -> tuple[str, str]:
    """The path, and the split that stands behind a colon, or ""."""
    text = os.fspath(path)
    before, colon, after = text.rpartition(":")
    return (before, after) if colon and after.isidentifier() and len(before) > 1 else (text, "")


def read_yolo(
    path: str | os.PathLike[str], ledger: Ledger, *, segmentations: bool = False
) -> dict[str, Any]:
    """The document that a COCO file of the same images would hold."""
    file, split = path_and_split(path)
    settings = _settings(Path(file))
    names = _names(settings.get("names"), file)
    images, folder = _images(settings, Path(file), split)
    with ThreadPoolExecutor(_THREADS) as threads:
        sizes = list(threads.map(_size, images))
        labels = list(threads.map(_lines, images))
    document: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in sorted(names.items())],
    }
    for number, (image, size, lines) in enumerate(zip(images, sizes, labels, strict=True), start=1):
        if isinstance(size, str):
            ledger.add("unreadable image", f"{image}, which {size}")
            continue
        name = os.path.relpath(image, folder).replace(os.sep, "/")
        width, height = size
        document["images"].append(
            {"id": number, "file_name": name, "width": width, "height": height}
        )
        seen: set[str] = set()
        for place, line in enumerate(lines, start=1):
            where = f"{label_file(image)} line {place}"
            if not line.strip() or line in seen:
                if line.strip():
                    ledger.add("repeated label", where)
                continue
            seen.add(line)
            found = _entry(line, names, ledger, where)
            if found is None:
                continue
            label, points = found
            entry = {"image_id": number, "category_id": label, "iscrowd": 0}
            entry |= {"id": len(document["annotations"]) + 1}
            document["annotations"].append(
                entry | _geometry(points, width, height, outline=segmentations)
            )
    if not document["images"]:
        raise AnnotationError(f"{path}: no image can be read. {_EXPECTED}. Correct the paths.")
    return document


def label_file(image: Path) -> Path:
    """Where the labels of an image are: its last folder `images` becomes `labels`."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _settings(file: Path) -> Mapping[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise needs("reading a data.yaml", "PyYAML", "report") from error
    try:
        content = yaml.safe_load(file.read_bytes())
    except OSError as error:
        reason = error.strerror or "no file"
        raise AnnotationError(f"{file}: cannot be read ({reason}). {_EXPECTED}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" (line {line + 1})"
        raise AnnotationError(f"{file}: is not YAML{where}. {_EXPECTED}. Correct it.") from error
    if not isinstance(content, dict) or "names" not in content:
        raise AnnotationError(f"{file}: has no names. {_EXPECTED}. Add the names of the classes.")
    return content


def _names(names: object, file: str) -> dict[int, str]:
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    if (
        not isinstance(names, dict)
        or not names
        or not all(
            type(k) is int and k >= 0 and isinstance(v, (str, int)) for k, v in names.items()
        )
    ):
        raise AnnotationError(
            f"{file}: names is {show(names)}. A list of names, or numbers with names, is expected."
            " Correct names."
        )
    return {number: str(name) for number, name in names.items()}


def _images(settings: Mapping[str, Any], file: Path, split: str) -> tuple[list[Path], Path]:
    """The images of a split in their order, and the folder that names start from."""
    there = [name for name in _SPLITS if settings.get(name)]
    if not split and len(there) == 1:
        (split,) = there
    if split not in there:
        listed = ", ".join(f"{file}:{name}" for name in there) or "none"
        said = f'has no split "{split}"' if split else f"has the splits {', '.join(there)}"
        raise AnnotationError(f"{file}: {said}. One of them is expected: {listed}. Name one.")
    root = Path(settings.get("path") or "")
    root = root if root.is_absolute() and root.is_dir() else file.parent / root
    if not root.is_dir():  # paths of the machine that it was written on
        root = file.parent
    given = settings[split]
    images: list[Path] = []
    folders: list[Path] = []
    for text in given if isinstance(given, list) else [given]:
        place = _place(str(text), root, file)
        if place.is_dir():
            folders.append(place)
            images += sorted(p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES)
        else:
            listed_images = place.read_text(encoding="utf-8").splitlines()
            images += [
                _joined(place.parent, line.strip()) for line in listed_images if line.strip()
            ]
    if not images:
        raise AnnotationError(f"{file}: {split} ({given}) holds no image. {_EXPECTED}. Correct it.")
    common = (
        folders[0] if len(folders) == 1 else Path(os.path.commonpath([p.parent for p in images]))
    )
    return images, common


def _place(text: str, root: Path, file: Path) -> Path:
    # Exports of some tools climb out of their own folder: ../train/images is train/images.
    choices = [root / text, file.parent / text, file.parent / text.removeprefix("../")]
    for place in choices:
        if place.exists():
            return place
    raise AnnotationError(
        f"{file}: {choices[0]} is not there. A folder of images, or a text file that lists them, is"
        " expected. Correct the path."
    )


def _joined(folder: Path, text: str) -> Path:
    return folder / text.removeprefix("./")


def _size(image: Path) -> tuple[int, int] | str:
    try:
        return header_size(image)
    except UnreadableImage as error:
        return error.reason


def _lines(image: Path) -> list[str]:
    file = label_file(image)
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []  # an image without objects has no file
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(
            f"{file}: cannot be read ({error}). A text file of labels is expected. Mend it."
        ) from error


def _entry(
    line: str, names: Mapping[int, str], ledger: Ledger, where: str
) -> tuple[int, list[float]] | None:
    """The class and the numbers of a line; None, and a fault, where it is none."""
    try:
        label, *points = map(float, line.split())
    except ValueError:
        label, points = -1.0, []
    if len(points) < 4 or (len(points) > 4 and len(points) % 2) or label != int(label):
        ledger.add("label line", f"{where}, {show(line)}")
        return None
    if int(label) not in names:
        ledger.add("label class", f"{where}, class {int(label)}")
        return None
    if not all(-1 <= value <= 2 for value in points):
        ledger.add("label share", f"{where}, {show(line)}")
        return None
    return int(label), points


def _geometry(points: list[float], width: int, height: int, *, outline: bool) -> dict[str, Any]:
    if len(points) == 4:
        x, y, w, h = points
        sides = ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
        return {"bbox": [round(side, DIGITS) for side in sides]}
    xs = [round(value * width, DIGITS) for value in points[::2]]
    ys = [round(value * height, DIGITS) for value in points[1::2]]
    left, top = min(xs), min(ys)
    box = [left, top, round(max(xs) - left, DIGITS), round(max(ys) - top, DIGITS)]
    flat = [value for point in zip(xs, ys, strict=True) for value in point]
    return {"bbox": box, **({"segmentation": [flat]} if outline else {})}
