"""Several detectors' detections made one set: the methods by name, and what they are given.

Why no library does it: ensemble-boxes 1.0.9, of 2022, is what there is. It takes one image at a
time, in coordinates of 0..1, and brings numba, llvmlite and pandas (290 MB); it returns unlowered
scores from soft-NMS, rounds merged boxes to float32 and orders ties by chance. Its results are
recorded, and equalled where they are right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from detbalance.calibration.box_fusion import nmw, wbf
from detbalance.calibration.pooled_detections import Float64, Int64, Pool
from detbalance.calibration.suppression import nms, soft_nms, soft_nms_linear
from detbalance.data import Predictions
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


FUSIONS: dict[str, Callable[[Pool, Options], tuple[Int64, Float64, Float64]]] = {
    "wbf": wbf,
    "nmw": nmw,
    "nms": nms,
    "soft_nms": soft_nms,
    "soft_nms_linear": soft_nms_linear,
}
