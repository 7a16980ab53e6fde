"""Several detectors' detections made one set: the methods by name, and what they work on.

Only detections of one group, an image and class, can be in each other's way, so all groups are
worked on at once: they are laid out as columns, best detection on top, and the methods go from row
to row.

Why no library does it: ensemble-boxes 1.0.9, of 2022, is what there is. It takes one image at a
time, in coordinates of 0..1, and brings numba, llvmlite and pandas (290 MB); it returns unlowered
scores from soft-NMS, rounds merged boxes to float32 and orders ties by chance. Its results are
recorded, and equalled where they are right.

Letters: D detections of all members that take part, J members, K categories, G groups of a batch, S
the size of the largest of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from detbalance.data import Predictions
from detbalance.data.arrays import Float64, Int64
from detbalance.data.checks import check_number
from detbalance.evaluation.filters import places_in_group
from detbalance.evaluation.sanity_checks import odd_scores

Confidence: TypeAlias = Literal["box_and_model_avg", "avg", "max", "absent_model_aware_avg"]
_BATCH = 1 << 15  # entries of one working array: small enough for the cache of a core
_TINY = np.finfo(np.float64).tiny


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
        check_number("fuse()", "iou_threshold", self.iou_threshold, least=0, below=1)
        check_number("fuse()", "sigma", self.sigma, above=0)
        check_number("fuse()", "score_threshold", self.score_threshold, least=0, most=1)
        check_number("fuse()", "min_fused_score", self.min_fused_score, least=0, most=1)
        if self.max_detections is not None:
            check_number("fuse()", "max_detections", self.max_detections, least=1, whole=True)
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
        if odd := odd_scores(member):
            raise ValueError(
                f"fuse(): member {number}: {odd}. Expected scores on one scale. Turn them into "
                "probabilities."
            )
    pool = Pool.of(members, table, score_threshold=options.score_threshold)
    rows, bbox, scores = FUSIONS[method](pool, options)
    fused = Predictions(pool.image_index[rows], pool.labels[rows], bbox, scores)
    fused = fused.take(scores >= options.min_fused_score)
    order = np.lexsort((*fused.bbox.T[::-1], fused.labels, -fused.scores, fused.image_index))
    return keep_best(fused.take(order), options.max_detections)


def keep_best(fused: Predictions, max_detections: int | None) -> Predictions:
    """Keep the highest scores of each image."""
    if max_detections is None:
        return fused
    return fused.take(places_in_group(fused.image_index) < max_detections)


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


@dataclass(frozen=True, eq=False)
class Pool:
    """Detections in order: by image, then class, then from the highest weighted score down."""

    image_index: Int64  # [D]
    labels: Int64  # [D]
    members: Int64  # [D]
    bbox: Float64  # [D, 4]
    corners: Float64  # [4, D + 1], the last one of 0: what stands behind the end of a column
    scores: Float64  # [D]
    weights: Float64  # [D], of the member for the class, the heaviest 1
    member_weights: Float64  # [J, K + 1]
    starts: Int64  # [groups + 1], rows

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
        weights = member_weights / np.maximum(member_weights.max(axis=0), _TINY)
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
        """Lay out groups as columns, those of about the same size together.

        Gives rows int64 [S, G] of detections, D behind the end of a column, and how many columns
        each of the S rows has, [S].
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


def wbf(pool: Pool, options: Options) -> tuple[Int64, Float64, Float64]:
    """Fuse boxes into their mean, weighted by score and member.

    Source: Solovyev et al., Weighted boxes fusion, 2021, arXiv:1910.13302, and ensemble-boxes 1.0.9
    for the kinds of scores. Differs: boxes are means in float64 everywhere, float32 there where
    merged; a cluster of one keeps its box bit for bit; members of weight 0 do not count as members;
    scores are cut at 1; "box_and_model_avg" by default, "avg" there.
    """
    lead, corners = _clusters(pool, options.iou_threshold)
    first = np.flatnonzero(lead == np.arange(len(lead)))
    alone = np.bincount(lead, minlength=len(lead))[first] == 1
    x1, y1, x2, y2 = corners[:, first]
    bbox = np.where(alone[:, None], pool.bbox[first], np.stack([x1, y1, x2 - x1, y2 - y1], axis=1))
    return first, bbox, _scores(pool, lead, options.confidence)[first]


def _clusters(pool: Pool, iou_threshold: float) -> tuple[Int64, Float64]:
    """Give each detection to a cluster: its first row [D], and there its corners [4, D]."""
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
