"""A trained detector repaired in minutes, on circuit boards with a balanced and large val split.

One plain detector at 320 pixels, so that two cores do it. `DETBALANCE_DATA` must be set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _repairs import OPINIONS, REFITS, Case, Repairs, table

__all__ = ["main", "table"]

FOLDER = Path("runs/benchmarks/deeppcb_repair")
CASE = Case(
    config="configs/deeppcb_lt.yaml",
    common=("model.min_size=320", "model.max_size=320"),
    iterations=450,
    folder=FOLDER,
    trained=FOLDER / "trained",
    seeds=(0,),
    fused=(3,),
    # What did nothing on the digits is left out.
    refits=tuple(name for name in REFITS if name != "BorderlineSMOTE"),
    opinions=OPINIONS,
)


def main() -> dict[str, Any]:
    """Train and repair all that is missing, and compare each method with plain."""
    return Repairs(CASE).compared()
