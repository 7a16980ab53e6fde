"""Several detectors' detections made one set: the methods by name, and what they are given.

Why no library does it: ensemble-boxes 1.0.9, of 2022, is what there is. It takes one image at a
time, in coordinates of 0..1, and brings numba, llvmlite and pandas (290 MB); it returns unlowered
scores from soft-NMS, rounds merged boxes to float32 and orders ties by chance. Its results are
recorded, and equalled where they are right.

Letters as in `fusion_members.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from detbalance.calibration.fusion_members import Pool, area_of, overlap
from detbalance.data import Predictions
from detbalance.data.arrays import Float64, Int64
from detbalance.evaluation.filters import places_in_group

Confidence: TypeAlias = Literal["box_and_model_avg", "avg", "max", "absent_model_aware_avg"]


@dataclass(frozen=True)
class Options:
    """How detections are fused, besides the method.

    Attributes:
        iou_threshold: boxes of a class that overlap more are of one object; in [0, 1). Gaussian
            soft-NMS has no use for it.
        confidence: how WBF makes one score of several.
        sigma: of Gaussian soft-NMS, > 0; the larger, the less scores are lowered.
        score_threshold: detections with a lower score, as their member gave it, are left out first.
        min_fused_score: fused detections with a lower score are left out.
        max_detections: of an image that stay, highest scores first; None for all.
    """

    iou_threshold: float = 0.55
    confidence: Confidence = "box_and_model_avg"
    sigma: float = 0.5
    score_threshold: float = 0.0
    min_fused_score: float = 0.0
    max_detections: int | None = None

    def __post_init__(self) -> None:
        cap = self.max_detections
        for name, value, is_right, expected in (
            ("iou_threshold", self.iou_threshold, 0 <= self.iou_threshold < 1, "in [0, 1)"),
            ("sigma", self.sigma, self.sigma > 0, "above 0"),
            ("score_threshold", self.score_threshold, 0 <= self.score_threshold <= 1, "in [0, 1]"),
            (
                "min_fused_score",
                self.min_fused_score,
                0 <= self.min_fused_score <= 1,
                "in [0, 1]",
            ),
            ("max_detections", cap, cap is None or cap >= 1, "1 or more"),
        ):
            if not is_right:
                raise ValueError(
                    f"fuse(): {name} is {value}. A number {expected} is expected. Give another."
                )
        if self.confidence not in get_args(Confidence):
            raise ValueError(
                f'fuse(): confidence is "{self.confidence}". Known: '
                f"{', '.join(get_args(Confidence))}. Choose one."
            )


def fuse(
    members: Sequence[Predictions],
    method: str = "wbf",
    *,
    weights: npt.ArrayLike | None = None,
    options: Options | None = None,
) -> Predictions:
    """Make one set of detections of those of several detectors, image by image, class by class.

    Neither the order of the members, where their weights are equal, nor that of the detections in
    them changes anything. Boxes without area are left out.

    Args:
        members: detections of one or more detectors on the same images, scores in [0, 1]; a member
            may have none.
        method: one of `FUSIONS`.
        weights: [J] of each member, or [J, K + 1] of each member and class, >= 0; only their ratios
            within a class count. A member of weight 0 has no say. Equal if not given.
        options: `Options()` if not given.

    Returns:
        Detections by image, then from the highest score down, scores in [0, 1].

    Raises:
        ValueError: if there is no member, the method is unknown, weights do not fit, are negative
            or all 0, or a score is not in [0, 1].

    Example:
        >>> one = Predictions([0], [1], [[0, 0, 10, 10]], [0.8])
        >>> other = Predictions([0], [1], [[0, 0, 10, 14]], [0.4])
        >>> fused = fuse([one, other])
        >>> fused.bbox.round(2), fused.scores.round(2)
        (array([[ 0.  ,  0.  , 10.  , 11.33]]), array([0.6]))
    """
    options = Options() if options is None else options
    if method not in FUSIONS:
        raise ValueError(f'fuse(): method is "{method}". Known: {", ".join(FUSIONS)}. Choose one.')
    if not members:
        raise ValueError("fuse(): there is no member. Detections of one or more are expected.")
    most = max((int(m.labels.max()) for m in members if m.num_predictions), default=0)
    table = check_weights(weights, len(members), most + 1)
    for number, member in enumerate(members):
        _check_scores(member, number)
    pool = Pool.of(members, table, score_threshold=options.score_threshold)
    rows, bbox, scores = FUSIONS[method](pool, options)
    kept = np.flatnonzero(scores >= options.min_fused_score)
    rows, bbox, scores = rows[kept], bbox[kept], scores[kept]
    image_index, labels = pool.image_index[rows], pool.labels[rows]
    order = np.lexsort((*bbox.T[::-1], labels, -scores, image_index))
    fused = Predictions(image_index[order], labels[order], bbox[order], scores[order])
    return keep_best(fused, options.max_detections)


def keep_best(fused: Predictions, max_detections: int | None) -> Predictions:
    """Keep the highest scores of each image."""
    if max_detections is None:
        return fused
    kept = places_in_group(fused.image_index) < max_detections
    return Predictions(
        fused.image_index[kept], fused.labels[kept], fused.bbox[kept], fused.scores[kept]
    )


def check_weights(
    weights: npt.ArrayLike | None, num_members: int, num_classes: int | None = None
) -> Float64:
    """Check weights and spread them over the classes."""
    table = np.ones(num_members) if weights is None else np.asarray(weights, dtype=np.float64)
    fits = table.ndim in (1, 2) and len(table) == num_members
    least = num_classes or 1
    if not fits or (table.ndim == 2 and table.shape[1] < least):
        raise ValueError(
            f"fuse(): weights are {list(table.shape)} for {num_members} members. Expected "
            f"[{num_members}], or [{num_members}, {least}] with one for each class. Give one "
            "weight for each member."
        )
    wrong = ~(np.isfinite(table) & (table >= 0))
    if wrong.any():
        raise ValueError(
            f"fuse(): {np.count_nonzero(wrong)} weights are negative or not finite (first: "
            f"{table[wrong][0]:g}). Numbers of 0 or more are expected. Correct them."
        )
    if not table.any():
        raise ValueError(
            "fuse(): all weights are 0. At least one above 0 is expected. Leave out the members "
            "that shall have no say."
        )
    return np.repeat(table[:, None], least, axis=1) if table.ndim == 1 else table


def _check_scores(member: Predictions, number: int) -> None:
    wrong = ~((member.scores >= 0) & (member.scores <= 1))
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"fuse(): {np.count_nonzero(wrong)} of {len(wrong)} scores of member {number} are not "
            f"in [0, 1] (first: detection {first}, {member.scores[first]:g}). Scores of different "
            "detectors must be on one scale. Turn logits into probabilities."
        )


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
            near = np.nonzero((shared > 0.0) & (scores[:, :reach] > 0))
            iou = shared[near] / union[near]
            scores[near] *= np.exp(-(iou * iou) / options.sigma)
        lowered[rows] = done
    return np.arange(len(pool.scores)), pool.bbox, lowered[:-1]


_TINY = np.finfo(np.float64).tiny


def wbf(pool: Pool, options: Options) -> tuple[Int64, Float64, Float64]:
    """Fuse boxes into their mean, weighted by score and member.

    Source: Solovyev et al., Weighted boxes fusion, 2021, arXiv:1910.13302, and ensemble-boxes 1.0.9
    for the kinds of scores. Differs: boxes are means in float64 everywhere, float32 there where
    merged; a cluster of one keeps its box bit for bit; members of weight 0 do not count as members;
    scores are cut at 1; "box_and_model_avg" by default, "avg" there.
    """
    lead, corners = _clusters(pool, options.iou_threshold)
    return _fused(pool, lead, corners, _scores(pool, lead, options.confidence))


def _clusters(pool: Pool, iou_threshold: float) -> tuple[Int64, Float64]:
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
            if len(joined):
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


FUSIONS: dict[str, Callable[[Pool, Options], tuple[Int64, Float64, Float64]]] = {
    "wbf": wbf,
    "nms": nms,
    "soft_nms": soft_nms,
}
