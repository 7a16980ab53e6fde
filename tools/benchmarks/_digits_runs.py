"""Trainings on the digits, as the subjects about them share it: many runs, seeds, mean and spread.

One run per core at a time, one thread each. A run that is there already is not trained again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

from detbalance.cli.runs import is_finished
from detbalance.data.digits import make_digits
from detbalance.evaluation import load_report
from detbalance.training.config import load_config

SEEDS = (0, 1, 2)
GROUPS = ("frequent", "common", "rare")
COLUMNS = [f"{figure} {group}" for figure in ("AP50", "recall") for group in GROUPS]
# Pasted at the first free place, in any size.
PASTE_ANYWHERE = "augmentation.paste={probability: 0.5, match_scale: false, context_places: 1}"
Row = TypeVar("Row")


def train_all(
    folder: Path, cases: Mapping[Row, tuple[str, Sequence[str]]], iterations: int
) -> dict[Row, dict[str, dict[str, float]]]:
    """Train each case on every seed with equal iterations.

    A seed changes data, first weights and draws.

    Args:
        folder: of the data and the runs.
        cases: configuration file and overrides of each row.
        iterations: of every run.

    Returns:
        For each row and each of `COLUMNS`, `mean` and `sd` over the seeds.
    """
    for seed in SEEDS:
        make_digits(folder / f"data-{seed}", seed=seed)
    runs = [(row, seed) for row in cases for seed in SEEDS]

    def settings(run: tuple[Row, int]) -> tuple[str, list[str]]:
        row, seed = run
        name = "-".join(row) if isinstance(row, tuple) else str(row)
        data = (folder / f"data-{seed}").resolve()
        output = folder / name.replace(" ", "_").replace(",", "") / str(seed)
        config, changes = cases[row]
        common = (f"seed={seed}", f"data.root={data}", f"output={output}", "train.workers=0")
        return config, [*changes, f"train.iterations={iterations}", *common]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda run: train_missing(*settings(run)), runs))
    results = {run: group_figures(*settings(run)) for run in runs}
    figures = {}
    for row in cases:
        found = [results[row, seed] for seed in SEEDS]
        figures[row] = {
            c: {"mean": mean(f[c] for f in found), "sd": stdev(f[c] for f in found)}
            for c in COLUMNS
        }
        print(f"{row}: " + "  ".join(f"{c} {shown(figures[row][c])}" for c in COLUMNS))
    return figures


def train_missing(config: str, changes: Sequence[str]) -> None:
    """Train one detector, unless it is there."""
    if not is_finished(load_config(config, changes)):
        command = [sys.executable, "tools/train.py", "--config", config, "--overwrite"]
        command += [word for change in changes for word in ("--set", change)]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=one_thread, stdout=subprocess.DEVNULL)


def group_figures(config: str, changes: Sequence[str]) -> dict[str, float]:
    """Read the report of a run; AP50 and recall of the three groups."""
    groups = load_report(load_config(config, changes).output / "report.json").groups
    return {f"AP50 {group}": float(groups[group].AP50) for group in GROUPS} | {
        f"recall {group}": float(groups[group].recall) for group in GROUPS
    }


def methods_figures(
    folder: Path, config: str, methods: Mapping[str, Sequence[str]], iterations: int
) -> dict[str, Any]:
    """Train all that is missing of some methods of one configuration; what a subject returns."""
    cases = {method: (config, changes) for method, changes in methods.items()}
    found = train_all(folder, cases, iterations)
    return {"seeds": list(SEEDS), "iterations": iterations, "methods": found}


def methods_table(figures: Mapping[str, Any]) -> str:
    """Rows: methods. Columns: AP50 and recall of the three groups."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for method, row in figures["methods"].items():
        lines.append(f"| {method} | " + " | ".join(shown(row[c]) for c in COLUMNS) + " |")
    return "\n".join(lines)


def shown(figure: Mapping[str, Any]) -> str:
    """A mean and its spread."""
    return f"{figure['mean']:.2f} ± {figure['sd']:.2f}"
