"""Scores of two classifiers on the same regions made one, and how well they rank objects.

Letters: n regions, m items, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detbalance.data.arrays import Bool, Float64, Int64
from detbalance.repair.region_features import Samples

POWERS = (1.0, 1.4, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Powers of a second classifier's probabilities that are tried; of equally good ones the first is
taken. One that is too sure is left to the weight: on the digits powers below 1 only cost held-out
precision."""

_SURE = 1e-6
"""A probability is never nearer to 0 or 1: a forest's 0 would silence a detector for ever."""


def blend_scores(scores: Float64, second: Float64, weight: float, shared: bool) -> Float64:
    """Pool scores and a second classifier by a weighted mean of their logarithms.

    Both are float64 [n, K + 1]; NaN of the second, for classes that it does not know, leaves the
    scores as they are. Shared scores are of one softmax.

    Source: logarithmic opinion pool, Genest and Zidek, Combining probability distributions, 1986,
    sec. 3. Differs: one pool for each class where a detector has an output for each.
    """
    if not weight:
        return scores
    known = np.isfinite(second)
    first = scores.clip(_SURE, 1.0 - _SURE)
    other = np.where(known, second, first)
    if shared:
        # A second classifier on some of the classes says nothing on how likely the others are.
        share = np.where(known, first, 0.0).sum(axis=1, keepdims=True)
        total = np.where(known, second, 0.0).sum(axis=1, keepdims=True)
        other = np.where(known, other * share / np.maximum(total, _SURE), first)
        logs = (1.0 - weight) * np.log(first) + weight * np.log(other.clip(_SURE))
        new = np.exp(logs - logs.max(axis=1, keepdims=True))
        # 1 of a plain softmax; some losses leave a part to no class.
        new *= scores.sum(axis=1, keepdims=True) / new.sum(axis=1, keepdims=True)
        return np.where(known.any(axis=1, keepdims=True), new, scores)
    other = other.clip(_SURE, 1.0 - _SURE)
    logs = (1.0 - weight) * _log_odds(first) + weight * _log_odds(other)
    new = np.where(known, 1.0 / (1.0 + np.exp(-logs)), scores)
    new[:, 0] = scores[:, 0]  # background has no score of its own
    return new


def temperature_scaled(probabilities: Float64, power: float) -> Float64:
    """Raise probabilities to a power, and bring their sum back to what it was."""
    if power == 1.0:
        return probabilities
    logs = power * np.log(probabilities.clip(_SURE))
    known = np.isfinite(probabilities)
    highest = np.where(known, logs, -np.inf).max(axis=1, keepdims=True)
    new = np.exp(logs - np.where(np.isfinite(highest), highest, 0.0))
    total = np.where(known, new, 0.0).sum(axis=1, keepdims=True)
    before = np.where(known, probabilities, 0.0).sum(axis=1, keepdims=True)
    return np.asarray(new * before / np.maximum(total, _SURE))


def best_power(probabilities: Float64, labels: Int64) -> float:
    """How sure a second classifier should be: the power by which it has the lowest log loss.

    Source: temperature scaling, Guo et al., 2017, arXiv:1706.04599, sec. 4.2. Differs: of
    probabilities, not logits; classes count alike; never less sure.
    """
    known = np.isfinite(probabilities[np.arange(len(labels)), labels])
    if not known.any():
        return 1.0
    probabilities, labels = probabilities[known], labels[known]
    rows = np.arange(len(labels))
    counts = np.bincount(labels)[labels]

    def loss(power: float) -> float:
        own = temperature_scaled(probabilities, power)[rows, labels]
        return float((-np.log(own.clip(_SURE)) / counts).sum())

    return min(POWERS, key=loss)


def _log_odds(values: Float64) -> Float64:
    return np.asarray(np.log(values) - np.log1p(-values))


@dataclass(frozen=True)
class Items:
    """Regions put together to what a detector would show once: an object, or background."""

    of_region: Int64  # [n], -1 for regions of none
    labels: Int64  # [m]
    weights: Float64  # [m]
    images: Int64  # [m]

    @classmethod
    def of(cls, samples: Samples, rows: Int64) -> Items:
        """Put the regions of a row of the annotations together; augmented objects are none."""
        background = samples.labels == 0
        objects = (samples.labels > 0) & (rows >= 0)
        of_region = np.full(len(samples), -1)
        named, first, place = np.unique(rows[objects], return_index=True, return_inverse=True)
        of_region[objects] = place
        of_region[background] = len(named) + np.arange(int(background.sum()))
        representative = np.concatenate(
            [np.flatnonzero(objects)[first], np.flatnonzero(background)]
        )
        weights = samples.weights[representative].astype(np.float64)
        weights[: len(named)] = 1.0
        labels, images = samples.labels[representative], samples.images[representative]
        return cls(of_region, labels, weights, images)

    def highest(self, values: Float64) -> Float64:
        """The highest value of each item's regions, float64 [m]; NaN counts as the lowest."""
        best = np.full(len(self.labels), -np.inf)
        inside = self.of_region >= 0
        lowest = np.nan_to_num(values[inside].astype(np.float64), nan=-np.inf)
        np.maximum.at(best, self.of_region[inside], lowest)
        return best


def class_precision(scores: Float64, items: Items) -> Float64:
    """Compute the average precision of each class over items, with precision made monotone."""
    precision = np.full(scores.shape[1], np.nan)
    for label in np.unique(items.labels[items.labels > 0]).tolist():
        highest = items.highest(scores[:, label])
        precision[label] = average_precision(highest, items.labels == label, items.weights)
    return precision


def share_shown(scores: Float64, items: Items, floor: float) -> float:
    """Share of the objects whose score of their class reaches the floor, mean over classes."""
    classes = np.unique(items.labels[items.labels > 0]).tolist()
    shares = [(items.highest(scores[:, c])[items.labels == c] >= floor).mean() for c in classes]
    return float(np.mean(shares)) if shares else float("nan")


def average_precision(scores: Float64, positive: Bool, weights: Float64) -> float:
    """Average precision, each positive item at the best precision from its place on."""
    order = np.argsort(-scores, kind="stable")
    hits = (positive * weights)[order]
    precision = hits.cumsum() / np.maximum(weights[order].cumsum(), 1e-300)
    # The last of equal scores speaks for all of them.
    ordered = scores[order]
    last = np.searchsorted(-ordered, -ordered, side="right") - 1
    best = np.maximum.accumulate(precision[last][::-1])[::-1]
    return float((best * hits).sum() / hits.sum())
