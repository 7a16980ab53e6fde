"""Donors as crops of one size, and crops of the background beside them.

Letters: n crops, S side in pixels, H, W height and width of an image, K classes of the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detbalance.augmentation.cutting import Donor, cut_out
from detbalance.augmentation.donor_choice import choose_donors
from detbalance.augmentation.paste_size_and_place import are_clear
from detbalance.augmentation.transform import is_bilevel
from detbalance.data import Annotations
from detbalance.data.images import check_size, import_cv2, read_image

Crop = NDArray[np.uint8]

MARGIN = 0.2
"""Context on each side of a box, as a part of its width or height, as `DonorBank` has it."""
MOST_DONORS = 1000
"""Donors of a class that are looked at; more teach a small network nothing."""
MIN_SIZE, MAX_OVERLAP = 8.0, 0.3  # what `DonorBank` takes by default


@dataclass(frozen=True, eq=False)
class Crops:
    """Boxes with a margin, cut out of the training images."""

    pixels: tuple[Crop, ...]
    labels: NDArray[np.int64]
    annotation_ids: NDArray[np.int64]
    bi_level: bool

    def __len__(self) -> int:
        return len(self.labels)

    def of_class(self, label: int) -> list[Crop]:
        """The crops of one class."""
        return [self.pixels[row] for row in np.flatnonzero(self.labels == label)]


def box_in_crop(width: int, height: int) -> list[float]:
    """The box inside a crop of this size, xyxy in pixels."""
    part = MARGIN / (1 + 2 * MARGIN)
    across, down = width * part, height * part
    return [round(v, 2) for v in (across, down, width - across, height - down)]


def cut_donors(
    annotations: Annotations,
    image_dir: str | Path,
    labels: NDArray[np.int64],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Crops:
    """Cut the donors of some classes out of the training images."""
    rows = _chosen_rows(annotations, labels, np.random.default_rng(seed))
    order = np.argsort(annotations.image_index[rows], kind="stable")
    pixels: list[Crop] = [np.zeros((0, 0, 3), np.uint8)] * len(rows)
    opened, image = -1, np.zeros((0, 0, 3), np.uint8)
    for done, place in enumerate(order):
        row = int(rows[place])
        path = annotations.image_path(int(annotations.image_index[row]), image_dir)
        if annotations.image_index[row] != opened:
            opened, image = int(annotations.image_index[row]), read_image(path)
            check_size(annotations, opened, path, image)
        donor = cut_out(annotations, row, image, margin=MARGIN, masks=False, path=path)
        pixels[place] = _centred(donor)
        if progress is not None:
            progress(done + 1, len(rows))
    return Crops(
        pixels=tuple(pixels),
        labels=annotations.labels[rows].astype(np.int64),
        annotation_ids=annotations.annotation_ids[rows],
        bi_level=all(is_bilevel(crop) for crop in pixels),
    )


def cut_background(
    annotations: Annotations, image_dir: str | Path, like: Crops, number: int, *, seed: int = 0
) -> list[Crop]:
    """Cut places that overlap no box, as large as donors are."""
    random = np.random.default_rng(seed)
    found: list[Crop] = []
    each = 4  # crops of one image, so that not every image of a large set is read
    for index in random.permutation(annotations.num_images):
        if len(found) >= number:
            break
        image = read_image(annotations.image_path(int(index), image_dir))
        boxes = annotations.boxes[annotations.rows(int(index))]
        for _ in range(each):
            height, width = like.pixels[int(random.integers(len(like)))].shape[:2]
            place = _clear_place(image.shape, (height, width), boxes, random)
            if place is not None:
                x, y = place
                found.append(image[y : y + height, x : x + width].copy())
    return found[:number]


def as_tensor(crops: Sequence[Crop], size: int) -> Tensor:
    """Crops resized to float [n, 3, S, S] in -1..1; the aspect ratio is not kept."""
    resized = [resize(crop, size, size) for crop in crops]
    if not resized:
        return torch.zeros(0, 3, size, size)
    pixels = torch.from_numpy(np.stack(resized))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def as_pixels(image: Tensor) -> Crop:
    """A float [3, S, S] in -1..1 as uint8 [S, S, 3]."""
    values = ((image + 1) * 127.5).round().clamp(0, 255).byte()
    return np.asarray(values.permute(1, 2, 0).numpy(), np.uint8)


def resize(crop: Crop, width: int, height: int) -> Crop:
    """A crop at another size, each pixel the mean of those that it stands for."""
    cv2 = import_cv2()
    smaller = width * height < crop.shape[0] * crop.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(crop, (width, height), interpolation=method), np.uint8)


def _chosen_rows(
    annotations: Annotations, labels: NDArray[np.int64], random: np.random.Generator
) -> NDArray[np.int64]:
    rows = choose_donors(annotations, labels, min_size=MIN_SIZE, max_overlap=MAX_OVERLAP).rows
    chosen = []
    for label in np.unique(annotations.labels[rows]):
        own = rows[annotations.labels[rows] == label]
        if len(own) > MOST_DONORS:
            own = np.sort(random.choice(own, MOST_DONORS, replace=False))
        chosen.append(own)
    return np.concatenate(chosen) if chosen else rows


def _centred(donor: Donor) -> Crop:
    """A donor with its whole margin; what lies outside of the image repeats its edge."""
    pixels = donor.image
    height, width = pixels.shape[:2]
    margin = MARGIN * (donor.box[2:] - donor.box[:2])
    low = np.round(donor.box[:2] - margin).astype(int)
    high = np.round(donor.box[2:] + margin).astype(int)
    rows = np.clip(np.arange(low[1], max(high[1], low[1] + 1)), 0, height - 1)
    columns = np.clip(np.arange(low[0], max(high[0], low[0] + 1)), 0, width - 1)
    return np.ascontiguousarray(pixels[rows[:, None], columns])


def _clear_place(
    image: tuple[int, ...],
    size: tuple[int, int],
    boxes: NDArray[np.float32],
    random: np.random.Generator,
    tries: int = 20,
) -> tuple[int, int] | None:
    """Left upper corner of a place that overlaps no box, or None."""
    height, width = size
    if height > image[0] or width > image[1]:
        return None
    corners = random.integers(0, (image[1] - width + 1, image[0] - height + 1), size=(tries, 2))
    clear = np.flatnonzero(are_clear(corners, np.array([[width, height]]), boxes))
    return (int(corners[clear[0], 0]), int(corners[clear[0], 1])) if len(clear) else None
