"""What the charts of the HTML page are put together from.

Colours are the page's CSS variables, so that light, dark and print need no second chart: the SVG
that Vega draws follows them.
"""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]

RUNS = ("this run", "baseline")
GROUPS = ("rare", "common", "frequent", "none")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"


def frame(data: str | None, height: int) -> Spec:
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
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": 4,
        "background": None,
        **({} if data is None else {"data": {"name": data}}),
        # Charts are named as a whole; tables have their numbers for those who cannot see them.
        "config": {"font": _FONT, "view": {"stroke": None}, "axis": quiet, "aria": False},
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
