"""A tiny data set whose classes a small network can learn: shapes in strong colours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from detbalance.data import Annotations, load_annotations
from detbalance.data.images import import_cv2

SIDE = 96


def paint(pixels, label, box, random):
    """A disc for class 1, a cross for class 2, stripes for class 3, in strong colours."""
    x, y, w, h = box
    rows, columns = np.mgrid[0:h, 0:w] / np.array([h, w])[:, None, None] - 0.5
    inside = (
        rows**2 + columns**2 < 0.2,
        (abs(rows) < 0.15) | (abs(columns) < 0.15),
        (columns * 8 % 2) < 1,
    )[label - 1]
    color = np.array([(220, 30, 30), (30, 220, 30), (30, 30, 220)][label - 1])
    pixels[y : y + h, x : x + w][inside] = np.clip(color + random.integers(-25, 26, 3), 0, 255)


def write_set(
    folder: Path, counts=(24, 24, 4), *, bi_level: bool = False, names=("disc", "cross", "stripes")
) -> Annotations:
    """Write images with up to four objects each, and their COCO file."""
    cv2 = import_cv2()
    random = np.random.default_rng(5)
    labels = random.permutation(np.repeat(np.arange(1, len(counts) + 1), counts))
    images, annotations = [], []
    for start in range(0, len(labels), 3):
        number = start // 3
        pixels = random.integers(100, 140, (SIDE, SIDE, 3)).astype(np.uint8)
        for place, label in enumerate(labels[start : start + 3].tolist()):
            w, h = (int(v) for v in random.integers(16, 25, 2))
            x, y = 12 + 48 * (place % 2), 12 + 48 * (place // 2)
            paint(pixels, label, (x, y, w, h), random)
            annotations.append(
                {"id": 1000 + len(annotations), "image_id": number, "category_id": label,
                 "bbox": [x, y, w, h]}
            )  # fmt: skip
        if bi_level:
            grey = pixels.max(axis=2, keepdims=True) > 160
            pixels = np.repeat(np.where(grey, 255, 0), 3, axis=2).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), pixels[:, :, ::-1])
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(names)]
    path = folder / "train.json"
    document = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(document))
    return load_annotations(path)
