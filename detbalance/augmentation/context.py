"""Which of several places looks most like the surroundings that a donor brings along.

Letters: K places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.contract import Image
from detbalance.augmentation.cutting import Donor

Float64 = NDArray[np.float64]

_SIDE = 12  # points along each side of the crop


def most_alike(image: Image, donor: Donor, corners: Float64, sizes: Float64) -> int:
    """Return the number of the place whose pixels are nearest to the donor's margin.

    Source: that the surroundings should fit, Dvornik et al., Modeling Visual Context is Key to
    Augmenting Object Detection Datasets, 2018, arXiv:1807.07428.
    Differs: pixels of the margin are compared; nothing is trained.
    """
    if donor.mask is not None:
        return 0
    crop = np.array([donor.image.shape[1], donor.image.shape[0]])
    steps = (np.arange(_SIDE) + 0.5) / _SIDE
    points = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    at = points * crop
    around = np.ones(len(at), np.bool_)
    for box in (donor.box, *donor.others):
        around &= ~((at >= box[:2]) & (at <= box[2:])).all(axis=1)
    if not around.any():
        return 0
    points, at = points[around], at[around].astype(int)
    wanted = _as_parts(donor.image[at[:, 1], at[:, 0]])
    there = (corners[:, None] + points * sizes[:, None]).astype(int)
    found = _as_parts(image[there[..., 1], there[..., 0]])
    return int(np.abs(found - wanted).mean(axis=(1, 2)).argmin())


def _as_parts(pixels: Image) -> Float64:
    """Pixel values as parts of the largest, whatever their depth."""
    return np.asarray(pixels / np.iinfo(pixels.dtype).max)
