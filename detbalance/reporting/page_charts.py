"""The charts of the HTML page as Vega-Lite specifications; the page's script gives them data.

Colours are the page's CSS variables, so that light, dark and print need no second chart: the SVG
that Vega draws follows them.
"""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
# Classes up to which each has its name in the scatter charts, a line in the PR chart, and a row and
# a column in the confusion chart.
NAMED_CLASSES = 12
DRAWN_CURVES = 200
HEATMAP_CLASSES = 30
GROUPS = ("rare", "common", "frequent", "none")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"


def chart_specs(data: dict[str, Any]) -> dict[str, Spec]:
    """Give the charts that the page's data is enough for.

    Args:
        data: what `detbalance.reporting.page_data.page_data` gave.

    Returns:
        Specifications by the id of the element to draw into. Their data sets are named and empty;
        the page's script fills them.
    """
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
        specs["scores"] = scores(data["settings"]["score_floor"])
    if data["runs"][0]["confusion"] and number <= HEATMAP_CLASSES:
        specs["heatmap"] = heatmap(number)
    return specs


def imbalance(number: int, *, compared: bool, train: bool) -> Spec:
    """A figure of each class against its boxes in training, on a logarithmic axis.

    Args:
        number: classes, K.
        compared: draw a line from the baseline's value to this run's.
        train: whether training counts are known; the axis says which boxes it counts.
    """
    tooltip = [_tip(name, title) for name, title in _POINT_TIPS if compared or name != "old_text"]
    x = _axis(
        "x",
        "boxes in training" if train else "boxes to find (no training file was given)",
        scale={"type": "log", "nice": False, "domain": {"param": "x_range"}},
        axis={
            "labelExpr": "datum.value < 1 ? '0' : format(datum.value, ',')",
            "values": {"expr": "x_ticks"},
            "grid": False,
        },
    )
    y = _axis("y", None, scale={"domain": [0, 1]}, axis={"tickCount": 5})
    group = {"field": "group", "type": "nominal", "legend": None}
    color = {**group, "scale": {"domain": GROUPS, "range": [f"var(--{g})" for g in GROUPS]}}
    shape = {
        **group,
        "scale": {"domain": GROUPS, "range": ["diamond", "square", "circle", "circle"]},
    }
    many = number > 60
    interval = {
        "mark": {"type": "rule", "strokeWidth": 1 if many else 1.5},
        "encoding": {
            "y": {"field": "low", "type": "quantitative"},
            "y2": {"field": "high"},
            "opacity": _selected(1, 0.12 if number > 300 else 0.25 if many else 0.5),
        },
    }
    before = {
        "mark": {"type": "rule", "strokeWidth": 3},
        "encoding": {
            "y": {"field": "old", "type": "quantitative"},
            "y2": {"field": "y"},
            "opacity": _selected(1, 0.3),
        },
    }
    start = {
        "mark": {"type": "point", "filled": False, "size": 22 if many else 45, "tooltip": True},
        "encoding": {
            "y": {"field": "old", "type": "quantitative"},
            "stroke": {"value": "var(--muted)"},
            "tooltip": tooltip,
        },
    }
    point = {
        "mark": {"type": "point", "filled": True, "opacity": 1, "cursor": "pointer"},
        "encoding": {
            "size": _selected(200, 28 if many else 75),
            "shape": shape,
            "tooltip": tooltip,
            "stroke": {"value": "var(--paper)"},
            "strokeWidth": {"value": 0.8},
        },
    }
    name = {
        "transform": [] if number <= NAMED_CLASSES else [{"filter": "datum.i == selected"}],
        "mark": {"type": "text", "align": "left", "dx": 8, "fontSize": 11, "limit": 110},
        "encoding": {
            "text": {"field": "short", "type": "nominal"},
            "color": {"value": "var(--ink)"},
        },
    }
    return {
        **_frame("points", 300),
        "params": [
            {"name": "selected", "value": -1},
            {"name": "x_range", "value": [1, 10]},
            {"name": "x_ticks", "value": [1, 10]},
        ],
        "encoding": {"x": {"field": "x", "type": "quantitative", **x}, "y": y, "color": color},
        "layer": [*([before, start] if compared else [interval]), point, name],
    }


_POINT_TIPS = (
    ("name", "class"),
    ("group", "group"),
    ("train", "boxes in training"),
    ("val", "boxes to find"),
    ("old_text", "baseline"),
    ("text", "this run"),
)


def curves(number: int) -> Spec:
    """Precision over recall: all classes in grey, one of them in colour.

    Args:
        number: classes, K; with many of them shares of the classes stand for their lines.
    """
    line = {"type": "line", "interpolate": "step-before"}
    recall = _axis("r", "recall", scale={"domain": [0, 1]}, axis={"tickCount": 5, "grid": False})
    precision = _axis("p", "precision", scale={"domain": [0, 1]}, axis={"tickCount": 5})
    if number > DRAWN_CURVES:
        others = [
            {
                "data": {"name": "bands"},
                "mark": {"type": "area", "fill": "var(--muted)", "opacity": 0.15},
                "encoding": {"x": recall, "y": {**precision, "field": low}, "y2": {"field": high}},
            }
            for low, high in (("p10", "p90"), ("p25", "p75"))
        ]
        others.append(
            {
                "data": {"name": "bands"},
                "mark": {**line, "stroke": "var(--muted)", "strokeWidth": 1, "opacity": 0.8},
                "encoding": {"x": recall, "y": {**precision, "field": "p50"}},
            }
        )
    else:
        mark = {**line, "stroke": "var(--muted)", "strokeWidth": 0.8}
        opacity = 0.45 if number <= 40 else 0.22
        others = [
            {
                "data": {"name": "others"},
                "mark": {**mark, "opacity": opacity},
                "encoding": {"x": recall, "y": precision, "detail": {"field": "i"}},
            }
        ]
    hovered = {
        "data": {"name": "hovered"},
        "mark": {**line, "stroke": "var(--ink)", "strokeWidth": 1.5},
        "encoding": {"x": recall, "y": precision, "strokeDash": _dash("run")},
    }
    chosen = {
        "data": {"name": "chosen"},
        "mark": {**line, "strokeWidth": 2.5},
        "encoding": {
            "x": recall,
            "y": precision,
            "stroke": {"field": "color", "type": "nominal", "scale": None},
            "strokeDash": _dash("run"),
        },
    }
    return {**_frame(None, 300), "layer": [*others, hovered, chosen]}


