"""The charts of the HTML page as Vega-Lite specifications; the page's script gives them data."""

from __future__ import annotations

from typing import Any

from detbalance.reporting.chart_parts import GROUPS, Spec, frame, number_axis, selected, tip
from detbalance.reporting.class_charts import curves, heatmap, scores

# Classes up to which each has its name beside its mark, as far as there is room.
NAMED_CLASSES = 12


def chart_specs(data: dict[str, Any]) -> dict[str, Spec]:
    """Give the charts that the page's data is enough for."""
    number = len(data["classes"]["name"])
    compared = len(data["runs"]) > 1 or bool(data["differences"])
    train = any(boxes is not None for boxes in data["classes"]["train_boxes"])
    specs = {
        f"imbalance-{side}": imbalance(number, compared=compared, train=train)
        for side in ("left", "right")
    }
    if any(data["runs"][0]["curves"]):
        specs["curves"] = curves(number)
    if any(data["runs"][0]["histograms"]):
        specs["scores"] = scores()
    if data["heatmap"]:
        specs["heatmap"] = heatmap(len(data["heatmap"]))
    return specs


def imbalance(number: int, *, compared: bool, train: bool) -> Spec:
    """A figure of each class against its boxes in training, on a logarithmic axis."""
    tooltip = [tip(name, title) for name, title in _POINT_TIPS if compared or name != "old_text"]
    x = number_axis(
        "x",
        "boxes in training" if train else "boxes to find (no training file was given)",
        scale={"type": "log", "nice": False, "domain": {"expr": "x_range"}},
        axis={
            "labelExpr": "datum.value < 1 ? '0' : format(datum.value, ',')",
            "values": {"expr": "x_ticks"},
            "grid": False,
        },
    )
    y = number_axis(
        "y", None, scale={"domain": [0, {"expr": "y_top"}]}, axis={"tickCount": 5, "format": "~g"}
    )
    group = {"field": "group", "type": "nominal", "legend": None}
    color = {**group, "scale": {"domain": GROUPS, "range": [f"var(--{g})" for g in GROUPS]}}
    shapes = ["diamond", "square", "circle", "circle"]
    many = number > 60
    interval = {
        "mark": {"type": "rule", "strokeWidth": 1 if many else 1.5},
        "encoding": {
            "y": {"field": "low", "type": "quantitative"},
            "y2": {"field": "high"},
            "color": color,
            "opacity": selected(1, 0.12 if number > 300 else 0.25 if many else 0.5),
        },
    }
    change = {
        "mark": {"type": "rule", "strokeWidth": 1 if number > 300 else 3},
        "encoding": {
            "y": {"field": "old", "type": "quantitative"},
            "y2": {"field": "y"},
            "color": color,
            "opacity": selected(1, 0.12 if number > 300 else 0.3),
        },
    }
    start = {
        "mark": {"type": "point", "filled": False, "fill": "var(--paper)", "tooltip": True},
        "encoding": {
            "y": {"field": "old", "type": "quantitative"},
            "size": selected(90, 10 if number > 300 else 22 if many else 45),
            "stroke": {"value": "var(--muted)"},
            "tooltip": tooltip,
        },
    }
    point = {
        "mark": {"type": "point", "filled": True, "opacity": 1, "cursor": "pointer"},
        "encoding": {
            "size": _sizes(28 if many else 75),
            "shape": {**group, "scale": {"domain": GROUPS, "range": shapes}},
            "color": color,
            "tooltip": tooltip,
            "stroke": {"value": "var(--paper)"},
            "strokeWidth": {"value": 0.8},
        },
    }
    side = "datum.x > x_turn"
    name = {
        "transform": [{"filter": "datum.named || datum.i == selected"}],
        "mark": {
            "type": "text",
            "align": {"expr": f"{side} ? 'right' : 'left'"},
            "dx": {"expr": f"{side} ? -9 : 9"},
            "fontSize": 11,
        },
        "encoding": {
            "text": {"field": "short", "type": "nominal"},
            "color": {"value": "var(--ink)"},
        },
    }
    return {
        **frame("points", 300),
        "usermeta": {"named": NAMED_CLASSES},
        "params": [
            {"name": "selected", "value": -1},
            {"name": "x_range", "value": [1, 10]},
            {"name": "x_ticks", "value": [1, 10]},
            {"name": "x_turn", "value": 10},
            {"name": "y_top", "value": 1},
        ],
        "encoding": {"x": x, "y": y},
        "layer": [*([change, start] if compared else [interval]), point, name],
    }


def _sizes(size: int) -> Spec:
    """Areas of marks; a diamond of the same number is a smaller one."""
    chosen = {"test": "datum.i == selected", "value": 200}
    return {
        "condition": [chosen, {"test": "datum.group == 'rare'", "value": 1.6 * size}],
        "value": size,
    }


_POINT_TIPS = (
    ("name", "class"),
    ("group", "group"),
    ("train", "boxes in training"),
    ("val", "boxes to find"),
    ("old_text", "baseline"),
    ("text", "this run"),
)
