"""The quickstart's comparison over seeds: sampling methods, alone and with rare boxes pasted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _digits_runs import COLUMNS, SEEDS, shown, train_all

CONFIG = "configs/digits.yaml"
NO_PASTE = "augmentation.paste=null"
# Thresholds as in the configuration; all are trained for equal iterations, so that the length of an
# epoch does not matter.
METHODS = {
    "plain": ("sampling={method: none}", NO_PASTE),
    "repeat factors": (NO_PASTE,),
    "instance-aware": ("sampling.method=instance_aware", NO_PASTE),
    "class-aware": ("sampling={method: class_aware}", NO_PASTE),
    "solve": ("sampling={method: solve}", NO_PASTE),
    "paste alone": ("sampling={method: none}",),
    "repeat factors + paste": (),
    "solve + paste": ("sampling={method: solve}",),
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
