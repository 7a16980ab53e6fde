"""Charts of the HTML page by which a score threshold is chosen: FROC and reliability."""

from __future__ import annotations

from typing import Any

from detbalance.reporting.page_charts import Spec, frame, number_axis, tip

_SIDES = ("class", "baseline", "group")


def operating_specs(data: dict[str, Any]) -> dict[str, Spec]:
    """Give the charts that the page's data is enough for."""
    specs = {}
    if any(data["runs"][0]["froc"]):
        specs["froc"] = _froc(data["settings"]["froc_rates"])
    if any(data["runs"][0]["histograms"]):
        specs["reliability"] = _reliability()
    return specs


def _by_side(key: str, values: list[Any]) -> Spec:
    scale = {"domain": _SIDES, "range": values}
    return {key: {"field": "side", "type": "nominal", "legend": None, "scale": scale}}


def _lines(x: Spec, y: Spec, tips: list[Spec]) -> Spec:
    """A line with marks for the class, its baseline and its group."""
    return {
        "data": {"name": "points"},
        "mark": {"type": "line", "clip": True, "point": {"size": 40}},
        "encoding": {
            "x": x,
            "y": y,
            **_by_side("color", ["var(--accent)", "var(--ink)", "var(--muted)"]),
            **_by_side("strokeDash", [[1, 0], [5, 3], [2, 2]]),
            "tooltip": [tip("of", "of"), *tips],
        },
    }


def _froc(rates: tuple[float, ...]) -> Spec:
    """Recall over false positives per image, on a logarithmic axis."""
    x = number_axis(
        "rate",
        "false positives of the class per image",
        scale={"type": "log", "nice": False, "domain": [rates[0], rates[-1]]},
        axis={"values": list(rates), "format": "~g", "grid": False},
    )
    y = number_axis("value", "recall", scale={"domain": [0, 1]}, axis={"tickCount": 5})
    tips = [
        tip("rate", "false per image"),
        tip("text", "recall"),
        tip("score", "score threshold"),
    ]
    return {**frame(None, 260), "layer": [_lines(x, y, tips)]}


def _reliability() -> Spec:
    """Share of right detections over their score; on the diagonal scores are probabilities."""
    x = number_axis("start", "score", scale={"domain": [0, 1]}, axis={"format": ".1f"})
    y = number_axis("value", "share that is right", scale={"domain": [0, 1]}, axis={"tickCount": 5})
    diagonal = {
        "data": {"values": [{"start": 0, "value": 0}, {"start": 1, "value": 1}]},
        "mark": {"type": "line", "stroke": "var(--edge)", "strokeDash": [1, 3]},
        "encoding": {"x": x, "y": y},
    }
    tips = [
        tip("span", "scores"),
        tip("text", "right"),
        tip("amount", "detections"),
    ]
    return {**frame(None, 260), "layer": [diagonal, _lines(x, y, tips)]}
