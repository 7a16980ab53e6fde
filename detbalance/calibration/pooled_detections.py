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
    """Detections in order: by image, then class, then from the highest weighted score down.

    Equal scores are ordered by the corners of their boxes, so that neither the order of the members
    nor that within a file decides anything.

    Attributes:
        image_index: int64 [D].
        labels: int64 [D].
        members: int64 [D], 0..J - 1, whose detection each is.
        bbox: float64 [D, 4], xywh in pixels.
        corners: float64 [4, D + 1], x1, y1, x2, y2; a box without extent behind the last.
        scores: float64 [D], in 0..1.
        weights: float64 [D], in (0, 1], of the member for the class; the largest of a class is 1.
        member_weights: float64 [J, K + 1], the same for all members and classes.
        starts: int64 [groups + 1], where each group begins.
    """

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
        cls, members: Sequence[Predictions], member_weights: Float64, *, skip_below: float
    ) -> Pool:
        """Put detections side by side.

        Args:
            members: checked already.
            member_weights: float64 [J, K + 1], >= 0; those of 0 are left out.
            skip_below: detections with lower scores are left out.

        Returns:
            The pool; boxes without area are left out of it, too: they overlap nothing.
        """
        member = np.repeat(np.arange(len(members)), [m.num_predictions for m in members])
        image_index, labels, bbox, scores = (
            np.concatenate([getattr(m, name) for m in members])
            for name in ("image_index", "labels", "bbox", "scores")
        )
        weights = member_weights / np.maximum(member_weights.max(axis=0), np.finfo(float).tiny)
        weight = weights[member, labels]
        kept = (weight > 0) & (scores >= skip_below) & (bbox[:, 2] * bbox[:, 3] > 0)
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
        """Lay out groups as columns, those of about the same size together.

        Yields:
            int64 [S, G], rows of the pool, one column a group, the largest group first, D where a
            column has ended; and int64 [S], how many columns reach so far down.
        """
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
    """Shared and joint areas of boxes.

    Args:
        one: float64 [4, G], corners.
        others: float64 [4, S, G], corners.
        areas: float64 [S, G], of `others`.
        area: float64 [G], of `one`.

    Returns:
        float64 [S, G], the intersections, and float64 [S, G], the unions.
    """
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
