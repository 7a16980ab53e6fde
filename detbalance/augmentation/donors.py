"""Where pasted objects come from: training images, a file of their cut-outs, folders of PNG files.

Letters: C classes including background.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.cutting import Donor, UnreadableDonor, cut_out, note_unusable_masks
from detbalance.augmentation.donor_choice import (
    Choice,
    choose_donors,
    listed,
    seen_regions,
    typical_sizes,
    wanted_labels,
)
from detbalance.augmentation.donor_file import DonorFile
from detbalance.augmentation.donor_folder import FolderDonors, folder_donors
from detbalance.augmentation.mixing import drawn_index
from detbalance.augmentation.transform import box_areas, check_range
from detbalance.data import Annotations
from detbalance.data.frequency import class_frequency
from detbalance.data.images import read_image

__all__ = ["Donor", "DonorBank", "UnreadableDonor"]

_logger = logging.getLogger(__name__)


class DonorBank:
    """Objects of the classes that are to be pasted, drawn so that rarer classes come more often.

    A draw takes the class first, with probability proportional to `image_count ** -power`, then one
    of its donors, all alike. Left out are crowd regions, boxes that are too small, and boxes that
    share more than `max_overlap` with another box: pasted, they would bring along an object that
    nobody labelled. Images are opened when a donor is first used, and cut-outs are kept within a
    budget of memory in each process; with a donor file, which `detbalance donors` writes, no image
    is opened, and the processes share the file's pages. Can be pickled; the cut-outs stay behind.

    A donor whose image cannot be read raises each time, is named once in the log of each process,
    and its file is not opened again. What is drawn does not depend on it.

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
        masks: take an object's pixels from its segmentation, polygons or run lengths, where the
            annotations were loaded with segmentations or the donor file has them; a mask that fills
            its box is not used, as a margin then blends in better.
        donor_file: file of cut-outs, written from the same annotations with the same margin. Draws
            and pixels are those without it, for the donors that it holds.
        folders: of further donors; see `folder_donors`. They come at the size that is usual for
            their class, of whatever size the files are.
        folder_share: 0..1, how often a draw takes one of the folders where a class has both.
        cache_megabytes: memory for cut-outs per process, >= 0.

    Raises:
        ValueError: if a value is out of range, a class is unknown, the donor file does not belong
            to the annotations, or no donor is left.
        TypeError: if `classes` is one string.

    Attributes:
        labels: int64 [number of donors], the class of each.
        probabilities: float64 [C], how often a draw gives each class; index 0 is 0.
        typical_sizes: float64 [C], the median of sqrt(width x height) of the boxes of a class in
            pixels; NaN where it has none.
        seen_regions: float64 [C, 4], xyxy, where in an image the boxes of a class have their
            middles; see `seen_regions` in this folder's donor_choice.py.
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
        masks: bool = True,
        donor_file: Path | None = None,
        folders: Sequence[Path] = (),
        folder_share: float = 0.5,
        cache_megabytes: float = 64.0,
    ) -> None:
        check_range("DonorBank", "power", power, 0, 10)
        check_range("DonorBank", "margin", margin, 0, 1)
        check_range("DonorBank", "min_size", min_size, 0, 1e5)
        check_range("DonorBank", "max_overlap", max_overlap, 0, 1)
        check_range("DonorBank", "folder_share", folder_share, 0, 1)
        check_range("DonorBank", "cache_megabytes", cache_megabytes, 0, 1e6)
        self.margin = margin
        self.masks = masks
        self.folder_share = folder_share
        self._annotations = annotations
        self._image_dir = Path(image_dir)
        self._budget = int(cache_megabytes * 2**20)
        self._cache: OrderedDict[int, Donor] = OrderedDict()
        self._cached_bytes = 0
        self._unreadable: dict[Path | int, str] = {}

        in_folders = folder_donors(folders, annotations.categories)
        frequency = class_frequency(annotations)
        wanted = wanted_labels(annotations, classes, frequency, in_folders.labels)
        self._from_folders = _wanted_files(in_folders, wanted, annotations)
        choice = choose_donors(annotations, wanted, min_size=min_size, max_overlap=max_overlap)
        self._file: DonorFile | None = None
        self._rows = choice.rows
        if donor_file is not None:
            self._file = DonorFile(donor_file)
            in_file = self._file.rows(annotations, margin)
            numbers = np.full(annotations.num_annotations, -1, np.int64)
            numbers[in_file] = np.arange(len(in_file))
            self._rows = choice.rows[numbers[choice.rows] >= 0]
            self._numbers = numbers[self._rows]
        if not len(self._rows) + len(self._from_folders):
            raise ValueError(
                _nothing(annotations, wanted, choice, min_size, max_overlap, donor_file)
            )
        if masks and donor_file is None and annotations.segmentations is not None:
            note_unusable_masks(annotations, self._rows)
        rows_labels = annotations.labels[self._rows].astype(np.int64)
        self.labels: NDArray[np.int64] = np.concatenate([rows_labels, self._from_folders.labels])
        every = np.arange(annotations.categories.num_classes + 1)
        self._starts = np.searchsorted(rows_labels, every)
        self._folder_starts = np.searchsorted(self._from_folders.labels, every)
        present = (np.diff(self._starts) > 0) | (np.diff(self._folder_starts) > 0)
        if len(missing := wanted[~present[wanted]]):
            _logger.warning(
                "%s: %d of the %d classes to paste have no box that can be pasted (%s).",
                annotations.source,
                len(missing),
                len(wanted),
                listed(annotations, missing),
            )
        weights = np.where(present, np.maximum(frequency.image_counts, 1.0) ** -power, 0.0)
        self.probabilities: NDArray[np.float64] = weights / weights.sum()
        self.typical_sizes = typical_sizes(annotations)
        self.seen_regions = seen_regions(annotations)
        sizes = np.sqrt(box_areas(annotations.boxes[~annotations.is_crowd].astype(np.float64)))
        self._any_size = float(np.median(sizes)) if len(sizes) else np.nan

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict(), "_cached_bytes": 0}

    def draw(self, generator: np.random.Generator) -> int:
        """Draw the number of a donor: its class first, then one of the class's donors."""
        label = drawn_index(np.cumsum(self.probabilities), generator)
        low, high = (int(v) for v in self._starts[label : label + 2])
        first, last = (int(v) for v in self._folder_starts[label : label + 2])
        if low == high or (first < last and generator.random() < self.folder_share):
            low, high = first + len(self._rows), last + len(self._rows)
        return int(generator.integers(low, high))

    def crop(self, donor: int) -> Donor:
        """Return a donor's pixels, from memory, the donor file, or its image file.

        Args:
            donor: 0..len - 1.

        Raises:
            UnreadableDonor: (a ValueError) if the image file is missing, cannot be decoded, or is
                not the one that was annotated.
        """
        if donor in self._cache:
            self._cache.move_to_end(donor)
            return self._cache[donor]
        if self._file is not None and donor < len(self._rows):
            return self._file.donor(int(self._numbers[donor]), masks=self.masks)
        cut = self._open(donor)
        if cut.image.nbytes <= self._budget:
            self._cache[donor] = cut
            self._cached_bytes += cut.image.nbytes
        while self._cached_bytes > self._budget:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= oldest.image.nbytes
        return cut

    def _open(self, donor: int) -> Donor:
        """Read a donor from its image, unless that is known to be in vain."""
        path = self._path(donor)
        for known in (path, donor):
            if known in self._unreadable:
                raise UnreadableDonor(self._unreadable[known])
        # An image that can be read may be too small for one donor and not for another.
        bad: Path | int = path
        try:
            if donor >= len(self._rows):
                return self._from_folders.read(
                    donor - len(self._rows), self._typical_size(int(self.labels[donor]))
                )
            image = read_image(path, keep_depth=True)
            bad = donor
            return cut_out(
                self._annotations,
                int(self._rows[donor]),
                image,
                margin=self.margin,
                masks=self.masks,
                path=path,
            )
        except ValueError as error:
            self._unreadable[bad] = str(error)
            _logger.warning("A donor is left out, and so is every other draw of it: %s", error)
            raise UnreadableDonor(str(error)) from error

    def _path(self, donor: int) -> Path:
        if donor >= len(self._rows):
            return self._from_folders.path(donor - len(self._rows))
        image = int(self._annotations.image_index[self._rows[donor]])
        return self._annotations.image_path(image, self._image_dir)

    def _typical_size(self, label: int) -> float:
        """The usual size of a class; of all objects where the class has no box."""
        size = float(self.typical_sizes[label])
        return self._any_size if np.isnan(size) else size


