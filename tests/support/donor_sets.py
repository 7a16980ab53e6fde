"""Small data sets on disk to take donors from."""

from __future__ import annotations

import json

import cv2
import numpy as np

from detbalance.data import load_annotations

SIDE = 80


def write(
    folder,
    boxes,
    *,
    num_images=None,
    names=("a", "b", "c"),
    side=SIDE,
    sizes=True,
    segmentations=(),
    depth=np.uint8,
):
    """Write images of noise and a COCO file; boxes are (image, label, xywh, crowd)."""
    generator = np.random.default_rng(11)
    num_images = num_images or max(image for image, *_ in boxes) + 1
    images = []
    for index in range(num_images):
        highest = np.iinfo(depth).max + 1
        pixels = generator.integers(0, highest, size=(side, side, 3), dtype=depth)
        cv2.imwrite(str(folder / f"{index}.png"), pixels)
        images.append({"id": index, "file_name": f"{index}.png"})
        if sizes:
            images[-1] |= {"width": side, "height": side}
    annotations = [
        {"id": n + 1, "image_id": image, "category_id": label, "bbox": list(bbox),
         "area": 0.5 * bbox[2] * bbox[3], "iscrowd": int(crowd)}
        for n, (image, label, bbox, crowd) in enumerate(boxes)
    ]  # fmt: skip
    for annotation, segmentation in zip(annotations, segmentations, strict=False):
        annotation["segmentation"] = segmentation
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(names)]
    path = folder / "train.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return load_annotations(path, segmentations=bool(segmentations))


def pixels_of(folder, index):
    return cv2.cvtColor(cv2.imread(str(folder / f"{index}.png")), cv2.COLOR_BGR2RGB)


def empty_target(number=0):
    return {
        "boxes": np.zeros((number, 4), np.float32),
        "labels": np.zeros(number, np.int64),
        "areas": np.zeros(number),
        "is_crowd": np.zeros(number, bool),
    }
