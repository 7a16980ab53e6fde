"""Detections of several members side by side, cut into groups of one image and class.

Only detections of one group can be in each other's way, so all groups are worked on at once: they
are laid out as columns, best detection on top, and the methods go from row to row.

Letters: D detections of all members that take part, J members, K categories, G groups of a batch, S
the size of the largest of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detbalance.data import Predictions

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
# Entries of one working array: small enough for the cache of a core.
_BATCH = 1 << 15


@dataclass(frozen=True, eq=False)
class Pool:
    """Detections in order: by image, then class, then from the highest weighted score down."""

    image_index: Int64
    labels: Int64
    members: Int64
    bbox: Float64
    corners: Float64
    scores: Float64
    weights: Float64
    member_weights: Float64
    starts: Int64

    @classmethod
    def of(
        cls, members: Sequence[Predictions], member_weights: Float64, *, score_threshold: float
    ) -> Pool:
        """Put detections side by side."""
        member = np.repeat(np.arange(len(members)), [m.num_predictions for m in members])
        image_index, labels, bbox, scores = (
            np.concatenate([getattr(m, name) for m in members])
            for name in ("image_index", "labels", "bbox", "scores")
        )
        weights = member_weights / np.maximum(member_weights.max(axis=0), np.finfo(float).tiny)
        weight = weights[member, labels]
        kept = (weight > 0) & (scores >= score_threshold) & (bbox[:, 2] * bbox[:, 3] > 0)
        rows = np.flatnonzero(kept)
        groups = image_index[rows] * member_weights.shape[1] + labels[rows]
        order = _order(groups, -(scores[rows] * weight[rows]), bbox[rows])
        rows, groups = rows[order], groups[order]
        bbox = bbox[rows]
        corners = np.zeros((4, len(rows) + 1))
        corners[:2, :-1] = bbox[:, :2].T
        corners[2:, :-1] = (bbox[:, :2] + bbox[:, 2:]).T
        starts = np.append(np.flatnonzero(np.diff(groups, prepend=-1)), len(rows))
        return cls(
            image_index[rows],
            labels[rows],
            member[rows],
            bbox,
            corners,
            scores[rows],
            weight[rows],
            weights,
            starts,
        )

    @property
    def strengths(self) -> Float64:
        """float64 [D], weighted scores in 0..1."""
        return self.scores * self.weights

    def batches(self) -> Iterator[tuple[Int64, Int64]]:
        """Lay out groups as columns, those of about the same size together."""
        sizes = np.diff(self.starts)
        order = np.argsort(-sizes, kind="stable")
        first = 0
        while first < len(order):
            size = int(sizes[order[first]])
            chosen = order[first : first + max(1, _BATCH // size)]
            first += len(chosen)
            depth = np.arange(size)[:, None]
            rows = np.where(depth < sizes[chosen], self.starts[chosen] + depth, len(self.scores))
            yield rows, (rows < len(self.scores)).sum(axis=1)


def overlap(
    one: Float64, others: Float64, areas: Float64, area: Float64
) -> tuple[Float64, Float64]:
    """Shared and joint areas of boxes."""
    width = np.minimum(one[2], others[2])
    width -= np.maximum(one[0], others[0])
    height = np.minimum(one[3], others[3])
    height -= np.maximum(one[1], others[1])
    np.maximum(width, 0.0, out=width)
    width *= np.maximum(height, 0.0, out=height)
    union = np.subtract(areas + area, width, out=height)
    return width, union


def area_of(corners: Float64) -> Float64:
    """Areas of boxes given by corners [4, ...]."""
    return np.asarray((corners[2] - corners[0]) * (corners[3] - corners[1]))


def _order(groups: Int64, falling: Float64, bbox: Float64) -> Int64:
    """Sort by group, then the second key, then the box."""
    order = np.lexsort((falling, groups))
    same = (np.diff(groups[order]) == 0) & (np.diff(falling[order]) == 0)
    if same.any():
        # Six keys take their time, so only what is tied is sorted by all of them.
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        rows = order[tied]
        keys = (*bbox[rows].T[::-1], falling[rows], groups[rows])
        order[tied] = rows[np.lexsort(keys)]
    return np.asarray(order)
