"""Load a COCO or LVIS annotation file: read it, check it at the border, sort it by image."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detbalance.annotations.arrays import Annotations
from detbalance.annotations.categories import Categories, find
from detbalance.annotations.faults import AnnotationError, Ledger
from detbalance.annotations.files import parse_json, read_bytes
from detbalance.annotations.packed import Int64, PackedBytes, PackedLabels, offsets_of
from detbalance.annotations.reading import Columns, read_fast
from detbalance.annotations.tolerant import read_tolerant

Mask = npt.NDArray[np.bool_]
_logger = logging.getLogger(__name__)
_UNSAFE_START = re.compile(r"[/\\]|[A-Za-z]:")
_PARTS = re.compile(r"[/\\]")


def load_annotations(
    path: str | os.PathLike[str],
    *,
    segmentations: bool = False,
    drop_invalid: bool = False,
    tolerance: float = 2.0,
) -> Annotations:
    """Read a COCO or LVIS annotation file into flat arrays and check all of it.

    What may be missing in the file: `file_name` (LVIS v1: the last two parts of `coco_url`),
    `width` and `height` (then boxes are not checked against the image), `area` (then width *
    height), `iscrowd` (then 0). Ids may have gaps and may be 0.

    A fault is a duplicate id or name, a reference to an image or category that is not listed, a
    bbox that is not finite, not positive in size, or wholly outside its image, a missing key, a
    wrong type, or a file_name that is absolute or climbs with "..". A bbox that reaches beyond its
    image keeps its numbers in `bbox` and is clipped in `boxes`: silently up to `tolerance`, else
    counted in `faults` as a note.

    Args:
        path: JSON file.
        segmentations: keep the segmentation of each annotation (as JSON text, off by default).
        drop_invalid: leave out entries with a fault, and what belongs to them, and say how many in
            `faults`, instead of stopping. Of duplicates the first one stays.
        tolerance: pixels that a bbox may reach beyond its image without being reported, >= 0.

    Returns:
        The annotations, images in file order.

    Raises:
        AnnotationError: if the file cannot be read, is not a COCO file, or has faults and
            `drop_invalid` is off; one line with every kind of fault, its count and first example.
            Also if nothing is left after leaving out.
        ValueError: if `tolerance` is negative or NaN.
    """
    if not tolerance >= 0:
        raise ValueError(f"load_annotations(): tolerance is {tolerance}. Expected pixels >= 0.")
    source = os.fspath(path)
    ledger = Ledger()
    data = read_bytes(path, AnnotationError)
    columns = read_fast(data, segmentations=segmentations)
    if columns is None:
        document = parse_json(data, path, AnnotationError)
        columns = read_tolerant(document, source, ledger, segmentations=segmentations)
    del data
    return _Check(columns, source, ledger, tolerance).annotations(drop_invalid)


class _Check:
    """Checks columns against each other; holds what later steps need from earlier ones."""

    def __init__(self, columns: Columns, source: str, ledger: Ledger, tolerance: float) -> None:
        self.columns = columns
        self.source = source
        self.ledger = ledger
        self.tolerance = tolerance

    def annotations(self, drop_invalid: bool) -> Annotations:
        """Run all checks, then stop, or build the arrays from what is sound."""
        columns, ledger = self.columns, self.ledger
        categories = self._categories()
        image_keep = self._images()
        image_row, label, keep, boxes = self._annotations(image_keep, categories)
        neg = self._label_lists("neg_category_ids", columns.neg_category_ids, categories)
        not_exhaustive = self._label_lists(
            "not_exhaustive_category_ids", columns.not_exhaustive_category_ids, categories
        )
        self._report(drop_invalid, bool(image_keep.any()), bool(categories.ids))

        new_row = np.cumsum(image_keep) - 1
        rows = np.flatnonzero(keep)
        image_index = new_row[image_row[rows]]
        if (np.diff(image_index) < 0).any():
            # Stable: evaluators break ties of equal scores by the order of the file.
            order = np.argsort(image_index, kind="stable")
            rows, image_index = rows[order], image_index[order]
        images = np.flatnonzero(image_keep)
        bbox = columns.bbox[rows]
        areas = columns.areas[rows]
        areas = np.where(np.isnan(areas), bbox[:, 2] * bbox[:, 3], areas)
        texts = columns.segmentations
        return Annotations(
            source=self.source,
            categories=categories,
            image_ids=columns.image_ids[images],
            sizes=columns.sizes[images].astype(np.int32),
            file_names=PackedBytes.from_items([columns.file_names[i].encode() for i in images]),
            offsets=offsets_of(np.bincount(image_index, minlength=len(images))),
            image_index=image_index,
            annotation_ids=columns.annotation_ids[rows],
            labels=label[rows],
            is_crowd=columns.is_crowd[rows],
            areas=areas,
            bbox=bbox,
            boxes=boxes[rows],
            segmentations=None
            if texts is None
            else PackedBytes.from_items([texts[row] for row in rows]),
            neg_labels=neg and neg.take(images),
            not_exhaustive_labels=not_exhaustive and not_exhaustive.take(images),
            faults=ledger.faults(),
        )

    def _report(self, drop_invalid: bool, has_images: bool, has_categories: bool) -> None:
        """Raise what must stop loading; log what was left out or clipped."""
        errors = self.ledger.errors()
        if errors and not drop_invalid:
            raise AnnotationError(
                f"{self.source}: {'; '.join(map(str, errors))}. Correct the file, or pass "
                "--drop-invalid (drop_invalid=True) to leave these entries out."
            )
        for key, something in (("images", has_images), ("categories", has_categories)):
            if not something:
                left = " left after leaving out faulty entries" if errors else ""
                why = f" ({'; '.join(map(str, errors))})" if errors else ""
                raise AnnotationError(
                    f'{self.source}: "{key}" has no entry{left}{why}. '
                    "Expected at least one. Correct the file."
                )
        for fault in self.ledger.faults():
            done = "" if fault.is_note else " (left out)"
            _logger.warning("%s: %s%s", self.source, fault, done)

    def _categories(self) -> Categories:
        columns, ledger = self.columns, self.ledger
        ids, names = columns.category_ids, columns.category_names
        double_id = _repeats(ids)
        ledger.add_rows("duplicate category id", double_id, "category ", ids)
        seen: dict[str, int] = {}
        double_name = np.zeros(len(ids), dtype=np.bool_)
        for row in np.flatnonzero(~double_id):
            first = seen.setdefault(names[row], int(ids[row]))
            double_name[row] = first != ids[row]
        ledger.add_rows("duplicate category name", double_name, "category ", ids, ", name ", names)
        columns.refused_category_ids.update(ids[double_name].tolist())
        keep = np.flatnonzero(~double_id & ~double_name)
        order = keep[np.argsort(ids[keep])]
        tags = columns.frequency
        return Categories(
            ids=tuple(ids[order].tolist()),
            names=tuple(names[i] for i in order),
            frequency=None if tags is None else tuple(tags[i] for i in order),
        )

    def _images(self) -> Mask:
        """Return which images are sound."""
        columns, ledger = self.columns, self.ledger
        ids, sizes, names = columns.image_ids, columns.sizes, columns.file_names
        double = _repeats(ids)
        ledger.add_rows("duplicate image id", double, "image ", ids)
        wrong_size = ((sizes < 0) | (sizes >= 2**31)).any(axis=1)
        ledger.add_rows("image size", wrong_size, "image ", ids, ", width and height ", sizes)
        unsafe = np.fromiter(map(_is_unsafe, names), dtype=np.bool_, count=len(names))
        ledger.add_rows("unsafe file_name", unsafe, "image ", ids, ", file_name ", names)
        # Not the id of a duplicate: its first image is kept.
        columns.refused_image_ids.update(ids[(wrong_size | unsafe) & ~double].tolist())
        return ~(double | wrong_size | unsafe)

    def _annotations(
        self, image_keep: Mask, categories: Categories
    ) -> tuple[Int64, Int64, Mask, npt.NDArray[np.float32]]:
        """Return the image row, label, soundness and clipped box of each annotation."""
        columns, ledger = self.columns, self.ledger
        ids = columns.annotation_ids
        name = ("annotation ", ids)
        images = np.flatnonzero(image_keep)
        images = images[np.argsort(columns.image_ids[images])]
        image_row = find(columns.image_ids[images], columns.annotation_images)
        has_image = image_row >= 0
        image_row = images[image_row] if len(images) else image_row
        label = find(np.array(categories.ids, dtype=np.int64), columns.annotation_categories) + 1

        double = _repeats(ids)
        ledger.add_rows("duplicate annotation id", double, *name)
        for what, known, key, values, refused in (
            (
                "image",
                has_image,
                ", image_id ",
                columns.annotation_images,
                columns.refused_image_ids,
            ),
            (
                "category",
                label > 0,
                ", category_id ",
                columns.annotation_categories,
                columns.refused_category_ids,
            ),
        ):
            with_it = ~known & np.isin(values, list(refused)) if refused else np.zeros_like(known)
            ledger.add_rows(f"{what} left out", with_it, *name, key, values)
            ledger.add_rows(f"unknown {what}", ~known & ~with_it, *name, key, values)

        boxes, sound = self._boxes(np.where(has_image, image_row, -1))
        return image_row, label, has_image & (label > 0) & ~double & sound, boxes

    def _boxes(self, image_row: Int64) -> tuple[npt.NDArray[np.float32], Mask]:
        """Return clipped xyxy boxes and which of them can be used; row -1 has no image."""
        columns, ledger, bbox = self.columns, self.ledger, self.columns.bbox
        name = ("annotation ", columns.annotation_ids, ", bbox ", bbox)
        limits = np.full((len(bbox), 2), np.inf)
        rows = np.flatnonzero(image_row >= 0)
        limits[rows] = columns.sizes[image_row[rows]]
        limits[limits == 0] = np.inf  # size unknown
        with np.errstate(over="ignore", invalid="ignore"):
            corners = np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1)
            beyond = np.maximum(-corners[:, :2], corners[:, 2:] - limits).max(axis=1, initial=0.0)
            outside = ((corners[:, 2:] <= 0) | (corners[:, :2] >= limits)).any(axis=1)
            np.clip(corners[:, 0::2], 0, limits[:, :1], out=corners[:, 0::2])
            np.clip(corners[:, 1::2], 0, limits[:, 1:], out=corners[:, 1::2])
            boxes = corners.astype(np.float32)
        finite = np.isfinite(bbox).all(axis=1) & np.isfinite(boxes).all(axis=1)
        negative = finite & (bbox[:, 2:] < 0).any(axis=1)
        # A box so thin that float32 corners coincide is empty for every later step.
        empty = finite & ~negative & ~outside & (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
        empty |= finite & ~negative & (bbox[:, 2:] == 0).any(axis=1)
        outside &= finite & ~negative & ~empty
        sound = finite & ~negative & ~empty & ~outside
        ledger.add_rows("non-finite bbox", ~finite, *name)
        ledger.add_rows("negative bbox size", negative, *name)
        ledger.add_rows("empty bbox", empty, *name)
        ledger.add_rows("bbox outside", outside, *name, ", image size ", limits)
        clipped = sound & (beyond > self.tolerance) & (image_row >= 0)
        ledger.add_rows("clipped bbox", clipped, *name, ", image size ", limits)
        return boxes, sound

    def _label_lists(
        self, key: str, lists: list[Sequence[int]] | None, categories: Categories
    ) -> PackedLabels | None:
        """Return the LVIS lists of all images as labels; ids that are not listed are faults."""
        if lists is None:
            return None
        label = {category_id: i + 1 for i, category_id in enumerate(categories.ids)}
        known = label.keys() | self.columns.refused_category_ids
        for image_id, ids in zip(self.columns.image_ids, lists, strict=True):
            for unknown in (i for i in ids if i not in known):
                self.ledger.add("image category list", f"image {image_id}, {key} has {unknown}")
        return PackedLabels.from_items([[label[i] for i in ids if i in label] for ids in lists])


def _repeats(ids: Int64) -> Mask:
    """Return which ids occurred before."""
    repeated = np.zeros(len(ids), dtype=np.bool_)
    if (np.diff(ids) <= 0).any():
        order = np.argsort(ids, kind="stable")
        repeated[order[1:]] = ids[order[1:]] == ids[order[:-1]]
    return repeated


def _is_unsafe(name: str) -> bool:
    """Whether a file name could point outside the image folder, on any system."""
    if _UNSAFE_START.match(name) or "\0" in name:
        return True
    return ".." in name and ".." in _PARTS.split(name)
