"""Of detections that overlap, the best stays: NMS and soft-NMS over groups of columns.

Letters as in `pool.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from detbalance.calibration.pooled_detections import Float64, Int64, Pool, area_of, overlap

if TYPE_CHECKING:
    from detbalance.calibration.fusion import Options


def nms(pool: Pool, options: Options) -> tuple[Int64, Float64, Float64]:
    """Keep each detection that no better one of its image and class overlaps.

    Source: ensemble-boxes 1.0.9 for several members. Differs: the weight of a member is taken
    relative to the heaviest one of the class, not to the sum of all, so that scores stay scores.
    """
    kept = np.ones(len(pool.scores) + 1, dtype=np.bool_)
    for rows, active in pool.batches():
        boxes = pool.corners[:, rows]
        areas = area_of(boxes)
        alive = rows < len(pool.scores)
        for r in range(len(rows) - 1):
            columns = slice(active[r + 1])
            shared, union = overlap(
                boxes[:, r, columns],
                boxes[:, r + 1 :, columns],
                areas[r + 1 :, columns],
                areas[r, columns],
            )
            dropped = shared > options.iou_threshold * union
            dropped &= alive[r, columns]
            alive[r + 1 :, columns] &= ~dropped
        kept[rows] = alive
    left = np.flatnonzero(kept[:-1])
    return left, pool.bbox[left], pool.strengths[left]


def soft_nms(pool: Pool, options: Options) -> tuple[Int64, Float64, Float64]:
    """Lower the score of each detection by how much better ones overlap it: Gaussian soft-NMS.

    Source: Bodla et al., Soft-NMS, 2017, arXiv:1704.04503, section 3; ensemble-boxes 1.0.9 for
    several members. Differs: that library decides by lowered scores and returns the ones before;
    weights are relative as in `nms`.
    """
    return _lowered(pool, lambda iou: np.exp(-(iou * iou) / options.sigma), 0.0)


def soft_nms_linear(pool: Pool, options: Options) -> tuple[Int64, Float64, Float64]:
    """Soft-NMS that multiplies by 1 - iou, above a threshold only.

    Source: as `soft_nms`.
    """
    return _lowered(pool, lambda iou: 1 - iou, options.iou_threshold)


def _lowered(
    pool: Pool, factor: Callable[[Float64], Float64], above: float
) -> tuple[Int64, Float64, Float64]:
    """Multiply scores by a factor of each overlap above a threshold."""
    lowered = np.append(pool.strengths, -1.0)  # what is behind the end of a column comes last
    for rows, active in pool.batches():
        boxes, scores = pool.corners[:, rows], lowered[rows]
        areas = area_of(boxes)
        done = np.full_like(scores, -1.0)
        every = np.arange(rows.shape[1])
        for reach in active.tolist():
            columns = every[:reach]
            next_one = scores[:, :reach].argmax(axis=0)
            done[next_one, columns] = scores[next_one, columns]
            scores[next_one, columns] = -1.0
            shared, union = overlap(
                boxes[:, next_one, columns],
                boxes[:, :, :reach],
                areas[:, :reach],
                areas[next_one, columns],
            )
            near = np.nonzero((shared > above * union) & (scores[:, :reach] > 0))
            scores[near] *= factor(shared[near] / union[near])
        lowered[rows] = done
    return np.arange(len(pool.scores)), pool.bbox, lowered[:-1]
