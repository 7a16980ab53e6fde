"""Images that show something which looks like no known class.

Letters: n regions, m images, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import batched_nms

from detbalance.repair.class_space import places_in, space_of
from detbalance.repair.estimators import MIN_BOXES, few_boxes, fitted_rows
from detbalance.repair.folds import image_folds
from detbalance.repair.object_scores import Float64, Int64
from detbalance.repair.samples import Samples, all_finite

_OVERLAP = 0.3
"""IoU from which two regions show the same object."""


@dataclass(frozen=True)
class Strangers:
    """Images by their strangest region."""

    images: Int64
    strangeness: Float64
    boxes: NDArray[np.float32]
    rows: Int64


def strangers(
    samples: Samples,
    rows: Int64,
    scores: NDArray[np.float32],
    boxes: NDArray[np.float32],
    *,
    floor: float = 0.3,
    folds: int = 3,
    min_boxes: int = MIN_BOXES,
    seed: int = 0,
) -> Strangers:
    """Rank images by the region that the detector takes for an object and no class is near to.

    Source: Lee et al., 2018, arXiv:1807.03888, eq. 2 (classes share one covariance). Differs: it is
    shrunk as Ledoit and Wolf, 2004, in the space of 64 principal components; one layer.
    """
    from sklearn.covariance import LedoitWolf

    few = few_boxes(samples, rows, scores.shape[1], min_boxes)
    fold = image_folds(samples, folds, seed)
    best = scores[:, 1:].max(axis=1, initial=0.0)
    shown = np.flatnonzero(best >= floor)
    shown = shown[all_finite(samples, shown)]
    high = _left_by_nms(shown, best, boxes, samples.images)
    found = np.full(len(samples), np.nan)
    for number in range(folds):
        inside = np.flatnonzero(fold != number)
        taught = fitted_rows(samples, inside, few, 10_000, seed)
        objects = taught[samples.labels[taught] > 0]
        asked = np.flatnonzero((fold == number) & high)
        if len(objects) < 2 or not len(asked):
            continue
        space = space_of(samples, taught)
        seen, labels = places_in(space, samples, objects), samples.labels[objects]
        means = {c: seen[labels == c].mean(axis=0) for c in np.unique(labels).tolist()}
        inner = np.concatenate([seen[labels == c] - mean for c, mean in means.items()])
        shape = LedoitWolf(assume_centered=True).fit(inner)
        places = places_in(space, samples, asked)
        away = [shape.mahalanobis(places - mean) for mean in means.values()]
        found[asked] = np.min(away, axis=0) / places.shape[1]
    asked = np.flatnonzero(np.isfinite(found))
    order = asked[np.argsort(-found[asked], kind="stable")]
    _, first = np.unique(samples.images[order], return_index=True)
    top = order[np.sort(first)]
    return Strangers(samples.images[top], found[top], boxes[top], rows[top])


def _left_by_nms(
    rows: Int64, scores: NDArray[np.float32], boxes: NDArray[np.float32], images: Int64
) -> NDArray[np.bool_]:
    """Of some regions those that no better one of the same image overlaps, bool [n]."""
    given = (np.ascontiguousarray(boxes[rows]), scores[rows], images[rows])
    kept = batched_nms(*(torch.from_numpy(values) for values in given), _OVERLAP)
    found = np.zeros(len(scores), bool)
    found[rows[kept.numpy()]] = True
    return found
