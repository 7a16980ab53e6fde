"""What augmentations cost in a loader, and what a bank of donors costs to have.

JPEG files of 640 x 480 with 8 boxes, one process, one thread; an image read, decoded, augmented as
by default (`StandardAugmentation`) and turned into a tensor is 100 %. The peer for mosaics is
albumentations', which gets the same four images.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

IMAGES, BOXES, CLASSES = 64, 8, 6
WIDTH, HEIGHT = 640, 480
ROUNDS = 7
LARGE = (100_000, 860_000, 80)


def main() -> dict[str, Any]:
    """Measure the loader with each augmentation and the banks, print and return the figures."""
    with tempfile.TemporaryDirectory() as folder:
        loader = measure_loader(Path(folder))
    own = subprocess.run(
        [sys.executable, __file__, "bank"], check=True, capture_output=True, text=True
    )
    figures = {"loader": loader, "bank": json.loads(own.stdout)}
    print(table(figures))
    return figures


def measure_loader(folder: Path) -> dict[str, dict[str, float]]:
    """Milliseconds of processor an image, and those over the standard pipeline's: medians."""
    import cv2

    from detbalance.augmentation import (
        Compose,
        DonorBank,
        GroupPolicy,
        Mixup,
        Mosaic,
        RareCrop,
        RarePaste,
        StandardAugmentation,
    )
    from detbalance.data import load_annotations
    from detbalance.detection.dataset import DetectionDataset, Draw

    cv2.setNumThreads(1)
    train = load_annotations(write_data(folder))
    raw = DetectionDataset(train, folder)
    factors = np.ones(train.num_images)
    bank = DonorBank(train, folder)
    for donor in range(len(bank)):  # as after the first epochs
        bank.crop(donor)
    packed_file = folder / "donors.safetensors"
    command = [sys.executable, "tools/donors.py", "--annotations", train.source]
    command += ["--images", str(folder), "--output", str(packed_file)]
    subprocess.run(command, check=True, capture_output=True)
    packed = DonorBank(train, folder, donor_file=packed_file)
    # Only what is named differs; "always" shows the cost of one that acts on every image.
    before: dict[str, list[Any]] = {
        "standard": [],
        "paste, as by default": [RarePaste(bank)],
        "paste from a donor file": [RarePaste(packed)],
        "paste always": [RarePaste(bank, probability=1)],
        "rare crop always": [RareCrop(train, probability=1)],
        "mosaic always": [Mosaic(raw.load, factors, probability=1)],
        "mosaic of albumentations": [AlbumentationsMosaic(raw.load, train.num_images)],
        "mixup always": [Mixup(raw.load, factors, probability=1)],
    }
    parts = {name: [*steps, SameDraws(StandardAugmentation())] for name, steps in before.items()}
    parts["policy natural in its place"] = [SameDraws(GroupPolicy(train, preset="natural"))]
    datasets = {
        name: DetectionDataset(train, folder, augmentation=Compose(steps))
        for name, steps in parts.items()
    }
    datasets = {"decode only": raw, **datasets}
    times = {name: [0.0] * ROUNDS for name in datasets}
    for number in range(-1, ROUNDS):
        for index in range(train.num_images):
            # All pipelines one after the other: a slow moment hits all of them.
            for name, dataset in datasets.items():
                started = time.process_time()
                dataset[Draw(index, max(number, 0) * train.num_images + index)]
                if number >= 0:  # the first round fills caches
                    times[name][number] += time.process_time() - started
    whole = np.array(times["standard"])
    return {
        name: {
            "ms": 1000 * median(found) / train.num_images,
            "ratio": float(np.median(np.array(found) / whole)),
        }
        for name, found in times.items()
    }


class SameDraws:
    """A step whose draws do not depend on the steps before it: pipelines differ by these alone."""

    def __init__(self, step: Callable[..., Any]) -> None:
        self._step, self._calls = step, itertools.count()

    def __call__(self, image: Any, target: Any, generator: np.random.Generator) -> Any:
        """Act with the same draws at the same call in every pipeline."""
        return self._step(image, target, np.random.default_rng(next(self._calls)))


