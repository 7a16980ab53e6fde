"""A picture of a training: loss, and AP50 of the groups of classes, over the iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detbalance.reporting.pictures import save_figure
from detbalance.reporting.plan_figure import import_figure

# Okabe and Ito's, as in the other pictures.
_LINES = {
    "AP50": ("all classes", "#000000", "-"),
    "AP50_rare": ("rare", "#d55e00", "-"),
    "AP50_common": ("common", "#56b4e9", "--"),
    "AP50_frequent": ("frequent", "#009e73", ":"),
}
_DPI = 130


def draw_curve(records: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw the records of a run's metrics.jsonl.

    Args:
        records: with `iteration`, and `loss` or `val`.
        path: the file; its suffix says the format.

    Returns:
        The path.

    Raises:
        ImportError: if matplotlib is missing.
    """
    figure = import_figure()(figsize=(9, 3.6), dpi=_DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = [(r["iteration"], r["loss"]) for r in records if "loss" in r]
    left.plot(*zip(*losses, strict=True) if losses else ([], []), color="#0072b2", linewidth=1)
    left.set(xlabel="iteration", ylabel="loss", ylim=(0, None))
    judged = [(r["iteration"], r["val"]) for r in records if "val" in r]
    for name, (title, color, style) in _LINES.items():
        points = [(i, val[name]) for i, val in judged if val.get(name) is not None]
        if points:
            right.plot(*zip(*points, strict=True), style, color=color, label=title, marker="o")
    right.set(xlabel="iteration", ylabel="AP50 on val", ylim=(0, 1.03), xlim=left.get_xlim())
    if judged:
        right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
    return path
