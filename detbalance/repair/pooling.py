"""Two opinions on the same regions made one.

Letters: n regions, K classes.
"""

from __future__ import annotations

import numpy as np

from detbalance.repair.object_scores import Float64, Int64

POWERS = (1.0, 1.4, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Powers of what an opinion says that are tried; of equally good ones the first is taken. One that
is too sure is left to the weight: on the digits powers below 1 only cost held-out precision."""

_SURE = 1e-6
"""A probability is never nearer to 0 or 1: a forest's 0 would silence a detector for ever."""


def pooled(scores: Float64, said: Float64, weight: float, shared: bool) -> Float64:
    """Pool scores and an opinion by a weighted mean of their logarithms.

    Source: logarithmic opinion pool, Genest and Zidek, Combining probability distributions, 1986,
    sec. 3. Differs: one pool for each class where a detector has an output for each.
    """
    if not weight:
        return scores
    heard = np.isfinite(said)
    own = scores.clip(_SURE, 1.0 - _SURE)
    other = np.where(heard, said, own)
    if shared:
        # An opinion on some of the classes says nothing on how likely the others are.
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


def sharpened(said: Float64, power: float) -> Float64:
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
    """How sure an opinion should be: the power by which it has the lowest log loss.

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
        power: (-np.log(sharpened(said, power)[here, labels].clip(_SURE)) / counts).sum()
        for power in POWERS
    }
    return min(POWERS, key=lambda power: losses[power])


def _log_odds(values: Float64) -> Float64:
    return np.asarray(np.log(values) - np.log1p(-values))
