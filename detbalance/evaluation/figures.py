"""The one table of figures: what each is called, what it says, and how it is computed.

A new column of the report is one entry of `FIGURES`: class rows, means of groups, JSON, CSV and the
page's table have it from here. Arrays by class have length K + 1; index 0 (background) is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from detbalance.data.arrays import Float64
from detbalance.evaluation.average_precision import fixed_ap
from detbalance.evaluation.bootstrap_variance import more_boxes, recall_design_effect
from detbalance.evaluation.matching import Matches, Overlaps
from detbalance.evaluation.operating_points import (
    Counts,
    at_score,
    best_f,
    f_score,
    recall_at_false_positives,
    recall_at_precision,
)
from detbalance.evaluation.settings import EvaluationSettings

RECALL_IOU_THRESHOLD = 0.5


@dataclass(frozen=True, eq=False)
class Measured:
    """What figures are computed from: one grid's averages and one matching pass."""

    averages: Mapping[str, Float64]
    matches: Matches
    pairs: Overlaps
    score_thresholds: Float64
    settings: EvaluationSettings

    @cached_property
    def at_half(self) -> Counts:
        """Counts at IoU .50 and the score threshold of each class."""
        return at_score(self.matches, self.score_thresholds, iou=RECALL_IOU_THRESHOLD)

    @cached_property
    def strict(self) -> Counts:
        """The same at IoU .75."""
        return at_score(self.matches, self.score_thresholds, iou=0.75)

    @cached_property
    def at_precision(self) -> tuple[Float64, Float64]:
        """Highest recall that holds the precision, and the score threshold of it."""
        return recall_at_precision(self.matches, self.settings.min_precision)

    @cached_property
    def at_fppi(self) -> tuple[Float64, Float64]:
        """Highest recall with so many false positives an image, and the score threshold of it."""
        return recall_at_false_positives(self.matches, self.settings.max_fppi)

    @cached_property
    def best(self) -> tuple[Float64, Float64]:
        """Highest F-beta, and the score threshold of it."""
        return best_f(self.matches, beta=self.settings.beta)

    @cached_property
    def design_effect(self) -> Float64:
        """How much larger the variance of recall is than of boxes in images of their own."""
        return recall_design_effect(shifted(self.matches, self.score_thresholds), 0.0)

    def more_boxes(self) -> Float64:
        """Boxes that val lacks."""
        lacking = more_boxes(
            self.at_half.recall,
            self.matches.num_positive,
            design_effect=self.design_effect,
            confidence=self.settings.confidence,
        ).astype(np.float64)
        lacking[0] = 0
        return lacking


def shifted(matches: Matches, score_thresholds: Float64) -> Matches:
    """The matches with scores above the threshold of their class, where one is taken for all.

    Their order stays as it was.
    """
    above = matches.predictions.scores - score_thresholds[matches.predictions.labels]
    return replace(matches, predictions=replace(matches.predictions, scores=above))


@dataclass(frozen=True)
class Figure:
    """One figure of every class.

    `title` and `help` may name settings, as in "F{beta:g}" and {shown_from}. `group` says whether
    groups have its mean, `interval` whether draws of images give it one, `score` which figure is
    the score threshold that belongs to it, `shown` whether tables with little room have it: on the
    console, in Markdown, on top of the page. Without `compute` it comes from training.
    """

    title: str
    help: str
    compute: Callable[[Measured], Float64] | None = None
    digits: int = 3
    group: bool = True
    interval: bool = False
    score: str | None = None
    short: str = ""
    shown: bool = False


def figure_of(holder: Any, name: str) -> Any:
    """A figure of what holds `figures`, asked for as an attribute."""
    figures = holder.__dict__.get("figures", {})
    if name not in figures:
        raise AttributeError(f"{type(holder).__name__} has no attribute or figure {name!r}")
    return figures[name]


def _average(name: str) -> Callable[[Measured], Float64]:
    return lambda measured: measured.averages[name]


