"""Annotations in another format: COCO files, YOLO labels, Pascal VOC folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from detbalance.data.annotations import Annotations
from detbalance.data.files import remove_leftovers
from detbalance.data.messages import counted, needs
from detbalance.data.voc import LABELS
from detbalance.data.yolo import DIGITS, image_numbers

# Of a share of the image's size, so that the pixels are read again to the last of `DIGITS`.
_SHARE_DIGITS = 12


def convert(
    parts: Mapping[str, Annotations],
    folder: str | os.PathLike[str],
    to: str,
    *,
    images: Mapping[str, Path] | None = None,
) -> list[str]:
    """Write annotations in another format; reading them again gives the same arrays.

    Args:
        parts: annotations by the name of their split: train, val.
        folder: new or empty; it appears whole or not at all.
        to: "coco" (a JSON file for each part), "yolo" (data.yaml, images, labels) or "voc"
            (Annotations, JPEGImages, ImageSets).
        images: folder of the images of each part, which are linked, or copied where links are not
            possible. YOLO labels are nothing without them.

    Returns:
        What the format cannot say, a sentence for each kind with its count; empty if nothing.

    Raises:
        ValueError: if the folder holds things, a part has a class that the first one has not, an
            image has no size or name, two images get the same name, or images are missing.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is not empty. A new folder is expected. Name another one.")
    if to == "yolo" and images is None:
        raise ValueError(
            "convert(): images are missing. YOLO labels lie beside their images, whose size they"
            " need. Name their folder (--images)."
        )
    first = next(iter(parts.values()))
    parts = {name: _with_classes(part, first) for name, part in parts.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent, folder.name)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        lost = [text for part in parts.values() for text in _lost(part, to)]
        FORMATS[to](parts, temporary, images or {})
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return list(dict.fromkeys(lost))


def _with_classes(part: Annotations, first: Annotations) -> Annotations:
    """With the labels of the first part, whose names count."""
    names = first.categories.names
    unknown = [name for name in part.categories.names if name not in names]
    if unknown:
        raise ValueError(
            f'{part.source}: its class "{unknown[0]}" is not in {first.source}'
            f" ({counted(len(unknown), 'such class')}). The first file is expected to list all"
            " classes. Add it there."
        )
    order = {name: label for label, name in enumerate(names, start=1)}
    labels = np.array([0, *(order[name] for name in part.categories.names)], dtype=np.int64)
    return replace(
        part,
        categories=first.categories,
        labels=labels[part.labels],
        neg_labels=part.neg_labels and part.neg_labels.relabel(labels),
        not_exhaustive_labels=part.not_exhaustive_labels
        and part.not_exhaustive_labels.relabel(labels),
    )


def _lost(part: Annotations, to: str) -> Iterator[str]:
    """What a format has no place for."""
    if to == "coco":
        return
    kept = ~part.is_crowd
    crowd = int(part.is_crowd.sum())
    if crowd:
        yield (
            f"{part.source}: {counted(crowd, 'crowd region is', 'crowd regions are')} left out: as"
            " an ordinary box it would be taught as one object."
        )
    ignored = 0 if part.is_ignored is None else int((part.is_ignored & kept).sum())
    if ignored and to == "yolo":
        yield (
            f"{part.source}: {counted(ignored, 'box')} with the mark of being ignored"
            f" {'loses' if ignored == 1 else 'lose'} it."
        )
    outlines = part.segmentations
    if outlines is not None and (drawn := sum(len(text) > 4 for text in outlines)):
        what = counted(drawn, "outline is", "outlines are")
        yield f"{part.source}: {what} not written, only the box."
    own = ~np.isclose(part.areas, part.bbox[:, 2] * part.bbox[:, 3], rtol=1e-9) & kept
    if own.any():
        yield (
            f"{part.source}: the area of {counted(int(own.sum()), 'annotation')} is not width x"
            " height, and is lost."
        )
    if part.neg_labels is not None:
        yield f"{part.source}: what images are known not to show (LVIS) is lost."
    fine = (part.bbox[kept] != part.bbox[kept].round(DIGITS)).any(axis=1)
    if fine.any():
        what = counted(int(fine.sum()), "box is", "boxes are")
        yield f"{part.source}: {what} rounded to 1e-{DIGITS} pixels."
    stems = [Path(part.file_name(i)).stem for i in range(part.num_images)]
    if list(image_numbers(stems)) != part.image_ids.tolist():
        yield (
            f"{part.source}: image ids are lost; results files of the old ids fit only the old"
            " annotations."
        )


def _write_coco(parts: Mapping[str, Annotations], folder: Path, images: Mapping[str, Path]) -> None:
    for name, part in parts.items():
        part.save(folder / f"{name}.json")
        for i in range(part.num_images if name in images else 0):
            _link(part.image_path(i, images[name]), folder / "images" / name / part.file_name(i))


