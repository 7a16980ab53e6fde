"""Donors from folders of PNG files: generated, rendered or cut out by hand.

Letters: H, W height and width, F files.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.cutting import Donor, Mask, UnreadableDonor, mask_box, partial_mask
from detbalance.augmentation.transform import Image
from detbalance.data import Categories
from detbalance.data.arrays import PackedBytes, ReadOnlyArrays
from detbalance.data.files import open_file, parse_json
from detbalance.data.images import UnreadableImage, image_size, import_cv2, read_pixels

FOLDER_FORMAT = "detbalance.donors/1"
FOLDER_FILE = "donors.json"

_FAR = 1e9  # pixels: no image reaches there
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FolderDonors(ReadOnlyArrays):
    """Files that hold one object each, by class, within a class in the order found."""

    paths: PackedBytes
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, number: int) -> Path:
        """Return the path of a file."""
        return Path(os.fsdecode(self.paths[number]))

    def take(self, rows: NDArray[np.int64]) -> FolderDonors:
        """Return the files `rows`, int [n], in that order."""
        return FolderDonors(self.paths.take(rows), self.boxes[rows], self.labels[rows])

    def read(self, number: int, typical_size: float) -> Donor:
        """Read a donor's pixels."""
        path = self.path(number)
        image, visible = _read_png(path)
        height, width = image.shape[:2]
        mask = None
        box = self.boxes[number]
        if visible is not None and not visible.all():
            if not visible.any():
                raise UnreadableDonor(
                    f"{path}: all of the image is transparent. An object is expected. Remove it."
                )
            box = mask_box(visible)
            image = _bleed(image, visible)
            mask = partial_mask(visible, box)
        elif np.isnan(box).any():
            box = np.array([0, 0, width, height], np.float64)
        # The header was right at the start; the file may have been replaced since.
        box = np.clip(box, 0, (width, height, width, height))
        sides = box[2:] - box[:2]
        if not (sides > 0).all():
            raise UnreadableDonor(f"{path}: the box lies outside of the image. Write it again.")
        image.flags.writeable = False
        return Donor(
            image=image,
            box=box,
            others=np.zeros((0, 4)),
            label=int(self.labels[number]),
            area=float(sides.prod() if mask is None else mask.sum()),
            mask=mask,
            resize=typical_size / float(np.sqrt(sides.prod())) if typical_size > 0 else 1.0,
        )


def folder_donors(folders: Sequence[str | Path], categories: Categories) -> FolderDonors:
    """Find the donors in folders, and check all of them without decoding any."""
    found: list[tuple[Path, str, list[float] | None]] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(
                f"{folder}: is no folder. Expected a folder of donors. Correct the path."
            )
        index = folder / FOLDER_FILE
        crops = list(_listed_crops(index) if index.exists() else _sub_folders(folder))
        if not crops:
            raise ValueError(
                f"{folder}: holds no donor. Expected one sub-folder of PNG files per class, or a"
                f" {FOLDER_FILE}. Check the path."
            )
        _check_classes(folder, {name for _, name, _ in crops}, categories)
        found += _with_header(folder, crops)
    labels = categories.labels_of_names([name for _, name, _ in found])
    order = np.argsort(labels, kind="stable")
    boxes = np.full((len(found), 4), np.nan)
    for number, (_, _, box) in enumerate(found):
        if box is not None:
            boxes[number] = box
    paths = PackedBytes.from_items([os.fsencode(found[number][0]) for number in order])
    return FolderDonors(paths, boxes[order], labels[order])


def _sub_folders(folder: Path) -> Iterator[tuple[Path, str, None]]:
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        for file in sorted(inner.iterdir()):
            if file.suffix.lower() == ".png":
                yield file, inner.name, None


def _listed_crops(index: Path) -> Iterator[tuple[Path, str, list[float] | None]]:
    content = parse_json(open_file(index), index)
    form = content.get("format") if isinstance(content, dict) else None
    if not isinstance(content, dict) or form != FOLDER_FORMAT:
        raise ValueError(
            f'{index}: "format" is {form!r}. Expected "{FOLDER_FORMAT}". Write the file again.'
        )
    crops = content.get("crops")
    if not isinstance(crops, list):
        raise ValueError(f'{index}: "crops" is no list. Expected one entry per file. Add it.')
    for number, crop in enumerate(crops):
        yield _listed_crop(index, number, crop)


