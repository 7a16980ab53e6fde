"""What the gallery shows: which missed boxes, which wrong detections, and what is wrong with each.

Letters: M images, N annotations, D detections, n errors of one side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from detbalance.data.arrays import Bool, Float64, Int64
from detbalance.evaluation import Evaluation
from detbalance.evaluation.errors import detection_kinds
from detbalance.evaluation.filters import places_in_group, reaches_floor
from detbalance.evaluation.matching import overlaps
from detbalance.reporting.sentences import short

# Pictures of one class before the next class has its turn, and of one image before other images.
_PER_TURN = 3
_PER_IMAGE = 2
# Errors of a class that can be shown at all, where images cannot be used.
_RESERVE = 200


@dataclass(frozen=True, eq=False)
class Subject:
    """What one picture is about."""

    row: int
    label: int
    kind: str
    score: float | None
    bbox: Float64
    partners: Float64


@dataclass(frozen=True, eq=False)
class Candidates:
    """Errors of one side, those of a class one after the other, the best to show first."""

    rows: Int64
    labels: Int64
    images: Int64
    rank: Float64
    describe: Callable[[int], Subject]

    def choose(self, count: int, is_unusable: Bool) -> list[tuple[int, int]]:
        """Choose a few of each class in turn, and of each image before others have been seen."""
        usable = np.flatnonzero(~is_unusable[self.images])
        turns = places_in_group(self.labels[usable]) // _PER_TURN
        order = usable[np.lexsort((self.rank[usable], turns))]
        rounds = places_in_group(self.images[order]) // _PER_IMAGE
        order = order[np.argsort(rounds, kind="stable")][:count]
        order = order[np.argsort(self.rank[order], kind="stable")]
        return list(zip(self.rows[order].tolist(), self.images[order].tolist(), strict=True))


class Errors:
    """The errors of an evaluation that a user would see."""

    def __init__(self, evaluation: Evaluation) -> None:
        matches = self.matches = evaluation.matches
        annotations, predictions = matches.annotations, matches.predictions
        iou = evaluation.settings.recall_iou_threshold
        t = matches.at(iou)
        self._floors = evaluation.score_thresholds
        self.is_shown = reaches_floor(predictions, self._floors) & matches.within_cap
        self.is_wrong = matches.is_false_positive[:, t] & self.is_shown
        # The detection that found each box, at whatever score; -1 for none.
        self._finder = np.full(annotations.num_annotations, -1, dtype=np.int64)
        right = np.flatnonzero(matches.is_true_positive[:, t])
        self._finder[matches.annotation[right, t]] = right
        is_seen = np.append(self.is_shown, False)[self._finder]
        self.is_missed = matches.positive & ~is_seen
        shown = np.flatnonzero(self.is_shown)
        self._pairs = overlaps(annotations, predictions, rows=shown, rules=matches.rules)
        self._kinds = detection_kinds(matches, self._pairs, iou=iou)

    def missed(self, rarest_first: Sequence[str]) -> Candidates:
        """List missed boxes, with images from all over the file in front."""
        annotations = self.matches.annotations
        rows = np.flatnonzero(self.is_missed)
        labels, images = annotations.labels[rows], annotations.image_index[rows]
        known = annotations.categories.labels_of_names(rarest_first)
        rarity = np.full(annotations.categories.num_classes, np.inf)
        rarity[known] = np.arange(len(known))
        # Neighbours in the file come far apart, and each class has images of its own in front:
        # Roberts' quasirandom sequence R2, 2018.
        scattered = (images * 0.7548776662466927 + labels * 0.5698402909980532) % 1
        order = _by_class(labels, images, scattered)
        return Candidates(
            rows[order], labels[order], images[order], rarity[labels[order]], self._missed
        )

    def false_positives(self) -> Candidates:
        """List wrong detections, the highest score first."""
        predictions = self.matches.predictions
        rows = np.flatnonzero(self.is_wrong)
        labels, images = predictions.labels[rows], predictions.image_index[rows]
        rank = -predictions.scores[rows]
        order = _by_class(labels, images, rank)
        return Candidates(
            rows[order], labels[order], images[order], rank[order], self._false_positive
        )

    def _missed(self, row: int) -> Subject:
        annotations = self.matches.annotations
        kind, detection = self._why_missed(row)
        partners = self.matches.predictions.bbox[[] if detection is None else [detection]]
        label = int(annotations.labels[row])
        return Subject(row, label, kind, None, annotations.bbox[row], partners)

    def _why_missed(self, row: int) -> tuple[str, int | None]:
        """Say what became of a box, and which detection shows it; None where none is shown."""
        kinds = self._kinds
        detection = self._blamed("classification", kinds.other_box, row)
        if detection is not None:
            return f"found as {self._named(detection)}", detection
        detection = self._blamed("localisation", kinds.own_box, row)
        if detection is not None:
            return f"inexact box, IoU {_at_most(kinds.own_iou[detection])}", detection
        if self._finder[row] >= 0:
            score = _at_most(self.matches.predictions.scores[self._finder[row]])
            floor = _at_least(self._floors[self.matches.annotations.labels[row]])
            return f"found at {score}, below the floor of {floor}", None
        detection = self._blamed("both", kinds.other_box, row)
        if detection is not None:
            iou = _at_most(kinds.other_iou[detection])
            return f"found as {self._named(detection)}, IoU {iou}", detection
        if (self._pairs.annotation == row).any():
            return "only boxes of others near it", None
        return "nothing near it", None

    def _blamed(self, kind: str, box: Int64, row: int) -> int | None:
        """The error of a kind with the highest score that overlaps an annotation most of all."""
        rows = np.flatnonzero(self._kinds.is_kind[kind] & (box == row))
        return int(rows[np.argmax(self.matches.predictions.scores[rows])]) if len(rows) else None

    def _named(self, detection: int) -> str:
        predictions = self.matches.predictions
        name = self.matches.annotations.categories.name(int(predictions.labels[detection]))
        return f"{name} {short(float(predictions.scores[detection]))}"

    def _false_positive(self, row: int) -> Subject:
        predictions = self.matches.predictions
        kind, box = self._why_wrong(row)
        partners = self.matches.annotations.bbox[[] if box is None else [box]]
        label, score = int(predictions.labels[row]), float(predictions.scores[row])
        return Subject(row, label, kind, score, predictions.bbox[row], partners)

    def _why_wrong(self, row: int) -> tuple[str, int | None]:
        """Say what kind of error a detection is, and on which box; None on background."""
        kinds, annotations = self._kinds, self.matches.annotations
        kind = next(name for name, is_kind in kinds.is_kind.items() if is_kind[row])
        own, other = int(kinds.own_box[row]), int(kinds.other_box[row])
        if kind == "background":
            return "on background", None
        if kind == "duplicate":
            return "duplicate", own
        if kind == "localisation":
            return f"inexact box, IoU {_at_most(kinds.own_iou[row])}", own
        name = annotations.categories.name(int(annotations.labels[other]))
        if kind == "classification":
            return f"is {name}", other
        return f"near {name}, IoU {_at_most(kinds.other_iou[row])}", other


def _by_class(labels: Int64, images: Int64, value: Float64) -> Int64:
    """Sort errors by class; within it the first of every image, by value, then the second."""
    order = np.argsort(value, kind="stable")
    again = places_in_group(images[order] * (int(labels.max(initial=0)) + 1) + labels[order])
    order = order[np.lexsort((again, labels[order]))]
    return order[places_in_group(labels[order]) < _RESERVE]


def _at_most(value: float) -> str:
    """Two decimals, rounded down: what is below a limit must not look as if it reached it."""
    return short(math.floor(value * 100 + 1e-6) / 100)


def _at_least(value: float) -> str:
    """Two decimals, rounded up."""
    return short(math.ceil(value * 100 - 1e-6) / 100)
