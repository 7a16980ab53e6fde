"""Images in folds, for what is chosen on some images and judged on others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


def deal_images(labels: Int64, image_index: Int64, num_images: int, folds: int, seed: int) -> Int64:
    """Deal images out like cards, those of the rarest classes first, so that each fold has some.

    Args:
        labels: int64 [N], of boxes, >= 0.
        image_index: int64 [N], image of each box.
        num_images: M; images without a box are dealt out last.
        folds: how many, >= 1.
        seed: of the order among images whose rarest class is the same.

    Returns:
        int64 [M], 0..folds - 1.

    Example:
        >>> deal_images(np.array([1, 1, 2, 2]), np.array([0, 1, 2, 3]), 4, 2, seed=0).tolist()
        [1, 0, 0, 1]
    """
    counts = np.bincount(labels, minlength=1)
    rarest = np.full(num_images, counts.max() + 1)
    np.minimum.at(rarest, image_index, counts[labels])
    shuffled = np.random.default_rng(seed).permutation(num_images)
    order = shuffled[np.argsort(rarest[shuffled], kind="stable")]
    fold = np.empty(num_images, np.int64)
    fold[order] = np.arange(num_images) % folds
    return fold