def _write_yolo(parts: Mapping[str, Annotations], folder: Path, images: Mapping[str, Path]) -> None:
    try:
        import yaml
    except ImportError as error:
        raise needs("writing a data.yaml", "PyYAML", "report") from error

    names = next(iter(parts.values())).categories.names
    for name, part in parts.items():
        listed: list[str] = []
        taken: set[str] = set()
        for i in range(part.num_images):
            file_name = _file_name(part, i, taken)
            place = Path("images", name, file_name)
            _link(part.image_path(i, images[name]), folder / place)
            listed.append(f"./{place.as_posix()}")
            text = "".join(f"{line}\n" for line in _shares(part, i))
            file = folder / Path("labels", name, file_name).with_suffix(".txt")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        (folder / f"{name}.txt").write_text("".join(f"{p}\n" for p in listed), encoding="utf-8")
    content = {**{name: f"{name}.txt" for name in parts}, "names": dict(enumerate(names))}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")


def _shares(part: Annotations, image: int) -> Iterator[str]:
    width, height = _size(part, image)
    for row in range(part.rows(image).start, part.rows(image).stop):
        if not part.is_crowd[row]:
            x, y, w, h = part.bbox[row].tolist()
            values = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
            shares = " ".join(f"{value:.{_SHARE_DIGITS}g}" for value in values)
            yield f"{part.labels[row] - 1} {shares}"


def _write_voc(parts: Mapping[str, Annotations], folder: Path, images: Mapping[str, Path]) -> None:
    for place in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / place).mkdir(parents=True)
    names = next(iter(parts.values())).categories.names
    (folder / LABELS).write_text("".join(f"{name}:::\n" for name in names), encoding="utf-8")
    taken: set[str] = set()
    for name, part in parts.items():
        stems = []
        for i in range(part.num_images):
            file = _file_name(part, i, taken, flat=True)
            stems.append(Path(file).stem)
            if name in images:
                _link(part.image_path(i, images[name]), folder / "JPEGImages" / file)
            text = "\n".join(_xml(part, i, file)) + "\n"
            (folder / "Annotations" / f"{stems[-1]}.xml").write_text(text, encoding="utf-8")
        listed = "".join(f"{stem}\n" for stem in stems)
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(listed, encoding="utf-8")


def _xml(part: Annotations, image: int, file: str) -> Iterator[str]:
    width, height = _size(part, image)
    yield f"<annotation>\n  <filename>{escape(file)}</filename>"
    yield f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    for row in range(part.rows(image).start, part.rows(image).stop):
        if part.is_crowd[row]:
            continue
        x, y, w, h = part.bbox[row].tolist()
        sides = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
        box = "".join(f"<{key}>{round(v, DIGITS):.15g}</{key}>" for key, v in sides.items())
        difficult = int(part.is_ignored is not None and part.is_ignored[row])
        name = escape(part.categories.names[part.labels[row] - 1])
        yield (
            f"  <object><name>{name}</name><difficult>{difficult}</difficult>"
            f"<bndbox>{box}</bndbox></object>"
        )
    yield "</annotation>"


def _file_name(part: Annotations, image: int, taken: set[str], *, flat: bool = False) -> str:
    """The name of an image, which no other has but for the suffix: labels are named by it."""
    name = part.file_name(image)
    if not name:
        raise ValueError(
            f"{part.source}: image {part.image_ids[image]} has no file_name. Labels are named by"
            " it. Add it."
        )
    name = name.replace("/", "_") if flat else name
    stem = str(Path(name).with_suffix(""))
    if stem in taken:
        raise ValueError(
            f"{part.source}: two images would have their labels in {stem}. Names that differ before"
            " the suffix are expected. Rename one."
        )
    taken.add(stem)
    return name


def _size(part: Annotations, image: int) -> tuple[int, int]:
    width, height = part.sizes[image].tolist()
    if not (width and height):
        raise ValueError(
            f"{part.source}: image {part.image_ids[image]} has no width and height, of which labels"
            " are shares. Add them."
        )
    return width, height


def _link(source: Path, target: Path) -> None:
    """Give a file another name, or copy it to another file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_file():
        raise ValueError(f"{source}: is not there. The image is expected. Correct --images.")
    try:
        os.link(os.path.realpath(source), target)
    except FileExistsError:
        return  # listed twice
    except OSError:
        shutil.copyfile(source, target)


_Writer = Callable[[Mapping[str, Annotations], Path, Mapping[str, Path]], Any]
FORMATS: dict[str, _Writer] = {"coco": _write_coco, "yolo": _write_yolo, "voc": _write_voc}
