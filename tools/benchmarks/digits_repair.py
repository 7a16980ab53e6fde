"""A trained detector repaired in minutes, on the digits: beside it as it was, and retraining.

Three plain detectors of `digits_augmentation`, each repaired by every method.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _compared_runs import SEEDS
from _repairs import Case, Repairs, table
from digits_augmentation import CONFIG, ITERATIONS
from digits_augmentation import FOLDER as TRAINED

from detbalance.data.digits import make_digits

__all__ = ["main", "table"]

DATA = TRAINED / "data"
CASE = Case(
    config=CONFIG,
    common=(f"data.root={DATA}",),
    iterations=ITERATIONS,
    folder=Path("runs/benchmarks/digits_repair"),
    trained=TRAINED,
    seeds=SEEDS,
    fused=(3, 5),
    bags=5,
    snapshots=3,
)


def main() -> dict[str, Any]:
    """Train and repair all that is missing, and compare each method with plain."""
    make_digits(DATA, seed=0)
    return Repairs(CASE).compared()
