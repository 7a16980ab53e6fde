"""What kind each error is, and what each kind costs in AP50.

Every false positive has one kind, by what it overlaps most; a box that no detection is near enough
to blame is missed. The cost of a kind is the AP50 that a class would gain if that kind alone were
repaired.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detbalance.data.arrays import Bool, Float64, Int64
from detbalance.evaluation.average_precision import mean_precision
from detbalance.evaluation.filters import reaches_floor
from detbalance.evaluation.matching import Matches, Overlaps
from detbalance.evaluation.report import ERROR_KINDS, MAX_CELLS, Cell


@dataclass(frozen=True, eq=False)
class ErrorCounts:
    """One kind of error, by class; arrays of length K + 1."""

    count: Int64
    shown: Int64
    cost: Float64


@dataclass(frozen=True, eq=False)
class DetectionKinds:
    """What kind of error each detection is, and which boxes it overlaps most."""

    is_kind: dict[str, Bool]
    own_box: Int64
    own_iou: Float64
    other_box: Int64
    other_iou: Float64


def error_kinds(
    matches: Matches,
    pairs: Overlaps,
    *,
    iou: float = 0.5,
    background_iou: float = 0.1,
    score_threshold: float | Float64 = 0.3,
) -> dict[str, ErrorCounts]:
    """Sort all errors by kind, and say what each kind costs every class.

    Source: Bolya et al., TIDE, 2020, arXiv:2008.08115, sections 2.2 and 2.3. Differs: counts and
    costs are per class, a class all of whose boxes are missed would gain the rest of its AP, and
    what crowd regions and LVIS's lists excuse is no error.
    """
    t = matches.at(iou)
    predictions, labels = matches.predictions, matches.annotations.labels
    num_classes = len(matches.num_positive)
    found = np.zeros(len(labels), dtype=np.bool_)
    found[matches.annotation[matches.is_true_positive[:, t], t]] = True
    of = detection_kinds(matches, pairs, iou=iou, background_iou=background_iou)
    is_kind = of.is_kind
    missed = matches.positive & ~found
    missed[of.own_box[is_kind["localisation"]]] = False
    missed[of.other_box[is_kind["classification"]]] = False

    def count(values: Int64) -> Int64:
        return np.bincount(values, minlength=num_classes)

    repair = _Repair(matches, t)
    shown = reaches_floor(predictions, score_threshold)
    blamed = {"localisation": of.own_box, "classification": of.other_box}
    result = {
        kind: ErrorCounts(
            count(predictions.labels[chosen]),
            count(predictions.labels[chosen & shown]),
            repair.cost(chosen, blamed.get(kind), found),
        )
        for kind, chosen in is_kind.items()
    }
    found_and_shown = np.zeros(len(labels), dtype=np.bool_)
    found_and_shown[matches.annotation[matches.is_true_positive[:, t] & shown, t]] = True
    result["missed"] = ErrorCounts(
        count(labels[missed]),
        count(labels[matches.positive & ~found_and_shown]),
        repair.cost_of_missed(count(labels[missed])),
    )
    return {kind: result[kind] for kind in ERROR_KINDS}


def detection_kinds(
    matches: Matches, pairs: Overlaps, *, iou: float = 0.5, background_iou: float = 0.1
) -> DetectionKinds:
    """Say of every wrong detection what kind of error it is; `error_kinds` describes the kinds."""
    predictions, labels = matches.predictions, matches.annotations.labels
    wrong = matches.is_false_positive[:, matches.at(iou)]
    kept = wrong[pairs.detection] & matches.positive[pairs.annotation]
    kept &= pairs.iou >= background_iou
    near = Overlaps(pairs.detection[kept], pairs.annotation[kept], pairs.iou[kept])
    own = labels[near.annotation] == predictions.labels[near.detection]
    own_iou, own_box = _nearest(near, own, len(wrong))
    other_iou, other_box = _nearest(near, ~own, len(wrong))
    localisation = wrong & (own_iou > 0) & (own_iou < iou)
    classification = wrong & ~localisation & (other_iou >= iou)
    duplicate = wrong & ~localisation & ~classification & (own_iou >= iou)
    background = wrong & (own_iou == 0) & (other_iou == 0)
    is_kind = {
        "classification": classification,
        "localisation": localisation,
        "both": wrong & ~localisation & ~classification & ~duplicate & ~background,
        "duplicate": duplicate,
        "background": background,
    }
    return DetectionKinds(is_kind, own_box, own_iou, other_box, other_iou)


def _nearest(pairs: Overlaps, chosen: Bool, num_detections: int) -> tuple[Float64, Int64]:
    """Overlap with, and row of, the annotation that each detection overlaps most; else 0, -1."""
    detection, annotation, iou = (
        values[chosen] for values in (pairs.detection, pairs.annotation, pairs.iou)
    )
    best = np.zeros(num_detections)
    row = np.full(num_detections, -1, dtype=np.int64)
    if len(detection):
        starts = np.flatnonzero(np.diff(detection, prepend=-1))
        best[detection[starts]] = np.maximum.reduceat(iou, starts)
        is_best = np.flatnonzero(iou == best[detection])
        first = is_best[np.flatnonzero(np.diff(detection[is_best], prepend=-1))]
        row[detection[first]] = annotation[first]
    return best, row


class _Repair:
    """AP50 before and after one kind of error is repaired."""

    def __init__(self, matches: Matches, t: int) -> None:
        self.matches = matches
        self.right = matches.is_true_positive[:, t]
        self.wrong = matches.is_false_positive[:, t]
        self.before = self._average_precision(
            matches.order, matches.offsets, self.right, self.wrong, matches.num_positive
        )

    def cost(self, is_kind: Bool, box: Int64 | None = None, found: Bool | None = None) -> Float64:
        """float64 [K + 1], gained when errors get the free boxes of `box`, or are dropped."""
        matches = self.matches
        right, wrong = self.right, self.wrong & ~is_kind
        order, offsets = matches.order, matches.offsets
        if box is not None and found is not None:
            # The best detection of each free box gets it, in the order of the evaluation.
            scores = matches.predictions.scores
            rows = order[is_kind[order]]
            rows = rows[np.argsort(-scores[rows], kind="stable")]
            rows = rows[~found[box[rows]]]
            rows = rows[np.unique(box[rows], return_index=True)[1]]
            right = right.copy()
            right[rows] = True
            labels = matches.predictions.labels.copy()
            labels[rows] = matches.annotations.labels[box[rows]]
            if (labels != matches.predictions.labels).any():
                order = order[np.lexsort((-scores[order], labels[order]))]
                sizes = np.bincount(labels[order], minlength=len(matches.num_positive))
                offsets = np.concatenate([[0], np.cumsum(sizes)])
        after = self._average_precision(order, offsets, right, wrong, matches.num_positive)
        return after - self.before

    def cost_of_missed(self, missed: Int64) -> Float64:
        """float64 [K + 1], gained when so many boxes of each class need not be found."""
        matches = self.matches
        left = matches.num_positive - missed
        after = self._average_precision(
            matches.order, matches.offsets, self.right, self.wrong, left
        )
        after[(left == 0) & (matches.num_positive > 0)] = 1.0
        return after - self.before

    def _average_precision(
        self, order: Int64, offsets: Int64, right: Bool, wrong: Bool, num_positive: Int64
    ) -> Float64:
        values = mean_precision(right[order, None], wrong[order, None], offsets, num_positive)
        return np.asarray(values[0])


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