class AlbumentationsMosaic:
    """The peer's mosaic of the same images, as its documentation uses it."""

    def __init__(self, load: Callable[[int], Any], number: int) -> None:
        import albumentations

        self._load, self._number = load, number
        self._pipeline = albumentations.Compose(
            [albumentations.Mosaic(target_size=(HEIGHT, WIDTH), p=1)],
            bbox_params=albumentations.BboxParams(
                format="pascal_voc", label_fields=["rows"], min_visibility=0.3
            ),
        )

    def __call__(self, image: Any, target: Any, generator: np.random.Generator) -> Any:
        """Mix three partners in, drawn evenly."""
        partners = [self._load(int(i)) for i in generator.integers(self._number, size=3)]
        everything = [target, *(t for _, t in partners)]
        metadata, first = [], len(target["labels"])
        for pixels, other in partners:
            rows = np.arange(first, first + len(other["labels"]))
            metadata.append({"image": pixels, "bboxes": other["boxes"], "rows": rows})
            first += len(rows)
        result = self._pipeline(
            image=image,
            bboxes=target["boxes"],
            rows=np.arange(len(target["labels"])),
            mosaic_metadata=metadata,
        )
        rows = np.asarray(result["rows"], int)
        joined = {
            name: np.concatenate([t[name] for t in everything])[rows]
            for name in ("labels", "areas", "is_crowd", "pasted")
        }
        return result["image"], {
            **joined,
            "boxes": np.asarray(result["bboxes"], np.float32).reshape(-1, 4),
        }


def write_data(folder: Path) -> Path:
    """Images of smooth noise, about as large on disk as photographs, and boxes that lie apart."""
    import cv2

    generator = np.random.default_rng(0)
    images, boxes = [], []
    for index in range(IMAGES):
        noise = generator.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
        pixels = cv2.GaussianBlur(cv2.resize(noise, (WIDTH, HEIGHT)), (0, 0), 1)
        cv2.imwrite(str(folder / f"{index}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
        images.append({"id": index, "file_name": f"{index}.jpg", "width": WIDTH, "height": HEIGHT})
        for cell in generator.permutation(24)[:BOXES]:
            x, y = (int(cell) % 6) * 106 + 10, (int(cell) // 6) * 120 + 10
            side = generator.integers(24, 84, 2)
            # Class 1 is half of all boxes, each next one half of what is left.
            label = 1 + min(int(generator.geometric(0.5)) - 1, CLASSES - 1)
            boxes.append(
                {"id": len(boxes) + 1, "image_id": index, "category_id": label}
                | {"bbox": [x, y, int(side[0]), int(side[1])], "area": int(side.prod())}
                | {"iscrowd": 0}
            )
    categories = [{"id": n + 1, "name": f"class {n + 1}"} for n in range(CLASSES)]
    path = folder / "train.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return path


def bank() -> dict[str, float]:
    """Seconds and megabytes of a bank of the donors of a data set of COCO's size."""
    num_images, num_boxes, num_classes = LARGE
    generator = np.random.default_rng(0)
    weights = 1 / np.arange(1, num_classes + 1) ** 1.5
    labels = 1 + generator.choice(num_classes, num_boxes, p=weights / weights.sum())
    corners = generator.uniform(0, (560, 400), (num_boxes, 2)).round(1)
    sides = generator.uniform(10, 80, (num_boxes, 2)).round(1)
    rows = zip(
        generator.integers(0, num_images, num_boxes).tolist(),
        labels.tolist(),
        np.hstack([corners, sides]).tolist(),
        strict=True,
    )
    document = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480}
            for i in range(num_images)
        ],
        "annotations": [
            {"id": n, "image_id": image, "category_id": label, "bbox": box, "iscrowd": 0}
            | {"area": box[2] * box[3]}
            for n, (image, label, box) in enumerate(rows)
        ],
        "categories": [{"id": n + 1, "name": f"class {n + 1}"} for n in range(num_classes)],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.json"
        path.write_text(json.dumps(document))
        if not os.fork():  # a process that never held the document
            os.execv(sys.executable, [sys.executable, __file__, "bank-of", str(path)])
        os.wait()
        return json.loads((Path(folder) / "bank.json").read_text())


def bank_of(path: Path) -> None:
    """Measure a bank of a file's donors, and write the figures beside it."""
    from detbalance.augmentation import DonorBank
    from detbalance.data import load_annotations

    annotations = load_annotations(path)
    before, started = resident_megabytes(), time.perf_counter()
    donors = DonorBank(annotations, path.parent)
    figures = {
        "images": annotations.num_images,
        "boxes": annotations.num_annotations,
        "donors": len(donors),
        "seconds": time.perf_counter() - started,
        "megabytes": resident_megabytes() - before,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    (path.parent / "bank.json").write_text(json.dumps(figures))


def resident_megabytes() -> float:
    """Memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def table(figures: Mapping[str, Any]) -> str:
    """Rows: what is in the loader."""
    lines = ["| loader | ms an image | of the standard one |", "|---|---|---|"]
    for name, row in figures["loader"].items():
        lines.append(f"| {name} | {row['ms']:.1f} | {100 * row['ratio']:.0f} % |")
    found = figures["bank"]
    lines.append(
        f"| bank of {found['donors']:,} donors, {found['boxes']:,} boxes in"
        f" {found['images']:,} images | {found['seconds']:.2f} s to build |"
        f" {found['megabytes']:.0f} MB |"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1] == "bank":
        print(json.dumps(bank()))
    else:
        bank_of(Path(sys.argv[2]))
