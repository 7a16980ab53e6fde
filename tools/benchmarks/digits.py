"""The quickstart's comparison over seeds: plain, repeat factors, and repeat factors with paste.

Equal iterations; a seed changes data, first weights and draws. A run that is there already, in
runs/benchmarks/digits, is not trained again.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from detbalance.cli.quickstart import PLAIN, finished_or_trained
from detbalance.digits import make_digits
from detbalance.training.config import load_config

SEEDS = (0, 1, 2)
METHODS = {
    "plain": PLAIN,
    "repeat factors": ("augmentation.paste=null",),
    "repeat factors + paste": (),
}
GROUPS = ("frequent", "common", "rare")
FOLDER = Path("runs/benchmarks/digits")


def main() -> dict[str, Any]:
    """Train all that is missing, print a table, give mean and standard deviation over the seeds."""
    figures: dict[str, Any] = {"seeds": list(SEEDS), "methods": {}}
    for method, changes in METHODS.items():
        rows = []
        for seed in SEEDS:
            data = make_digits(FOLDER / f"data-{seed}", seed=seed)
            folder = FOLDER / f"{method.replace(' ', '-')}-{seed}"
            common = [f"seed={seed}", f"data.root={data.train.parent}", f"output={folder}"]
            report = finished_or_trained(load_config("configs/digits.yaml", [*common, *changes]))
            rows.append(
                {f"AP50 {group}": report.groups[group].AP50 for group in GROUPS}
                | {f"recall {group}": report.groups[group].recall for group in GROUPS}
            )
        figures["methods"][method] = {
            name: {"mean": mean(r[name] for r in rows), "sd": stdev(r[name] for r in rows)}
            for name in rows[0]
        }
        shown = "  ".join(
            f"{name} {v['mean']:.2f} ± {v['sd']:.2f}"
            for name, v in figures["methods"][method].items()
        )
        print(f"{method:24}{shown}")
    return figures


def table(figures: dict[str, Any]) -> str:
    """Rows: methods. Columns: AP50 and recall of the three groups."""
    columns = [f"{figure} {group}" for figure in ("AP50", "recall") for group in GROUPS]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * 7 + "|"]
    for method, row in figures["methods"].items():
        cells = (f"{row[c]['mean']:.2f} ± {row[c]['sd']:.2f}" for c in columns)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
