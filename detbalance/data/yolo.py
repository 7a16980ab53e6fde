"""Read YOLO labels: a data.yaml with one text file of boxes or outlines for each image.

Source: the layout of Ultralytics (docs.ultralytics.com/datasets/detect): a split is a folder of
images, a list of such, or a text file that lists images; the labels of `.../images/a.jpg` are in
`.../labels/a.txt`, a line `class x y width height` for each box, in shares of the image's size, or
`class x1 y1 x2 y2 ...` for an outline, whose box is taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from detbalance.data.faults import AnnotationError, Ledger, show
from detbalance.data.images import SUFFIXES, UnreadableImage, header_size
from detbalance.data.messages import needs

_EXPECTED = "A data.yaml with names and the splits train and val is expected"
SPLITS = ("train", "val", "test", "minival")
_THREADS = 8
# Shares in a text have six digits or so: pixels finer than this are not in it.
DIGITS = 6


def is_yolo(path: str | os.PathLike[str]) -> bool:
    """Whether a path is of a data.yaml, maybe with a split behind it (data.yaml:val)."""
    return path_and_split(path)[0].endswith((".yaml", ".yml"))


def path_and_split(path: str | os.PathLike[str]) -> tuple[str, str]:
    """The path, and the split that stands behind a colon, or ""."""
    text = os.fspath(path)
    before, colon, after = text.rpartition(":")
    return (before, after) if colon and after.isidentifier() and len(before) > 1 else (text, "")


def read_yolo(
    path: str | os.PathLike[str], ledger: Ledger, *, segmentations: bool = False
) -> dict[str, Any]:
    """The document that a COCO file of the same images would hold.

    Category ids are class numbers + 1. Image ids are the numbers that the files are named by, where
    all are; else 1, 2, ... in their order. Both are those of Ultralytics' own results files.
    """
    file, _ = path_and_split(path)
    names = _names(_settings(Path(file)), file)
    images, folder = yolo_images(path)
    labels = [label_file(image) for image in images]
    with ThreadPoolExecutor(_THREADS) as threads:
        sizes = list(threads.map(_size, images))
        texts = list(threads.map(_lines, labels))
    document: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": name} for i, name in sorted(names.items())],
    }
    rows = zip(image_numbers([i.stem for i in images]), images, sizes, labels, texts, strict=True)
    for number, image, size, label, lines in rows:
        if isinstance(size, str):
            ledger.add("unreadable image", f"{image}: {size}")
            continue
        name = os.path.relpath(image, folder).replace(os.sep, "/")
        entry = {"id": number, "file_name": name, "width": size[0], "height": size[1]}
        document["images"].append(entry)
        for class_number, points in _entries(lines, names, ledger, label):
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": number,
                    "category_id": class_number + 1,
                    "iscrowd": 0,
                    **_geometry(points, *size, outline=segmentations),
                }
            )
    if not document["images"]:
        raise AnnotationError(f"{path}: no image can be read. {_EXPECTED}. Correct the paths.")
    return document


def yolo_images(path: str | os.PathLike[str]) -> tuple[list[Path], Path]:
    """The images of a split in their order, and the folder that their names start from."""
    file, split = path_and_split(path)
    settings = _settings(Path(file))
    there = [name for name in SPLITS if settings.get(name)]
    if not split and len(there) == 1:
        (split,) = there
    if split not in there:
        listed = ", ".join(f"{file}:{name}" for name in there) or "none"
        lacking = f'has no split "{split}"' if split else f"has the splits {', '.join(there)}"
        raise AnnotationError(f"{file}: {lacking}. One of them is expected: {listed}. Name one.")
    root = Path(file).parent / str(settings.get("path") or "")
    if not root.is_dir():  # the path of the machine that it was written on
        root = Path(file).parent
    images: list[Path] = []
    folders: list[Path] = []
    value = settings[split]
    for text in value if isinstance(value, list) else [value]:
        place = _place(str(text), root, file)
        if place.is_dir():
            folders.append(place)
            images += sorted(Path(name) for name in _images_below(place))
        else:
            lines = _text(place).splitlines()
            listed_images = [line.strip().removeprefix("./") for line in lines if line.strip()]
            images += [place.parent / line for line in listed_images]
    if not images:
        raise AnnotationError(f"{file}: {split} ({value}) holds no image. {_EXPECTED}. Correct it.")
    parents = {str(image.parent) for image in images}
    return images, folders[0] if len(folders) == 1 else Path(os.path.commonpath(parents))


def label_file(image: Path) -> Path:
    """Where the labels of an image are: the last folder `images` of its path becomes `labels`."""
    parts = image.parent.parts
    if "images" in parts:
        at = len(parts) - 1 - parts[::-1].index("images")
        parts = (*parts[:at], "labels", *parts[at + 1 :])
    return Path(*parts, f"{image.stem}.txt")


def _settings(file: Path) -> Mapping[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise needs("reading a data.yaml", "PyYAML", "report") from error
    try:
        content = yaml.safe_load(file.read_bytes())
    except OSError as error:
        reason = error.strerror or "no file"
        raise AnnotationError(
            f"{file}: cannot be read ({reason}). {_EXPECTED}. Check the path."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" (line {line + 1})"
        raise AnnotationError(f"{file}: is not YAML{where}. {_EXPECTED}. Correct it.") from error
    if not isinstance(content, dict) or "names" not in content:
        raise AnnotationError(f"{file}: has no names. {_EXPECTED}. Add the names of the classes.")
    return content


def _names(settings: Mapping[str, Any], file: str) -> dict[int, str]:
    names = settings["names"]
    if isinstance(names, list):
        names = dict(enumerate(names))
    expected = "A list of names, or numbers with names, is expected. Correct names."
    if not isinstance(names, dict) or not names:
        raise AnnotationError(f"{file}: names is {show(settings['names'])}. {expected}")
    for number, name in names.items():
        # YAML reads a bare yes, no, on, off as a truth value.
        if type(number) is not int or number < 0 or type(name) not in (str, int):
            raise AnnotationError(f"{file}: names has {show(number)}: {show(name)}. {expected}")
    count = settings.get("nc", len(names))
    if count != len(names):
        raise AnnotationError(
            f"{file}: nc is {show(count)} beside {len(names)} names. The number of the names is"
            " expected. Correct one of them."
        )
    return {number: str(name) for number, name in names.items()}


def _place(text: str, root: Path, file: str) -> Path:
    # Exports of some tools climb out of their own folder: ../train/images is train/images.
    parent = Path(file).parent
    choices = [root / text, parent / text, parent / text.removeprefix("../")]
    for place in choices:
        if place.exists():
            return place
    raise AnnotationError(
        f"{file}: {choices[0]} is not there. A folder of images, or a text file that lists them, is"
        " expected. Correct the path."
    )


def _images_below(folder: str | Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _images_below(entry.path)
            elif entry.name.lower().endswith(SUFFIXES):
                yield entry.path


def image_numbers(stems: Sequence[str]) -> Sequence[int]:
    """The numbers that images are named by, where all are and differ; else 1, 2, ..."""
    if all(stem.isascii() and stem.isdigit() and len(stem) < 19 for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return range(1, len(stems) + 1)


def _size(image: Path) -> tuple[int, int] | str:
    try:
        return header_size(image)
    except UnreadableImage as error:
        return error.reason


def _lines(file: Path) -> list[str]:
    try:
        return _text(file).splitlines()
    except FileNotFoundError:
        return []  # an image without objects has no file


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise AnnotationError(
            f"{file}: cannot be read ({reason}). A text file is expected. Mend or remove it."
        ) from error


def _entries(
    lines: Sequence[str], names: Mapping[int, str], ledger: Ledger, file: Path
) -> Iterator[tuple[int, list[float]]]:
    """The class number and the shares of each sound line; the others are counted."""
    seen: set[str] = set()
    for place, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file} line {place}"
        if line in seen:
            ledger.add("repeated label", where)
            continue
        seen.add(line)
        try:
            number, *points = map(float, line.split())
        except ValueError:
            number, points = -1.0, []
        if len(points) < 4 or (len(points) > 4 and len(points) % 2) or number % 1:
            ledger.add("label line", f"{where}, {show(line)}")
        elif int(number) not in names:
            ledger.add("label class", f"{where}, class {int(number)}")
        elif not all(-1 <= value <= 2 for value in points):
            ledger.add("label share", f"{where}, {show(line)}")
        else:
            yield int(number), points


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
