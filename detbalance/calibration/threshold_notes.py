"""What to know about fitted thresholds before using them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from detbalance.calibration.threshold_curves import Curves
from detbalance.calibration.threshold_result import ClassThreshold
from detbalance.data.categories import shorten
from detbalance.data.messages import counted
from detbalance.evaluation.sanity_checks import odd_scores

if TYPE_CHECKING:
    from detbalance.data import Annotations, Predictions

_NAMED = 5
_COUNTED = {"recall": "boxes", "precision": "detections"}
_LOW_SCORE = 0.01  # detectors that keep detections below are not cut by their own floor


def calibration_notes(
    curves: Curves,
    rows: Sequence[ClassThreshold],
    annotations: Annotations,
    predictions: Predictions,
    *,
    confidence: float,
) -> tuple[str, ...]:
    """Name the classes that thresholds could not be fitted for, or whose floor is not kept."""
    notes = []
    if odd := odd_scores(predictions):
        notes.append(f"{odd}. The thresholds hold for scores of this kind only.")
    label = {name: i for i, name in enumerate(annotations.categories.names, start=1)}
    if absent := [row.name for row in rows if not row.boxes]:
        notes.append(
            f"{counted(len(absent), 'class')} without boxes in {annotations.source} get the shared"
            f" threshold: {listed(absent)}."
        )
    never = [row.name for row in rows if row.boxes and not curves.weights[label[row.name]]]
    if never:
        notes.append(
            f"{counted(len(never), 'class')} with boxes and no right detection at any score get"
            f" the shared threshold: {listed(never)}."
        )
    if curves.objective.is_floor:
        best = {row.name: float(curves.own[label[row.name]].max()) for row in rows}
        notes += _floor_notes(curves, rows, best, confidence)
        lowest = float(predictions.scores.min())
        short = any(row.boxes and best[row.name] < curves.objective.amount for row in rows)
        if curves.objective.kind == "recall" and short and lowest >= _LOW_SCORE:
            notes.append(
                f"The lowest score in the predictions is {lowest:.3f}: detections below it may "
                "have been cut off. Predict with a lower score threshold for more recall."
            )
    return tuple(notes)


def _floor_notes(
    curves: Curves, rows: Sequence[ClassThreshold], best: dict[str, float], confidence: float
) -> list[str]:
    goal, notes = curves.objective, []
    beyond = {row.name: row.boxes for row in rows if row.boxes and 0 < best[row.name] < goal.amount}
    if beyond:
        figures = [f"{name} {best[name]:.2f} ({counted(n, 'box')})" for name, n in beyond.items()]
        notes.append(
            f"{goal} is out of reach for {counted(len(beyond), 'class')} at every threshold; the"
            f" best that there is: {listed(figures)}."
        )
    unsure = [row.name for row in rows if row.floor == "unsure"]
    if unsure:
        verb = "keeps" if len(unsure) == 1 else "keep"
        notes.append(
            f"{counted(len(unsure), 'class')} {verb} {goal} here, but by too few"
            f" {_COUNTED[goal.kind]} for {confidence:.0%} confidence: {listed(unsure)}."
        )
    missed = [row.name for row in rows if row.floor == "missed" and row.name not in beyond]
    if missed:
        verb = "misses" if len(missed) == 1 else "miss"
        notes.append(
            f"{counted(len(missed), 'class')} {verb} {goal} at the threshold chosen, though"
            f" another would keep it here: {listed(missed)}."
        )
    return notes


def listed(names: Sequence[str]) -> str:
    """Join names, the first five of them and how many more there are."""
    return shorten(names, _NAMED)
