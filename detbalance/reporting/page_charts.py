"""The charts of the HTML page as Vega-Lite specifications; the page's script gives them data.

Colours are the page's CSS variables, so that light, dark and print need no second chart: the SVG
that Vega draws follows them.
"""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]

RUNS = ("this run", "baseline")
GROUPS = ("rare", "common", "frequent", "none")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"


# Of all charts. They are named as a whole; tables have their numbers for those who cannot see them.
CHART_STYLE = {
    "font": _FONT,
    "view": {"stroke": None},
    "aria": False,
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "gridColor": "var(--line)",
        "domainColor": "var(--edge)",
        "tickColor": "var(--edge)",
        "labelFontSize": 11,
        "titleFontSize": 11.5,
        "titleFontWeight": "normal",
        "labelFontWeight": "normal",
    },
}


def frame(data: str | None, height: int) -> Spec:
    """What all charts share; they are as wide as their element."""
    return {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": 4,
        "background": None,
        **({} if data is None else {"data": {"name": data}}),
    }


def number_axis(field: str, title: str | None, *, scale: Spec, axis: Spec) -> Spec:
    """Encode a number by its place on an axis."""
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": scale,
        "axis": axis,
    }


def tip(field: str, title: str) -> Spec:
    """One line of a tooltip."""
    return {"field": field, "type": "nominal", "title": title}


def selected(chosen: float, other: float) -> Spec:
    """One value for the class that the reader chose, another for the rest."""
    return {"condition": {"test": "datum.i == selected", "value": chosen}, "value": other}


def dash() -> Spec:
    """This run's lines are whole, the baseline's dashed."""
    scale = {"domain": RUNS, "range": [[1, 0], [5, 3]]}
    return {"field": "run", "type": "nominal", "legend": None, "scale": scale}


# Classes up to which each has a line in the chart of precision over recall.
DRAWN_CURVES = 200


