"""Which classes are taken for which, at a score threshold: the errors of `error_kinds` by class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detbalance.evaluation.details import MAX_CELLS, Cell
from detbalance.evaluation.errors import detection_kinds
from detbalance.evaluation.filters import reaches_floor
from detbalance.evaluation.matching import Matches
from detbalance.evaluation.overlaps import Overlaps

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Confusion:
    """Detections and boxes by true and found class; only cells that are not 0 are held."""

    true: Int64
    found: Int64
    number: Int64
    num_classes: int

    @property
    def counts(self) -> Int64:
        """int64 [K + 1, K + 1], row: true class, column: found class."""
        matrix = np.zeros((self.num_classes, self.num_classes), dtype=np.int64)
        matrix[self.true, self.found] = self.number
        return matrix

    def cells(self, names: tuple[str, ...], limit: int = MAX_CELLS) -> list[Cell]:
        """Return the largest cells off the diagonal, largest first."""
        apart = np.flatnonzero(self.true != self.found)
        largest = apart[np.argsort(-self.number[apart], kind="stable")[:limit]]
        known = (None, *names)
        columns = (values[largest].tolist() for values in (self.true, self.found, self.number))
        return [Cell(known[i], known[j], count) for i, j, count in zip(*columns, strict=True)]


def confusion(
    matches: Matches, pairs: Overlaps, *, score_threshold: float | Float64 = 0.3, iou: float = 0.5
) -> Confusion:
    """Count which class each detection is of, and which the box that it lies on."""
    t, num_classes = matches.at(iou), len(matches.num_positive)
    found_as, labels = matches.predictions.labels, matches.annotations.labels
    shown = reaches_floor(matches.predictions, score_threshold)
    kept = shown[pairs.detection]
    near = Overlaps(pairs.detection[kept], pairs.annotation[kept], pairs.iou[kept])
    kinds = detection_kinds(matches, near, iou=iou)
    right = np.flatnonzero(matches.is_true_positive[:, t] & shown)
    missed = matches.positive.copy()
    missed[matches.annotation[right, t]] = False
    taken = np.flatnonzero(kinds.is_kind["classification"] & shown)
    alone = np.flatnonzero(kinds.is_kind["background"] & shown)
    true = [found_as[right], labels[kinds.other_box[taken]], np.zeros_like(alone), labels[missed]]
    found = [found_as[right], found_as[taken], found_as[alone], np.zeros_like(labels[missed])]
    cells, number = np.unique(
        np.concatenate(true) * num_classes + np.concatenate(found), return_counts=True
    )
    return Confusion(cells // num_classes, cells % num_classes, number, num_classes)
