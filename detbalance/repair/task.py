"""A classifier, its data, and how to refit the one to the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from detbalance.repair.classifier import Classifier
from detbalance.repair.fitting import Change, FitSettings
from detbalance.repair.samples import Samples


@dataclass(frozen=True)
class Task:
    """A classifier, its data, and how to go about it."""

    classifier: Classifier
    samples: Samples
    settings: FitSettings = field(default_factory=FitSettings)
    options: Mapping[str, Any] = field(default_factory=dict)
    folds: int = 3
    progress: Callable[[int, int], None] | None = None

    @property
    def present(self) -> tuple[Tensor, Tensor]:
        """The classifier as it is: weight float32 [S, D, F] and bias float32 [S, D]."""
        weight, bias = self.classifier.weights()
        return weight.float().cpu(), bias.float().cpu()


Fit = Callable[[Samples], Change]
"""Learns a change of the classifier from some regions."""