def _listed_crop(index: Path, number: int, crop: Any) -> tuple[Path, str, list[float] | None]:
    where = f"{index}: crop {number}"
    entry = crop if isinstance(crop, dict) else {}
    name, kind, box = entry.get("file"), entry.get("class"), entry.get("box")
    if not isinstance(name, str) or not isinstance(kind, str):
        raise ValueError(f'{where} has no "file" or "class". Expected both, as text. Add them.')
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        raise ValueError(f'{where}: "file" is "{name}". Expected a file in the folder. Move it.')
    if box is not None and not _is_box(box):
        raise ValueError(
            f'{where}: "box" is {box}. Expected x0, y0, x1, y1 in pixels, x0 < x1 and y0 < y1.'
            " Correct it, or leave it out where all of the file is the object."
        )
    return index.parent / inside, kind, box


def _is_box(box: object) -> bool:
    if not isinstance(box, list) or len(box) != 4:
        return False
    if not all(type(v) in (int, float) and 0 <= v < _FAR for v in box):
        return False
    return bool(box[0] < box[2] and box[1] < box[3])


def _check_classes(folder: Path, names: set[str], categories: Categories) -> None:
    unknown = sorted(names - set(categories.names))
    if not unknown:
        return
    near = [difflib.get_close_matches(name, categories.names, n=1) for name in unknown[:5]]
    listed = ", ".join(
        f'"{name}"' + (f' (nearest: "{close[0]}")' if close else "")
        for name, close in zip(unknown, near, strict=False)
    )
    raise ValueError(
        f"{folder}: {'1 class' if len(unknown) == 1 else f'{len(unknown)} classes'} of donors"
        f" {'is no category' if len(unknown) == 1 else 'are no categories'} of the annotations:"
        f" {listed}. Expected the names of categories. Rename them."
    )


def _with_header(
    folder: Path, crops: Sequence[tuple[Path, str, list[float] | None]]
) -> list[tuple[Path, str, list[float] | None]]:
    """Leave out files whose header cannot be read; refuse boxes that are not inside."""
    kept, bad = [], []
    for path, name, box in crops:
        size = _png_size(path)
        if size is None:
            bad.append(path)
            continue
        if box is not None and (box[2] > size[0] or box[3] > size[1]):
            raise ValueError(
                f"{path}: has {size[0]} x {size[1]} pixels, {folder / FOLDER_FILE} says that the"
                f" object's box is {box}. Expected a box inside. Correct it."
            )
        kept.append((path, name, box))
    if bad:
        _logger.warning(
            "%s: %d of %d donors are no readable PNG files and left out (first: %s).",
            folder,
            len(bad),
            len(crops),
            bad[0],
        )
    return kept


def _png_size(path: Path) -> tuple[int, int] | None:
    try:
        return image_size(path, "PNG")
    except ValueError:
        return None


def _read_png(path: Path) -> tuple[Image, Mask | None]:
    """Return RGB [H, W, 3] with the depth of the file, and what its alpha channel shows."""
    try:
        pixels = read_pixels(path)
    except UnreadableImage as error:
        raise UnreadableDonor(
            f"{path}: the donor cannot be read ({error.reason}). Expected a PNG file. Replace or"
            " remove it."
        ) from error
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2), None
    visible = None
    if pixels.shape[2] == 4:
        visible = pixels[:, :, 3] >= (np.iinfo(pixels.dtype).max + 1) // 2
    return np.ascontiguousarray(pixels[:, :, :3]), visible


def _bleed(image: Image, visible: Mask) -> Image:
    """Give what is transparent the mean colour of the visible pixels near it."""
    cv2 = import_cv2()
    weight = visible.astype(np.float32)
    near = cv2.blur(weight, (7, 7))[:, :, None]
    colours = cv2.blur(image.astype(np.float32) * weight[:, :, None], (7, 7))
    filled = np.rint(colours / np.maximum(near, 1e-6))
    limit = np.iinfo(image.dtype).max
    return np.where(visible[:, :, None], image, np.clip(filled, 0, limit)).astype(image.dtype)
