"""Real donors beside generated crops, class by class, to be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from detbalance.data.fonts import write_text
from detbalance.data.images import import_cv2
from detbalance.generation.crops import Crop

_SIDE, _GAP, _ACROSS = 72, 4, 10
_LINE = 22  # height of a line of text
_BACK, _INK = 225, 40  # grey, so that white crops have an edge


def write_contact_sheet(
    path: Path, rows: Mapping[str, tuple[Sequence[Crop], Sequence[Crop]]]
) -> None:
    """Write a PNG with a row for each class: donors on the left, generated crops on the right."""
    cv2 = import_cv2()
    step = _SIDE + _GAP
    middle = 3 * _GAP
    width = 2 * _ACROSS * step + middle + _GAP
    sheet = np.full((_LINE + len(rows) * (_LINE + step) + _GAP, width, 3), _BACK, np.uint8)
    _write(sheet, "real donors", _GAP, 0)
    _write(sheet, "generated", _GAP + _ACROSS * step + middle, 0)
    for number, (caption, (real, generated)) in enumerate(rows.items()):
        top = _LINE + number * (_LINE + step)
        _write(sheet, caption, _GAP, top)
        for start, crops in ((0, real), (_ACROSS * step + middle, generated)):
            for place, crop in enumerate(crops[:_ACROSS]):
                cell = _fit(crop)
                y, x = top + _LINE, _GAP + start + place * step
                sheet[y : y + cell.shape[0], x : x + cell.shape[1]] = cell
    written, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    assert written
    path.write_bytes(data.tobytes())


def _fit(crop: Crop) -> Crop:
    """A crop in a cell, its aspect ratio kept."""
    cv2 = import_cv2()
    scale = _SIDE / max(crop.shape[:2])
    height, width = (max(1, min(_SIDE, round(side * scale))) for side in crop.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(crop, (width, height), interpolation=method), np.uint8)


def _write(sheet: Crop, text: str, x: int, y: int) -> None:
    write_text(sheet, text, x, y + _LINE - 7, 0.45, (_INK,) * 3)
