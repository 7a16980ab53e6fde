"""Made region features."""

from __future__ import annotations

import numpy as np

from detbalance.repair.region_features import Samples


def made_samples(counts, *, width=8, outputs=None, slots=1, spread=1.0, seed=0, shift=2.0):
    """Clouds of regions, one a class; `counts` says how many of background and of each class."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    outputs = outputs or len(counts)
    centres = np.zeros((len(counts), width))
    centres[np.arange(1, len(counts)), np.arange(1, len(counts)) % width] = shift
    # Only so many features speak: there are few regions, and detectors have many features.
    noise = np.zeros((len(labels), width))
    noise[:, :16] = generator.standard_normal((len(labels), min(width, 16)))
    features = centres[labels] + spread * noise
    return Samples(
        features=features.astype(np.float32),
        logits=np.zeros((len(labels), outputs), np.float32),
        labels=labels,
        weights=np.ones(len(labels), np.float32),
        images=np.arange(len(labels)) // 2,
        slots=generator.integers(slots, size=len(labels)),
    )
