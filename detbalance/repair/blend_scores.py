"""Scores of two classifiers on the same regions made one, and how well they rank objects.

Letters: n regions, K classes.

Letters: n regions, m items, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detbalance.data.arrays import Float64, Int64
from detbalance.repair.region_features import Samples

POWERS = (1.0, 1.4, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Powers of what a second classifier says that are tried; of equally good ones the first is taken.
One that is too sure is left to the weight: on the digits powers below 1 only cost held-out
precision."""

_SURE = 1e-6
"""A probability is never nearer to 0 or 1: a forest's 0 would silence a detector for ever."""


def blend_scores(scores: Float64, said: Float64, weight: float, shared: bool) -> Float64:
    """Pool scores and a second classifier by a weighted mean of their logarithms.

    Source: logarithmic opinion pool, Genest and Zidek, Combining probability distributions, 1986,
    sec. 3. Differs: one pool for each class where a detector has an output for each.
    """
    if not weight:
        return scores
    heard = np.isfinite(said)
    own = scores.clip(_SURE, 1.0 - _SURE)
    other = np.where(heard, said, own)
    if shared:
        # A second classifier on some of the classes says nothing on how likely the others are.
        known = np.where(heard, own, 0.0).sum(axis=1, keepdims=True)
        total = np.where(heard, said, 0.0).sum(axis=1, keepdims=True)
        other = np.where(heard, other * known / np.maximum(total, _SURE), own)
        logs = (1.0 - weight) * np.log(own) + weight * np.log(other.clip(_SURE))
        new = np.exp(logs - logs.max(axis=1, keepdims=True))
        # 1 of a plain softmax; some losses leave a part to no class.
        new *= scores.sum(axis=1, keepdims=True) / new.sum(axis=1, keepdims=True)
        return np.where(heard.any(axis=1, keepdims=True), new, scores)
    other = other.clip(_SURE, 1.0 - _SURE)
    logs = (1.0 - weight) * _log_odds(own) + weight * _log_odds(other)
    new = np.where(heard, 1.0 / (1.0 + np.exp(-logs)), scores)
    new[:, 0] = scores[:, 0]  # background has no score of its own
    return new


def temperature_scaled(said: Float64, power: float) -> Float64:
    """Raise probabilities to a power, and bring their sum back to what it was."""
    if power == 1.0:
        return said
    logs = power * np.log(said.clip(_SURE))
    heard = np.isfinite(said)
    highest = np.where(heard, logs, -np.inf).max(axis=1, keepdims=True)
    new = np.exp(logs - np.where(np.isfinite(highest), highest, 0.0))
    total = np.where(heard, new, 0.0).sum(axis=1, keepdims=True)
    before = np.where(heard, said, 0.0).sum(axis=1, keepdims=True)
    return np.asarray(new * before / np.maximum(total, _SURE))


def best_power(said: Float64, labels: Int64) -> float:
    """How sure a second classifier should be: the power by which it has the lowest log loss.

    Source: temperature scaling, Guo et al., 2017, arXiv:1706.04599, sec. 4.2. Differs: of
    probabilities, not logits; classes count alike; never less sure.
    """
    own = said[np.arange(len(labels)), labels]
    asked = np.isfinite(own)
    if not asked.any():
        return 1.0
    said, labels = said[asked], labels[asked]
    here = np.arange(len(labels))
    counts = np.bincount(labels)[labels]
    losses = {
        power: (-np.log(temperature_scaled(said, power)[here, labels].clip(_SURE)) / counts).sum()
        for power in POWERS
    }
    return min(POWERS, key=lambda power: losses[power])


def _log_odds(values: Float64) -> Float64:
    return np.asarray(np.log(values) - np.log1p(-values))


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
