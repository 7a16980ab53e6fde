"""Windows of images: where they lie, and what is seen in them.

Letters: H, W height and width, N boxes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detbalance.augmentation.transform import Image, Target, box_areas, corners, settle, take_rows
from detbalance.data.images import import_cv2


class Window(NamedTuple):
    """A window of an image that was resized: heights and widths in pixels, the origin as (y, x)."""

    resized: tuple[int, int]
    origin: tuple[int, int]
    size: tuple[int, int]

    def look(self, boxes: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return the fraction of each box's area that is in the window, float64 [N]."""
        moved = self.scale(boxes, shape) - np.array([*self.origin[::-1]] * 2)
        cut = np.clip(moved, 0, np.array([*self.size[::-1]] * 2))
        return np.asarray(box_areas(cut) / np.maximum(box_areas(moved), 1e-9))

    def scale(self, boxes: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Scale boxes [N, 4] or points [..., 2] as the pixels of an image of this shape."""
        # The factors that the pixels really get, after rounding to whole pixels.
        down, across = self.resized[0] / shape[0], self.resized[1] / shape[1]
        return np.asarray(boxes * np.array([across, down] * (boxes.shape[-1] // 2)))


def view(
    image: Image,
    target: Target,
    window: Window,
    *,
    fill: NDArray[np.int64],
    nearest: bool,
    min_visibility: float,
) -> tuple[Image, Target]:
    """Return what a window shows of an image, and the target of that."""
    target = take_rows(target, np.flatnonzero(window.look(target["boxes"], image.shape) > 0))
    before = corners(target["boxes"], *image.shape[:2])
    after = window.scale(before, image.shape) - window.origin[::-1]
    shown = _cut(_resized(image, window.resized, nearest=nearest), window, fill)
    masks = None
    if "masks" in target:
        masks = np.zeros((len(before), *window.size), np.bool_)
        for mask, old in zip(masks, target["masks"], strict=True):
            layer = _resized(old.astype(np.uint8), window.resized, nearest=True)
            mask[...] = _cut(layer[:, :, None], window, np.zeros(1, np.int64))[:, :, 0]
    return settle(
        shown, target, before, after, masks=masks, min_visibility=min_visibility, fill=fill
    )


def on_canvas(target: Target, place: tuple[slice, slice], size: tuple[int, int]) -> Target:
    """Return the target of a tile as one of the canvas that the tile is laid on."""
    corner = np.array([place[1].start, place[0].start] * 2, np.float32)
    moved = {**target, "boxes": target["boxes"] + corner}
    if "masks" in target:
        moved["masks"] = np.zeros((len(target["masks"]), *size), np.bool_)
        moved["masks"][:, place[0], place[1]] = target["masks"]
    return moved


def fitted(shape: tuple[int, ...], size: tuple[int, int], factor: float = 1.0) -> tuple[int, int]:
    """Return the height and width of an image that is fitted into a size, times a factor."""
    ratio = factor * min(size[0] / shape[0], size[1] / shape[1])
    return max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio))


def draw_origin(
    resized: tuple[int, int],
    tile: tuple[int, int],
    box: NDArray[np.float64] | None,
    generator: np.random.Generator,
) -> tuple[int, int]:
    """Draw where a window of an image begins, as (y, x)."""
    origin = []
    for axis, (length, part) in enumerate(zip(resized, tile, strict=True)):
        least, most = sorted((0, length - part))
        if box is not None:
            low, high = float(box[1 - axis]), float(box[3 - axis])
            ends = sorted((math.ceil(high - part), math.floor(low)))
            least, most = (min(max(end, least), most) for end in ends)
        origin.append(int(generator.integers(least, most + 1)))
    return origin[0], origin[1]


def _resized(image: NDArray[Any], size: tuple[int, int], *, nearest: bool) -> NDArray[Any]:
    height, width = image.shape[:2]
    if size == (height, width):
        return image
    cv2 = import_cv2()
    # Down to half the size, linear interpolation looks at every pixel, at a fraction of the cost.
    strong = size[0] * size[1] < height * width / 4
    method = cv2.INTER_AREA if strong else cv2.INTER_LINEAR
    # The exact one takes the middles of pixels, as linear interpolation does: masks stay in step.
    method = cv2.INTER_NEAREST_EXACT if nearest else method
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method))


def _cut(picture: NDArray[Any], window: Window, fill: NDArray[np.int64]) -> NDArray[Any]:
    """Show a window of a picture [H, W, C], around which there is a colour [C]."""
    (top, left), (tall, wide) = window.origin, window.size
    height, width = picture.shape[:2]
    rows = slice(max(top, 0), min(top + tall, height))
    columns = slice(max(left, 0), min(left + wide, width))
    inside = picture[rows, columns]
    if inside.shape[:2] == window.size:
        return inside
    shown = np.empty((tall, wide, picture.shape[2]), picture.dtype)
    shown[...] = fill.astype(picture.dtype)
    shown[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = inside
    return shown
