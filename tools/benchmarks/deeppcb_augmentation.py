"""Augmentation of rare classes on circuit boards, whose val split is balanced and large.

A tiny RetinaNet from scratch at 320 pixels, so that two cores do it. `DETBALANCE_DATA` must be set.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from _augmentation_methods import generated, methods
from _compared_runs import compared, table

__all__ = ["main", "table"]

CONFIG = "configs/deeppcb_lt.yaml"
ITERATIONS = 450
FOLDER = Path("runs/benchmarks/deeppcb_augmentation")
COMMON = (
    "model={detector: retinanet, backbone: tiny, weights: none, min_size: 320, max_size: 320,"
    " anchor_sizes: [[10, 13, 17], [22, 28, 40]], anchor_ratios: [1.0]}",
    "train.learning_rate=0.003",
)
POLICY = "augmentation.policy={preset: industrial_binary}"


def main() -> dict[str, Any]:
    """Train all that is missing, and compare each method with repeat factors."""
    data = Path(os.environ["DETBALANCE_DATA"]) / "deeppcb_lt"
    donors = generated(
        FOLDER / "generated",
        data / "train.json",
        data / "images",
        "--symmetry",
        "square",
        "--iterations",
        "2500",
    )
    return compared(
        FOLDER,
        CONFIG,
        methods(POLICY, donors),
        ITERATIONS,
        reference="repeat factors",
        common=COMMON,
    )
