"""What the pictures of a report are drawn from: curves, score histograms, confused classes."""

from __future__ import annotations

from dataclasses import dataclass

# Bins of the score histograms, over scores 0 to 1.
NUM_BINS = 20
# Cells of the confusion matrix that a report keeps.
MAX_CELLS = 300


@dataclass(frozen=True)
class PRCurve:
    """Precision of one class at IoU .50 over recall 0, .01, ... 1."""

    precision: list[float]
    scores: list[float]


@dataclass(frozen=True)
class Histogram:
    """Scores of one class at IoU .50 in 20 equal bins from 0 to 1."""

    right: list[int]
    wrong: list[int]


@dataclass(frozen=True)
class Cell:
    """One cell of the confusion matrix, at IoU .50 and the score threshold."""

    true: str | None
    found: str | None
    count: int


@dataclass(frozen=True)
class Details:
    """What a report's pictures are drawn from; classes by name."""

    curves: dict[str, PRCurve]
    histograms: dict[str, Histogram]
    confusion: list[Cell]
