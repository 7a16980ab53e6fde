"""Which regions of an image are kept, and how many each of them stands for.

Letters: A regions of an image, n kept.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Limits:
    """How many regions are kept."""

    boxes_per_class: int = 2000
    hard: int = 32
    random: int = 32
    boxes: int = 100_000
    background: int = 400_000

    def check(self) -> None:
        """Refuse limits that leave nothing."""
        least = {"boxes_per_class": 1, "hard": 0, "random": 1, "boxes": 1, "background": 1}
        given = asdict(self)
        wrong = [f"{name} {given[name]}" for name in least if given[name] < least[name]]
        if wrong:
            raise ValueError(
                f"limits of region features: {', '.join(wrong)}. At least 1 of each, and at least 0"
                " hard ones, are expected. Change them."
            )

    def of_background(self, looks: int) -> tuple[int, int, float]:
        """How much background of an image is kept, where so many are looked at."""
        usual = self.hard + self.random
        if usual * looks <= self.background:
            return self.hard, self.random, 1.0
        each = max(1, self.background // looks)
        hard = self.hard * each // usual
        return hard, each - hard, min(1.0, self.background / looks)


def kept_share(box_counts: Int64, limits: Limits) -> Float64:
    """Tell which share of the boxes of each class is kept."""
    most = min(float(limits.boxes_per_class), level_of(box_counts, limits.boxes))
    return np.minimum(1.0, most / np.maximum(box_counts, 1))


def level_of(counts: Int64, total: int) -> float:
    """How many of each class at most, so that there are `total` together."""
    if counts.sum() <= total:
        return float("inf")
    ordered = np.sort(counts)
    # With the level at a class's size: that and all smaller ones whole, the larger ones as it.
    below = np.concatenate([[0], ordered.cumsum()[:-1]])
    larger = len(ordered) - np.arange(len(ordered))
    first = int(np.flatnonzero(below + ordered * larger > total)[0])
    return float((total - below[first]) / larger[first])


def choose_regions(
    labels: Int64,
    objects: Int64,
    scores: Float64,
    background: int,
    share: Float64,
    background_limits: tuple[int, int, float],
    generator: np.random.Generator,
) -> tuple[Int64, Float64]:
    """Keep the regions of some objects, the hardest background and some of the rest."""
    weights = np.zeros(len(labels))
    positive = np.flatnonzero(labels > 0)
    if len(positive):
        draws = generator.random(int(objects[positive].max()) + 1)
        chances = share[labels[positive]]
        kept = draws[objects[positive]] < chances
        weights[positive[kept]] = 1.0 / chances[kept]
    negative = np.flatnonzero(labels == 0)
    most_hard, most_drawn, chance = background_limits
    if len(negative) and (chance >= 1.0 or generator.random() < chance):
        order = negative[np.argsort(-scores[negative], kind="stable")]
        hard, rest = order[:most_hard], order[most_hard:]
        drawn = generator.choice(rest, min(most_drawn, len(rest)), replace=False)
        weights[hard] = 1.0
        weights[drawn] = len(rest) / max(1, len(drawn))
        weights[negative] *= background / len(negative) / chance
    rows = np.flatnonzero(weights)
    return rows, weights[rows]