def scores(floor: float) -> Spec:
    """Scores of one class: right detections upward, wrong ones downward.

    Args:
        floor: the score floor of recall and precision, drawn as a line.
    """
    count = _axis(
        "count",
        "wrong | right",
        scale={"type": "sqrt", "nice": True},
        axis={"labelExpr": "format(abs(datum.value), ',')", "tickCount": 6},
    )
    x = _axis("start", "score", scale={"domain": [0, 1]}, axis={"tickCount": 5, "grid": False})
    bars = {
        "data": {"name": "bins"},
        "mark": {"type": "bar", "binSpacing": 1},
        "encoding": {
            "x": {**x, "bin": {"binned": True, "step": 0.05}},
            "x2": {"field": "end"},
            "y": {**count, "stack": None},
            "color": {
                "field": "kind",
                "type": "nominal",
                "legend": None,
                "scale": {"domain": ["right", "wrong"], "range": ["var(--right)", "var(--wrong)"]},
            },
            "tooltip": [_tip("span", "scores"), _tip("kind", ""), _tip("amount", "detections")],
        },
    }
    before = {
        "data": {"name": "bins_before"},
        "mark": {"type": "line", "interpolate": "step-after", "stroke": "var(--ink)"},
        "encoding": {
            "x": x,
            "y": count,
            "detail": {"field": "kind"},
            "strokeWidth": {"value": 1.2},
        },
    }
    zero = {
        "data": {"values": [{"zero": 0}]},
        "mark": {"type": "rule", "stroke": "var(--muted)"},
        "encoding": {"y": {"field": "zero", "type": "quantitative"}},
    }
    line = {
        "data": {"values": [{"floor": floor}]},
        "mark": {"type": "rule", "stroke": "var(--ink)", "strokeDash": [3, 3]},
        "encoding": {"x": {"field": "floor", "type": "quantitative"}},
    }
    return {**_frame(None, 300), "layer": [bars, before, zero, line]}


def heatmap(number: int) -> Spec:
    """Confused classes: a row per true class, a column per found class.

    Args:
        number: classes, K.
    """
    shared = {"type": "ordinal", "sort": {"field": "order"}}
    axis = {"domain": False, "ticks": False, "labelLimit": 90, "grid": False}
    x = {
        **shared,
        "field": "found",
        "sort": {"field": "found_order"},
        "axis": {**axis, "title": "found as", "orient": "top", "labelAngle": -50},
    }
    y = {
        **shared,
        "field": "true",
        "sort": {"field": "true_order"},
        "axis": {**axis, "title": "true class"},
    }
    tooltip = [_tip("true", "true class"), _tip("found", "found as"), _tip("amount", "count")]
    cell = {
        "mark": {"type": "rect", "fill": "var(--accent)", "stroke": "var(--paper)"},
        "encoding": {
            "fillOpacity": {
                "field": "count",
                "type": "quantitative",
                "legend": None,
                "scale": {"type": "sqrt", "range": [0.06, 1], "domainMin": 0},
            },
            "tooltip": tooltip,
        },
    }
    text = {
        "transform": [{"filter": "datum.count > 0"}],
        "mark": {"type": "text", "fontSize": 10.5, "tooltip": None},
        "encoding": {
            "text": {"field": "amount", "type": "nominal"},
            "color": {"field": "ink", "type": "nominal", "scale": None},
        },
    }
    height = min(28 * (number + 1), 26 * HEATMAP_CLASSES)
    return {**_frame("cells", height), "encoding": {"x": x, "y": y}, "layer": [cell, text]}


def _frame(data: str | None, height: int) -> Spec:
    """What all charts share; they are as wide as their element."""
    quiet = {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "gridColor": "var(--line)",
        "domainColor": "var(--edge)",
        "tickColor": "var(--edge)",
        "labelFontSize": 11,
        "titleFontSize": 11.5,
        "titleFontWeight": "normal",
        "labelFontWeight": "normal",
    }
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": 4,
        "background": None,
        **({} if data is None else {"data": {"name": data}}),
        "config": {"font": _FONT, "view": {"stroke": None}, "axis": quiet},
    }


def _axis(field: str, title: str | None, *, scale: Spec, axis: Spec) -> Spec:
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": scale,
        "axis": axis,
    }


def _tip(field: str, title: str) -> Spec:
    return {"field": field, "type": "nominal", "title": title}


def _selected(chosen: float, other: float) -> Spec:
    """One value for the class that the reader chose, another for the rest."""
    return {"condition": {"test": "datum.i == selected", "value": chosen}, "value": other}


def _dash(field: str) -> Spec:
    """This run's lines are whole, the baseline's dashed."""
    scale = {"domain": ["this run", "baseline"], "range": [[1, 0], [5, 3]]}
    return {"field": field, "type": "nominal", "legend": None, "scale": scale}
