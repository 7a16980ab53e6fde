"""Region features on disk: written image by image, taken up again, read without loading them.

A folder with three files:

    features.f16   float16 [n, F], one row after the other
    regions.bin    n records of `REGION`
    state.json     how far both are valid, and what they were made from
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.data.files import replace_file

FORMAT = "detbalance.regions/1"
FEATURES, REGIONS, STATE = "features.f16", "regions.bin", "state.json"

REGION = np.dtype(
    [
        ("image", "<i4"),
        ("row", "<i4"),
        ("label", "<i4"),
        ("slot", "<i4"),
        ("weight", "<f4"),
        ("score", "<f4"),
        ("box", "<f4", (4,)),
    ]
)
"""A region: row of its image; row of its object in the annotations, -1 for none; label 0..K; slot
of the classifier; how many regions of the images it stands for; the detector's highest score of a
class; box, xyxy in pixels."""


class FeatureWriter:
    """Appends features to a folder, or goes on where a run before was stopped."""

    def __init__(self, folder: Path, width: int, source: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.width, self.source = folder, width, dict(source)
        self.images = self.regions = 0
        self.notes: dict[str, int] = {}
        if (folder / STATE).exists():
            state = read_state(folder)
            _check_source(
                folder,
                {**state["source"], "width": state["width"]},
                {**self.source, "width": width},
            )
            RegionFeatures(folder)  # what is gone on with is what was written
            self.images, self.regions = state["images"], state["regions"]
            self.notes = state["notes"]
        # What a run before wrote beyond its last state is half of an image.
        for name, size in ((FEATURES, 2 * width), (REGIONS, REGION.itemsize)):
            with (folder / name).open("ab") as file:
                file.truncate(self.regions * size)

    def append(
        self, features: NDArray[np.float16], regions: NDArray[np.void], *, images: int
    ) -> None:
        """Write the regions of some images; a kill leaves all of them or none."""
        try:
            for name, values in ((FEATURES, features), (REGIONS, regions)):
                with (self.folder / name).open("ab") as file:
                    file.write(np.ascontiguousarray(values).tobytes())
                    file.flush()
                    os.fsync(file.fileno())  # before the state, which says that they are there
            self.images += images
            self.regions += len(regions)
            self._save_state()
        except OSError as error:
            needed = self.regions * (2 * self.width + REGION.itemsize) / 1e9
            raise ValueError(
                f"{self.folder}: region features cannot be written ({error.strerror}) after"
                f" {self.images} images, {needed:.1f} GB. A folder with room is expected. Free some"
                " and run the same command again, which goes on from there; or keep fewer regions"
                " (--max-boxes, --max-negatives)."
            ) from error

    def _save_state(self) -> None:
        state = {
            "format": FORMAT,
            "width": self.width,
            "images": self.images,
            "regions": self.regions,
            "notes": self.notes,
            "source": self.source,
        }
        with replace_file(self.folder / STATE) as file:
            file.write(json.dumps(state, indent=1).encode())


class RegionFeatures:
    """Features of a folder, mapped: rows are read from disk when they are asked for."""

    def __init__(self, folder: Path) -> None:
        state = read_state(folder)
        count, width = state["regions"], state["width"]
        self.folder, self.source = folder, state["source"]
        if count:
            self.features: NDArray[np.float16] = np.memmap(
                folder / FEATURES, np.float16, mode="r", shape=(count, width)
            )
            self.regions: NDArray[np.void] = np.fromfile(folder / REGIONS, REGION, count)
            _check_regions(folder / REGIONS, self.regions)
        else:
            self.features = np.zeros((0, width), np.float16)
            self.regions = np.zeros(0, REGION)

    def __len__(self) -> int:
        """The number of regions."""
        return len(self.regions)


def read_state(folder: Path) -> dict[str, Any]:
    """Read how far the features in a folder go, and that they do."""
    path = folder / STATE
    remedy = "Delete the folder, to take them out again."
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: cannot be read ({error}). Region features written by this package are"
            f" expected. {remedy}"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(
            f"{path}: is not of the format {FORMAT}. Region features written by this version are"
            f" expected. {remedy}"
        )
    numbers = {"width": (state.get("width"), 1)}
    numbers |= {key: (state.get(key), 0) for key in ("images", "regions")}
    notes = state.get("notes")
    if isinstance(notes, dict):
        numbers |= {f"notes.{key}": (value, 0) for key, value in notes.items()}
    for key, (value, least) in numbers.items():
        if type(value) is not int or value < least:
            raise ValueError(
                f"{path}: {key} is {value!r:.80}. A whole number from {least} is expected. {remedy}"
            )
    for key in ("notes", "source"):
        if not isinstance(state.get(key), dict):
            raise ValueError(f"{path}: {key} is no mapping. One is expected. {remedy}")
    for name, size in ((FEATURES, 2 * state["width"]), (REGIONS, REGION.itemsize)):
        file, needed = folder / name, state["regions"] * size
        there = file.stat().st_size if file.exists() else 0
        if there < needed:
            raise ValueError(
                f"{file}: has {there} bytes, and {STATE} counts {needed}: its end is lost. A whole"
                f" file is expected. {remedy}"
            )
    return state


def _check_regions(path: Path, regions: NDArray[np.void]) -> None:
    """Refuse records that no writer has written."""
    wrong = (regions["image"] < 0) | (regions["row"] < -1)
    wrong |= (regions["label"] < 0) | (regions["slot"] < 0)
    wrong |= ~(np.isfinite(regions["weight"]) & (regions["weight"] >= 0))
    wrong |= ~np.isfinite(regions["box"]).all(axis=1)
    if wrong.any():
        raise ValueError(
            f"{path}: {wrong.sum()} of {len(wrong)} records are damaged (first: record"
            f" {wrong.argmax()}). Those that this package wrote are expected. Delete the folder, to"
            " take the features out again."
        )


def _check_source(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key in {**now, **before}:
        if before.get(key) != now.get(key):
            raise ValueError(
                f"{folder}: holds region features made with {key} {before.get(key)!r}, now it is"
                f" {now.get(key)!r}. The same is expected. Delete the folder, or name another"
                " output."
            )
