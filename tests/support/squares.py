"""Noise with coloured squares: a data set on which a detector trains in a second or two."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

COLOURS = {1: (220, 40, 40), 2: (40, 200, 60)}


def make_data(root: Path, *, images: int = 10, names: tuple[str, ...] = ("red", "green")) -> Path:
    """Grey noise with one coloured square an image; class 2 on every fifth image."""
    draw = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    records, annotations = [], []
    for i in range(images):
        pixels = draw.integers(90, 130, (64, 64, 3), dtype=np.uint8)
        x, y = (int(v) for v in draw.integers(2, 40, 2))
        category = 2 if i % 5 == 4 else 1
        pixels[y : y + 20, x : x + 20] = COLOURS[category]
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
        records.append({"id": i + 1, "file_name": f"{i}.png", "width": 64, "height": 64})
        box = {"bbox": [x, y, 20, 20], "area": 400, "iscrowd": 0}
        annotations.append({"id": i + 1, "image_id": i + 1, "category_id": category, **box})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    text = json.dumps({"images": records, "annotations": annotations, "categories": categories})
    (root / "train.json").write_text(text)
    return root


def write_config(data: Path, folder: Path) -> Path:
    """Write a configuration of a run on that data, of a second or two, into `folder`."""
    raw = {
        "output": str(folder / "run"),
        "data": {
            "root": str(data),
            "train": "train.json",
            "train_images": "images",
            "val": "train.json",
            "val_images": "images",
        },
        "model": {
            "backbone": "tiny",
            "weights": "none",
            "min_size": 64,
            "max_size": 64,
            "fpn_channels": 32,
            "head_convs": 1,
            "head_norm": "group",
        },
        "loss": {"name": "focal"},
        "sampling": {"method": "repeat_factor", "threshold": 0.9},
        "augmentation": {
            "paste": {"probability": 0.5},
            "standard": {"horizontal_flip": 0.5, "color": 0.2},
        },
        "train": {
            "iterations": 6,
            "batch_size": 4,
            "warmup": 2,
            "workers": 0,
            "log_every": 1,
            "checkpoint_every": 2,
        },
    }
    path = folder / "squares.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path
