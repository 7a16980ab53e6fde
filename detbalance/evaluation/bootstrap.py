"""How sure AP, AR, recall and precision are: a bootstrap over images.

Boxes of one image share their fate, so images are drawn, not boxes. The detections are matched
once; a draw only says how often each image counts.

Letters: B draws, M images, K categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detbalance.evaluation.bootstrap_intervals import FORMS, Spread, interval
from detbalance.evaluation.bootstrap_variance import class_spread, group_spread
from detbalance.evaluation.matching import Matches
from detbalance.evaluation.memory import check_memory
from detbalance.evaluation.resampling import FIGURES, draw_images, weighted_figures

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_BLOCK_BYTES = 64_000_000  # of drawn counts, and of figures on them, held at a time
# From here on the simulated coverage of nominal 95 % is what it should be.
RELIABLE_BOXES = 10
RELIABLE_IMAGES = 5


@dataclass(frozen=True, eq=False)
class BootstrapFigures:
    """Figures of one or more runs on the same draws of images."""

    values: dict[str, Float32]
    estimates: dict[str, Float64]
    boxes: dict[str, Float64]
    images: dict[str, Float64]

    def interval(
        self, figure: str, *, run: int = 0, confidence: float = 0.95
    ) -> tuple[Float64, Float64]:
        """Interval of each class, of the form of `bootstrap_intervals.interval`."""
        return interval(self.spread(figure, run=run), confidence=confidence, **FORMS[figure])

    def reliable(self, figure: str, *, run: int = 0) -> Bool:
        """Whether the interval of each class rests on enough boxes and images: bool [K + 1]."""
        enough = self.boxes[figure][run] >= RELIABLE_BOXES
        return np.asarray(enough & (self.images[figure][run] >= RELIABLE_IMAGES))

    def group_interval(
        self,
        figure: str,
        group_of_class: npt.ArrayLike,
        *,
        run: int = 0,
        confidence: float = 0.95,
    ) -> tuple[Float64, Float64]:
        """Interval of the mean of each group, as `interval`."""
        size = int(np.max(group_of_class, initial=-1)) + 1
        single = self.spread(figure, run=run)
        spread = group_spread(self.values[figure][run], single, group_of_class, size)
        return interval(spread, confidence=confidence, **FORMS[figure])

    def spread(self, figure: str, *, run: int = 0) -> Spread:
        """What the draws say of a figure of each class, background in front."""
        estimate = self.estimates[figure][run]
        boxes, images = self.boxes[figure][run], self.images[figure][run]
        return class_spread(self.values[figure][run], estimate, boxes, images)


def bootstrap(
    runs: Sequence[Matches],
    *,
    num_bootstrap: int = 1000,
    seed: int = 0,
    score_threshold: float = 0.3,
    workers: int | None = None,
) -> BootstrapFigures:
    """Draw images with replacement and work out every figure of every class on each draw."""
    _check(runs, num_bootstrap)
    first = runs[0]
    rng = np.random.default_rng(seed)
    num_images, num_classes = first.annotations.num_images, len(first.num_positive)
    shape = (len(runs), num_bootstrap, num_classes)
    check_memory(
        f"bootstrap(): {num_bootstrap:,} draws of {num_classes - 1:,} classes",
        drawn_bytes(len(runs), num_bootstrap, num_classes),
        "Draw less often, or evaluate a part of the classes at a time",
    )
    values = {name: np.full(shape, np.nan, dtype=np.float32) for name in FIGURES}
    widest = max(4 * num_images, 8 * len(FIGURES) * num_classes)
    block = max(1, min(num_bootstrap, _BLOCK_BYTES // widest))
    for start in range(0, num_bootstrap, block):
        weights = draw_images(num_images, min(block, num_bootstrap - start), rng)
        for run, matches in enumerate(runs):
            figures = weighted_figures(
                matches, weights, score_threshold=score_threshold, workers=workers
            )
            for name, drawn in figures.items():
                values[name][run, start : start + len(weights)] = drawn
    once = np.ones((1, num_images), dtype=np.int32)
    whole = [
        weighted_figures(m, once, score_threshold=score_threshold, workers=workers) for m in runs
    ]
    return BootstrapFigures(
        values,
        {name: np.concatenate([figures[name] for figures in whole]) for name in FIGURES},
        *_numbers(runs, score_threshold),
    )


def drawn_bytes(num_runs: int, num_bootstrap: int, num_classes: int) -> float:
    """Memory that the figures on all draws take, and while intervals are made of them."""
    return 4.0 * (num_runs * len(FIGURES) + 2) * num_bootstrap * num_classes


def _check(runs: Sequence[Matches], num_bootstrap: int) -> None:
    if not runs:
        raise ValueError("bootstrap(): there is no run. Expected the matches of at least one.")
    if num_bootstrap < 2:
        raise ValueError(
            f"bootstrap(): num_bootstrap is {num_bootstrap}. Expected 2 or more; 1000 give steady"
            " ends."
        )
    first = runs[0].annotations
    for number, matches in enumerate(runs[1:], start=1):
        other = matches.annotations
        if not (
            np.array_equal(first.image_ids, other.image_ids)
            and np.array_equal(runs[0].num_positive, matches.num_positive)
        ):
            raise ValueError(
                f"bootstrap(): run {number} is on {other.source} with {other.num_images} images,"
                f" run 0 on {first.source} with {first.num_images}. Expected the same images and"
                " boxes for all runs. Evaluate them on one file."
            )


def _numbers(
    runs: Sequence[Matches], score_threshold: float
) -> tuple[dict[str, Float64], dict[str, Float64]]:
    """Boxes and images of every figure, float64 [runs, K + 1]."""
    numbers = []
    for matches in runs:
        truth, found = matches.annotations, matches.predictions
        rows = ~matches.is_ignored[:, matches.at(0.5)] & (found.scores >= score_threshold)
        to_find = _spread_over_images(
            truth.labels[matches.positive], truth.image_index[matches.positive], matches
        )
        shown = _spread_over_images(found.labels[rows], found.image_index[rows], matches)
        numbers.append({name: shown if name == "precision" else to_find for name in FIGURES})
    boxes, images = (
        {name: np.stack([number[name][i] for number in numbers]) for name in FIGURES}
        for i in range(2)
    )
    return boxes, images


def _spread_over_images(
    labels: Int64, image_index: Int64, matches: Matches
) -> tuple[Float64, Float64]:
    """Boxes of each class, and the images that they are on, weighed by how evenly."""
    num_images, num_classes = matches.annotations.num_images, len(matches.num_positive)
    pairs, counts = np.unique(labels * num_images + image_index, return_counts=True)
    classes = pairs // max(num_images, 1)
    boxes = np.bincount(classes, counts, num_classes).astype(np.float64)
    squares = np.bincount(classes, counts.astype(np.float64) ** 2, num_classes)
    images = np.zeros(num_classes)
    np.divide(boxes**2, squares, out=images, where=squares > 0)
    return boxes, images