def _wanted_files(
    donors: FolderDonors, wanted: NDArray[np.int64], annotations: Annotations
) -> FolderDonors:
    kept = np.isin(donors.labels, wanted)
    if len(donors) and not kept.any():
        _logger.warning(
            "DonorBank: the folders have donors of %s, none of which is among the classes to"
            " paste (%s).",
            listed(annotations, np.unique(donors.labels)),
            listed(annotations, wanted),
        )
    return donors.take(np.flatnonzero(kept))


def _nothing(
    annotations: Annotations,
    wanted: NDArray[np.int64],
    choice: Choice,
    min_size: float,
    max_overlap: float,
    donor_file: Path | None,
) -> str:
    if len(choice.rows):
        return (
            f"{donor_file}: holds none of the {len(choice.rows)} boxes that can be pasted"
            f" ({listed(annotations, wanted)}). Expected a file with donors of these classes."
            " Write it again with detbalance donors."
        )
    large = int(choice.boxes.sum() - choice.small.sum())
    return (
        f"{annotations.source}: no box can be pasted. Of the {int(choice.boxes.sum())} boxes of"
        f" the {len(wanted)} classes asked for ({listed(annotations, wanted)}),"
        f" {int(choice.small.sum())} are smaller than min_size = {min_size:g} pixels"
        f" and {large} overlap others by more than max_overlap = {max_overlap:g}."
        " Name other classes, or change these limits."
    )
