"""Images brought into another one's frame: their size, their depth, a window of them.

Letters: H, W height and width, N boxes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.contract import Image, Target
from detbalance.images import import_cv2

_FILL = (124, 116, 104)  # what lies around an image: ImageNet's mean colour


def is_bilevel(image: Image) -> bool:
    """Whether every value of an image is 0 or the largest of its type."""
    largest = np.iinfo(image.dtype).max
    # A few lines tell most images apart; the whole is looked at only where they do not.
    return all(
        bool(((part == 0) | (part == largest)).all())
        for part in (image[:: 1 + len(image) // 8], image)
    )


def fill_color(image: Image, *, bilevel: bool) -> NDArray[Any]:
    """Return the colour [3] for places without a picture, in the type of the image.

    Args:
        image: uint8 or uint16 [H, W, 3].
        bilevel: take the commoner of its two levels, as any other colour would be a third.
    """
    largest = np.iinfo(image.dtype).max
    if bilevel:
        return np.full(3, largest if 2 * np.count_nonzero(image) > image.size else 0, image.dtype)
    return (np.array(_FILL) * (largest // 255)).astype(image.dtype)


def as_type(image: Image, dtype: np.dtype[Any]) -> Image:
    """Bring an image to 8 or 16 bits; white stays white."""
    if image.dtype == dtype:
        return image
    return (image // 257 if dtype == np.uint8 else image * np.uint16(257)).astype(dtype)


def resized(
    image: Image, target: Target, size: tuple[int, int], *, nearest: bool
) -> tuple[Image, Target]:
    """Resize an image with its boxes, areas and masks.

    Args:
        image: uint8 or uint16 [H, W, 3].
        target: as `Augmentation` describes it.
        size: height and width to come.
        nearest: take pixels as they are, without mixing neighbours.
    """
    height, width = image.shape[:2]
    if size == (height, width):
        return image, target
    cv2 = import_cv2()
    down, across = size[0] / height, size[1] / width
    # Down to half the size, linear interpolation looks at every pixel, at a fraction of the cost.
    smooth = cv2.INTER_AREA if down * across < 0.25 else cv2.INTER_LINEAR
    method = cv2.INTER_NEAREST if nearest else smooth
    changed = {
        **target,
        "boxes": scaled(target["boxes"], image.shape, size),
        "areas": target["areas"] * (across * down),
    }
    if "masks" in target:
        masks = [
            cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
            for mask in target["masks"]
        ]
        changed["masks"] = np.array(masks, np.bool_).reshape(len(masks), *size)
    return cv2.resize(image, size[::-1], interpolation=method), changed


def scaled(
    boxes: NDArray[Any], shape: tuple[int, ...], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Scale boxes [N, 4] as the pixels of an image that is resized from `shape` to `size`."""
    # The factors that the pixels really get, after rounding to whole pixels.
    down, across = size[0] / shape[0], size[1] / shape[1]
    return np.asarray(boxes * np.array([across, down, across, down]), np.float32)


def areas_of(boxes: NDArray[Any]) -> NDArray[np.float64]:
    """Areas [N] of boxes [N, 4], 0 where they have no extent."""
    return np.asarray(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1))


def window_origin(
    size: tuple[int, int],
    tile: tuple[int, int],
    box: NDArray[Any] | None,
    generator: np.random.Generator,
) -> tuple[int, int]:
    """Draw where a window of an image begins; as (y, x), negative where the image is smaller.

    Args:
        size: height and width of the image.
        tile: height and width of the window.
        box: [4], xyxy, lies wholly in the window, or fills it where it is larger; None for none.
        generator: the source of randomness.
    """
    origin = []
    for axis, (length, part) in enumerate(zip(size, tile, strict=True)):
        least, most = sorted((0, length - part))
        if box is not None:
            low, high = float(box[1 - axis]), float(box[3 - axis])
            ends = sorted((math.ceil(high - part), math.floor(low)))
            least, most = (min(max(end, least), most) for end in ends)
        origin.append(int(generator.integers(least, most + 1)))
    return origin[0], origin[1]


def visible_parts(
    boxes: NDArray[Any], origin: tuple[int, int], tile: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Cut boxes to a window.

    Returns:
        Boxes float32 [N, 4] within the window, from its corner; and the fraction float64 [N] of
        each box's area that is in it, 0 for boxes without extent.
    """
    shifted = boxes.astype(np.float64) - np.tile(origin[::-1], 2)
    cut = np.clip(shifted, 0, np.tile(tile[::-1], 2))
    return cut.astype(np.float32), areas_of(cut) / np.maximum(areas_of(shifted), 1e-9)


def paint_over(picture: Image, gone: NDArray[Any], kept: NDArray[Any], color: NDArray[Any]) -> None:
    """Paint the pixels that boxes touch, except where a kept box lies; in place.

    Args:
        picture: [H, W, 3].
        gone: [n, 4], xyxy within the picture, the boxes to paint over.
        kept: [m, 4], the boxes to leave.
        color: [3].
    """
    if not len(gone):
        return
    painted = np.zeros(picture.shape[:2], np.bool_)
    for boxes, value in ((gone, True), (kept, False)):
        for left, top, right, bottom in boxes.tolist():
            painted[int(top) : math.ceil(bottom), int(left) : math.ceil(right)] = value
    picture[painted] = color


def on_canvas(
    target: Target,
    boxes: NDArray[np.float32],
    fractions: NDArray[np.float64],
    origin: tuple[int, int],
    place: tuple[slice, slice],
    size: tuple[int, int],
) -> Target:
    """Return the boxes of a window as boxes of the canvas that the window is laid on.

    Args:
        target: of the image; areas and masks are its.
        boxes: float32 [N, 4], cut to the window, from its corner.
        fractions: float64 [N], what is visible of each box.
        origin: of the window in the image, (y, x).
        place: rows and columns of the window on the canvas.
        size: height and width of the canvas.
    """
    corner = np.array([place[1].start, place[0].start] * 2, np.float32)
    changed = {**target, "boxes": boxes + corner, "areas": target["areas"] * fractions}
    if "masks" in target:
        masks = np.zeros((len(boxes), *size), np.bool_)
        tile = (place[0].stop - place[0].start, place[1].stop - place[1].start)
        lay(masks.transpose(1, 2, 0)[place], target["masks"].transpose(1, 2, 0), origin, tile)
        changed["masks"] = masks
    return changed


def lay(
    onto: NDArray[Any], picture: NDArray[Any], origin: tuple[int, int], tile: tuple[int, int]
) -> None:
    """Copy a window of a picture; what lies outside of the picture stays as it is.

    Args:
        onto: [height of the tile, width of the tile, C], written to.
        picture: [H, W, C].
        origin: (y, x) of the window in the picture.
        tile: height and width of the window.
    """
    spans = [
        (max(start, 0), min(start + part, length))
        for start, part, length in zip(origin, tile, picture.shape, strict=False)
    ]
    (top, bottom), (left, right) = spans
    y, x = origin
    onto[top - y : bottom - y, left - x : right - x] = picture[top:bottom, left:right]
