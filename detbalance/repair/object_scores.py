"""How well scores of regions rank objects: what an opinion's weight is chosen by.

Letters: n regions, m items, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detbalance.repair.samples import Samples

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Items:
    """Regions put together to what a detector would show once."""

    of_region: Int64
    labels: Int64
    weights: Float64
    images: Int64

    @classmethod
    def of(cls, samples: Samples, rows: Int64) -> Items:
        """Put regions together."""
        background = samples.labels == 0
        objects = (samples.labels > 0) & (rows >= 0)
        found = np.full(len(samples), -1)
        named, first, place = np.unique(rows[objects], return_index=True, return_inverse=True)
        found[objects] = place
        found[background] = len(named) + np.arange(int(background.sum()))
        representative = np.concatenate(
            [np.flatnonzero(objects)[first], np.flatnonzero(background)]
        )
        weights = samples.weights[representative].astype(np.float64)
        weights[: len(named)] = 1.0
        return cls(found, samples.labels[representative], weights, samples.images[representative])

    def highest(self, values: Float64) -> Float64:
        """The highest value of each item's regions, float64 [m]; NaN counts as the lowest."""
        best = np.full(len(self.labels), -np.inf)
        inside = self.of_region >= 0
        lowest = np.nan_to_num(values[inside].astype(np.float64), nan=-np.inf)
        np.maximum.at(best, self.of_region[inside], lowest)
        return best


def class_precision(scores: Float64, items: Items) -> Float64:
    """Compute the average precision of each class over items, with precision made monotone."""
    found = np.full(scores.shape[1], np.nan)
    for label in np.unique(items.labels[items.labels > 0]).tolist():
        found[label] = average_precision(
            items.highest(scores[:, label]), items.labels == label, items.weights
        )
    return found


def share_shown(scores: Float64, items: Items, floor: float) -> float:
    """Share of the objects whose score of their class reaches the floor, mean over classes."""
    classes = np.unique(items.labels[items.labels > 0]).tolist()
    shares = [(items.highest(scores[:, c])[items.labels == c] >= floor).mean() for c in classes]
    return float(np.mean(shares)) if shares else float("nan")


def average_precision(scores: Float64, positive: NDArray[np.bool_], weights: Float64) -> float:
    """Average precision, each positive item at the best precision from its place on."""
    order = np.argsort(-scores, kind="stable")
    hits = (positive * weights)[order]
    precision = hits.cumsum() / np.maximum(weights[order].cumsum(), 1e-300)
    # The last of equal scores speaks for all of them.
    ordered = scores[order]
    last = np.searchsorted(-ordered, -ordered, side="right") - 1
    best = np.maximum.accumulate(precision[last][::-1])[::-1]
    return float((best * hits).sum() / hits.sum())
