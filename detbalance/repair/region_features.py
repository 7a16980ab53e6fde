"""Region features on disk: written image by image, taken up again, read without loading them.

A folder with three files:

    features.f16   float16 [n, F], one row after the other
    regions.bin    n records of `REGION`
    state.json     how far both are valid, and what they were made from

Letters: n regions, F features, D outputs, S slots.

Letters: n regions, F features, D outputs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detbalance.data.arrays import Int64
from detbalance.data.files import replace_file
from detbalance.repair.classifier import Classifier

Rows = NDArray[np.int64] | NDArray[np.bool_] | slice


class LazyColumn:
    """Rows of some table, which stay where they are until they are asked for."""

    def __init__(self, read: Callable[[Int64], NDArray[Any]], rows: Int64, width: int) -> None:
        self._read, self._rows = read, rows
        self.shape = (len(rows), width)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._rows)

    def __getitem__(self, rows: Rows) -> NDArray[Any]:
        """Read some rows, [n, width]."""
        return self._read(self._rows[rows])

    def take(self, rows: Rows) -> LazyColumn:
        """The same for some rows, which are not read."""
        return LazyColumn(self._read, self._rows[rows], self.shape[1])


Column = NDArray[Any] | LazyColumn


def part_of(column: Column, rows: Rows) -> Column:
    """Some rows of a column: a copy of those in memory, the others where they are."""
    return column.take(rows) if isinstance(column, LazyColumn) else column[rows]


def behind(first: Column, second: Column) -> Column:
    """One column after the other; in memory where both are."""
    if not len(first) or not len(second):
        return first if len(first) else second
    if not isinstance(first, LazyColumn) and not isinstance(second, LazyColumn):
        return np.concatenate([first, second])
    size = len(first)

    def read(rows: Int64) -> NDArray[Any]:
        after = rows >= size
        parts = first[rows[~after]], second[rows[after] - size]
        found = np.empty((len(rows), first.shape[1]), np.result_type(*parts))
        found[~after], found[after] = parts
        return found

    return LazyColumn(read, np.arange(size + len(second)), first.shape[1])


def stored_rows(table: NDArray[Any]) -> LazyColumn:
    """All rows of a table on disk."""
    plain = np.asarray(table)  # not read: indexing a memmap costs more than indexing what it maps
    return LazyColumn(plain.__getitem__, np.arange(len(plain)), plain.shape[1])


def float32(values: NDArray[Any]) -> Tensor:
    """Values as float32, of which torch makes float16 several times faster than NumPy."""
    return torch.from_numpy(values).float()


class FrozenLogits(LazyColumn):
    """What a classifier says of regions, float32 [n, D], computed when it is asked for."""

    def __init__(self, features: Column, slots: Int64, weight: Tensor, bias: Tensor) -> None:
        self._features, self._slots, self._weight, self._bias = features, slots, weight, bias
        super().__init__(self._said, np.arange(len(slots)), weight.shape[1])

    def take(self, rows: Rows) -> FrozenLogits:
        """The same for some rows, which are not computed."""
        features = part_of(self._features, rows)
        return FrozenLogits(features, self._slots[rows], self._weight, self._bias)

    def given(self, features: Tensor) -> Tensor:
        """All logits, float32 [n, D], from the features float32 [n, F] that were read already."""
        return linear(features, torch.from_numpy(self._slots), self._weight, self._bias)

    def _said(self, rows: Int64) -> NDArray[np.float32]:
        return self.take(rows).given(float32(self._features[rows])).numpy()


def linear(features: Tensor, slots: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply the classifier of each region's slot."""
    if len(weight) == 1:
        return features @ weight[0].T + bias[0]
    out = features.new_empty(len(features), weight.shape[1])
    for slot in torch.unique(slots).tolist():
        here = torch.where(slots == slot)[0]
        out[here] = features[here] @ weight[slot].T + bias[slot]
    return out


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


CHUNK = 8192
"""Regions whose features are in memory at a time, where all are gone through."""


@dataclass(frozen=True)
class Samples:
    """Regions with what the frozen classifier says of them."""

    features: Column
    logits: Column
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    images: NDArray[np.int64]
    slots: NDArray[np.int64]

    def __len__(self) -> int:
        """The number of regions."""
        return len(self.labels)

    def take(self, rows: Rows) -> Samples:
        """The same for some rows; what is on disk stays there."""
        values: dict[str, Any] = {
            field.name: part_of(getattr(self, field.name), rows) for field in fields(self)
        }
        return replace(self, **values)

    def join(self, other: Samples) -> Samples:
        """These, and others behind them."""
        values: dict[str, Any] = {
            field.name: behind(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        }
        return replace(self, **values)

    def read(self) -> tuple[Tensor, Tensor]:
        """Features float32 [n, F] and logits float32 [n, D], in memory; each is read once."""
        features = float32(self.features[:])
        if isinstance(self.logits, FrozenLogits):
            return features, self.logits.given(features)
        return features, float32(self.logits[:])

    def chunks(self) -> Iterator[slice]:
        """Slices that go through all regions, a few at a time."""
        for start in range(0, len(self), CHUNK):
            yield slice(start, min(start + CHUNK, len(self)))


def read_samples(stored: RegionFeatures, classifier: Classifier) -> Samples:
    """Regions on disk, and what the classifier as it is says of them."""
    regions = stored.regions
    weight, bias = (values.float().cpu() for values in classifier.weights())
    for what, most, own in (
        ("features", stored.features.shape[1], weight.shape[2]),
        ("classes", int(regions["label"].max(initial=0)) + 1, classifier.num_classes),
        ("slots", int(regions["slot"].max(initial=0)) + 1, weight.shape[0]),
    ):
        if most > own or (what == "features" and most != own):
            raise ValueError(
                f"{stored.folder}: holds regions with {most} {what}, the detector has {own}. Region"
                " features of this detector are expected. Delete the folder, or name another one."
            )
    features, slots = stored_rows(stored.features), regions["slot"].astype(np.int64)
    return Samples(
        features=features,
        logits=FrozenLogits(features, slots, weight, bias),
        labels=regions["label"].astype(np.int64),
        weights=regions["weight"].astype(np.float32),
        images=regions["image"].astype(np.int64),
        slots=slots,
    )


def all_finite(samples: Samples, rows: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
    """Tell whether all features of each region are finite, bool [n]; of some rows or of all."""
    asked = samples if rows is None else samples.take(rows)
    found = np.empty(len(asked), bool)
    for chunk in asked.chunks():
        found[chunk] = np.isfinite(asked.features[chunk]).all(axis=1)
    return found
