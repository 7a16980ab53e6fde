"""A donor, and how it is cut out of a training image.

Letters: H, W height and width, N boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.contract import Image
from detbalance.augmentation.geometry import box_areas
from detbalance.augmentation.masks import Mask, segmentation_mask
from detbalance.data import Annotations

_FULL = 0.97  # a mask that fills this much of its box is the box: its margin blends in better


class UnreadableDonor(ValueError):
    """The image of a donor is missing, damaged, or not the one that was annotated."""


@dataclass(frozen=True, eq=False)
class Donor:
    """An object with its surroundings, cut out of an image."""

    image: Image
    box: NDArray[np.float64]
    others: NDArray[np.float64]
    label: int
    area: float
    mask: Mask | None = None
    resize: float = 1.0


def cut_out(
    annotations: Annotations,
    row: int,
    image: Image,
    *,
    margin: float,
    masks: bool,
    path: Path,
) -> Donor:
    """Cut a donor out of its image."""
    index = int(annotations.image_index[row])
    height, width = image.shape[:2]
    box = annotations.boxes[row].astype(np.float64)
    context = np.tile((box[2:] - box[:2]) * margin, 2) * (-1, -1, 1, 1)
    around = np.concatenate([np.floor((box + context)[:2]), np.ceil((box + context)[2:])])
    window = np.clip(around, 0, (width, height, width, height)).astype(int)
    left, top, right, bottom = (int(side) for side in window)
    if right <= left or bottom <= top:
        raise UnreadableDonor(
            f"{path}: annotation {annotations.annotation_ids[row]} lies outside of the image,"
            f" which has {width} x {height} pixels. Expected the image that was annotated. Check"
            " the folder of the images."
        )
    corner = np.array([left, top, left, top], np.float64)
    limit = np.array([right, bottom, right, bottom], np.float64) - corner
    every = annotations.rows(index)
    others = np.delete(annotations.boxes[every].astype(np.float64), row - every.start, axis=0)
    others = np.clip(others - corner, 0, limit)
    # Within the pixels also where the file did not say how large the image is.
    inside = np.clip(box - corner, 0, limit)
    mask = None
    if masks and annotations.segmentations is not None:
        mask = segmentation_mask(
            annotations.segmentation(row), height, width, window=(left, top, right, bottom)
        )
        if mask is not None:
            mask = partial_mask(mask, inside)
    return Donor(
        image=_frozen(image[top:bottom, left:right]),
        box=inside,
        others=others[box_areas(others) > 0],
        label=int(annotations.labels[row]),
        area=float(annotations.areas[row]),
        mask=mask,
    )


def partial_mask(mask: Mask, box: NDArray[np.float64]) -> Mask | None:
    """Return the mask read-only, or None if it is as good as all of the box, xyxy."""
    area = float(box_areas(box[None])[0])
    if mask.sum() >= _FULL * area:
        return None
    mask.flags.writeable = False
    return mask


def _frozen(pixels: Image) -> Image:
    pixels = pixels.copy()  # lets go of the whole image
    pixels.flags.writeable = False
    return pixels
