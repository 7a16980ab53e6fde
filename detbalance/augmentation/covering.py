"""What pasting does to the boxes and masks that were there before.

Letters: H, W height and width of the image, N boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.blending import box_pixels, object_pixels
from detbalance.augmentation.contract import Target, append_rows, take_rows
from detbalance.augmentation.cutting import Donor
from detbalance.augmentation.masks import mask_box
from detbalance.augmentation.placing import Place


def with_pasted(
    target: Target, placed: Sequence[tuple[Donor, Place]], shape: tuple[int, ...]
) -> Target:
    """Return the target with what was pasted behind its own boxes."""
    labels = [donor.label for donor, _ in placed]
    rows: dict[str, Any] = {
        "boxes": [donor.box + np.array([at.x, at.y, at.x, at.y]) for donor, at in placed],
        "labels": labels,
        "areas": [donor.area for donor, _ in placed],
        "pasted": [True] * len(placed),
    }
    if "masks" in target:
        masks = np.zeros((len(placed), *shape[:2]), np.bool_)
        for mask, (donor, at) in zip(masks, placed, strict=True):
            mask[at.y : at.y + at.height, at.x : at.x + at.width] = object_pixels(donor)
        rows["masks"] = masks
    target = append_rows(target, rows, len(placed))
    if "negative_labels" in target:
        absent = target["negative_labels"]
        target["negative_labels"] = absent[~np.isin(absent, labels)]
    return target


def without_covered(
    target: Target, old: int, covered: NDArray[np.bool_], max_covered: float
) -> Target:
    """Return the target with the old boxes as what was pasted over them has left them."""
    target = dict(target)
    has_masks = "masks" in target
    for name in ("boxes", "areas", "is_crowd", *(["masks"] if has_masks else [])):
        target[name] = target[name].copy()
    kept = np.ones(len(target["boxes"]), np.bool_)
    for row in range(old):
        if has_masks:
            before = target["masks"][row]
            total, hidden = int(before.sum()), int((before & covered).sum())
        else:
            inside = covered[box_pixels(target["boxes"][row])]
            total, hidden = inside.size, int(inside.sum())
        if not hidden:
            continue
        kept[row] = hidden < total
        if hidden > max_covered * total:
            target["is_crowd"][row] = True
        if has_masks and kept[row]:
            target["masks"][row] &= ~covered
            target["boxes"][row] = mask_box(target["masks"][row])
            target["areas"][row] *= 1 - hidden / total
    return target if kept.all() else take_rows(target, kept)
