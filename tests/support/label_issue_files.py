"""Folders of `detbalance label-issues` made by hand, with painted images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from detbalance.reporting.label_issues import FORMAT

COLORS = {1: (220, 30, 30), 2: (30, 200, 30), 3: (30, 60, 220), 4: (230, 200, 20)}


def suspect(
    number: int, name: str, suspicion: float, likely: str | None = "iron", **other: Any
) -> dict[str, Any]:
    """An entry of label_issues.json; boxes 1 to 4 are those of `painted`."""
    corner = 20 + 100 * ((number - 1) % 4)
    entry = {
        "annotation_id": number,
        "file_name": "a.png",
        "class": name,
        "looks_like": likely,
        "suspicion": suspicion,
        "bbox": [corner, 50, 30, 20],
    }
    return entry | other


def written(
    folder: Path,
    label_issues: Any,
    *,
    without: str | None = None,
    **other: Any,
) -> Path:
    """A folder with label_issues.json, and the images in images/."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "format": FORMAT,
        "annotations": "data/train.json",
        "images": str(folder / "images"),
        "judge": "combined",
        "boxes_judged": 0,
        "boxes_not_judged": 3,
        "classes_with_too_few_boxes": ["tin"],
        "label_issues": label_issues,
        "novel_images": [],
        **other,
    }
    document.pop(without, None)
    (folder / "label_issues.json").write_text(json.dumps(document))
    return folder


def painted(folder: Path, name: str = "a.png") -> None:
    """An image with a box of each colour."""
    import cv2

    pixels = np.full((200, 420, 3), 128, np.uint8)
    for number, color in COLORS.items():
        left = 20 + 100 * (number - 1)
        pixels[50:70, left : left + 30] = color
    (folder / "images").mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "images" / name), pixels[..., ::-1])
