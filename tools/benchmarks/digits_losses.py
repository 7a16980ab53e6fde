"""Every classification loss on the digits, over seeds, alone and on top of sampling and paste.

Equal iterations; a seed changes data, first weights and draws. One run per core at a time, one
thread each. A run that is there already, in runs/benchmarks/digits_losses, is not trained again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from detbalance.cli.quickstart import PLAIN, finished
from detbalance.digits import make_digits
from detbalance.evaluation import load_report
from detbalance.training.config import load_config

SEEDS = (0, 1, 2)
SETTINGS: dict[str, tuple[str, ...]] = {"loss alone": PLAIN, "with sampling and paste": ()}
# What the defaults, made for LVIS, would leave without effect on ten classes: three of them are in
# fewer than 3 % of the images. Re-weighting is deferred to the last fifth, as in LDAM's paper.
OPTIONS = {
    "focal, effective number": ("loss.name=focal", "loss.class_weights=effective_number"),
    "equalization": ("loss.frequency_threshold=0.03",),
    "federated": ("loss.classes_per_batch=5",),
    "ldam": ("loss.deferred_after=360",),
}
SIGMOID = (
    "focal",
    "focal, effective number",
    "equalization",
    "equalization_v2",
    "equalized_focal",
    "equalized_quality_focal",
    "federated",
    "balanced_sigmoid",
)
SOFTMAX = (
    "cross_entropy",
    "balanced_softmax",
    "logit_adjustment",
    "ldam",
    "seesaw",
    "group_softmax",
)
ITERATIONS = 450
CONFIGS = {"Faster R-CNN": "configs/digits_fasterrcnn.yaml", "RetinaNet": "configs/digits.yaml"}
LOSSES = {"Faster R-CNN": SOFTMAX, "RetinaNet": SIGMOID}
GROUPS = ("frequent", "common", "rare")
FOLDER = Path("runs/benchmarks/digits_losses")
Run = tuple[str, str, str, int]


def main() -> dict[str, Any]:
    """Train all that is missing, print a line per loss, give mean and deviation over the seeds."""
    runs = list(_runs())
    for seed in SEEDS:
        make_digits(FOLDER / f"data-{seed}", seed=seed)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(runs, pool.map(one_run, runs), strict=True))
    figures: dict[str, Any] = {"seeds": list(SEEDS), "iterations": ITERATIONS, "rows": []}
    for setting, detector, loss in dict.fromkeys(run[:3] for run in runs):
        found = [results[setting, detector, loss, seed] for seed in SEEDS]
        row = {"setting": setting, "detector": detector, "loss": loss} | {
            name: {"mean": mean(r[name] for r in found), "sd": stdev(r[name] for r in found)}
            for name in found[0]
        }
        figures["rows"].append(row)
        shown = "  ".join(f"{n} {v['mean']:.2f} ± {v['sd']:.2f}" for n, v in list(row.items())[3:])
        print(f"{setting:25}{detector:14}{loss:26}{shown}")
    return figures


def one_run(run: Run) -> dict[str, float]:
    """Train one detector, or read its report; AP50 and recall of the three groups."""
    setting, detector, loss, seed = run
    folder = FOLDER / "-".join(run[:3]).replace(" ", "_").replace(",", "") / str(seed)
    options = OPTIONS.get(loss, ())
    named = () if "," in loss else (f"loss.name={loss}",)
    data = (FOLDER / f"data-{seed}").resolve()
    common = (f"seed={seed}", f"data.root={data}", f"output={folder}", "train.workers=0")
    path = CONFIGS[detector]
    changes = [*named, f"train.iterations={ITERATIONS}", *options, *SETTINGS[setting], *common]
    if not finished(load_config(path, changes)):
        command = [sys.executable, "tools/train.py", "--config", path, "--overwrite"]
        command += [word for change in changes for word in ("--set", change)]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=one_thread, stdout=subprocess.DEVNULL)
    report = load_report(folder / "report.json")
    return {f"AP50 {group}": float(report.groups[group].AP50) for group in GROUPS} | {
        f"recall {group}": float(report.groups[group].recall) for group in GROUPS
    }


def _runs() -> Iterator[Run]:
    for setting in SETTINGS:
        for detector, losses in LOSSES.items():
            for loss in losses:
                for seed in SEEDS:
                    yield setting, detector, loss, seed


def table(figures: dict[str, Any]) -> str:
    """Rows: losses by detector. Columns: AP50 of the groups and rare recall, by setting."""
    columns = [f"AP50 {group}" for group in GROUPS] + ["recall rare"]
    cells: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in figures["rows"]:
        shown = [f"{row[name]['mean']:.2f} ± {row[name]['sd']:.2f}" for name in columns]
        cells.setdefault((row["detector"], row["loss"]), {})[row["setting"]] = shown
    heads = [f"{setting}: {name}" for setting in SETTINGS for name in columns]
    lines = ["| detector | loss | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    for (detector, loss), by_setting in cells.items():
        shown = [cell for s in SETTINGS for cell in by_setting.get(s, ["-"] * len(columns))]
        lines.append(f"| {detector} | {loss} | " + " | ".join(shown) + " |")
    return "\n".join(lines)
