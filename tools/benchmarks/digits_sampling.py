"""Sampling methods on the digits over seeds, alone and with rare boxes pasted.

Equal iterations, half of the quickstart's, so that the length of an epoch does not matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _digits_runs import PASTE_ANYWHERE, methods_figures, methods_table

CONFIG = "configs/digits.yaml"
NO_PASTE = "augmentation.paste=null"
# Repeat factors by the configuration's threshold; instance-aware ones for an epoch of that length.
SAMPLING = {
    "plain": ("sampling={method: none}",),
    "repeat factors": (),
    "instance-aware": ("sampling={method: instance_aware, target_length: 1518}",),
    "class-aware": ("sampling={method: class_aware}",),
    "balanced_exposure, half way": ("sampling={method: balanced_exposure, strength: 0.5}",),
    "balanced_exposure": ("sampling={method: balanced_exposure}",),
}
METHODS = {name: (*changes, NO_PASTE) for name, changes in SAMPLING.items()} | {
    f"{name} + paste": (*SAMPLING[name], PASTE_ANYWHERE)
    for name in ("plain", "repeat factors", "balanced_exposure")
}
ITERATIONS = 450
FOLDER = Path("runs/benchmarks/digits_sampling")


def main() -> dict[str, Any]:
    """Train all that is missing, print a line a method, give mean and deviation over the seeds."""
    return methods_figures(FOLDER, CONFIG, METHODS, ITERATIONS)


table = methods_table
