"""The folder that generated crops are written to, which `DonorBank` reads as a source of donors.

FOLDER/donors.json          {"format": "detbalance.donors/1", "provenance": {...}, "crops": [...]}
FOLDER/<class>/000001.png   a crop; its entry in "crops" has "file", "class" and "box"
FOLDER/contact_sheet.png    real donors beside generated ones
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from detbalance.data.images import import_cv2
from detbalance.generation.crops import Crop

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
