"""What remains of the gain from pasting on traffic signs, which nobody pasted into the images.

Plain and repeat factors get the colour and the size jitter that pasted signs get: these vary by
`paste.scale` and then with the whole image by `standard.scale`; the other methods' images vary by
the product of both. `DETBALANCE_DATA` must be set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _augmentation_methods import NO_PASTE, NO_SAMPLING
from _compared_runs import compared, table
from _digits_runs import train_missing

__all__ = ["main", "table"]

CONFIG = "configs/gtsdb_crops.yaml"
START_ITERATIONS, ITERATIONS = 1800, 300
FOLDER = Path("runs/benchmarks/gtsdb_augmentation")
# All go on from one plain detector that finds signs, with classifiers of their own from the start:
# from ImageNet's weights, so few iterations find nothing.
START = FOLDER / "start"
SMALL = ("model.min_size=320", "model.max_size=320", "train.workers=0")
COMMON = (*SMALL, f"model.weights={START / 'last.pt'}")
# 0.8 to 1.25 twice has the spread of 0.71 to 1.4 once, on a log scale.
JITTER = "augmentation.standard.scale=[0.71, 1.4]"
METHODS = {
    "plain": (NO_SAMPLING, NO_PASTE, JITTER),
    "repeat factors": (NO_PASTE, JITTER),
    "paste": (NO_SAMPLING,),
    "repeat factors + paste": (),
}


def main() -> dict[str, Any]:
    """Train all that is missing, and compare each method with plain."""
    start = (*SMALL, *METHODS["plain"], f"train.iterations={START_ITERATIONS}", f"output={START}")
    train_missing(CONFIG, start)
    return compared(FOLDER, CONFIG, METHODS, ITERATIONS, reference="plain", common=COMMON)
