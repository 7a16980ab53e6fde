"""Every classification loss on the digits, alone and on top of sampling and paste."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _digits_runs import GROUPS, PASTE_ANYWHERE, SEEDS, shown, train_all

from detbalance.cli.quickstart import PLAIN

SETTINGS: dict[str, tuple[str, ...]] = {
    "loss alone": PLAIN,
    "with sampling and paste": (PASTE_ANYWHERE,),
}
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
FOLDER = Path("runs/benchmarks/digits_losses")
Run = tuple[str, str, str]


def main() -> dict[str, Any]:
    """Train all that is missing, print a line a loss, give mean and deviation over the seeds."""
    found = train_all(FOLDER, dict(_cases()), ITERATIONS)
    rows = [
        {"setting": setting, "detector": detector, "loss": loss} | figures
        for (setting, detector, loss), figures in found.items()
    ]
    return {"seeds": list(SEEDS), "iterations": ITERATIONS, "rows": rows}


def _cases() -> Iterator[tuple[Run, tuple[str, tuple[str, ...]]]]:
    for setting, changes in SETTINGS.items():
        for detector, losses in LOSSES.items():
            for loss in losses:
                named = () if "," in loss else (f"loss.name={loss}",)
                options = (*named, *OPTIONS.get(loss, ()), *changes)
                yield (setting, detector, loss), (CONFIGS[detector], options)


def table(figures: dict[str, Any]) -> str:
    """Rows: losses by detector. Columns: AP50 of the groups and rare recall, by setting."""
    columns = [f"AP50 {group}" for group in GROUPS] + ["recall rare"]
    cells: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in figures["rows"]:
        found = [shown(row[name]) for name in columns]
        cells.setdefault((row["detector"], row["loss"]), {})[row["setting"]] = found
    heads = [f"{setting}: {name}" for setting in SETTINGS for name in columns]
    lines = ["| detector | loss | " + " | ".join(heads) + " |", "|---" * (len(heads) + 2) + "|"]
    for (detector, loss), by_setting in cells.items():
        found = [cell for s in SETTINGS for cell in by_setting.get(s, ["-"] * len(columns))]
        lines.append(f"| {detector} | {loss} | " + " | ".join(found) + " |")
    return "\n".join(lines)
