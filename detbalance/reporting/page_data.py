"""The data of the HTML page: columns by class instead of rows, short numbers, packed curves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from detbalance.evaluation.comparison import digits_for
from detbalance.evaluation.figures import FIGURES
from detbalance.evaluation.report import ERROR_KINDS, FROC_RATES, MAX_CELLS
from detbalance.reporting.sentences import figure_help, figure_title

if TYPE_CHECKING:
    from detbalance.evaluation import ClassRow, Comparison, Report, ReportSettings

# Digits of the packed curves: two of them per value, 4,096 levels.
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_LEVELS = len(ALPHABET) ** 2 - 1
# Classes up to which the confusion chart has all of them, and how many it has of more.
_ALL_CONFUSED = 30
_SOME_CONFUSED = 20
# With more classes than this only every fifth score of a curve is kept.
_ALL_SCORES = 300
_COUNTS = ("name", "group", "train_boxes", "val_boxes")


def page_data(
    report: Report, baseline: Report | None = None, comparison: Comparison | None = None
) -> dict[str, Any]:
    """Collect what the page's table and charts are made of."""
    rows = report.classes
    by_name = {row.name: i for i, row in enumerate(rows)}
    runs = [_run(report, rows, by_name)]
    if baseline is not None:
        others = {row.name: row for row in baseline.classes}
        runs.append(_run(baseline, [others[row.name] for row in rows], by_name))
    settings = report.settings
    figure = "AP" if comparison is None else comparison.settings.figure
    return {
        "classes": {
            **{key: [getattr(row, key) for row in rows] for key in _COUNTS},
            "score_threshold": [_floor(row, settings.score_threshold) for row in rows],
        },
        "runs": runs,
        "differences": {} if comparison is None else _differences(comparison, by_name),
        "heatmap": _most_confused(runs, len(rows)),
        "figures": _about_figures(settings),
        "settings": {
            "figure": figure,
            # Where a figure takes three columns, and in the line of a class.
            "few": [figure, "AP50", "recall"],
            "score_threshold": number(settings.score_threshold),
            "confidence": number(settings.confidence),
            "min_precision": number(settings.min_precision),
            "max_fppi": number(settings.max_fppi),
            "beta": number(settings.beta),
            "max_cells": MAX_CELLS,
            "froc_rates": FROC_RATES,
        },
    }


def _about_figures(settings: ReportSettings) -> list[dict[str, Any]]:
    """What the page's tables and charts may show, in their order; scores stand beside others."""
    scores = {one.score for one in FIGURES.values()}
    return [
        {
            "key": name,
            "title": figure_title(name, settings),
            "help": figure_help(name, settings),
            "digits": one.digits,
            "shown": one.shown,
            "score": one.score,
        }
        for name, one in FIGURES.items()
        if name not in scores and name != "design_effect"
    ]


def _floor(row: ClassRow, of_all: float) -> float | int | None:
    """The class's score threshold; files of earlier versions have only that of all."""
    return number(of_all if math.isnan(row.score_threshold) else row.score_threshold)


def number(value: float | int | None) -> float | int | None:
    """Round to three decimals; None for undefined."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else round(float(value), 3)


def pack(values: Iterable[float]) -> str:
    """Write numbers of 0..1 as two letters each."""
    levels = [round(_LEVELS * min(max(value, 0.0), 1.0)) for value in values]
    return "".join(ALPHABET[level >> 6] + ALPHABET[level & 63] for level in levels)


def _run(report: Report, rows: Sequence[ClassRow], by_name: dict[str, int]) -> dict[str, Any]:
    """One side of the page."""
    columns = {key: [number(row.figures.get(key)) for row in rows] for key in FIGURES}
    known = sorted({figure for row in rows for figure in row.intervals})
    return {
        "figures": {key: column for key, column in columns.items() if _any(column)},
        "intervals": {
            figure: [
                [
                    number(row.intervals[figure][end]) if figure in row.intervals else None
                    for row in rows
                ]
                for end in (0, 1)
            ]
            for figure in known
        },
        "detections": [row.true_positives + row.false_positives for row in rows],
        "right": [row.true_positives for row in rows],
        "errors": _errors(rows),
        **_details(report, rows, by_name),
    }


def _errors(rows: Sequence[ClassRow]) -> dict[str, dict[str, list[Any]]]:
    if not any(row.errors for row in rows):
        return {}
    return {
        kind: {
            part: [
                number(getattr(row.errors[kind], part)) if kind in row.errors else None
                for row in rows
            ]
            for part in ("count", "shown", "cost")
        }
        for kind in ERROR_KINDS
    }


def _details(report: Report, rows: Sequence[ClassRow], by_name: dict[str, int]) -> dict[str, Any]:
    """Curves, histograms and confused classes; empty for a report without details."""
    details = report.details
    if details is None:
        return {"curves": [], "scores": [], "histograms": [], "confusion": [], "froc": []}
    step = 1 if len(rows) <= _ALL_SCORES else 5
    curves = [details.curves.get(row.name) for row in rows]
    histograms = [details.histograms.get(row.name) for row in rows]
    return {
        "curves": [None if curve is None else pack(curve.precision) for curve in curves],
        "scores": [None if curve is None else pack(curve.scores[::step]) for curve in curves],
        "froc": [
            [pack(one.recall), pack(0 if math.isnan(score) else score for score in one.scores)]
            if one
            else None
            for one in (details.froc.get(row.name) for row in rows)
        ],
        "histograms": [None if one is None else [one.right, one.wrong] for one in histograms],
        "confusion": [
            [_place(cell.true, by_name), _place(cell.found, by_name), cell.count]
            for cell in details.confusion
        ],
    }


def _place(name: str | None, by_name: dict[str, int]) -> int:
    """Index of a class, -1 for none."""
    return -1 if name is None else by_name[name]


def _most_confused(runs: Sequence[dict[str, Any]], num_categories: int) -> list[int]:
    """Classes for the confusion chart: all, or of many those most often taken for each other."""
    if not runs[0]["confusion"] or num_categories < 2:
        return []
    if num_categories <= _ALL_CONFUSED:
        return list(range(num_categories))
    counts: Counter[int] = Counter()
    for true, found, count in (cell for run in runs for cell in run["confusion"]):
        if true >= 0 and found >= 0:
            counts.update({true: count, found: count})
    return sorted(place for place, _ in counts.most_common(_SOME_CONFUSED))


def _differences(
    comparison: Comparison, by_name: dict[str, int]
) -> dict[str, dict[str, list[float | int | None]]]:
    """Both sides, difference, interval, p-value, and whether it is real, by figure and class."""
    rows = {by_name[row.name]: row for row in comparison.classes if row.name in by_name}
    figures = sorted({figure for row in rows.values() for figure in row.figures})
    parts = ("baseline", "ours", "difference", "low", "high", "p_adjusted")
    level = 1 - comparison.settings.confidence
    result = {}
    for figure in figures:
        known = [rows[i].figures.get(figure) if i in rows else None for i in range(len(by_name))]
        result[figure] = {
            part: [None if one is None else _precise(getattr(one, part)) for one in known]
            for part in parts
        }
        # By the p-value itself: rounded, it may stand on the other side of the level.
        result[figure]["real"] = [int(one is not None and one.p_adjusted < level) for one in known]
    return result


def _precise(value: float) -> float | int | None:
    """Three decimals, more where an end of an interval would look like 0."""
    return None if math.isnan(value) else round(value, digits_for(value, least=3))


def _any(column: Sequence[Any]) -> bool:
    return any(value is not None for value in column)
