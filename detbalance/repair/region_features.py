"""Region features on disk: written image by image, taken up again, read without loading them.

A folder with three files:

    features.f16   float16 [n, F], one row after the other
    regions.bin    n records of `REGION`
    state.json     how far both are valid, and what they were made from

Letters: n regions, F features, D outputs, S slots.
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

from detbalance.data.arrays import Bool, Float32, Int64
from detbalance.data.files import replace_file
from detbalance.data.split import deal_images
from detbalance.repair.classifier import Classifier

Rows = Int64 | Bool | slice
Progress = Callable[[int, int], None]
"""Called with what is done and the number of all."""


def silent(done: int, total: int) -> None:
    """Progress that nobody looks at."""


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
        values = np.empty((len(rows), first.shape[1]), np.result_type(*parts))
        values[~after], values[after] = parts
        return values

    return LazyColumn(read, np.arange(size + len(second)), first.shape[1])


def float32(values: NDArray[Any]) -> Tensor:
    """Values as float32, of which torch makes float16 several times faster than NumPy."""
    return torch.from_numpy(values).float()


class FrozenLogits(LazyColumn):
    """A classifier's logits of regions, float32 [n, D], computed when they are read."""

    def __init__(self, features: Column, slots: Int64, weight: Tensor, bias: Tensor) -> None:
        self._features, self._slots, self._weight, self._bias = features, slots, weight, bias
        super().__init__(self._compute, np.arange(len(slots)), weight.shape[1])

    def take(self, rows: Rows) -> FrozenLogits:
        """The same for some rows, which are not computed."""
        features = part_of(self._features, rows)
        return FrozenLogits(features, self._slots[rows], self._weight, self._bias)

    def from_features(self, features: Tensor) -> Tensor:
        """All logits, float32 [n, D], from the features float32 [n, F] that were read already."""
        return linear(features, torch.from_numpy(self._slots), self._weight, self._bias)

    def _compute(self, rows: Int64) -> Float32:
        return self.take(rows).from_features(float32(self._features[rows])).numpy()


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
            before, now = {**state["source"], "width": state["width"]}, {**source, "width": width}
            for key in {**now, **before}:
                if before.get(key) != now.get(key):
                    raise ValueError(
                        f"{folder}: holds region features made with {key} {before.get(key)!r}, now"
                        f" it is {now.get(key)!r}. The same is expected. Delete the folder, or name"
                        " another output."
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
        except OSError as error:
            needed = self.regions * (2 * self.width + REGION.itemsize) / 1e9
            raise ValueError(
                f"{self.folder}: region features cannot be written ({error.strerror}) after"
                f" {self.images} images, {needed:.1f} GB. A folder with room is expected. Free some"
                " and run the same command again, which goes on from there; or keep fewer regions"
                " (--max-boxes, --max-negatives)."
            ) from error


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
    ours = "Region features written by this version are expected."
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, f"cannot be read ({error})", ours) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise _damaged(path, f"is not of the format {FORMAT}", ours)
    for key in ("notes", "source"):
        if not isinstance(state.get(key), dict):
            raise _damaged(path, f"{key} is no mapping", "One is expected.")
    numbers = {"width": (state.get("width"), 1)}
    numbers |= {key: (state.get(key), 0) for key in ("images", "regions")}
    numbers |= {f"notes.{key}": (value, 0) for key, value in state["notes"].items()}
    for key, (value, least) in numbers.items():
        if type(value) is not int or value < least:
            expected = f"A whole number from {least} is expected."
            raise _damaged(path, f"{key} is {value!r:.80}", expected)
    for name, size in ((FEATURES, 2 * state["width"]), (REGIONS, REGION.itemsize)):
        file, needed = folder / name, state["regions"] * size
        length = file.stat().st_size if file.exists() else 0
        if length < needed:
            lost = f"has {length} bytes, and {STATE} counts {needed}: its end is lost"
            raise _damaged(file, lost, "A whole file is expected.")
    return state


def _check_regions(path: Path, regions: NDArray[np.void]) -> None:
    """Refuse records that no writer has written."""
    wrong = (regions["image"] < 0) | (regions["row"] < -1)
    wrong |= (regions["label"] < 0) | (regions["slot"] < 0)
    wrong |= ~(np.isfinite(regions["weight"]) & (regions["weight"] >= 0))
    wrong |= ~np.isfinite(regions["box"]).all(axis=1)
    if wrong.any():
        first = f"(first: record {wrong.argmax()})"
        what = f"{wrong.sum()} of {len(wrong)} records are damaged {first}"
        raise _damaged(path, what, "Those that this package wrote are expected.")


def _damaged(path: Path, what: str, expected: str) -> ValueError:
    remedy = "Delete the folder, to take the features out again."
    return ValueError(f"{path}: {what}. {expected} {remedy}")


CHUNK = 8192
"""Regions whose features are in memory at a time, where all are gone through."""


@dataclass(frozen=True)
class Samples:
    """Regions with what the frozen classifier says of them."""

    features: Column
    logits: Column
    labels: Int64
    weights: Float32
    images: Int64
    slots: Int64

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
            return features, self.logits.from_features(features)
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
    table = np.asarray(stored.features)  # still mapped: indexing a memmap itself costs more
    features = LazyColumn(table.__getitem__, np.arange(len(table)), table.shape[1])
    slots = regions["slot"].astype(np.int64)
    return Samples(
        features=features,
        logits=FrozenLogits(features, slots, weight, bias),
        labels=regions["label"].astype(np.int64),
        weights=regions["weight"].astype(np.float32),
        images=regions["image"].astype(np.int64),
        slots=slots,
    )


def all_finite(samples: Samples, rows: Int64) -> Bool:
    """Tell whether all features of each of some regions are finite, bool [n]."""
    some = samples.take(rows)
    finite = np.empty(len(some), bool)
    for chunk in some.chunks():
        finite[chunk] = np.isfinite(some.features[chunk]).all(axis=1)
    return finite


def image_folds(samples: Samples, folds: int, seed: int = 0) -> Int64:
    """Deal images out so that each fold has its share of rare classes, see `deal_images`."""
    images, place = np.unique(samples.images, return_inverse=True)
    objects = samples.labels > 0
    return deal_images(samples.labels[objects], place[objects], len(images), folds, seed)[place]
