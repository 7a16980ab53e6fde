"""The folder that generated crops are written to, which `DonorBank` reads as a source of donors.

FOLDER/donors.json          {"format": "detbalance.donors/1", "provenance": {...}, "crops": [...]}
FOLDER/<class>/000001.png   a crop; its entry in "crops" has "file", "class" and "box"
FOLDER/contact_sheet.png    real donors beside generated ones
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from detbalance.data import Annotations
from detbalance.data.fonts import write_text
from detbalance.data.images import import_cv2
from detbalance.generation.classifier import PARTS
from detbalance.generation.crops import Crop, Crops, box_in_crop
from detbalance.generation.drawing import Kept
from detbalance.generation.result import ClassResult, Result

FORMAT = "detbalance.donors/1"
INDEX = "donors.json"
SHEET = "contact_sheet.png"


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds something, before any work is done."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / INDEX).is_file():
        raise ValueError(
            f"{output}: exists, and is no folder of generated donors. A new or empty folder is"
            " expected. Choose another one."
        )
    if not overwrite:
        raise ValueError(
            f"{output}: already holds generated donors. A new or empty folder is expected. Pass"
            " --overwrite to replace them."
        )


def work_folder(output: Path) -> Path:
    """Where files are written until all are there: beside the output, on the same disk."""
    return output.with_name(f".{output.name}.partial")


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """Folder names for class names: letters, digits, "-", "_" and "." only, no two alike."""
    taken: set[str] = set()
    safe: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^\w.-]+", "_", name).strip("._")[:80] or "class"
        candidate, number = plain, 1
        while candidate.casefold() in taken:  # some disks do not tell "A" from "a"
            number += 1
            candidate = f"{plain}-{number}"
        taken.add(candidate.casefold())
        safe[name] = candidate
    return safe


def write_crops(
    folder: Path, crops: Mapping[str, list[tuple[Crop, Mapping[str, Any]]]]
) -> list[dict[str, Any]]:
    """Write crops as PNGs, a sub-folder for each class that has any."""
    cv2 = import_cv2()
    entries: list[dict[str, Any]] = []
    folders = safe_names(name for name, some in crops.items() if some)
    for name, sub_folder in folders.items():
        (folder / sub_folder).mkdir()
        for number, (pixels, facts) in enumerate(crops[name], 1):
            file = f"{sub_folder}/{number:06d}.png"
            written, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
            assert written
            (folder / file).write_bytes(data.tobytes())
            entries.append({"file": file, "class": name, **facts})
    return entries


def write_index(folder: Path, provenance: Mapping[str, Any], entries: list[dict[str, Any]]) -> None:
    """Write the index of the crops."""
    document = {"format": FORMAT, "provenance": dict(provenance), "crops": entries}
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def move_into_place(work: Path, output: Path) -> None:
    """Put the finished folder where it belongs; the old one, if any, goes only then."""
    old = output.with_name(f".{output.name}.old")
    if output.exists():
        shutil.rmtree(old, ignore_errors=True)
        output.rename(old)
    work.rename(output)
    shutil.rmtree(old, ignore_errors=True)


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


def write_folder(
    work: Path,
    output: Path,
    annotations: Annotations,
    donors: Crops,
    written: dict[str, list[Kept]],
    result: Result,
    key: dict[str, Any],
) -> None:
    """Write the folder of donors, which appears whole or not at all."""
    ordered = [r for r in result.classes if r.name in written]
    entries = write_crops(
        work,
        {
            r.name: [
                (k.pixels, {"box": box_in_crop(*k.pixels.shape[1::-1]), **k.facts})
                for k in written[r.name]
            ]
            for r in ordered
        },
    )
    rows = {
        _caption(r): (
            donors.of_class(int(annotations.categories.labels_of_names([r.name])[0])),
            [k.pixels for k in written[r.name]],
        )
        for r in ordered
    }
    write_contact_sheet(work / SHEET, rows)
    provenance = {
        "made_by": f"detbalance {version('detbalance')} generate",
        "annotations": annotations.source,
        **key,
        "classes": [r.to_dict() for r in result.classes],
        "taught_by": list(result.taught_by),
        "kid_features": result.features,
        "kid_note": "generated: generated crops against donors, which the generator was trained on;"
        " real: one half of the donors against the other; background: places without objects"
        " against donors.",
        "judges": PARTS,
        "seconds": round(result.seconds, 1),
        "versions": {n: version(n) for n in ("torch", "torchmetrics", "numpy")},
    }
    write_index(work, provenance, entries)
    move_into_place(work, output)


def _caption(result: ClassResult) -> str:
    kid = result.kid
    figures = (
        ""
        if kid.generated != kid.generated
        else (f"   KID {kid.generated:.3f} (real {kid.real:.3f}, background {kid.background:.3f})")
    )
    return f"{result.name}: {result.donors} donors, {result.kept} kept of {result.made}{figures}"
