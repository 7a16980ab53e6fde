"""How fast a pretrained backbone may learn beside new heads: `train.backbone_rate`.

Equal iterations, two seeds (first weights and draws); everything else as the shipped configs say,
at 320 pixels. `aquarium` has no config of its own: that of BCCD without its sampling. A rate of 1
was the default once. `DETBALANCE_DATA` must be set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from _augmentation_methods import NO_SAMPLING
from _digits_runs import train_missing

from detbalance.evaluation import load_report
from detbalance.training.config import load_config

SEEDS = (0, 1)
RATES = (1.0, 0.3, 0.1, 0.03)
GROUPS = ("all", "rare", "common", "frequent")
COLUMNS = [*(f"AP50 {group}" for group in GROUPS), "recall rare"]
FOLDER = Path("runs/benchmarks/backbone_rate")
AQUARIUM = [f"data.{side}=aquarium/{side}.json" for side in ("train", "val")]
AQUARIUM += [f"data.{side}_images=aquarium/images" for side in ("train", "val")]
SMALL = ["model.min_size=320", "model.max_size=320"]
# Configuration file, changes and iterations of each data set.
SETS: dict[str, tuple[str, list[str], int]] = {
    "aquarium": (
        "configs/bccd.yaml",
        [*AQUARIUM, *SMALL, NO_SAMPLING, "augmentation.standard.vertical_flip=0"],
        350,
    ),
    "bccd": ("configs/bccd.yaml", [], 300),
    "deeppcb_lt": ("configs/deeppcb_lt.yaml", SMALL, 300),
}


def _settings(data: str, rate: float, seed: int) -> tuple[str, list[str]]:
    config, changes, iterations = SETS[data]
    own = [f"train.iterations={iterations}", f"train.backbone_rate={rate}", f"seed={seed}"]
    return config, [*changes, *own, f"output={FOLDER / data / str(rate) / str(seed)}"]


def main() -> dict[str, Any]:
    """Train all that is missing; mean and range over the seeds of each data set and rate."""
    runs = [(data, rate, seed) for seed in SEEDS for data in SETS for rate in RATES]

    def train(run: tuple[str, float, int]) -> None:
        train_missing(*_settings(*run))
        print(*run, "done", flush=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(train, runs))
    result: dict[str, Any] = {"seeds": list(SEEDS), "sets": {}}
    for data, (_, _, iterations) in SETS.items():
        rows = {}
        for rate in RATES:
            outputs = [load_config(*_settings(data, rate, seed)).output for seed in SEEDS]
            reports = [load_report(output / "report.json") for output in outputs]
            rows[str(rate)] = {
                column: [
                    float(getattr(report.groups[column.split()[1]], column.split()[0]))
                    for report in reports
                ]
                for column in COLUMNS
            }
        result["sets"][data] = {"iterations": iterations, "rates": rows}
    print(table(result))
    return result


def table(figures: Mapping[str, Any]) -> str:
    """Rows: data sets and rates. Columns: means over the seeds, with the single values."""
    lines = ["| | rate | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for data, found in figures["sets"].items():
        for rate, row in found["rates"].items():
            cells = [
                f"{mean(row[c]):.3f} ({', '.join(f'{value:.3f}' for value in row[c])})"
                for c in COLUMNS
            ]
            lines.append(
                f"| {data}, {found['iterations']} iterations | {rate} | " + " | ".join(cells) + " |"
            )
    return "\n".join(lines)