def curves(number: int) -> Spec:
    """Precision over recall: all classes in grey, one of them in colour."""
    line = {"type": "line", "interpolate": "step-before"}
    recall = number_axis(
        "r", "recall", scale={"domain": [0, 1]}, axis={"tickCount": 5, "grid": False}
    )
    precision = number_axis("p", "precision", scale={"domain": [0, 1]}, axis={"tickCount": 5})
    if number > DRAWN_CURVES:
        others = [
            {
                "data": {"name": "bands"},
                "mark": {**line, "type": "area", "fill": "var(--muted)", "opacity": 0.15},
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
        "encoding": {"x": recall, "y": precision, "strokeDash": dash()},
    }
    chosen = {
        "data": {"name": "chosen"},
        "mark": {**line, "strokeWidth": 2.5},
        "encoding": {
            "x": recall,
            "y": precision,
            "stroke": {
                "field": "run",
                "type": "nominal",
                "legend": None,
                "scale": {"domain": RUNS, "range": ["var(--accent)", "var(--muted)"]},
            },
            "strokeDash": dash(),
        },
    }
    return {
        **frame(None, 300),
        "usermeta": {"bands": number > DRAWN_CURVES},
        "layer": [*others, hovered, chosen],
    }


def scores() -> Spec:
    """Scores of one class: right detections upward, wrong ones downward, its floor as a line."""
    count = number_axis(
        "count",
        "wrong | right",
        scale={"type": "symlog", "nice": False, "domain": {"expr": "counts"}},
        axis={"labelExpr": "format(abs(datum.value), ',')", "values": {"expr": "count_ticks"}},
    )
    x = number_axis(
        "start",
        "score",
        scale={"domain": [0, 1]},
        axis={"values": [0, 0.2, 0.4, 0.6, 0.8, 1], "format": ".1f", "grid": False},
    )
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
            "tooltip": [tip("span", "scores"), tip("kind", ""), tip("amount", "detections")],
        },
    }
    before = {
        "data": {"name": "before"},
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
    floor = {
        "data": {"name": "floors"},
        "mark": {"type": "rule", "stroke": "var(--ink)", "strokeDash": [3, 3]},
        "encoding": {"x": {"field": "floor", "type": "quantitative"}},
    }
    return {
        **frame(None, 300),
        "params": [{"name": "counts", "value": [-1, 1]}, {"name": "count_ticks", "value": [0]}],
        "layer": [bars, before, zero, floor],
    }


def heatmap(number: int) -> Spec:
    """Confused classes: a row per true class, a column per found class; what is no class last."""
    shared = {"type": "ordinal", "scale": {"domain": list(range(number + 1))}}
    quiet = {
        "domain": False,
        "ticks": False,
        "grid": False,
        "labelLimit": 110,
    }

    def named(last: str) -> Spec:
        return {"labelExpr": f"datum.value < {number} ? names[datum.value] : '{last}'"}

    x = {
        **shared,
        "field": "column",
        "axis": {
            **quiet,
            **named("missed"),
            "title": "found as",
            "orient": "top",
            "labelAngle": -50,
        },
    }
    y = {**shared, "field": "row", "axis": {**quiet, **named("background"), "title": "true class"}}
    tooltip = [tip("true_name", "true class"), tip("found_name", "found as")]
    cell = {
        "mark": {"type": "rect", "fill": "var(--accent)", "stroke": "var(--paper)"},
        "encoding": {
            "fillOpacity": {
                "field": "share",
                "type": "quantitative",
                "legend": None,
                "scale": {"domain": [0, 1], "range": [0.06, 1]},
            },
            "tooltip": [*tooltip, tip("amount", "count"), tip("part", "share of the row")],
        },
    }
    text = {
        "transform": [{"filter": "datum.count > 0"}],
        "mark": {"type": "text", "fontSize": 10.5, "tooltip": None},
        "encoding": {
            "text": {"field": "text", "type": "nominal"},
            "color": {"field": "ink", "type": "nominal", "scale": None},
        },
    }
    return {
        **frame("cells", 100 + 26 * (number + 1)),
        "autosize": {"type": "fit", "contains": "padding"},
        "padding": {"left": 4, "top": 4, "right": 60, "bottom": 4},  # the last name leans out
        "params": [{"name": "names", "value": []}],
        "encoding": {"x": x, "y": y},
        "layer": [cell, text],
    }


def confidence() -> Spec:
    """Precision, recall and F1 over the score threshold: a class whole, its group dashed."""
    colors = {
        "domain": ["precision", "recall", "F1"],
        "range": ["var(--accent)", "var(--wrong)", "var(--ink)"],
    }
    lines = {
        "data": {"name": "measures"},
        "mark": {"type": "line", "clip": True, "point": {"size": 14}},
        "encoding": {
            "x": number_axis(
                "start", "score threshold", scale={"domain": [0, 1]}, axis={"format": ".1f"}
            ),
            "y": number_axis("value", None, scale={"domain": [0, 1]}, axis={"tickCount": 5}),
            "color": {
                "field": "measure",
                "type": "nominal",
                "scale": colors,
                "legend": {"orient": "top", "title": None},
            },
            "strokeDash": {
                "field": "side",
                "type": "nominal",
                "legend": None,
                "scale": {"domain": ["class", "group"], "range": [[1, 0], [4, 3]]},
            },
            "tooltip": [
                tip("of", "of"),
                tip("measure", ""),
                tip("at", "from score"),
                tip("text", "value"),
            ],
        },
    }
    floor = {
        "data": {"name": "floors"},
        "mark": {"type": "rule", "stroke": "var(--ink)", "strokeDash": [3, 3]},
        "encoding": {"x": {"field": "floor", "type": "quantitative"}},
    }
    return {**frame(None, 300), "layer": [lines, floor]}


# Classes up to which each has its name beside its mark, as far as there is room.
NAMED_CLASSES = 12


def chart_specs(data: dict[str, Any]) -> dict[str, Spec]:
    """Give the charts that the page's data is enough for."""
    number = len(data["classes"]["name"])
    compared = len(data["runs"]) > 1 or bool(data["differences"])
    train = any(boxes is not None for boxes in data["classes"]["train_boxes"])
    specs = {"imbalance": imbalance(number, compared=compared, train=train)}
    if any(data["runs"][0]["curves"]):
        specs["curves"] = curves(number)
    if any(data["runs"][0]["histograms"]):
        specs |= {"scores": scores(), "confidence": confidence()}
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
