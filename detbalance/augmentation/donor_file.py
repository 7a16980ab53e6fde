"""One file with the cut-outs of all donors, so that training opens no image to paste.

A safetensors file: the pixels of all donors one after the other, and flat arrays that say where
each begins. It is mapped, not read: a donor costs the pages that it lies on, and the processes of
a machine share them. Letters: D donors, T boxes beside them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.cutting import Donor
from detbalance.data import Annotations
from detbalance.data.arrays import Int64, offsets_of, take_slices
from detbalance.data.files import replace_file
from detbalance.data.messages import needs

FILE_FORMAT = "detbalance.donor_file/1"


# Kind of each array, and its shape; None stands for any number. The first ones are read when the
# file is opened, the others donor by donor.
_SMALL: dict[str, tuple[str, tuple[int | str | None, ...]]] = {
    "annotation_ids": ("I64", ("D",)),
    "pixel_offsets": ("I64", ("D + 1",)),
    "other_offsets": ("I64", ("D + 1",)),
    "mask_offsets": ("I64", ("D + 1",)),
    "sides": ("I32", ("D", 2)),
    "depths": ("U8", ("D",)),
    "labels": ("I64", ("D",)),
    "areas": ("F64", ("D",)),
    "boxes": ("F64", ("D", 4)),
    "others": ("F64", (None, 4)),
}
_LARGE = {"pixels": ("U8", (None,)), "mask_bits": ("U8", (None,))}
_LONGEST = 2**20  # side of a donor
_DTYPES = {"uint8": "U8", "int32": "I32", "int64": "I64", "float64": "F64"}


class DonorFile:
    """The donors of a file. Opened anew in each process that reads them; can be pickled."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with _open(self.path) as file:
            about, arrays = _checked(self.path, file)
        self.annotation_ids: Int64 = arrays["annotation_ids"]
        self._margin = float(about["margin"])
        self._classes: list[str] = json.loads(about["classes"])
        self._source, self._fingerprint = about["source"], about["fingerprint"]
        self._opened: tuple[Any, dict[str, NDArray[Any]]] | None = None

    def __len__(self) -> int:
        return len(self.annotation_ids)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def rows(self, annotations: Annotations, margin: float) -> Int64:
        """Return the row of each donor in the annotations, int64 [D]."""
        if margin != self._margin:
            raise ValueError(
                f"{self.path}: its donors have a margin of {self._margin:g}, {margin:g} is asked"
                " for. Expected the same. Set margin to that of the file, or write the file again"
                f" with detbalance donors --margin {margin:g}."
            )
        rows = rows_of(annotations, self.annotation_ids)
        lost = int((rows < 0).sum())
        why = f"{lost} of its {len(rows)} donors are no annotations of {annotations.source}"
        if not lost:
            if (
                list(annotations.categories.names) == self._classes
                and fingerprint(annotations, rows) == self._fingerprint
            ):
                return rows
            why = f"the boxes or classes of {annotations.source} have changed"
        raise ValueError(
            f"{self.path}: is stale, {why} since the file was written from {self._source}."
            " Expected the annotations that it was written from. Write it again with detbalance"
            " donors."
        )

    def donor(self, number: int, *, masks: bool = True) -> Donor:
        """Return a donor, 0..D - 1, with its mask if it has one and `masks` is on."""
        file, small = self._handle()
        height, width = (int(side) for side in small["sides"][number])
        start, stop = small["pixel_offsets"][number : number + 2]
        depth = np.uint16 if small["depths"][number] == 2 else np.uint8
        image = file.get_slice("pixels")[int(start) : int(stop)].view(depth)
        image = image.reshape(height, width, 3)
        image.flags.writeable = False
        start, stop = (int(v) for v in small["other_offsets"][number : number + 2])
        others = small["others"][start:stop].copy()
        start, stop = (int(v) for v in small["mask_offsets"][number : number + 2])
        mask = None
        if masks and stop > start:
            bits = np.unpackbits(file.get_slice("mask_bits")[start:stop], count=height * width)
            mask = bits.reshape(height, width).astype(np.bool_)
            mask.flags.writeable = False
        return Donor(
            image=image,
            box=small["boxes"][number].copy(),
            others=others,
            label=int(small["labels"][number]),
            area=float(small["areas"][number]),
            mask=mask,
        )

    def _handle(self) -> tuple[Any, dict[str, NDArray[Any]]]:
        if self._opened is None:
            file = _open(self.path).__enter__()
            _, small = _checked(self.path, file)
            if not np.array_equal(small["annotation_ids"], self.annotation_ids):
                raise ValueError(
                    f"{self.path}: was replaced by another file during the run. Start again."
                )
            self._opened = file, small
        return self._opened


