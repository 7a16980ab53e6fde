"""Images in folds, for what is chosen on some images and judged on others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


def deal_images(labels: Int64, image_index: Int64, num_images: int, folds: int, seed: int) -> Int64:
    """Deal images out like cards, those of the rarest classes first, so that each fold has some."""
    counts = np.bincount(labels, minlength=1)
    rarest = np.full(num_images, counts.max() + 1)
    np.minimum.at(rarest, image_index, counts[labels])
    shuffled = np.random.default_rng(seed).permutation(num_images)
    order = shuffled[np.argsort(rarest[shuffled], kind="stable")]
    fold = np.empty(num_images, np.int64)
    fold[order] = np.arange(num_images) % folds
    return fold
