"""Many small images on one sheet, with their boxes: for looking at what an augmentation makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detbalance.data.files import replace_file
from detbalance.data.fonts import text_size, write_text
from detbalance.data.images import import_cv2

OWN, PASTED, CROWD = (31, 155, 255), (255, 122, 0), (150, 150, 150)
_GAP = 6
_CAPTION = 16  # pixels in height
_FONT = 0.38


@dataclass(frozen=True, eq=False)
class Cell:
    """An image of a sheet."""

    image: npt.NDArray[np.uint8]
    caption: str = ""
    boxes: npt.NDArray[Any] | None = None
    names: Sequence[str] = ()
    colors: Sequence[tuple[int, int, int]] = ()
    note: str = ""


def save_sheet(
    cells: Sequence[Cell], path: str | Path, *, columns: int = 6, width: int = 320, title: str = ""
) -> Path:
    """Put images side by side and write the sheet as a PNG."""
    cv2 = import_cv2()
    columns = min(columns, len(cells))
    drawn = [_drawn(cell, width) for cell in cells]
    tile = max(picture.shape[0] for picture in drawn)
    rows = -(-len(drawn) // columns)
    top = _GAP + (_CAPTION + _GAP if title else 0)
    down, across = tile + _CAPTION + _GAP, width + _GAP
    sheet = np.full((top + rows * down, _GAP + columns * across, 3), 255, np.uint8)
    if title:
        _write(sheet, title, _GAP, _GAP + _CAPTION - 4, (0, 0, 0))
    for number, (cell, picture) in enumerate(zip(cells, drawn, strict=True)):
        row, column = divmod(number, columns)
        y, x = top + row * down, _GAP + column * across
        _write(sheet, _fitting(cell.caption, cell.note, width), x, y + _CAPTION - 4, (70, 70, 70))
        y += _CAPTION
        sheet[y : y + picture.shape[0], x : x + width] = picture
    written, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    assert written
    with replace_file(path) as file:
        file.write(data.tobytes())
    return Path(path)


def _drawn(cell: Cell, width: int) -> npt.NDArray[np.uint8]:
    """The image at the width of the sheet's columns, with its boxes and their names."""
    cv2 = import_cv2()
    factor = width / cell.image.shape[1]
    height = max(1, round(cell.image.shape[0] * factor))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST
    picture = cv2.resize(cell.image, (width, height), interpolation=method)
    boxes = np.zeros((0, 4)) if cell.boxes is None else cell.boxes
    for box, name, color in zip(boxes, cell.names, cell.colors, strict=True):
        left, top, right, bottom = (round(float(v) * factor) for v in box)
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), color, 1)
        if name:
            wide, high = text_size(name, _FONT)
            x = max(0, min(left, width - wide - 2))
            y = top - 3 if top > high + 4 else min(bottom + high + 3, height - 2)
            picture[max(0, y - high - 2) : y + 3, x : x + wide + 2] = color
            _write(picture, name, x + 1, y, (255, 255, 255))
    return np.asarray(picture, np.uint8)


def _write(
    picture: npt.NDArray[np.uint8], text: str, x: int, y: int, color: tuple[int, int, int]
) -> None:
    write_text(picture, text, x, y, _FONT, color)


def _fitting(caption: str, note: str, width: int) -> str:
    """As much of both as there is room for: of a caption its end, where file names differ."""

    def fits(text: str) -> bool:
        return text_size(text, _FONT)[0] <= width

    while caption and not fits(caption):
        caption = caption[1:]
    if not note or fits(f"{caption} {note}"):
        return f"{caption} {note}".rstrip()
    while note and not fits(f"{caption} {note}.."):
        note = note[:-1]
    return f"{caption} {note}.." if note else caption
