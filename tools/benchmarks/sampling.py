"""Repeat factors and epoch indices: this package against a loop over dicts, as ratios.

The loop is written the way the usual frameworks do it: a list of dicts per image, counters, one
image after the other, independent rounding.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from detbalance.sampling import RepeatFactorSampler, repeat_factors

# images, classes, boxes, threshold
SCALES = {"COCO": (118_000, 80, 860_000, 0.03), "LVIS": (100_000, 1203, 1_270_000, 0.001)}


def main() -> dict[str, dict[str, float]]:
    """Measure both scales, print a table and give its figures.

    Returns:
        For each scale milliseconds and ratios by the name of the column.
    """
    figures = {name: measure(*scale) for name, scale in SCALES.items()}
    columns = list(next(iter(figures.values())))
    width = max(map(len, columns))
    print(f"{'':{width}}" + "".join(f"{name:>10}" for name in figures))
    for column in columns:
        cells = (f"{row[column]:10.1f}" for row in figures.values())
        print(f"{column:{width}}" + "".join(cells))
    return figures


def table(figures: dict[str, dict[str, float]]) -> str:
    """Rows: scales. Columns: milliseconds of the loop and of this package."""
    lines = ["| | repeat factors: loop | detbalance | epoch: loop | detbalance |", "|---" * 5 + "|"]
    for name, row in figures.items():
        images, classes, boxes, _ = SCALES[name]
        cells = [
            f"{row[f'{what}, loop [ms]']:.0f} ms | {row[f'{what}, detbalance [ms]']:.1f} ms"
            f" ({row[f'{what}, times faster']:.0f}x)"
            for what in ("factors", "epoch")
        ]
        size = f"{name}: {images:,} images, {boxes:,} boxes, {classes:,} classes"
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(num_images: int, num_classes: int, boxes: int, threshold: float) -> dict[str, float]:
    """Time one scale; both ways must agree before their times count."""
    image_index, labels = make_boxes(num_images, num_classes, boxes)
    records = as_records(image_index, labels, num_images)
    arrays = {"image_index": image_index, "labels": labels, "num_images": num_images}

    by_loop, loop_ms = timed(lambda: factors_by_loop(records, threshold), 3)
    factors, ours_ms = timed(lambda: repeat_factors(**arrays, threshold=threshold), 10)
    assert (factors.astype(np.float32) == by_loop.numpy()).all()
    length = float(factors.sum())
    _, solve_ms = timed(lambda: repeat_factors(**arrays, target_length=length), 10)

    generator = torch.Generator().manual_seed(0)
    _, loop_epoch_ms = timed(lambda: epoch_by_loop(by_loop, generator), 3)
    sampler = RepeatFactorSampler(factors)
    epochs = iter(range(1, 100))
    _, epoch_ms = timed(lambda: sampler.set_epoch(next(epochs)), 10)
    return {
        "factors, loop [ms]": loop_ms,
        "factors, detbalance [ms]": ours_ms,
        "factors, times faster": loop_ms / ours_ms,
        "factors for an epoch length [ms]": solve_ms,
        "epoch, loop [ms]": loop_epoch_ms,
        "epoch, detbalance [ms]": epoch_ms,
        "epoch, times faster": loop_epoch_ms / epoch_ms,
        "images per epoch": float(len(sampler)),
    }


def make_boxes(num_images: int, num_classes: int, boxes: int) -> tuple[Any, Any]:
    """Boxes of long-tailed classes, sorted by image; about 1% of the images have none."""
    generator = np.random.default_rng(0)
    share = 1.0 / np.arange(1, num_classes + 1) ** 1.2
    image_index = np.sort(generator.integers(0, int(num_images * 0.99), boxes))
    return image_index, generator.choice(num_classes, boxes, p=share / share.sum()) + 1


def as_records(image_index: Any, labels: Any, num_images: int) -> list[dict[str, Any]]:
    """The same boxes as a data set of the usual frameworks."""
    records: list[dict[str, Any]] = [{"annotations": []} for _ in range(num_images)]
    for image, label in zip(image_index.tolist(), labels.tolist(), strict=True):
        records[image]["annotations"].append({"category_id": label, "iscrowd": 0})
    return records


def factors_by_loop(records: list[dict[str, Any]], threshold: float) -> torch.Tensor:
    """Count the images of each class, then take each image's largest factor."""
    image_counts: Counter[int] = Counter()
    for record in records:
        image_counts.update({box["category_id"] for box in record["annotations"]})
    by_class = {
        label: max(1.0, math.sqrt(threshold / (count / len(records))))
        for label, count in image_counts.items()
    }
    factors = []
    for record in records:
        held = {box["category_id"] for box in record["annotations"]}
        factors.append(max((by_class[label] for label in held), default=1.0))
    return torch.tensor(factors, dtype=torch.float32)


def epoch_by_loop(factors: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Round each factor by itself, list the copies, shuffle."""
    whole = torch.trunc(factors)
    copies = whole + (torch.rand(len(factors), generator=generator) < factors - whole).float()
    indices: list[int] = []
    for image, count in enumerate(copies):
        indices.extend([image] * int(count.item()))
    stream = torch.tensor(indices, dtype=torch.int64)
    return stream[torch.randperm(len(stream), generator=generator)]


def timed(function: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """The result, and the shortest of several times in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(1000 * (time.perf_counter() - start))
    return result, min(times)


if __name__ == "__main__":
    main()
