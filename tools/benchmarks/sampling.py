"""Repeat factors and epoch indices: this package against loops over dicts, as ratios; 10M images.

The loops are written the way the frameworks do it, a list of dicts per image, one image after the
other: as detectron2 with rounding anew in every epoch, as mmdetection with rounding up once and the
data set's own class lists. The run with 10M images is a process of its own, for its peak of memory.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detbalance.sampling import RepeatFactorSampler, repeat_factors

# images, classes, boxes, threshold
PEERS = ("detectron2", "mmdetection")
SCALES = {"COCO": (118_000, 80, 860_000, 0.03), "LVIS": (100_000, 1203, 1_270_000, 0.001)}


LARGE = (10_000_000, 80, 20_000_000, 0.03)


def main() -> dict[str, dict[str, float]]:
    """Measure both scales and the large set, print a table and give its figures.

    Returns:
        For each scale milliseconds and ratios by the name of the column; for "large" seconds and
        GB.
    """
    figures = {name: measure(*scale) for name, scale in SCALES.items()}
    columns = list(next(iter(figures.values())))
    width = max(map(len, columns))
    print(f"{'':{width}}" + "".join(f"{name:>10}" for name in figures))
    for column in columns:
        cells = (f"{row[column]:10.1f}" for row in figures.values())
        print(f"{column:{width}}" + "".join(cells))
    own = subprocess.run(
        [sys.executable, __file__, "large"], check=True, capture_output=True, text=True
    )
    figures["large"] = json.loads(own.stdout)
    print(f"{LARGE[0]:,} images: {figures['large']}")
    return figures


def large() -> dict[str, float]:
    """Factors and an epoch of 10M images: seconds, and GB above the boxes themselves."""
    num_images, num_classes, boxes, threshold = LARGE
    generator = np.random.default_rng(0)
    image_index = np.repeat(np.arange(num_images, dtype=np.int32), boxes // num_images)
    labels = (1 + np.minimum(generator.pareto(1.0, boxes), num_classes - 1)).astype(np.uint16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # What making the boxes took is freed by now, but stays the peak: count from what is held.
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e9
    start = time.perf_counter()
    factors = repeat_factors(
        image_index=image_index, labels=labels, num_images=num_images, threshold=threshold
    )
    with_factors = time.perf_counter()
    sampler = RepeatFactorSampler(factors)
    sampler.set_epoch(1)
    with_epoch = time.perf_counter()
    peak = max(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024 / 1e9
    return {
        "factors [s]": with_factors - start,
        "sampler and epoch [s]": with_epoch - with_factors,
        "images per epoch": float(len(sampler)),
        "peak [GB]": peak - held,
    }


def table(figures: dict[str, dict[str, float]]) -> str:
    """Rows: scales. Columns: milliseconds of the loops and of this package."""
    heads = [f"{what}: {who}" for what in ("factors", "epoch") for who in (*PEERS, "detbalance")]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, (images, classes, boxes, _) in SCALES.items():
        row = figures[name]
        cells = []
        for what in ("factors", "epoch"):
            ours = row[f"{what}, detbalance [ms]"]
            for peer in PEERS:
                cells.append(
                    f"{(theirs := row[f'{what}, {peer} [ms]']):.0f} ms ({theirs / ours:.0f}x)"
                )
            cells.append(f"{ours:.1f} ms")
        size = f"{name}: {images:,} images, {boxes:,} boxes, {classes:,} classes"
        lines.append(f"| {size} | {' | '.join(cells)} |")
    row = figures["large"]
    lines.append(
        f"| {LARGE[0]:,} images, {LARGE[2]:,} boxes; {row['peak [GB]']:.2f} GB at the peak | "
        + " | ".join(["-"] * len(PEERS) + [f"{row['factors [s]']:.1f} s"])
        + " | "
        + " | ".join(["-"] * len(PEERS) + [f"{row['sampler and epoch [s]']:.1f} s"])
        + " |"
    )
    return "\n".join(lines)


def measure(num_images: int, num_classes: int, boxes: int, threshold: float) -> dict[str, float]:
    """Time one scale; all ways must agree before their times count."""
    image_index, labels = make_boxes(num_images, num_classes, boxes)
    records = as_records(image_index, labels, num_images)
    arrays = {"image_index": image_index, "labels": labels, "num_images": num_images}

    by_loop, loop_ms = timed(lambda: factors_by_loop(records, threshold), 3)
    by_lists, lists_ms = timed(lambda: factors_by_lists(records, threshold), 3)
    factors, ours_ms = timed(lambda: repeat_factors(**arrays, threshold=threshold), 10)
    assert (factors.astype(np.float32) == by_loop.numpy()).all()
    np.testing.assert_allclose(factors, by_lists)
    length = float(factors.sum())
    _, solve_ms = timed(lambda: repeat_factors(**arrays, target_length=length), 10)

    generator = torch.Generator().manual_seed(0)
    _, loop_epoch_ms = timed(lambda: epoch_by_loop(by_loop, generator), 3)
    numbers = np.random.default_rng(0)
    _, lists_epoch_ms = timed(lambda: epoch_rounded_up(by_lists, numbers), 3)
    sampler = RepeatFactorSampler(factors)
    epochs = iter(range(1, 100))
    _, epoch_ms = timed(lambda: sampler.set_epoch(next(epochs)), 10)
    return {
        "factors, detectron2 [ms]": loop_ms,
        "factors, mmdetection [ms]": lists_ms,
        "factors, detbalance [ms]": ours_ms,
        "factors for an epoch length [ms]": solve_ms,
        "epoch, detectron2 [ms]": loop_epoch_ms,
        "epoch, mmdetection [ms]": lists_epoch_ms,
        "epoch, detbalance [ms]": epoch_ms,
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


def factors_by_lists(records: list[dict[str, Any]], threshold: float) -> list[float]:
    """Ask for the class list of each image, twice, and keep all in Python."""
    image_counts: dict[int, int] = {}
    for record in records:
        for label in {box["category_id"] for box in record["annotations"]}:
            image_counts[label] = image_counts.get(label, 0) + 1
    by_class = {
        label: max(1.0, math.sqrt(threshold / (count / len(records))))
        for label, count in image_counts.items()
    }
    factors = []
    for record in records:
        held = {box["category_id"] for box in record["annotations"]}
        factors.append(max({by_class[label] for label in held}) if held else 1.0)
    return factors


def epoch_rounded_up(factors: list[float], generator: np.random.Generator) -> Any:
    """Round each factor up, list the copies, shuffle."""
    indices: list[int] = []
    for image, factor in enumerate(factors):
        indices.extend([image] * math.ceil(factor))
    return np.array(indices)[generator.permutation(len(indices))]


def timed(function: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """The result, and the shortest of several times in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(1000 * (time.perf_counter() - start))
    return result, min(times)


if __name__ == "__main__":
    if sys.argv[1:] == ["large"]:
        print(json.dumps(large()))
    else:
        main()