@dataclass(frozen=True)
class WrittenDonors:
    """What a donor file holds."""

    number: int
    megabytes: float


def write_donor_file(
    path: str | Path,
    annotations: Annotations,
    donors: Iterable[tuple[int, Donor]],
    *,
    margin: float,
) -> WrittenDonors:
    """Write donors into one file, as they come; it appears whole or not at all."""
    rows: list[int] = []
    columns: dict[str, list[Any]] = {name: [] for name in ("sides", "depths", "areas", "boxes")}
    others: list[NDArray[np.float64]] = []
    bits: list[NDArray[np.uint8]] = []
    sizes: list[int] = []
    metadata = {
        "format": FILE_FORMAT,
        "margin": repr(float(margin)),
        "classes": json.dumps(annotations.categories.names, ensure_ascii=True),
        "source": Path(annotations.source).name,
        "fingerprint": fingerprint(annotations, np.zeros(0, np.int64)),
    }
    # The header comes first and can be written last: room for it is left, filled up with blanks.
    room = 8 * ((len(json.dumps(metadata)) + 4096) // 8)
    with replace_file(path) as file:
        file.write(b" " * (8 + room))
        for row, donor in donors:
            pixels = np.ascontiguousarray(donor.image)
            file.write(pixels.data)
            rows.append(row)
            sizes.append(pixels.nbytes)
            columns["sides"].append(pixels.shape[:2])
            columns["depths"].append(pixels.dtype.itemsize)
            columns["areas"].append(donor.area)
            columns["boxes"].append(donor.box)
            others.append(donor.others)
            bits.append(np.zeros(0, np.uint8) if donor.mask is None else np.packbits(donor.mask))
        if not rows:
            raise ValueError(
                f"{path}: there is no donor to write. Expected at least one. Name other classes, or"
                " check the folder of the images."
            )
        total = sum(sizes)
        file.write(bytes(-total % 8))  # all numbers begin at a multiple of their size
        taken = np.array(rows, np.int64)
        metadata["fingerprint"] = fingerprint(annotations, taken)
        arrays: dict[str, NDArray[Any]] = {
            "annotation_ids": annotations.annotation_ids[taken],
            "labels": annotations.labels[taken].astype(np.int64),
            "pixel_offsets": offsets_of(np.array(sizes, np.int64)),
            "other_offsets": offsets_of(np.array([len(boxes) for boxes in others], np.int64)),
            "mask_offsets": offsets_of(np.array([len(part) for part in bits], np.int64)),
            "areas": np.array(columns["areas"], np.float64),
            "boxes": np.array(columns["boxes"], np.float64),
            "others": np.concatenate(others).astype(np.float64),
            "sides": np.array(columns["sides"], np.int32),
            "depths": np.array(columns["depths"], np.uint8),
            "mask_bits": np.concatenate(bits),
        }
        end = total + -total % 8
        header: dict[str, Any] = {"__metadata__": metadata}
        header["pixels"] = {"dtype": "U8", "shape": [end], "data_offsets": [0, end]}
        for name, values in arrays.items():
            file.write(np.ascontiguousarray(values).data if values.size else b"")
            header[name] = {
                "dtype": _DTYPES[values.dtype.name],
                "shape": list(values.shape),
                "data_offsets": [end, end + values.nbytes],
            }
            end += values.nbytes
        text = json.dumps(header).encode()
        assert len(text) <= room
        file.seek(0)
        file.write(room.to_bytes(8, "little") + text.ljust(room))
        return WrittenDonors(len(rows), (8 + room + end) / 2**20)


def fingerprint(annotations: Annotations, rows: Int64) -> str:
    """Return a digest of all that donors were cut out from: the images' names and annotations."""
    images = np.unique(annotations.image_index[rows])
    images = images[np.argsort(annotations.image_ids[images])]  # whatever the file's order
    every, _ = take_slices(annotations.offsets, images)
    digest = hashlib.blake2b(digest_size=16)
    names = annotations.file_names.take(images)
    for values in (
        names.data,
        names.offsets,
        annotations.annotation_ids[every],
        annotations.labels[every].astype(np.int64),
        annotations.boxes[every],
        annotations.is_crowd[every],
    ):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def rows_of(annotations: Annotations, annotation_ids: Int64) -> Int64:
    """Return the rows of annotations by their ids, -1 where there is none."""
    order = np.argsort(annotations.annotation_ids, kind="stable")
    ordered = annotations.annotation_ids[order]
    place = np.minimum(np.searchsorted(ordered, annotation_ids), max(0, len(order) - 1))
    if not len(order):
        return np.full(len(annotation_ids), -1, np.int64)
    return np.where(ordered[place] == annotation_ids, order[place], -1)


def _checked(path: Path, file: Any) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Return what an open file says about itself, and its small arrays, if all of it fits."""
    about = file.metadata() or {}
    if about.get("format") != FILE_FORMAT:
        raise ValueError(
            f'{path}: "format" is {about.get("format")!r}. Expected "{FILE_FORMAT}".'
            " Write the file again with detbalance donors."
        )
    problem = _about_problem(about)
    arrays: dict[str, NDArray[Any]] = {}
    sizes: dict[str, int] = {}
    if not problem:
        sizes, problem = _sizes(file)
    if not problem:
        arrays = {name: file.get_tensor(name) for name in _SMALL}
        problem = _content_problem(arrays, sizes, len(json.loads(about["classes"])))
    if problem:
        raise ValueError(
            f"{path}: {problem}. Expected what detbalance donors writes. Write the file again with"
            " it."
        )
    return about, arrays


def _about_problem(about: dict[str, str]) -> str:
    for name in ("margin", "classes", "source", "fingerprint"):
        if name not in about:
            return f'"{name}" is missing'
    try:
        margin = float(about["margin"])
    except ValueError:
        margin = math.nan
    if not 0 <= margin <= 1:
        return f'"margin" is {about["margin"][:40]!r}, not a number in 0..1'
    try:
        classes = json.loads(about["classes"])
    except (ValueError, RecursionError):
        classes = None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        return '"classes" is no list of names'
    return ""


def _sizes(file: Any) -> tuple[dict[str, int], str]:
    """The length of each array, and what is wrong with their kinds and shapes."""
    names = set(file.keys())
    lengths: dict[str, int] = {}
    for name, (kind, shape) in {**_SMALL, **_LARGE}.items():
        if name not in names:
            return lengths, f'"{name}" is missing'
        found = file.get_slice(name)
        sides = tuple(found.get_shape())
        number = lengths.get("annotation_ids", sides[0] if sides else 0)
        known = {"D": number, "D + 1": number + 1}
        wanted = [known[side] if isinstance(side, str) else side for side in shape]
        fits = len(sides) == len(wanted) and all(
            side == want or want is None for side, want in zip(sides, wanted, strict=True)
        )
        if found.get_dtype() != kind or not fits:
            return lengths, (
                f'"{name}" is {found.get_dtype()} {list(sides)}, not {kind}'
                f" [{', '.join('any' if want is None else str(want) for want in wanted)}]"
            )
        lengths[name] = sides[0]
    return lengths, ""


def _content_problem(arrays: dict[str, NDArray[Any]], sizes: dict[str, int], classes: int) -> str:
    """What cannot be true of the donors, by the first of them."""
    sides, depths = arrays["sides"].astype(np.int64), arrays["depths"].astype(np.int64)
    boxes, labels, areas = arrays["boxes"], arrays["labels"], arrays["areas"]
    is_side = (sides >= 1) & (sides <= _LONGEST)
    pixels = np.where(is_side, sides, 1).prod(axis=1)
    corners = np.stack([boxes[:, :2], boxes[:, 2:]])
    faults = {
        "sides": ~is_side.all(axis=1),
        "depths": (depths != 1) & (depths != 2),
        "labels": (labels < 1) | (labels > classes),
        "areas": ~((areas >= 0) & (areas < math.inf)),
        "boxes": ~((corners >= 0) & (corners <= sides[:, ::-1]) & (corners[0] <= corners[1])).all(
            axis=(0, 2)
        ),
    }
    for name, whole, wanted in (
        ("pixel_offsets", "pixels", [pixels * 3 * depths]),
        ("other_offsets", "others", []),
        ("mask_offsets", "mask_bits", [0 * pixels, (pixels + 7) // 8]),
    ):
        offsets = arrays[name]
        if offsets[0] != 0 or offsets[-1] > sizes[whole] or (offsets[1:] < offsets[:-1]).any():
            return f'"{name}" does not lie in 0..{sizes[whole]} in ascending order'
        if wanted:
            faults[name] = ~np.logical_or.reduce([np.diff(offsets) == each for each in wanted])
    for name, is_bad in faults.items():
        if is_bad.any():
            first = int(is_bad.argmax())
            return f'"{name}" is impossible for {is_bad.sum()} of {len(is_bad)} donors (first:' + (
                f" donor {first}, {arrays[name][first].tolist()})"
            )
    if not np.isfinite(arrays["others"]).all():
        return '"others" has numbers that are not finite'
    return ""


def _open(path: Path) -> Any:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise needs("reading donor files", "safetensors", "train") from error
    try:
        return safe_open(os.fspath(path), framework="numpy")
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"{path}: no donor file can be read ({error}). Expected one that detbalance donors"
            " wrote. Check the path."
        ) from error
