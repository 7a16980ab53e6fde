"""Which classes are taken for which, background included, at a score floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detbalance.evaluation.details import MAX_CELLS, Cell
from detbalance.evaluation.matching import Matches
from detbalance.evaluation.overlaps import Overlaps
from detbalance.evaluation.participants import reaches_floor

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Confusion:
    """Boxes and detections by true and found class.

    Attributes:
        counts: int64 [K + 1, K + 1], row: class of the box, column: class of the detection. Row 0
            holds detections where there is no box (left), column 0 boxes that nothing found. The
            diagonal holds the true positives, so that a row sums to the boxes to find and a column
            to the detections that count.
    """

    counts: Int64

    def cells(self, names: tuple[str, ...], limit: int = MAX_CELLS) -> list[Cell]:
        """Return the largest cells off the diagonal, largest first.

        Args:
            names: of the labels from 1.
            limit: how many cells at most.
        """
        counts = self.counts.copy()
        np.fill_diagonal(counts, 0)
        flat = np.argsort(-counts, axis=None, kind="stable")[:limit]
        rows, columns = np.unravel_index(flat, counts.shape)
        known = (None, *names)
        return [
            Cell(true=known[i], found=known[j], count=int(counts[i, j]))
            for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
            if counts[i, j]
        ]


def confusion(
    matches: Matches, pairs: Overlaps, *, score_floor: float | Float64 = 0.3, iou: float = 0.5
) -> Confusion:
    """Count which class each box was found as.

    Detections that found a box of their class keep it. The others, from the highest score down,
    take the box of another class that they overlap most among those that are left.

    Args:
        matches: of `match`.
        pairs: of `overlaps` for the same inputs, over all classes, from `iou` or below.
        score_floor: smallest score that counts; float64 [K + 1] for one of each class.
        iou: smallest overlap; one of the thresholds of the rules.

    Returns:
        The matrix. Crowd regions, and detections that LVIS's lists excuse, are in no cell.
    """
    t = matches.at(iou)
    predictions, labels = matches.predictions, matches.annotations.labels
    shown = reaches_floor(predictions, score_floor)
    right = np.flatnonzero(matches.is_true_positive[:, t] & shown)
    free = matches.positive.copy()
    free[matches.annotation[right, t]] = False
    searching = matches.is_false_positive[:, t] & shown
    kept = np.flatnonzero(searching[pairs.detection] & free[pairs.annotation] & (pairs.iou >= iou))
    detection, annotation = pairs.detection[kept], pairs.annotation[kept]
    wishes = np.lexsort((-pairs.iou[kept], detection, -predictions.scores[detection]))
    size = len(matches.num_positive)
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (predictions.labels[right], predictions.labels[right]), 1)
    for d, a in zip(detection[wishes].tolist(), annotation[wishes].tolist(), strict=True):
        if searching[d] and free[a]:
            searching[d] = free[a] = False
            counts[labels[a], predictions.labels[d]] += 1
    counts[0] += np.bincount(predictions.labels[searching], minlength=size)
    counts[:, 0] += np.bincount(labels[free], minlength=size)
    return Confusion(counts)