FIGURES: dict[str, Figure] = {
    "AP": Figure(
        "AP", "average precision over IoU .50 to .95", _average("AP"), interval=True, shown=True
    ),
    "AP50": Figure(
        "AP50", "average precision at IoU .50", _average("AP50"), interval=True, shown=True
    ),
    "AP75": Figure("AP75", "average precision at IoU .75", _average("AP75")),
    "AR": Figure(
        "AR",
        "recall averaged over IoU .50 to .95, all scores",
        _average("AR"),
        interval=True,
        shown=True,
    ),
    "recall": Figure(
        "recall",
        "recall at IoU .50, {shown_from}",
        lambda m: m.at_half.recall,
        interval=True,
        shown=True,
    ),
    "precision": Figure(
        "precision",
        "precision at IoU .50, {shown_from}; n: detections",
        lambda m: m.at_half.precision,
        interval=True,
        short="prec.",
        shown=True,
    ),
    "f_score": Figure(
        "F{beta:g}",
        "F-{beta:g} of recall and precision",
        lambda m: f_score(m.at_half.precision, m.at_half.recall, beta=m.settings.beta),
    ),
    "best_f": Figure(
        "best F{beta:g}",
        "highest F-score over all score thresholds",
        lambda m: m.best[0],
        score="best_f_score",
    ),
    "recall_at_precision": Figure(
        "recall at precision {min_precision:g}",
        "with the score threshold of it",
        lambda m: m.at_precision[0],
        score="score_at_precision",
    ),
    "recall_at_fppi": Figure(
        "recall at {max_fppi:g} false/image",
        "with the score threshold of it",
        lambda m: m.at_fppi[0],
        score="score_at_fppi",
    ),
    "recall75": Figure("recall75", "recall at IoU .75, {shown_from}", lambda m: m.strict.recall),
    "precision75": Figure(
        "precision75", "precision at IoU .75, {shown_from}", lambda m: m.strict.precision
    ),
    "fixed_AP": Figure(
        "fixed AP",
        "AP with the detections cut per class over the whole file",
        lambda m: fixed_ap(m.matches, pairs=m.pairs).mean(axis=0),
    ),
    "APs": Figure("AP small", "AP of small boxes", _average("APs")),
    "APm": Figure("AP medium", "AP of medium boxes", _average("APm")),
    "APl": Figure("AP large", "AP of large boxes", _average("APl")),
    "AR1": Figure("AR1", "AR with one detection per image", _average("AR1")),
    "AR10": Figure("AR10", "AR with ten detections per image", _average("AR10")),
    "ARs": Figure("AR small", "AR of small boxes", _average("ARs")),
    "ARm": Figure("AR medium", "AR of medium boxes", _average("ARm")),
    "ARl": Figure("AR large", "AR of large boxes", _average("ARl")),
    "positive_share": Figure(
        "positive share",
        "part of the class's gradient in training that raised it",
        group=False,
        short="pos.\nshare",
        shown=True,
    ),
    "more_boxes": Figure(
        "boxes wanted",
        "boxes that val lacks to know recall to +-.05",
        Measured.more_boxes,
        digits=0,
        group=False,
    ),
    "design_effect": Figure(
        "design effect",
        "variance of recall against that of boxes in images of their own",
        lambda m: m.design_effect,
        group=False,
    ),
    "score_at_precision": Figure(
        "score at precision", "see recall_at_precision", lambda m: m.at_precision[1], group=False
    ),
    "score_at_fppi": Figure(
        "score at fppi", "see recall_at_fppi", lambda m: m.at_fppi[1], group=False
    ),
    "best_f_score": Figure("score of best F", "see best_f", lambda m: m.best[1], group=False),
}
# Of classes and of groups; with intervals where images were drawn, recall and precision anyway.
GROUP_FIGURES = tuple(name for name, figure in FIGURES.items() if figure.group)
WITH_INTERVALS = tuple(name for name, figure in FIGURES.items() if figure.interval)
