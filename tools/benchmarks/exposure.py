"""Most shown over least shown class, by method, at equal length of the epoch.

Boxes of a class that an epoch shows, with all boxes of the drawn images. max / min does not change
when all factors are multiplied by one number: a method whose factors cannot sum to the length by
its own threshold is set to its strongest and scaled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from detbalance.data import load_annotations
from detbalance.sampling import (
    ImageLabels,
    class_aware_factors,
    class_exposure,
    exponential_factors,
    exposure_ratio,
    instance_aware_factors,
    oversampling_factors,
    repeat_factors,
)
from detbalance.sampling.balanced_exposure import balanced_exposure_factors

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
LENGTH = 1.5
Row = dict[str, Any]


def main() -> dict[str, Row]:
    """Measure every set that is there, print a line a method and give the figures.

    Returns:
        For each set its size, max / min and largest factor and processor time by method.
    """
    files = sorted(SHARED.glob("*/train.json"))
    if not files:
        print(f"no data sets in {SHARED}: the made one only")
    figures = {path.parent.name: measure(path.parent.name, loaded(path)) for path in files}
    return figures | {"LVIS-like": measure("LVIS-like", lvis_like())}


def loaded(path: Path) -> ImageLabels:
    """The labels of a COCO file."""
    return ImageLabels(load_annotations(path))


def measure(name: str, held: ImageLabels) -> Row:
    """All methods on one set."""
    length = LENGTH * len(held)
    irfs_cap = float(at_length(instance_aware_factors, held, length).max())
    repeated_cap = float(scaled(oversampling_factors(held), length).max())
    methods: dict[str, Callable[[], Any]] = {
        "as it is": lambda: np.full(len(held), LENGTH),
        "RFS": lambda: at_length(repeat_factors, held, length),
        "IRFS": lambda: at_length(instance_aware_factors, held, length),
        "E-IRFS": lambda: at_length(exponential_factors, held, length),
        "class-aware": lambda: class_aware_factors(held, target_length=length),
        "over-sampling": lambda: scaled(oversampling_factors(held), length),
        "balanced_exposure, IRFS's cap, floor 1": lambda: balanced_exposure_factors(
            held, target_length=length, cap=irfs_cap, floor=1.0
        ),
        "balanced_exposure, IRFS's cap": lambda: balanced_exposure_factors(
            held, target_length=length, cap=irfs_cap
        ),
        "balanced_exposure, over-sampling's cap": lambda: balanced_exposure_factors(
            held, target_length=length, cap=repeated_cap
        ),
        "balanced_exposure": lambda: balanced_exposure_factors(held, target_length=length),
    }
    row: Row = {
        "images": len(held),
        "boxes": len(held.labels),
        "classes": int(np.count_nonzero(held.instance_counts)),
        "methods": {},
    }
    print(f"{name}: {row['images']:,} images, {row['boxes']:,} boxes, {row['classes']:,} classes")
    for method, make in methods.items():
        start = time.process_time()
        factors = make()
        seconds = time.process_time() - start
        assert abs(factors.sum() / length - 1.0) < 1e-6, (method, factors.sum(), length)
        row["methods"][method] = {
            "max / min": round(exposure_ratio(class_exposure(held, factors)), 4),
            "largest factor": round(float(factors.max()), 3),
            "seconds": round(seconds, 3),
        }
        print(f"  {method:27}" + "".join(f"{x:12,.2f}" for x in row["methods"][method].values()))
    return row


def table(figures: dict[str, Row]) -> str:
    """Rows: methods. Columns: sets, max / min and in brackets the largest factor."""
    names = list(figures)
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for method in figures[names[0]]["methods"]:
        found = [figures[name]["methods"][method] for name in names]
        cells = [f"{short(x['max / min'])} ({short(x['largest factor'])}x)" for x in found]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    seconds = [
        f"{figures[name]['methods']['balanced_exposure']['seconds']:.2g} s" for name in names
    ]
    lines.append(f"| processor time of balanced_exposure | {' | '.join(seconds)} |")
    return "\n".join(lines)


def short(number: float) -> str:
    """Three digits."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def at_length(function: Callable[..., Any], held: ImageLabels, length: float) -> Any:
    """Factors by a threshold that gives the length; the strongest, scaled, where none does."""
    try:
        return function(held, target_length=length)
    except ValueError:
        return scaled(function(held, threshold=1.0), length)


def scaled(factors: Any, length: float) -> Any:
    """The same factors in proportion, with another sum."""
    return factors * (length / factors.sum())


def lvis_like(
    num_images: int = 100_000, num_classes: int = 1203, boxes: int = 1_270_000
) -> ImageLabels:
    """Images of scenes: head classes nearly everywhere, the last 28% of the classes in 1 to 10.

    Each image belongs to one of 40 scenes, and so does each class: four fifths of the images of a
    class are of its scene, unless it is too frequent for that.
    """
    generator = np.random.default_rng(0)
    rank = np.arange(1, num_classes + 1)
    image_counts = np.maximum(0.7 * num_images * rank**-1.1, 1).astype(np.int64)
    tail = round(0.28 * num_classes)
    image_counts[-tail:] = np.minimum(image_counts[-tail:], np.linspace(10, 1, tail))
    scene_of_image = generator.integers(0, 40, num_images)
    scene_of_class = generator.integers(0, 40, num_classes)
    images, labels = [], []
    for label, (count, scene) in enumerate(zip(image_counts, scene_of_class, strict=True), 1):
        home = np.flatnonzero(scene_of_image == scene)
        at_home = min(round(0.8 * count), len(home)) if count < num_images / 10 else 0
        shown = np.union1d(
            generator.choice(home, at_home, replace=False),
            generator.choice(num_images, count - at_home, replace=False),
        )
        images.append(shown)
        labels.append(np.full(len(shown), label))
    image_index, label_of = np.concatenate(images), np.concatenate(labels)
    # Further boxes go to the pairs of an image and a class, more to those of frequent classes.
    weights = 1.0 / np.sqrt(label_of)
    repeats = 1 + generator.multinomial(boxes - len(label_of), weights / weights.sum())
    return ImageLabels(
        image_index=np.repeat(image_index, repeats),
        labels=np.repeat(label_of, repeats),
        num_images=num_images,
    )


if __name__ == "__main__":
    main()
