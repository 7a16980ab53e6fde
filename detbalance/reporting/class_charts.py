"""Charts of single classes: precision over recall, scores, and which classes are confused."""

from __future__ import annotations

from detbalance.reporting.chart_parts import RUNS, Spec, dash, frame, number_axis, tip

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
            "tooltip": [*tooltip, tip("amount", "count")],
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
    return {
        **frame("cells", 100 + 26 * (number + 1)),
        "autosize": {"type": "fit", "contains": "padding"},
        "padding": {"left": 4, "top": 4, "right": 60, "bottom": 4},  # the last name leans out
        "params": [{"name": "names", "value": []}],
        "encoding": {"x": x, "y": y},
        "layer": [cell, text],
    }
