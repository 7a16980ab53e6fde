"""Draw a donor into an image: its size, its edge, its pixel values.

Letters: H, W height and width of the donor's crop.

Letters: H, W height and width of the image, N boxes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.cutting import Donor, Mask, mask_box
from detbalance.augmentation.paste_size_and_place import Place
from detbalance.augmentation.transform import Image, Target, append_rows, take_rows
from detbalance.data.images import import_cv2

Opacity = NDArray[np.float32]

HALO = 3  # pixels beyond a mask over which it fades out


def without_margin(donor: Donor) -> Donor:
    """Return a donor that has a mask with no more around it than the mask's soft edge."""
    if donor.mask is None:
        return donor
    box = mask_box(donor.mask)
    height, width = donor.mask.shape
    left, top = (max(0, int(v) - HALO) for v in box[:2])
    right, bottom = min(width, int(box[2]) + HALO), min(height, int(box[3]) + HALO)
    return dataclasses.replace(
        donor,
        image=donor.image[top:bottom, left:right],
        box=box - (left, top, left, top),
        others=np.zeros((0, 4)),
        mask=donor.mask[top:bottom, left:right],
    )


def mirrored(donor: Donor) -> Donor:
    """Return a donor with left and right exchanged."""
    width = donor.image.shape[1]

    def mirror(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        turned: NDArray[np.float64] = boxes.copy()
        turned[..., 0], turned[..., 2] = width - boxes[..., 2], width - boxes[..., 0]
        return turned

    return dataclasses.replace(
        donor,
        image=donor.image[:, ::-1],
        box=mirror(donor.box),
        others=mirror(donor.others),
        mask=None if donor.mask is None else donor.mask[:, ::-1],
    )


def resized(donor: Donor, width: int, height: int) -> Donor:
    """Return a donor in another size, in pixels; its box follows its mask where it has one."""
    old_height, old_width = donor.image.shape[:2]
    pixels = np.ascontiguousarray(donor.image)
    if (height, width) == (old_height, old_width):
        return dataclasses.replace(donor, image=pixels)
    cv2 = import_cv2()
    # The box gets the factors that the pixels really got, after rounding to whole pixels.
    factors = np.array([width / old_width, height / old_height])
    method = cv2.INTER_AREA if factors.prod() < 1 else cv2.INTER_LINEAR
    mask, box = donor.mask, donor.box * np.tile(factors, 2)
    if mask is not None:
        shares = cv2.resize(mask.astype(np.float32), (width, height), interpolation=method)
        # Of something thinner than a pixel, all that is touched.
        mask = shares >= min(0.5, float(shares.max()))
        box = mask_box(mask)
    return dataclasses.replace(
        donor,
        image=cv2.resize(pixels, (width, height), interpolation=method),
        box=box,
        others=donor.others * np.tile(factors, 2),
        area=donor.area * float(factors.prod()),
        mask=mask,
    )


def opacity(donor: Donor, feather: float) -> Opacity:
    """Return how much of each pixel of the crop is the donor's, float32 [H, W] in 0..1."""
    height, width = donor.image.shape[:2]
    if donor.mask is not None:
        weights = donor.mask.astype(np.float32)
        if feather:
            side = 2 * HALO + 1
            soft = import_cv2().GaussianBlur(weights, (side, side), feather)
            weights = np.maximum(weights, soft)
        return weights
    across = _ramp(width, donor.box[0], donor.box[2], feather)
    down = _ramp(height, donor.box[1], donor.box[3], feather)
    weights = np.minimum(down[:, None], across[None, :])
    for other in donor.others:
        weights[box_pixels(other)] = 0
    weights[box_pixels(donor.box)] = 1
    return weights


def object_pixels(donor: Donor) -> Mask:
    """Return the pixels of the object, bool [H, W]: its mask, else those that its box touches."""
    if donor.mask is not None:
        return donor.mask
    pixels = np.zeros(donor.image.shape[:2], np.bool_)
    pixels[box_pixels(donor.box)] = True
    return pixels


def box_pixels(box: NDArray[np.float64]) -> tuple[slice, slice]:
    """Select the rows and columns of the pixels that a box xyxy touches."""
    left, top, right, bottom = (float(side) for side in box)
    return slice(int(top), math.ceil(bottom)), slice(int(left), math.ceil(right))


def feathered(canvas: Image, donor: Donor, x: int, y: int, weights: Opacity) -> None:
    """Draw a donor over the canvas at x, y, in place."""
    height, width = donor.image.shape[:2]
    patch = canvas[y : y + height, x : x + width]
    if canvas.dtype == np.uint8:
        # Several times faster than NumPy, and exact at 0 and 1 for 8 bits.
        patch[...] = import_cv2().blendLinear(patch, donor.image, 1 - weights, weights)
        return
    for channel in range(3):  # rows of single values: a last axis of three is slow
        old = patch[:, :, channel].astype(np.float32)
        new = donor.image[:, :, channel].astype(np.float32)
        patch[:, :, channel] = np.rint(old + weights * (new - old))


def seamless(canvas: Image, donor: Donor, x: int, y: int, weights: Opacity) -> bool:
    """Draw a donor so that its colours follow those around it; see `feathered` for arguments.

    Source: Perez et al., Poisson Image Editing, 2003, as OpenCV's `seamlessClone`.
    """
    cv2 = import_cv2()
    height, width = donor.image.shape[:2]
    top, left, bottom, right = y - 1, x - 1, y + height + 1, x + width + 1
    inside = top >= 0 and left >= 0 and bottom <= canvas.shape[0] and right <= canvas.shape[1]
    if canvas.dtype != np.uint8 or not inside:
        return False
    # One more pixel on each side, so that the mask does not touch the border.
    source = cv2.copyMakeBorder(donor.image, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    mask = np.zeros(source.shape[:2], np.uint8)
    mask[1:-1, 1:-1] = np.where(weights > 0, 255, 0)
    around = np.ascontiguousarray(canvas[top:bottom, left:right])
    box = mask_box(mask > 0).astype(int)
    # OpenCV puts the middle of the mask's box there.
    middle = int(box[0] + (box[2] - box[0]) // 2), int(box[1] + (box[3] - box[1]) // 2)
    try:
        drawn = cv2.seamlessClone(source, around, mask, middle, cv2.NORMAL_CLONE)
    except cv2.error:
        return False
    canvas[top:bottom, left:right] = drawn
    return True


def _ramp(length: int, low: float, high: float, feather: float) -> Opacity:
    """Opacity along one side: 1 between low and high, falling to 0 towards both ends."""
    middles = np.arange(length) + 0.5
    beyond = np.maximum((low - middles) / max(low, 1), (middles - high) / max(length - high, 1))
    ramp = np.clip((1 - np.clip(beyond, 0, 1)) / max(feather, 1e-9), 0, 1)
    return np.asarray(ramp, np.float32)


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
