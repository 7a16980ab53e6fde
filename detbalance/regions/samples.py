"""Region features as a table that a classifier is fitted to.

Letters: n regions, F features, D outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detbalance.regions.classifier import Classifier
from detbalance.regions.feature_file import RegionFeatures

_CHUNK = 8192


@dataclass(frozen=True)
class Samples:
    """Regions with what the frozen classifier says of them.

    Attributes:
        features: float16 or float32 [n, F]; may be mapped from disk.
        logits: float32 [n, D], of the classifier as it is.
        labels: int64 [n], 0..K.
        weights: float32 [n], how many regions of the images each stands for.
        images: int64 [n], row of the image; -1 for a made region.
        slots: int64 [n].
    """

    features: NDArray[np.floating]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    images: NDArray[np.int64]
    slots: NDArray[np.int64]

    def __len__(self) -> int:
        """The number of regions."""
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Samples:
        """The same for some rows; their features are read into memory."""
        names = ("features", "logits", "labels", "weights", "images", "slots")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def join(self, other: Samples) -> Samples:
        """These and others, in memory."""
        names = ("features", "logits", "labels", "weights", "images", "slots")
        parts = {name: [getattr(self, name), getattr(other, name)] for name in names}
        return Samples(**{name: np.concatenate(values) for name, values in parts.items()})


def read_samples(stored: RegionFeatures, classifier: Classifier) -> Samples:
    """Read the regions, and let the classifier as it is speak of them, chunk by chunk.

    Args:
        stored: features of this very classifier.
        classifier: of the detector.
    """
    weight, bias = (values.float().cpu() for values in classifier.weights())
    regions = stored.regions
    logits = np.empty((len(stored), weight.shape[1]), np.float32)
    for start in range(0, len(stored), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        features = torch.from_numpy(np.asarray(stored.features[chunk], np.float32))
        slots = torch.from_numpy(regions["slot"][chunk].astype(np.int64))
        logits[chunk] = linear(features, slots, weight, bias).numpy()
    return Samples(
        features=stored.features,
        logits=logits,
        labels=regions["label"].astype(np.int64),
        weights=regions["weight"].astype(np.float32),
        images=regions["image"].astype(np.int64),
        slots=regions["slot"].astype(np.int64),
    )


def linear(features: Tensor, slots: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply the classifier of each region's slot.

    Args:
        features: float [n, F].
        slots: int64 [n].
        weight: float [S, D, F].
        bias: float [S, D].

    Returns:
        float [n, D].
    """
    out = features.new_empty(len(features), weight.shape[1])
    for slot in torch.unique(slots).tolist():
        here = torch.where(slots == slot)[0]
        out[here] = features[here] @ weight[slot].T + bias[slot]
    return out
