"""A picture of a plan: the boxes of each class that training sees, before and after."""

from __future__ import annotations

import math
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detbalance.data.messages import needs
from detbalance.planning import Plan, Setting
from detbalance.reporting.pictures import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by every kind of eye, and by lightness in grey.
BEFORE_COLOR = "#000000"
AFTER_COLOR = "#d55e00"
_OTHERS = (
    ("#56b4e9", "--"),
    ("#009e73", ":"),
    ("#cc79a7", "-."),
    ("#0072b2", (0, (4, 1, 1, 1))),
    ("#999999", "-"),
)
_NAMED_CLASSES = 60  # with more, names would be too small to read
_DPI = 130


def draw_plan(plan: Plan, path: str | Path) -> Path:
    """Draw the exposure of every class, as it is and by the settings, most frequent class first."""
    figure_class = import_figure()
    path = Path(path) if Path(path).suffix else Path(path).with_suffix(".png")
    number = len(plan.classes)
    named = number <= _NAMED_CLASSES
    width = min(max(6.5, 3 + 0.24 * number), 15) if named else 11
    longest = max((len(row.name) for row in plan.classes), default=0) if named else 0
    figure = figure_class(
        figsize=(width, 4.6 + 0.055 * min(longest, 40)), dpi=_DPI, layout="constrained"
    )
    axes = figure.subplots()
    _draw(axes, plan, named)
    axes.set_title(_title(plan), fontsize=11, loc="left", parse_math=False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    save_figure(figure, path)
    return path


def import_figure() -> Any:
    """Import matplotlib's figure, or say how to install it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise needs("detbalance.reporting.plan_figure", "matplotlib", "plan") from error
    return Figure


def _draw(axes: Axes, plan: Plan, named: bool) -> None:
    chosen = plan.recommended
    before = plan.settings[0]
    size = 5.0 if named else max(1.5, 5.0 - len(plan.classes) / 300)
    lines = [s for s in plan.settings[1:] if s.name != chosen.name and not _same(s, before)]
    x = np.arange(1, len(plan.classes) + 1)
    for setting, (color, style) in zip(lines, cycle(_OTHERS)):
        axes.plot(
            x,
            _per_image(setting, plan),
            color=color,
            ls=style,
            lw=1.1,
            label=setting.name,
            zorder=1,
        )
    axes.plot(
        x,
        _per_image(before, plan),
        color=BEFORE_COLOR,
        marker="o",
        ms=size,
        ls="-" if named else "none",
        lw=0.8,
        fillstyle="none" if named else "full",
        label="none: every image once",
        zorder=2,
    )
    if chosen.name != before.name:
        axes.plot(
            x,
            _per_image(chosen, plan),
            color=AFTER_COLOR,
            marker="D",
            ms=size,
            ls="none",
            label=f"{chosen.name}: recommended",
            zorder=3,
        )
    _scale(axes, plan, named)


def _scale(axes: Axes, plan: Plan, named: bool) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if plan.train.boxes:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,)))
        low, high = axes.get_ylim()
        if high < 100 * low:  # one power of ten says too little
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylabel(f"boxes in {plan.train.images:,} drawn images", fontsize=9)
    axes.tick_params(labelsize=8)
    if named:
        names = [row.name for row in reversed(plan.classes)]
        shown = [name if len(name) <= 40 else f"{name[:39]}…" for name in names]
        turned = max(map(len, shown), default=0) * len(shown) > 60
        axes.set_xticks(
            np.arange(1, len(shown) + 1),
            shown,
            rotation=60 if turned else 0,
            ha="right" if turned else "center",
            rotation_mode="anchor" if turned else "default",
            parse_math=False,
        )
    else:
        axes.margins(x=0.01)
        axes.set_xlabel(f"{len(plan.classes):,} classes, most frequent first", fontsize=9)


def _per_image(setting: Setting, plan: Plan) -> list[float]:
    """Most frequent class first, for equally many drawn images; NaN (a gap) on a log scale's 0."""
    scale = plan.train.images / setting.epoch_length if setting.epoch_length else math.nan
    return [value * scale if value > 0 else math.nan for value in reversed(setting.exposure)]


def _same(setting: Setting, other: Setting) -> bool:
    return np.allclose(setting.exposure, other.exposure, equal_nan=True)


def _title(plan: Plan) -> str:
    head = "Boxes of each class that training sees"
    if plan.reference is None:
        return f"No class of {Path(plan.train.source).name} has a box"
    before, after = plan.settings[0], plan.recommended
    ratio = f"most to least shown: {_ratio(before.max_min)} without sampling"
    if after.name == before.name:
        return f"{head}\n{ratio} ({plan.recommendation.verdict})"
    return f"{head}\n{ratio}, {_ratio(after.max_min)} with {after.name}"


def _ratio(value: float) -> str:
    return f"{value:,.1f} : 1" if value < 100 else f"{value:,.0f} : 1"
