"""Augmentation of rare classes on the digits: crops, policies, paste, generated donors, mosaic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _augmentation_methods import generated, methods
from _compared_runs import compared, table

from detbalance.data.digits import make_digits

__all__ = ["main", "table"]

CONFIG = "configs/digits.yaml"
ITERATIONS = 450
FOLDER = Path("runs/benchmarks/digits_augmentation")
# Digits have a right way up and no mirror image.
POLICY = "augmentation.policy={preset: natural, horizontal_flip: 0}"


def main() -> dict[str, Any]:
    """Train all that is missing, and compare each method with repeat factors."""
    data = FOLDER / "data"
    make_digits(data, seed=0)
    # Six donors of a rare class are fewer than a network should learn from: asked for all the same.
    donors = generated(
        FOLDER / "generated",
        data / "train.json",
        data / "train",
        "--min-donors",
        "5",
        "--iterations",
        "2000",
    )
    return compared(
        FOLDER,
        CONFIG,
        methods(POLICY, donors),
        ITERATIONS,
        reference="repeat factors",
        common=(f"data.root={data}",),
    )
