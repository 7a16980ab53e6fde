"""Region features as a table that a classifier is fitted to.

Letters: n regions, F features, D outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detbalance.repair.classifier import Classifier
from detbalance.repair.columns import (
    Column,
    FrozenLogits,
    Rows,
    behind,
    float32,
    part_of,
    stored_rows,
)
from detbalance.repair.feature_file import RegionFeatures

CHUNK = 8192
"""Regions whose features are in memory at a time, where all are gone through."""


@dataclass(frozen=True)
class Samples:
    """Regions with what the frozen classifier says of them."""

    features: Column
    logits: Column
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    images: NDArray[np.int64]
    slots: NDArray[np.int64]

    def __len__(self) -> int:
        """The number of regions."""
        return len(self.labels)

    def take(self, rows: Rows) -> Samples:
        """The same for some rows; what is on disk stays there."""
        values: dict[str, Any] = {
            field.name: part_of(getattr(self, field.name), rows) for field in fields(self)
        }
        return replace(self, **values)

    def join(self, other: Samples) -> Samples:
        """These, and others behind them."""
        values: dict[str, Any] = {
            field.name: behind(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        }
        return replace(self, **values)

    def read(self) -> tuple[Tensor, Tensor]:
        """Features float32 [n, F] and logits float32 [n, D], in memory; each is read once."""
        features = float32(self.features[:])
        if isinstance(self.logits, FrozenLogits):
            return features, self.logits.given(features)
        return features, float32(self.logits[:])

    def chunks(self) -> Iterator[slice]:
        """Slices that go through all regions, a few at a time."""
        for start in range(0, len(self), CHUNK):
            yield slice(start, min(start + CHUNK, len(self)))


def read_samples(stored: RegionFeatures, classifier: Classifier) -> Samples:
    """Regions on disk, and what the classifier as it is says of them."""
    regions = stored.regions
    weight, bias = (values.float().cpu() for values in classifier.weights())
    for what, most, own in (
        ("features", stored.features.shape[1], weight.shape[2]),
        ("classes", int(regions["label"].max(initial=0)) + 1, classifier.num_classes),
        ("slots", int(regions["slot"].max(initial=0)) + 1, weight.shape[0]),
    ):
        if most > own or (what == "features" and most != own):
            raise ValueError(
                f"{stored.folder}: holds regions with {most} {what}, the detector has {own}. Region"
                " features of this detector are expected. Delete the folder, or name another one."
            )
    features, slots = stored_rows(stored.features), regions["slot"].astype(np.int64)
    return Samples(
        features=features,
        logits=FrozenLogits(features, slots, weight, bias),
        labels=regions["label"].astype(np.int64),
        weights=regions["weight"].astype(np.float32),
        images=regions["image"].astype(np.int64),
        slots=slots,
    )


def all_finite(samples: Samples, rows: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
    """Tell whether all features of each region are finite, bool [n]; of some rows or of all."""
    asked = samples if rows is None else samples.take(rows)
    found = np.empty(len(asked), bool)
    for chunk in asked.chunks():
        found[chunk] = np.isfinite(asked.features[chunk]).all(axis=1)
    return found
