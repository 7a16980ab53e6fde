"""The annotations of a data set as flat, read-only arrays.

Dimension letters: M images, N annotations, K categories.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import (
    Int64,
    PackedBytes,
    PackedLabels,
    ReadOnlyArrays,
    offsets_of,
    take_slices,
)
from detbalance.data.categories import Categories
from detbalance.data.faults import Fault, show
from detbalance.data.files import points_outside, replace_file

_CHUNK = 20_000  # entries encoded at a time on saving, so that memory stays small


@dataclass(frozen=True, eq=False)
class Annotations(ReadOnlyArrays):
    """Images, boxes and classes of one COCO or LVIS file. Build it with `load_annotations`.

    Images are in file order, so row i of everything per image is data set index i. Annotations are
    grouped by image, in file order within an image. The arrays cannot be written to, and loader
    workers share them: nothing in here is a Python object per annotation.

    Attributes:
        source: path of the file as it was given.
        categories: label <-> category_id <-> name.
        image_ids: int64 [M], ids of the file.
        sizes: int32 [M, 2], width and height in pixels; 0 where the file does not say.
        file_names: UTF-8 file names, relative to the image folder; "" where the file has none.
        offsets: int64 [M + 1], image i has the annotations offsets[i] : offsets[i + 1].
        image_index: int64 [N], row of the image of each annotation.
        annotation_ids: int64 [N], ids of the file.
        labels: int64 [N], 1..K, for crowd regions too.
        is_crowd: bool [N].
        areas: float64 [N], square pixels, as in the file; width * height where it has none.
        bbox: float64 [N, 4], xywh in pixels exactly as in the file, for evaluation and saving.
        boxes: float32 [N, 4], xyxy in pixels, clipped to the image, for training.
        segmentations: the JSON text of each segmentation, where it was asked for.
        neg_labels: LVIS `neg_category_ids` of each image as labels, where the file has them.
        not_exhaustive_labels: LVIS `not_exhaustive_category_ids` likewise.
        is_ignored: bool [N], annotations that the file marks with `ignore`, None where it marks
            none. LVIS's evaluator leaves them out of the count; COCO's does not look at the mark.
        faults: what was left out, or kept with a change, on loading.
        num_left_out: annotations of the file that were left out, for a fault of theirs or with
            their image or category.
    """

    source: str
    categories: Categories
    image_ids: Int64
    sizes: npt.NDArray[np.int32]
    file_names: PackedBytes
    offsets: Int64
    image_index: Int64
    annotation_ids: Int64
    labels: Int64
    is_crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float64]
    bbox: npt.NDArray[np.float64]
    boxes: npt.NDArray[np.float32]
    segmentations: PackedBytes | None = None
    neg_labels: PackedLabels | None = None
    not_exhaustive_labels: PackedLabels | None = None
    is_ignored: npt.NDArray[np.bool_] | None = None
    faults: tuple[Fault, ...] = ()
    num_left_out: int = 0

    @property
    def num_images(self) -> int:
        """M, the number of images, those without annotations included."""
        return len(self.image_ids)

    @property
    def num_annotations(self) -> int:
        """N, the number of annotations, crowd regions included."""
        return len(self.annotation_ids)

    def __repr__(self) -> str:
        return (
            f"Annotations({self.source!r}: {self.num_images} images, {self.num_annotations} "
            f"annotations, {self.categories.num_categories} categories)"
        )

    def file_name(self, image: int) -> str:
        """Return the file name of image row `image`, relative to the image folder, or ""."""
        return self.file_names[image].decode()

    def image_path(self, image: int, folder: str | os.PathLike[str]) -> Path:
        """Return where to open the image of row `image`, whose name may not leave the folder.

        Raises:
            ValueError: if the file name is absolute or climbs with "..".
        """
        name = self.file_name(image)
        if points_outside(name):
            raise ValueError(
                f"{self.source}: image {self.image_ids[image]} has the file_name {show(name)}, "
                "which points outside the image folder. Expected a name relative to it. Correct "
                "the file."
            )
        return Path(folder) / name

    def rows(self, image: int) -> slice:
        """Return the slice of the annotation arrays that belongs to image row `image`."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    def segmentation(self, annotation: int) -> object:
        """Return the segmentation of an annotation row as JSON gives it: polygons, RLE or None.

        Raises:
            ValueError: if the file was loaded without segmentations.
        """
        if self.segmentations is None:
            raise ValueError(
                f"{self.source}: segmentations were not loaded. "
                "Call load_annotations(path, segmentations=True)."
            )
        text = self.segmentations[annotation]
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):  # 1e999, half a surrogate pair
            with suppress(ValueError, RecursionError):
                return json.loads(text)
            return text.decode(errors="replace")

    def select(self, names: Sequence[str]) -> Annotations:
        """Return the annotations of the named classes only; all images stay.

        Labels become 1..len(names), in ascending order of category id, not in the order of `names`.

        Args:
            names: class names, at least one.

        Raises:
            ValueError: if a name is unknown (with the nearest known one), or none is given.
            TypeError: if `names` is one string.
        """
        if isinstance(names, str):
            raise TypeError(f'select(): names is "{names}". Expected a list of names: ["{names}"].')
        old_labels = np.unique(self.categories.labels_of_names(names))
        if not len(old_labels):
            raise ValueError("select(): names is empty. Name at least one class.")
        new_labels = np.zeros(self.categories.num_classes, dtype=np.int64)
        new_labels[old_labels] = np.arange(1, len(old_labels) + 1)
        labels = new_labels[self.labels]
        tags = self.categories.frequency
        categories = Categories(
            ids=tuple(self.categories.ids[i - 1] for i in old_labels),
            names=tuple(self.categories.names[i - 1] for i in old_labels),
            frequency=None if tags is None else tuple(tags[i - 1] for i in old_labels),
            parents=self.categories.parents,
        )
        relabelled = dataclasses.replace(
            self,
            categories=categories,
            labels=labels,
            neg_labels=self.neg_labels and self.neg_labels.relabel(new_labels),
            not_exhaustive_labels=self.not_exhaustive_labels
            and self.not_exhaustive_labels.relabel(new_labels),
        )
        rows = np.flatnonzero(labels)
        counts = np.bincount(self.image_index[rows], minlength=self.num_images)
        return relabelled._with_rows(rows, self.image_index[rows], offsets_of(counts))

    def subset(self, image_rows: npt.ArrayLike) -> Annotations:
        """Return only the images of `image_rows`, in that order, with their annotations.

        Args:
            image_rows: int [m], rows from 0 to M - 1, each at most once; or bool [M].

        Raises:
            ValueError: if a row is outside 0..M - 1, occurs twice, or the bool array is not [M].
            TypeError: if the rows are neither whole numbers nor booleans.
        """
        rows = np.asarray(image_rows)
        if rows.dtype == np.bool_:
            if rows.shape != (self.num_images,):
                raise ValueError(
                    f"subset(): image_rows is bool {list(rows.shape)}. Expected [{self.num_images}]"
                    ", one per image."
                )
            rows = np.flatnonzero(rows)
        if not rows.size:
            rows = np.zeros(0, dtype=np.int64)
        if not np.issubdtype(rows.dtype, np.integer):
            raise TypeError(f"subset(): image_rows is {rows.dtype}. Expected int or bool.")
        rows = rows.astype(np.int64).reshape(-1)
        wrong = (rows < 0) | (rows >= self.num_images)
        if wrong.any():
            raise ValueError(
                f"subset(): image row {rows[wrong][0]} does not exist. "
                f"Rows are 0 to {self.num_images - 1}."
            )
        if len(np.unique(rows)) < len(rows):
            values, counts = np.unique(rows, return_counts=True)
            raise ValueError(
                f"subset(): image row {values[counts > 1][0]} occurs {counts.max()} times. "
                "Give each row once; a sampler repeats images."
            )
        positions, offsets = take_slices(self.offsets, rows)
        fewer = dataclasses.replace(
            self,
            image_ids=self.image_ids[rows],
            sizes=self.sizes[rows],
            file_names=self.file_names.take(rows),
            neg_labels=self.neg_labels and self.neg_labels.take(rows),
            not_exhaustive_labels=self.not_exhaustive_labels
            and self.not_exhaustive_labels.take(rows),
        )
        index = np.repeat(np.arange(len(rows)), np.diff(offsets))
        return fewer._with_rows(positions, index, offsets)

    def _with_rows(self, rows: Int64, image_index: Int64, offsets: Int64) -> Annotations:
        """Keep the annotations `rows`; the caller says which image each belongs to now."""
        return dataclasses.replace(
            self,
            offsets=offsets,
            image_index=image_index,
            annotation_ids=self.annotation_ids[rows],
            labels=self.labels[rows],
            is_crowd=self.is_crowd[rows],
            areas=self.areas[rows],
            bbox=self.bbox[rows],
            boxes=self.boxes[rows],
            segmentations=None if self.segmentations is None else self.segmentations.take(rows),
            is_ignored=None if self.is_ignored is None else self.is_ignored[rows],
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write standard COCO JSON, with the LVIS keys where they were read.

        The file appears whole or not at all. `bbox` is written as it was read, unclipped.
        Segmentations are in it when they were loaded.

        Args:
            path: file to write; its folder must exist. An existing file is replaced.
        """
        encode = msgspec.json.encode
        with replace_file(path) as file:
            file.write(b'{"info":{"description":"written by detbalance"},"licenses":[],')
            file.write(
                b'"categories":'
                + encode([self._category(k) for k in range(len(self.categories.ids))])
            )
            for key, count, entry in (
                (b"images", self.num_images, self._image),
                (b"annotations", self.num_annotations, self._annotation),
            ):
                file.write(b',\n"' + key + b'":[')
                for start in range(0, count, _CHUNK):
                    stop = min(start + _CHUNK, count)
                    file.write(b",\n" if start else b"\n")
                    file.write(b",\n".join(encode(entry(i)) for i in range(start, stop)))
                file.write(b"]")
            file.write(b"}\n")

    def _category(self, k: int) -> dict[str, object]:
        categories = self.categories
        entry: dict[str, object] = {"id": categories.ids[k], "name": categories.names[k]}
        if categories.frequency is not None:
            entry["frequency"] = categories.frequency[k]
        return entry

    def _image(self, i: int) -> dict[str, object]:
        entry: dict[str, object] = {"id": int(self.image_ids[i])}
        if name := self.file_name(i):
            entry["file_name"] = name
        for key, size in zip(("width", "height"), self.sizes[i].tolist(), strict=True):
            if size:
                entry[key] = size
        for key, lists in (
            ("neg_category_ids", self.neg_labels),
            ("not_exhaustive_category_ids", self.not_exhaustive_labels),
        ):
            if lists is not None:
                entry[key] = self.categories.category_ids(lists[i]).tolist()
        return entry

    def _annotation(self, n: int) -> dict[str, object]:
        entry: dict[str, object] = {
            "id": int(self.annotation_ids[n]),
            "image_id": int(self.image_ids[self.image_index[n]]),
            "category_id": self.categories.ids[self.labels[n] - 1],
            "bbox": self.bbox[n].tolist(),
            "area": float(self.areas[n]),
            "iscrowd": int(self.is_crowd[n]),
        }
        if self.is_ignored is not None:
            entry["ignore"] = int(self.is_ignored[n])
        if self.segmentations is not None and (text := self.segmentations[n]) != b"null":
            entry["segmentation"] = msgspec.Raw(text)
        return entry


def repeated_boxes(annotations: Annotations) -> npt.NDArray[np.bool_]:
    """Find annotations that say again what an earlier one says: same image, class and box.

    A crowd region repeats a crowd region only. The boxes are compared as the file has them, to the
    last digit; ids are not looked at.

    Returns:
        bool [N], True for each but the first of equal ones.
    """
    return repeated_rows(
        *annotations.bbox.T, annotations.is_crowd, annotations.labels, annotations.image_index
    )


def repeated_rows(*columns: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Find rows of a table, given by its columns, that are equal to an earlier one."""
    order = np.lexsort(columns)  # stable: of equal ones the first in the file comes first
    repeated = np.zeros(len(order), dtype=np.bool_)
    if len(order):
        equal = [values[order[1:]] == values[order[:-1]] for values in columns]
        repeated[order[1:]] = np.logical_and.reduce(equal)
    return repeated
