"""Which regions of an image are kept, and how many each of them stands for.

Letters: A regions of an image, n kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Limits:
    """How many regions are kept.

    Attributes:
        boxes_per_class: annotated boxes of a class whose regions are kept, about; >= 1.
        hard: background regions of an image with the highest scores; >= 0.
        random: further background regions of an image; >= 1.
    """

    boxes_per_class: int = 2000
    hard: int = 32
    random: int = 32


def kept_share(box_counts: Int64, limits: Limits) -> Float64:
    """Tell which share of the boxes of each class is kept.

    Args:
        box_counts: int64 [K + 1].
        limits: how many boxes.

    Returns:
        float64 [K + 1] in 0..1; 1 for classes that the limit does not touch.
    """
    return np.minimum(1.0, limits.boxes_per_class / np.maximum(box_counts, 1))


def choose_regions(
    labels: Int64,
    objects: Int64,
    scores: Float64,
    background: int,
    share: Float64,
    limits: Limits,
    generator: np.random.Generator,
) -> tuple[Int64, Float64]:
    """Keep the regions of some objects, the hardest background and some of the rest.

    Sums over the kept regions, each times its weight, are on average the sums over all: an object
    that is kept with probability p weighs 1 / p, and the drawn background what it was drawn from.
    Hard background speaks for itself.

    Args:
        labels: int64 [A], -1 to be ignored.
        objects: int64 [A], the object of each region; regions of one object are kept together.
        scores: float [A], the detector's highest score of a class.
        background: how many background regions count in the detector's training; the weights of
            those that are kept have this sum.
        share: float64 [K + 1], see `kept_share`.
        limits: how many.
        generator: of the draws.

    Returns:
        Rows int64 [n], ascending, and their weights float64 [n].
    """
    weights = np.zeros(len(labels))
    positive = np.flatnonzero(labels > 0)
    if len(positive):
        draws = generator.random(int(objects[positive].max()) + 1)
        chances = share[labels[positive]]
        kept = draws[objects[positive]] < chances
        weights[positive[kept]] = 1.0 / chances[kept]
    negative = np.flatnonzero(labels == 0)
    if len(negative):
        order = negative[np.argsort(-scores[negative], kind="stable")]
        hard, rest = order[: limits.hard], order[limits.hard :]
        drawn = generator.choice(rest, min(limits.random, len(rest)), replace=False)
        weights[hard] = 1.0
        weights[drawn] = len(rest) / max(1, len(drawn))
        weights[negative] *= background / len(negative)
    rows = np.flatnonzero(weights)
    return rows, weights[rows]
