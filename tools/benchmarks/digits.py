"""The quickstart's comparison over seeds: plain, repeat factors, and repeat factors with paste."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _digits_runs import COLUMNS, SEEDS, shown, train_all

from detbalance.cli.quickstart import PLAIN

CONFIG = "configs/digits.yaml"
METHODS = {
    "plain": PLAIN,
    "repeat factors": ("augmentation.paste=null",),
    "repeat factors + paste": (),
}
ITERATIONS = 900
FOLDER = Path("runs/benchmarks/digits")


def main() -> dict[str, Any]:
    """Train all that is missing, print a line a method, give mean and deviation over the seeds."""
    cases = {method: (CONFIG, changes) for method, changes in METHODS.items()}
    methods = train_all(FOLDER, cases, ITERATIONS)
    return {"seeds": list(SEEDS), "iterations": ITERATIONS, "methods": methods}


def table(figures: dict[str, Any]) -> str:
    """Rows: methods. Columns: AP50 and recall of the three groups."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for method, row in figures["methods"].items():
        lines.append(f"| {method} | " + " | ".join(shown(row[c]) for c in COLUMNS) + " |")
    return "\n".join(lines)
