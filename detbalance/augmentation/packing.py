"""Make a donor file: choose the boxes, read each image once, write their cut-outs.

Letters: C classes including background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from detbalance.augmentation.cutting import Donor, cut_out, note_unusable_masks
from detbalance.augmentation.donor_choice import choose_donors, wanted_labels
from detbalance.augmentation.donor_file import WrittenDonors, write_donor_file
from detbalance.augmentation.transform import MAX_SEED, check_range
from detbalance.data import Annotations
from detbalance.data.arrays import Int64
from detbalance.data.frequency import class_frequency
from detbalance.data.images import check_size, read_image

_THREADS = 4
_AT_A_TIME = 32  # images whose cut-outs wait to be written


@dataclass(frozen=True, eq=False)
class Packed:
    """What went into a donor file, and what did not and why."""

    written: WrittenDonors
    boxes: Int64
    donors: Int64
    small: Int64
    overlapping: Int64
    over_limit: Int64
    unreadable: Int64
    problems: dict[str, str]


def pack_donors(
    annotations: Annotations,
    image_dir: str | Path,
    path: str | Path,
    *,
    classes: Sequence[str] | None = None,
    margin: float = 0.2,
    min_size: float = 8.0,
    max_overlap: float = 0.3,
    max_per_class: int = 2000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Packed:
    """Write the file that a `DonorBank` takes as `donor_file`."""
    check_range("pack_donors", "margin", margin, 0, 1)
    check_range("pack_donors", "min_size", min_size, 0, 1e5)
    check_range("pack_donors", "max_overlap", max_overlap, 0, 1)
    check_range("pack_donors", "max_per_class", max_per_class, 1, 1e9)
    check_range("pack_donors", "seed", seed, 0, MAX_SEED)
    wanted = wanted_labels(annotations, classes, class_frequency(annotations))
    choice = choose_donors(annotations, wanted, min_size=min_size, max_overlap=max_overlap)
    rows = _limited(annotations, choice.rows, max_per_class, seed)
    if annotations.segmentations is not None:
        note_unusable_masks(annotations, rows)
    problems: dict[str, str] = {}
    taken: list[int] = []

    def donors() -> Iterator[tuple[int, Donor]]:
        cut = partial(_cut_image, annotations, Path(image_dir), margin)
        images, starts = np.unique(annotations.image_index[rows], return_index=True)
        # Split, no row would still be one part.
        parts = np.split(rows, starts[1:]) if len(rows) else []
        groups = list(zip(images.tolist(), parts, strict=True))
        with ThreadPoolExecutor(_THREADS) as threads:
            for start in range(0, len(groups), _AT_A_TIME):
                some = groups[start : start + _AT_A_TIME]
                for number, (found, problem) in enumerate(threads.map(cut, some), start + 1):
                    if problem:
                        problems[annotations.file_name(groups[number - 1][0])] = problem
                    for row, donor in found:
                        taken.append(row)
                        yield row, donor
                    if progress is not None:
                        progress(number, len(groups))

    written = write_donor_file(path, annotations, donors(), margin=margin)

    def per_class(chosen: Int64) -> Int64:
        labels = annotations.labels[chosen]
        return np.bincount(labels, minlength=annotations.categories.num_classes)

    in_file = per_class(np.array(taken, np.int64))
    return Packed(
        written=written,
        boxes=choice.boxes,
        donors=in_file,
        small=choice.small,
        overlapping=choice.overlapping,
        over_limit=per_class(choice.rows) - per_class(rows),
        unreadable=per_class(rows) - in_file,
        problems=problems,
    )


def _limited(annotations: Annotations, rows: Int64, most: int, seed: int) -> Int64:
    """Draw at most so many rows of each class; the result ascends, and so do its images."""
    shuffled = np.random.default_rng(seed).permutation(rows)
    labels = annotations.labels[shuffled]
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    return np.sort(shuffled[order][np.arange(len(rows)) - starts < most])


def _cut_image(
    annotations: Annotations, image_dir: Path, margin: float, group: tuple[int, Int64]
) -> tuple[list[tuple[int, Donor]], str]:
    """Cut all donors out of an image; with what is wrong with it, if anything is."""
    index, rows = group
    try:
        path = annotations.image_path(index, image_dir)
        image = read_image(path, keep_depth=True)
        check_size(annotations, index, path, image)
    except ValueError as error:
        return [], str(error)
    found, problem = [], ""
    for row in rows.tolist():
        try:
            donor = cut_out(annotations, row, image, margin=margin, masks=True, path=path)
        except ValueError as error:
            problem = str(error)
            continue
        found.append((row, donor))
    return found, problem
