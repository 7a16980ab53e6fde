"""Small data sets for plans: a list of the classes of each image becomes a COCO file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detbalance.data import Annotations, load_annotations

Images = Sequence[Sequence[str]]


def coco(images: Images, names: Sequence[str] = (), *, side: float = 20, prefix: str = "") -> Any:
    """A COCO document with one square box of `side` pixels per entry; further `names` are empty."""
    known = list(dict.fromkeys([*(name for image in images for name in image), *names]))
    pairs = [(i, name) for i, image in enumerate(images) for name in image]
    return {
        "images": [
            {"id": i + 1, "file_name": f"{prefix}{i}.png", "width": 640, "height": 640}
            for i in range(len(images))
        ],
        "categories": [{"id": 3 * i + 1, "name": name} for i, name in enumerate(known)],
        "annotations": [
            {
                "id": n + 1,
                "image_id": i + 1,
                "category_id": 3 * known.index(name) + 1,
                "bbox": [10, 10, side, side],
                "area": side * side,
            }
            for n, (i, name) in enumerate(pairs)
        ],
    }


def write(path: Path, document: Any) -> Path:
    """Write a document as JSON."""
    path.write_text(json.dumps(document))
    return path


def load(path: Path, document: Any) -> Annotations:
    """Write a document and read it as a plan does."""
    return load_annotations(write(path, document), drop_invalid=True)


def long_tail(rare: int = 6, common: int = 60, frequent: int = 300) -> list[list[str]]:
    """Three classes of very different size; half of the rare images show the frequent class too."""
    images = [["snow"] if i % 2 else ["snow", "road"] for i in range(rare)]
    images += [["stop"] for _ in range(common)]
    return images + [["road"] for _ in range(frequent)]
