"""Weights of members by how good they are, each class leaning on all where its boxes are few.

A weight for every member and class, found one by one, would fit the noise of a few boxes. So all
follow from the APs of the members and two numbers, which is what cross-fitting chooses.

Letters: J members, K categories.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

POWERS = (1.0, 3.0, 8.0, math.inf)
SHRINKAGES = (math.inf, 30.0, 10.0)


@dataclass(frozen=True)
class Setting:
    """How to fuse, as far as it is chosen on data."""

    iou_threshold: float
    power: float = 0.0
    shrink_boxes: float = math.inf

    def __str__(self) -> str:
        what = "equal weights"
        if self.power:
            own = "the mean AP50"
            if math.isfinite(self.shrink_boxes):
                own = f"the AP50 of each class (n0 {self.shrink_boxes:g} boxes)"
            what = f"weights by {own} to the power {self.power:g}"
            if math.isinf(self.power):
                what = f"the best member alone, by {own}"
        return f"{what}, IoU {self.iou_threshold:g}"


def settings_to_try(iou_thresholds: tuple[float, ...], num_members: int) -> tuple[Setting, ...]:
    """List settings from the plainest on; a single member needs no weights."""
    equal = tuple(Setting(iou) for iou in iou_thresholds)
    if num_members == 1:
        return equal
    return equal + tuple(
        Setting(iou, power, boxes)
        for power in POWERS
        for boxes in SHRINKAGES
        for iou in iou_thresholds
    )


def weights_by_skill(ap: Float64, boxes: Int64, *, power: float, shrink_boxes: float) -> Float64:
    """Weigh members by their APs."""
    found = boxes > 0
    means = ap[:, found].mean(axis=1, keepdims=True) if found.any() else np.zeros((len(ap), 1))
    share = np.zeros(len(boxes)) if math.isinf(shrink_boxes) else boxes / (boxes + shrink_boxes)
    own = np.where(found, ap, 0.0)
    skill = share * own + (1 - share) * means
    best = skill.max(axis=0)
    # Relative to the best before the power is taken, which can be infinite.
    return np.asarray(np.where(best > 0, skill / np.where(best > 0, best, 1.0), 1.0) ** power)
