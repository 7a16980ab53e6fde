"""Scenes whose objects have colours of their own, so that pixels tell whose they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from detbalance.augmentation.transform import PER_IMAGE

COLORS = np.array(
    [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)]
)
BACKGROUND = 120


def painted_scene(
    generator: np.random.Generator,
    number: int,
    *,
    height: int = 60,
    width: int = 80,
    dtype: Any = np.uint8,
    largest: float = 0.6,
    crowd: bool = True,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Rectangles of one pixel up to the whole image, the later ones above; masks are the boxes.

    Row i has colour i and `origin` i; now and then the first one is a crowd region.
    """
    size = np.ceil(generator.uniform(0, largest, (number, 2)) ** 2 * (width, height)).astype(int)
    low = np.floor(generator.uniform(size=(number, 2)) * ((width, height) - size + 1)).astype(int)
    boxes = np.concatenate([low, low + size], axis=1)
    scale = np.iinfo(dtype).max // 255
    image = np.full((height, width, 3), BACKGROUND * scale, dtype)
    masks = np.zeros((number, height, width), bool)
    for row, (left, top, right, bottom) in enumerate(boxes):
        image[top:bottom, left:right] = COLORS[row] * scale
        masks[row, top:bottom, left:right] = True
    is_crowd = np.zeros(number, bool)
    is_crowd[:1] = crowd and generator.random() < 0.3
    return image, {
        "boxes": boxes.astype(np.float32),
        "labels": generator.integers(1, 4, number),
        "areas": size.prod(axis=1).astype(np.float64),
        "is_crowd": is_crowd,
        "masks": masks,
        "origin": np.arange(number),
        "pastes": np.zeros((1, 2), np.int64),
    }


def bilevel_scene(
    generator: np.random.Generator, number: int, dtype: Any = np.uint8
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    image, target = painted_scene(generator, number)
    top = np.iinfo(dtype).max
    level = np.where(image.max(axis=2, keepdims=True) == 255, 0, top)
    return np.repeat(level, 3, axis=2).astype(dtype), target


def assert_in_step(
    image: np.ndarray, target: dict[str, np.ndarray], old: dict[str, np.ndarray]
) -> None:
    """One row per box in every array, types kept, rows those of the objects, boxes inside."""
    boxes = target["boxes"]
    height, width = image.shape[:2]
    assert target.keys() == old.keys()
    for name, values in target.items():
        assert values.dtype == old[name].dtype, name
        assert len(values) == len(old[name] if name in PER_IMAGE else boxes), name
    assert target["masks"].shape[1:] == (height, width)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (width, height)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    for name in ("labels", "is_crowd"):
        assert np.array_equal(target[name], old[name][target["origin"]])
    assert (target["areas"] > 0).all()


def assert_labelled(image: np.ndarray, target: dict[str, np.ndarray], number: int) -> None:
    """Each object's pixels lie in its own box; those of dropped ones in boxes that were kept."""
    scale = np.iinfo(image.dtype).max // 255
    boxes = target["boxes"]
    for row in range(number):
        distance = np.abs(image / scale - COLORS[row]).max(axis=2)
        y, x = np.nonzero(distance < 60)
        own = target["origin"] == row
        allowed = boxes[own] if own.any() else boxes
        inside = (
            (x[:, None] >= allowed[:, 0] - 1)
            & (y[:, None] >= allowed[:, 1] - 1)
            & (x[:, None] + 1 <= allowed[:, 2] + 1)
            & (y[:, None] + 1 <= allowed[:, 3] + 1)
        )
        assert inside.any(axis=1).all(), f"object {row} ({'kept' if own.any() else 'dropped'})"


def mask_bounds(masks: np.ndarray) -> np.ndarray:
    """Boxes around masks with pixels, float [N, 4]."""
    bounds = []
    for mask in masks:
        y, x = np.nonzero(mask)
        bounds.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return np.array(bounds, float).reshape(-1, 4)
