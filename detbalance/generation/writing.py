"""Write what was drawn: the crops, their contact sheet, and where all of it comes from."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from detbalance.data import Annotations
from detbalance.generation.classifier import PARTS
from detbalance.generation.contact_sheet import write_contact_sheet
from detbalance.generation.crops import Crops, box_in_crop
from detbalance.generation.donors_folder import SHEET, move_into_place, write_crops, write_index
from detbalance.generation.drawing import Kept
from detbalance.generation.result import ClassResult, Result


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
