"""The quickstart's comparison over seeds: plain, repeat factors, and repeat factors with paste."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _digits_runs import methods_figures, methods_table

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
    return methods_figures(FOLDER, CONFIG, METHODS, ITERATIONS)


table = methods_table
