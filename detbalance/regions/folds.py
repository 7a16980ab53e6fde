"""Images in folds, for what is chosen on regions that it was not fitted to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detbalance.regions.samples import Samples


def image_folds(samples: Samples, folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Deal images out, those of the rarest classes first, so that each fold has its share.

    Args:
        samples: regions of the data.
        folds: how many, >= 2.
        seed: of the order within a class.

    Returns:
        int64 [n], 0 to folds - 1, the fold of each region; those of one image are together.
    """
    objects = samples.labels > 0
    counts = np.bincount(samples.labels[objects], minlength=1)
    images, place = np.unique(samples.images, return_inverse=True)
    # Images by the size of the rarest class that they show; background images come last.
    rarest = np.full(len(images), np.iinfo(np.int64).max)
    np.minimum.at(rarest, place[objects], counts[samples.labels[objects]])
    order = np.lexsort((np.random.default_rng(seed).permutation(len(images)), rarest))
    fold = np.empty(len(images), np.int64)
    fold[order] = np.arange(len(images)) % folds
    return fold[place]
