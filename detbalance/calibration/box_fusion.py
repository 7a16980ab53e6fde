"""Of detections that overlap, one box is made: weighted boxes fusion, non-maximum weighted.

Letters as in `pool.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detbalance.calibration.pooled_detections import Float64, Int64, Pool, area_of, overlap

if TYPE_CHECKING:
    from detbalance.calibration.fusion import Options

_TINY = np.finfo(np.float64).tiny


def wbf(pool: Pool, options: Options) -> tuple[Int64, Float64, Float64]:
    """Fuse boxes into their mean, weighted by score and member.

    Source: Solovyev et al., Weighted boxes fusion, 2021, arXiv:1910.13302, and ensemble-boxes 1.0.9
    for the kinds of scores. Differs: boxes are means in float64 everywhere, float32 there where
    merged; a cluster of one keeps its box bit for bit; members of weight 0 do not count as members;
    scores are cut at 1; "box_and_model_avg" by default, "avg" there.
    """
    lead, corners = _clusters(pool, options.iou_threshold, moving=True)
    return _fused(pool, lead, corners, _scores(pool, lead, options.confidence))


def nmw(pool: Pool, options: Options) -> tuple[Int64, Float64, Float64]:
    """Fuse boxes into their mean, weighted by score and by overlap with the best of them.

    Source: Zhou et al., CAD, ICCV workshops 2017, as ensemble-boxes 1.0.9 has it. Differs: float64.
    """
    lead, _ = _clusters(pool, options.iou_threshold, moving=False)
    corners, strengths = pool.corners[:, :-1], pool.strengths
    first = corners[:, lead]
    shared, union = overlap(first, corners[:, None], area_of(corners)[None], area_of(first))
    part = strengths * (shared / union)[0]
    count = len(lead)
    total = np.maximum(np.bincount(lead, part, count), _TINY)
    # Differences to the first box, so that equal boxes stay what they are.
    means = [
        one + np.bincount(lead, part * (c - f), count) / total
        for one, c, f in zip(corners, corners, first, strict=True)
    ]
    return _fused(pool, lead, np.stack(means), strengths)


def _clusters(pool: Pool, iou_threshold: float, *, moving: bool) -> tuple[Int64, Float64]:
    """Give each detection to a cluster, round by round."""
    count = len(pool.scores)
    lead = np.arange(count + 1)
    result = pool.corners.copy()
    strengths, areas_all = np.append(pool.strengths, 0.0), area_of(pool.corners)
    for rows, active in pool.batches():
        boxes, strength, own = pool.corners[:, rows], strengths[rows], areas_all[rows]
        began, number = np.full(rows.shape, count), np.zeros(rows.shape[1], dtype=np.int64)
        corners, areas, total = np.zeros(boxes.shape), np.zeros(rows.shape), np.zeros(rows.shape)
        for r, reach in enumerate(active.tolist()):
            columns = np.arange(reach)
            most = int(number[:reach].max())
            best, hit = columns, np.zeros(reach, dtype=np.bool_)
            if most:
                shared, union = overlap(
                    boxes[:, r, :reach],
                    corners[:, :most, :reach],
                    areas[:most, :reach],
                    own[r, :reach],
                )
                shared /= union
                best = shared.argmax(axis=0)
                hit = shared[best, columns] > iou_threshold
            fresh = columns[~hit]
            place = number[fresh]
            corners[:, place, fresh] = boxes[:, r, fresh]
            areas[place, fresh], total[place, fresh] = own[r, fresh], strength[r, fresh]
            began[place, fresh] = rows[r, fresh]
            number[fresh] += 1
            joined = columns[hit]
            place = best[hit]
            lead[rows[r, joined]] = began[place, joined]
            if moving and len(joined):
                total[place, joined] += strength[r, joined]
                step = strength[r, joined] / np.maximum(total[place, joined], _TINY)
                moved = corners[:, place, joined]
                # By a difference, so that equal boxes stay what they are.
                moved += (boxes[:, r, joined] - moved) * step
                corners[:, place, joined] = moved
                areas[place, joined] = area_of(moved)
        used = began < count
        result[:, began[used]] = corners[:, used]
    return lead[:-1], result[:, :-1]


def _fused(
    pool: Pool, lead: Int64, corners: Float64, scores: Float64
) -> tuple[Int64, Float64, Float64]:
    """Take what stands at the first detection of each cluster."""
    first = np.flatnonzero(lead == np.arange(len(lead)))
    alone = np.bincount(lead, minlength=len(lead))[first] == 1
    x1, y1, x2, y2 = corners[:, first]
    bbox = np.where(alone[:, None], pool.bbox[first], np.stack([x1, y1, x2 - x1, y2 - y1], axis=1))
    return first, bbox, scores[first]


def _scores(pool: Pool, lead: Int64, confidence: str) -> Float64:
    """float64 [D], the score of each cluster at the row of its first detection."""
    count, labels = len(lead), pool.labels
    whole = pool.member_weights.sum(axis=0)[labels]
    strengths = pool.strengths
    if confidence == "max":
        # The first of a cluster is its best; the heaviest member of a class has weight 1.
        return strengths
    summed = np.bincount(lead, strengths, count)
    weights = np.bincount(lead, pool.weights, count)
    if confidence == "avg":
        sizes = np.bincount(lead, minlength=count)
        members = (pool.member_weights > 0).sum(axis=0)[labels]
        scores = summed / np.maximum(sizes, 1) * np.minimum(members, sizes) / whole
        return np.asarray(np.minimum(scores, 1.0))
    num_members = len(pool.member_weights)
    pairs = np.unique(lead * num_members + pool.members)
    cluster, member = np.divmod(pairs, num_members)
    present = np.bincount(cluster, pool.member_weights[member, labels[cluster]], count)
    if confidence == "absent_model_aware_avg":
        scores = summed / np.maximum(weights + (whole - present), _TINY)
    else:
        scores = summed / np.maximum(weights, _TINY) * (present / whole)
    return np.asarray(np.minimum(scores, 1.0))
