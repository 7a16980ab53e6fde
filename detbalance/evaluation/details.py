"""What the pictures of a report are drawn from: curves, score histograms, confused classes."""

from __future__ import annotations

from dataclasses import dataclass

# Bins of the score histograms, over scores 0 to 1.
NUM_BINS = 20
# Cells of the confusion matrix that a report keeps.
MAX_CELLS = 300


@dataclass(frozen=True)
class PRCurve:
    """Precision of one class at IoU .50 over recall 0, .01, ... 1.

    Attributes:
        precision: 101 values, the highest precision at this recall or more; 0 where the recall is
            not reached.
        scores: 101 values, score of the detection with which the recall is reached; 0 where it is
            not.
    """

    precision: list[float]
    scores: list[float]


@dataclass(frozen=True)
class Histogram:
    """Scores of one class at IoU .50 in 20 equal bins from 0 to 1.

    Attributes:
        right: detections that found a box.
        wrong: detections that found none.
    """

    right: list[int]
    wrong: list[int]


@dataclass(frozen=True)
class Cell:
    """One cell of the confusion matrix, at IoU .50 and the score floor.

    Attributes:
        true: class of the boxes, None for detections that lie on nothing ("background").
        found: class of the detections, None for boxes that none of their class found ("missed").
        count: how many.
    """

    true: str | None
    found: str | None
    count: int


@dataclass(frozen=True)
class Details:
    """What a report's pictures are drawn from; classes by name.

    Attributes:
        curves: of the classes with boxes to find.
        histograms: of the classes with boxes or detections.
        confusion: the largest cells off the diagonal, largest first, at most 300.
    """

    curves: dict[str, PRCurve]
    histograms: dict[str, Histogram]
    confusion: list[Cell]
