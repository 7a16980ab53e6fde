"""How a scene looks: scans enlarged to glyphs, textures, and shapes that are no digits.

Whole-number arithmetic wherever pixels are computed here: the same scenes on every machine.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

SIDE = 128  # of a scene, in pixels
_SIZES = (20, 48)  # longer side of a digit in pixels
_GAP = 3  # pixels that stay free around every digit

Box: TypeAlias = tuple[int, int, int, int]  # x, y, width, height in pixels


def draw_glyph(scan: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Enlarge and tilt a scan; returns opacity, uint8 [h, w], cut tightly around the ink."""
    from PIL import Image

    size = int(generator.integers(_SIZES[0], _SIZES[1] + 1))
    angle = int(generator.integers(-12, 13))
    padded = np.pad(scan, 2)  # room for the interpolation and for tilted corners
    # Larger than in the end: tilting at low resolution would fray the strokes.
    big = Image.fromarray(padded).resize((2 * size, 2 * size), Image.Resampling.BICUBIC)
    big = big.rotate(angle, Image.Resampling.BILINEAR)
    ink = _cut_to_ink(_sharpen(np.asarray(big)))
    return _cut_to_ink(_resize(ink, size / max(ink.shape)))


def _resize(opacity: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    from PIL import Image

    height, width = (max(2, round(side * factor)) for side in opacity.shape)
    return np.asarray(Image.fromarray(opacity).resize((width, height), Image.Resampling.BOX))


def _sharpen(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn blurred grey levels into strokes with an edge about two pixels wide."""
    return np.clip((values.astype(np.int32) - 105) * 3, 0, 255).astype(np.uint8)


def _cut_to_ink(opacity: NDArray[np.uint8]) -> NDArray[np.uint8]:
    visible = opacity >= 64
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    return opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def draw_scene(
    glyphs: list[NDArray[np.uint8]], generator: np.random.Generator
) -> tuple[NDArray[np.uint8], list[Box]]:
    """Draw glyphs among distractors on a texture; returns uint8 [H, W, 3] and xywh boxes."""
    scene = _draw_texture(generator)
    boxes: dict[int, Box] = {}
    # The largest first: the small ones still find room between them.
    for n in sorted(range(len(glyphs)), key=lambda n: -glyphs[n].size):
        glyph = glyphs[n]
        while (place := _find_place(glyph, list(boxes.values()), generator)) is None:
            glyph = _cut_to_ink(_resize(glyph, 0.8))
        _paint(scene, glyph, place, generator)
        boxes[n] = (*place, glyph.shape[1], glyph.shape[0])
    for _ in range(int(generator.integers(4, 9))):
        shape = _draw_distractor(generator)
        place = _find_place(shape, list(boxes.values()), generator)
        if place is not None:
            _paint(scene, shape, place, generator)
    return scene, [boxes[n] for n in range(len(glyphs))]


def _draw_texture(generator: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a background of two scales of smooth colour noise and fine grain."""
    from PIL import Image

    tint = generator.integers(60, 196) + generator.integers(-25, 26, size=3)
    scene: NDArray[np.int32] = np.zeros((SIDE, SIDE, 3), np.int32)
    scene += tint.astype(np.int32)
    for cells, strength in (
        (int(generator.integers(3, 7)), 40),
        (int(generator.integers(12, 33)), 20),
    ):
        grey = generator.integers(0, 256, size=(cells, cells, 1))
        noise = (3 * grey + generator.integers(0, 256, size=(cells, cells, 3))) // 4
        smooth = Image.fromarray(noise.astype(np.uint8)).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
        scene += (np.asarray(smooth).astype(np.int32) - 128) * strength // 128
    scene += generator.integers(-5, 6, size=(SIDE, SIDE, 1))
    return np.clip(scene, 0, 255).astype(np.uint8)


def _draw_distractor(generator: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a stroke, a blob or an outline; returns opacity, uint8 [h, w]."""
    from PIL import Image, ImageDraw

    size = int(generator.integers(16, 49))
    # Drawn at four times the size: then its edges are as soft as those of the digits.
    canvas = Image.new("L", (4 * size, 4 * size))
    draw = ImageDraw.Draw(canvas)
    corners = [(int(x), int(y)) for x, y in generator.integers(8, 4 * size - 8, size=(4, 2))]
    (left, right), (top, bottom) = (sorted(axis) for axis in zip(*corners[:2], strict=True))
    box = (left, top, right + 16, bottom + 16)
    width = int(generator.integers(8, 17))
    kind = int(generator.integers(0, 6))
    if kind == 0:
        draw.line(corners[:2], fill=255, width=width)
    elif kind == 1:
        draw.line(corners, fill=255, width=width, joint="curve")
    elif kind == 2:
        draw.ellipse(box, fill=255)
    elif kind == 3:
        draw.rectangle(box, outline=255, width=width)
    elif kind == 4:
        draw.polygon(corners[:3], outline=255, width=width)
    else:
        start = int(generator.integers(0, 360))
        draw.arc(box, start, start + int(generator.integers(60, 150)), fill=255, width=width)
    return np.asarray(canvas.reduce(4))


def _find_place(
    shape: NDArray[np.uint8], boxes: list[Box], generator: np.random.Generator
) -> tuple[int, int] | None:
    """Find a left upper corner where `shape` stays clear of all boxes, or None."""
    height, width = shape.shape
    x = generator.integers(0, SIDE - width + 1, size=100)
    y = generator.integers(0, SIDE - height + 1, size=100)
    free = np.ones(100, np.bool_)
    for left, top, box_width, box_height in boxes:
        free &= (
            (x >= left + box_width + _GAP)
            | (x + width + _GAP <= left)
            | (y >= top + box_height + _GAP)
            | (y + height + _GAP <= top)
        )
    found = int(free.argmax())
    return (int(x[found]), int(y[found])) if free[found] else None


def _paint(
    scene: NDArray[np.uint8],
    opacity: NDArray[np.uint8],
    place: tuple[int, int],
    generator: np.random.Generator,
) -> None:
    """Blend one ink into the scene, clearly darker or lighter than what is there."""
    x, y = place
    height, width = opacity.shape
    patch = scene[y : y + height, x : x + width]
    below = int(patch.sum()) // patch.size
    contrast = int(generator.integers(60, 150))
    darker = bool(generator.random() < 0.5)
    if not 0 <= below + (-contrast if darker else contrast) <= 255:
        darker = not darker
    grey = below + (-contrast if darker else contrast)
    ink = np.clip(grey + generator.integers(-30, 31, size=3), 0, 255)
    weight = opacity[:, :, None].astype(np.int32)
    patch[...] = (patch * (255 - weight) + ink * weight + 127) // 255
