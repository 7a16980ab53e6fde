"""Images in folds, for what is chosen on regions that it was not fitted to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detbalance.data.split import deal_images
from detbalance.repair.region_features import Samples


def image_folds(samples: Samples, folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Deal images out so that each fold has its share of rare classes, see `deal_images`."""
    images, place = np.unique(samples.images, return_inverse=True)
    objects = samples.labels > 0
    return deal_images(samples.labels[objects], place[objects], len(images), folds, seed)[place]
