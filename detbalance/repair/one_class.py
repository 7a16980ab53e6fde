"""One-class models: scores of rare classes, lifted where a region is typical of the class.

Letters: n regions, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detbalance.repair.class_space import typicality
from detbalance.repair.object_scores import Float64

_SPAN = 0.02
"""Lifted scores lie this near above the floor, below what the detector is surer of by itself."""


@dataclass(frozen=True)
class ClassLift:
    """The model of one class, and which regions it lifts."""

    label: int
    model: Any
    gate: float
    threshold: float


@dataclass(frozen=True)
class OneClassOpinion:
    """Lifts scores of rare classes above the floor, where a region is typical of the class."""

    method: str
    space: Any
    lifts: Sequence[ClassLift]
    floor: float
    num_classes: int
    shared: bool

    def __call__(self, features: Tensor, scores: Tensor) -> Tensor:
        """Give advice, see `detbalance.repair.advice.Advice`."""
        own, seen = scores.double().cpu().numpy(), features.float().cpu().numpy()
        new = own.copy()
        good = np.isfinite(seen).all(axis=1)
        for lift in self.lifts:
            score = new[:, lift.label]
            rows = np.flatnonzero(good & (score >= lift.gate) & (score < self.floor))
            if len(rows):
                high = typicality(lift.model, self.space.transform(seen[rows])) > lift.threshold
                found = rows[high]
                new[found] = lifted(new[found], lift.label, self.floor, self.shared)
        return scores if (new == own).all() else torch.from_numpy(new).to(scores)


def lifted(scores: Float64, label: int, floor: float, shared: bool) -> Float64:
    """Lift scores of a class just above the floor, in the order that they had."""
    new: Float64 = scores.copy()
    share = _SPAN * (1.0 - floor)
    new[:, label] = floor + share * (0.5 + scores[:, label]) / (0.5 + floor)
    if shared:
        total = np.maximum(scores.sum(axis=1), new[:, label])
        rest = np.maximum(total - scores[:, label], 1e-12)
        others = np.arange(scores.shape[1]) != label
        new[:, others] *= ((total - new[:, label]) / rest)[:, None]
    return new
