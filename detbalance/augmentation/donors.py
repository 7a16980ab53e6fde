"""Where pasted objects come from: boxes of rare classes, cut out of the training images.

Letters: H, W height and width, N boxes, C classes including background.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.annotations import Annotations
from detbalance.augmentation.contract import Image, check_range
from detbalance.frequency import Frequency, class_frequency, frequency_groups
from detbalance.images import read_image

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Donor:
    """A box with its surroundings, cut out of a training image.

    Attributes:
        image: uint8 [H, W, 3], RGB, the box and a margin around it; read-only.
        box: float64 [4], xyxy, the box inside `image`.
        others: float64 [N, 4], xyxy, the parts of other annotated boxes that are in `image`.
        label: class of the box, 1..K.
        area: area of the object in square pixels, as annotated.
    """

    image: Image
    box: NDArray[np.float64]
    others: NDArray[np.float64]
    label: int
    area: float


class DonorBank:
    """Boxes of the classes that are to be pasted, drawn so that rarer classes come more often.

    A draw takes the class first, with probability proportional to `image_count ** -power`, then one
    of its boxes, all alike. Left out are crowd regions, boxes that are too small, and boxes that
    share more than `max_overlap` with another box: pasted, they would bring along an object that
    nobody labelled. Images are opened when a donor is first used, and cut-outs are kept within a
    budget of memory in each process. Can be pickled; the cut-outs stay behind.

    Args:
        annotations: the training annotations.
        image_dir: folder that their file names are relative to.
        classes: names of the classes to take; by default those that `frequency_groups` calls rare
            or common.
        power: >= 0; 0 draws all these classes alike, 1 makes up for their frequency in full. The
            default lies between: with few donors, more draws only repeat them.
        margin: context on each side as a fraction of the box's width or height, 0..1.
        min_size: least square root of width x height, in pixels.
        max_overlap: 0..1, the shared area over the area of the smaller of the two boxes.
        cache_megabytes: memory for cut-outs per process, >= 0.

    Raises:
        ValueError: if a value is out of range, a class is unknown, or no donor is left.
        TypeError: if `classes` is one string.

    Attributes:
        labels: int64 [number of donors], the class of each.
        probabilities: float64 [C], how often a draw gives each class; index 0 is 0.
    """

    def __init__(
        self,
        annotations: Annotations,
        image_dir: str | Path,
        *,
        classes: Sequence[str] | None = None,
        power: float = 0.5,
        margin: float = 0.2,
        min_size: float = 8.0,
        max_overlap: float = 0.3,
        cache_megabytes: float = 64.0,
    ) -> None:
        check_range("DonorBank", "power", power, 0, 10)
        check_range("DonorBank", "margin", margin, 0, 1)
        check_range("DonorBank", "min_size", min_size, 0, 1e5)
        check_range("DonorBank", "max_overlap", max_overlap, 0, 1)
        check_range("DonorBank", "cache_megabytes", cache_megabytes, 0, 1e6)
        self.margin = margin
        self._annotations = annotations
        self._image_dir = Path(image_dir)
        self._budget = int(cache_megabytes * 2**20)
        self._cache: OrderedDict[int, Donor] = OrderedDict()
        self._cached_bytes = 0

        frequency = class_frequency(annotations)
        wanted = self._wanted_labels(classes, frequency)
        boxes = annotations.boxes.astype(np.float64)
        asked = np.isin(annotations.labels, wanted) & ~annotations.is_crowd
        large = asked & (np.sqrt(_areas(boxes)) >= min_size)
        rows = np.flatnonzero(large)
        self._rows = rows[_largest_overlap(annotations, boxes, rows) <= max_overlap]
        if not len(self._rows):
            raise ValueError(
                f"{annotations.source}: no box can be pasted. Of the {int(asked.sum())} boxes of"
                f" the {len(wanted)} classes asked for ({_listed(annotations, wanted)}),"
                f" {int(asked.sum() - large.sum())} are smaller than min_size = {min_size:g} pixels"
                f" and {len(rows)} overlap others by more than max_overlap = {max_overlap:g}."
                " Name other classes, or change these limits."
            )
        # Grouped by class, so that a draw within a class is one number.
        self._rows = self._rows[np.argsort(annotations.labels[self._rows], kind="stable")]
        self.labels: NDArray[np.int64] = annotations.labels[self._rows].astype(np.int64)
        self._starts = np.searchsorted(
            self.labels, np.arange(annotations.categories.num_classes + 1)
        )
        present = np.diff(self._starts) > 0
        if len(missing := wanted[~present[wanted]]):
            _logger.warning(
                "%s: %d of the %d classes to paste have no box that can be pasted (%s).",
                annotations.source,
                len(missing),
                len(wanted),
                _listed(annotations, missing),
            )
        weights = np.where(present, np.maximum(frequency.image_counts, 1.0) ** -power, 0.0)
        self.probabilities: NDArray[np.float64] = weights / weights.sum()

    def __len__(self) -> int:
        return len(self._rows)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict(), "_cached_bytes": 0}

    def draw(self, generator: np.random.Generator) -> int:
        """Draw the number of a donor: its class first, then one of the class's boxes."""
        cumulative = np.cumsum(self.probabilities)
        label = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
        return int(generator.integers(self._starts[label], self._starts[label + 1]))

    def crop(self, donor: int) -> Donor:
        """Return a donor's pixels, from memory or from its image file.

        Args:
            donor: 0..len - 1.

        Raises:
            ValueError: if the image file is missing or cannot be decoded.
        """
        if donor in self._cache:
            self._cache.move_to_end(donor)
            return self._cache[donor]
        cut = self._cut(int(self._rows[donor]))
        if cut.image.nbytes <= self._budget:
            self._cache[donor] = cut
            self._cached_bytes += cut.image.nbytes
        while self._cached_bytes > self._budget:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= oldest.image.nbytes
        return cut

    def _cut(self, row: int) -> Donor:
        annotations = self._annotations
        index = int(annotations.image_index[row])
        image = read_image(self._image_dir / annotations.file_name(index))
        height, width = image.shape[:2]
        box = annotations.boxes[row].astype(np.float64)
        context = np.tile((box[2:] - box[:2]) * self.margin, 2) * (-1, -1, 1, 1)
        window = np.concatenate([np.floor((box + context)[:2]), np.ceil((box + context)[2:])])
        left, top, right, bottom = np.clip(window, 0, (width, height, width, height)).astype(int)
        if right <= left or bottom <= top:
            raise ValueError(
                f"{self._image_dir / annotations.file_name(index)}: annotation"
                f" {annotations.annotation_ids[row]} lies outside of the image, which has"
                f" {width} x {height} pixels. Expected the image that was annotated. Check the"
                " folder of the images."
            )
        corner = np.array([left, top, left, top], np.float64)
        limit = np.array([right, bottom, right, bottom], np.float64) - corner
        every = annotations.rows(index)
        others = np.delete(annotations.boxes[every].astype(np.float64), row - every.start, axis=0)
        others = np.clip(others - corner, 0, limit)
        pixels = image[top:bottom, left:right].copy()  # the copy lets go of the whole image
        pixels.flags.writeable = False
        return Donor(
            image=pixels,
            # Within the pixels also where the file did not say how large the image is.
            box=np.clip(box - corner, 0, limit),
            others=others[_areas(others) > 0],
            label=int(annotations.labels[row]),
            area=float(annotations.areas[row]),
        )

    def _wanted_labels(
        self, classes: Sequence[str] | None, frequency: Frequency
    ) -> NDArray[np.int64]:
        annotations = self._annotations
        if classes is None:
            groups = frequency_groups(frequency)
            grouped = (groups.of_class >= 0) & (groups.of_class < groups.names.index("frequent"))
            wanted = np.flatnonzero(grouped & (frequency.image_counts > 0))
            if not len(wanted):
                raise ValueError(
                    f"{annotations.source}: no class is rare or common ({groups.rule}). Name the"
                    " classes to paste."
                )
            return wanted
        if isinstance(classes, str):
            raise TypeError(
                f'DonorBank: classes is "{classes}". Expected a list of names. Write ["{classes}"].'
            )
        return np.unique(annotations.categories.labels_of_names(classes))


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1))


def _largest_overlap(
    annotations: Annotations, boxes: NDArray[np.float64], rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Largest share of any other box of the image, for each of the rows."""
    largest = np.zeros(len(rows))
    images, starts = np.unique(annotations.image_index[rows], return_index=True)
    ends = np.append(starts, len(rows))[1:]
    for index, start, end in zip(images, starts, ends, strict=True):
        own = slice(start, end)
        every = annotations.rows(int(index))
        mine, others = boxes[rows[own], None], boxes[every][None]
        low = np.maximum(mine[..., :2], others[..., :2])
        high = np.minimum(mine[..., 2:], others[..., 2:])
        shared = np.clip(high - low, 0, None).prod(axis=2)
        smaller = np.minimum(_areas(mine[:, 0])[:, None], _areas(others[0])[None])
        shared[np.arange(end - start), rows[own] - every.start] = 0  # with itself
        largest[own] = (shared / np.maximum(smaller, 1e-9)).max(axis=1)
    return largest


def _listed(annotations: Annotations, labels: NDArray[np.int64]) -> str:
    names = [annotations.categories.name(int(label)) for label in labels[:5]]
    return ", ".join(names) + (", ..." if len(labels) > 5 else "")
