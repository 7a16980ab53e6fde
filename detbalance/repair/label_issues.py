"""Labels that look wrong, by what other images taught of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from detbalance.data.arrays import Float32, Float64, Int64
from detbalance.repair.estimators import make_classifier
from detbalance.repair.region_features import Progress, Samples, all_finite, image_folds, silent
from detbalance.repair.second_classifier import MIN_BOXES, few_boxes, fit_to, out_of_fold, thinned

JUDGES = ("combined", "classifier", "detector")
"""Who judges a label. "classifier" has not seen the image; "detector" has learned from it;
"combined" is the mean of both."""

_LEAST = 1e-6

_PRIOR = 0.25
"""Power of a class's share of the boxes that its probabilities are divided by. With 0 boxes of rare
classes lead the list, right or wrong, as all but the surest look a little like the most frequent
class; with 1 boxes of the frequent classes do. On six draws of wrong labels on the digits as many
first boxes as there were wrong ones were wrong to 70 % with 0, 75 % with 0.25 and 72 % with 0.5."""

_PULL = 5.0
"""Over the number of regions the C of the classifier: its pull to 0 against the mean loss."""


@dataclass(frozen=True)
class LabelIssues:
    """Annotated boxes by how wrong their labels look, the worst first."""

    rows: Int64  # of the annotations
    labels: Int64
    likely: Int64  # the likeliest other class, 0 for none
    suspicion: Float64  # log of how many times likelier that class is
    few: list[int]  # labels of the classes that are not judged


def find_label_issues(
    samples: Samples,
    rows: Int64,
    scores: Float32,
    judge: str = "combined",
    *,
    folds: int = 3,
    min_boxes: int = MIN_BOXES,
    seed: int = 0,
    progress: Progress = silent,
) -> LabelIssues:
    """Rank annotated boxes by how wrong their labels look.

    The classifier's probabilities are averaged over the regions of a box, as a RetinaNet or FCOS
    has several; of the detector's scores the highest of each class is taken, as NMS would.

    On the digits with 5 % of the labels changed (six draws), of as many first boxes as there were
    wrong ones 75 % were wrong by "combined", 69 % by "classifier" and 76 % by "detector", which had
    been trained on the right labels; by one that had learned the wrong ones (one draw) 67 %, 63 %
    and 62 %. How typical a box is of its own class says next to nothing (11 %).

    Args:
        samples: of the annotated data.
        rows: int64 [n], row of each region's object in the annotations, -1 for none.
        scores: float32 [n, K + 1], of the detector.
        judge: one of `JUDGES`.
        folds: of images; >= 2.
        min_boxes: classes with fewer boxes are not judged; >= 2.
        seed: of all draws.
        progress: called with the fits done and the number of all.

    Raises:
        ValueError: if there is no such judge, or fewer than two classes have enough boxes.

    Source: confident learning, Northcutt et al., 2021, arXiv:1911.00068, sec. 3 (out-of-sample
    probabilities, ranked by margin). Differs: log odds for the margin, boxes in place of images,
    no estimate of the number of errors.
    """
    if judge not in JUDGES:
        raise ValueError(
            f'find_label_issues(): judge is "{judge}". Known: {", ".join(JUDGES)}. Choose one.'
        )
    num_classes = scores.shape[1]
    few = few_boxes(samples, rows, num_classes, min_boxes)
    if num_classes - 1 - len(few) < 2:
        raise ValueError(
            f"find_label_issues(): {num_classes - 1 - len(few)} classes have at least {min_boxes}"
            " boxes with region features. Two are expected, to be compared. Use more boxes."
        )
    own = np.flatnonzero((samples.labels > 0) & (rows >= 0) & ~np.isin(samples.labels, few))
    own = own[all_finite(samples, own)]
    boxes, first, place = np.unique(rows[own], return_index=True, return_inverse=True)
    labels = samples.labels[own][first]
    fold = image_folds(samples, folds, seed)
    likelihood = np.zeros((len(boxes), num_classes))
    if judge in ("combined", "classifier"):
        judged = samples.take(own)

        def fit(inside: Int64) -> Any:
            inside = thinned(judged, inside, np.random.default_rng(seed))
            options = {"C": _PULL / len(inside), "class_weight": None, "max_iter": 100}
            estimator = make_classifier("LogisticRegression", options, seed)
            return fit_to(estimator, judged, inside, "find_label_issues()")

        held_out = out_of_fold(judged, fold[own], fit, num_classes, folds, progress)
        np.add.at(likelihood, place, np.nan_to_num(held_out))
        likelihood /= np.bincount(place)[:, None]
    if judge in ("combined", "detector"):
        best = np.zeros((len(boxes), num_classes))
        np.maximum.at(best, place, scores[own].astype(np.float64))
        best[:, [0, *few]] = 0.0
        likelihood += best / np.maximum(best.sum(axis=1, keepdims=True), _LEAST)
    progress(folds + 1, folds + 1)
    # Against what is expected of each class before a box is looked at.
    shares = np.maximum(np.bincount(labels, minlength=num_classes), 1) / max(1, len(labels))
    suspicion, likely = _margin(likelihood / shares**_PRIOR, labels)
    order = np.argsort(-suspicion, kind="stable")
    return LabelIssues(boxes[order], labels[order], likely[order], suspicion[order], few)


def _margin(likelihood: Float64, labels: Int64) -> tuple[Float64, Int64]:
    """Log of how many times likelier the likeliest other class is, and that class."""
    boxes = np.arange(len(labels))
    others = likelihood.copy()
    others[boxes, labels], others[:, 0] = -1.0, -1.0
    likely = others.argmax(axis=1)
    own, other = likelihood[boxes, labels], likelihood[boxes, likely]
    return np.log(other.clip(_LEAST)) - np.log(own.clip(_LEAST)), likely.astype(np.int64)
