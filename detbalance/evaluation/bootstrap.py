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

from detbalance.evaluation.matching import Matches
from detbalance.evaluation.resampling import FIGURES, draw_images, weighted_figures
from detbalance.intervals import wilson_interval

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_BLOCK_BYTES = 64_000_000  # of drawn counts held at a time


@dataclass(frozen=True, eq=False)
class Replicates:
    """Figures of one or more runs on the same draws of images.

    Attributes:
        values: for each figure float32 [runs, B, K + 1], NaN where a draw leaves it undefined.
        estimates: for each figure float64 [runs, K + 1], on the images as they are.
        counts: for each figure float64 [runs, K + 1], of how many boxes it is a share: boxes to
            find, for precision the detections shown.
    """

    values: dict[str, Float32]
    estimates: dict[str, Float64]
    counts: dict[str, Float64]

    def groups(self, group_of_class: npt.ArrayLike) -> dict[str, Float64]:
        """Mean over the classes of each group in every draw, over those that are defined in it.

        Args:
            group_of_class: int [K + 1], 0 or more for the group of each class, -1 for none; for
                example `of_class` of `frequency_groups`.

        Returns:
            For each figure float64 [runs, B, groups], NaN where no class is defined.
        """
        return {name: _means(values, group_of_class) for name, values in self.values.items()}

    def group_estimates(self, group_of_class: npt.ArrayLike) -> dict[str, Float64]:
        """As `groups`, on the images as they are: float64 [runs, groups]."""
        return {name: _means(values, group_of_class) for name, values in self.estimates.items()}

    def interval(
        self, figure: str, *, run: int = 0, confidence: float = 0.95
    ) -> tuple[Float64, Float64]:
        """Interval of each class.

        Args:
            figure: one of `FIGURES` that were computed.
            run: which of the runs.
            confidence: how often such intervals hold the true figure, in (0, 1).

        Returns:
            Lower and upper ends, float64 [K + 1], NaN where the figure is undefined.
        """
        return _interval(
            self.estimates[figure][run],
            self.values[figure][run],
            self.counts[figure][run],
            confidence,
        )

    def group_interval(
        self,
        figure: str,
        group_of_class: npt.ArrayLike,
        *,
        run: int = 0,
        confidence: float = 0.95,
    ) -> tuple[Float64, Float64]:
        """Interval of the mean of each group, as `interval`: float64 [groups]."""
        defined = ~np.isnan(self.estimates[figure][run])
        groups = np.where(defined, np.asarray(group_of_class), -1)
        size = int(np.max(group_of_class)) + 1
        kept = groups >= 0
        counts: Float64 = np.bincount(
            groups[kept], weights=self.counts[figure][run][kept], minlength=size
        ).astype(np.float64)
        return _interval(
            _means(self.estimates[figure][run], group_of_class),
            _means(self.values[figure][run], group_of_class),
            counts,
            confidence,
        )


def bootstrap(
    runs: Sequence[Matches],
    *,
    replicates: int = 1000,
    seed: int = 0,
    score_floor: float = 0.3,
    workers: int | None = None,
) -> Replicates:
    """Draw images with replacement and work out every figure of every class on each draw.

    Args:
        runs: matches of one or more runs on the same images; all see the same draws.
        replicates: B, how many draws.
        seed: of the draws.
        score_floor: recall and precision are of detections with at least this score.
        workers: threads; by default one per core.

    Returns:
        The figures on every draw and on the images as they are.

    Raises:
        ValueError: if there is no run, the runs are not on the same images and boxes, or there are
            fewer than two draws.
    """
    _check(runs, replicates)
    first = runs[0]
    rng = np.random.default_rng(seed)
    num_images, num_classes = first.annotations.num_images, len(first.num_positive)
    shape = (len(runs), replicates, num_classes)
    values = {name: np.full(shape, np.nan, dtype=np.float32) for name in FIGURES}
    block = max(1, min(replicates, _BLOCK_BYTES // (4 * max(num_images, 1))))
    for start in range(0, replicates, block):
        weights = draw_images(num_images, min(block, replicates - start), rng)
        for run, matches in enumerate(runs):
            figures = weighted_figures(matches, weights, score_floor=score_floor, workers=workers)
            for name, drawn in figures.items():
                values[name][run, start : start + len(weights)] = drawn
    estimates = {name: np.full((len(runs), num_classes), np.nan) for name in FIGURES}
    counts = {name: np.zeros((len(runs), num_classes)) for name in FIGURES}
    once = np.ones((1, num_images), dtype=np.int32)
    for run, matches in enumerate(runs):
        figures = weighted_figures(matches, once, score_floor=score_floor, workers=workers)
        for name, whole in figures.items():
            estimates[name][run] = whole[0]
            counts[name][run] = matches.num_positive
        counts["precision"][run] = _shown(matches, score_floor)
    return Replicates(values, estimates, counts)


def _check(runs: Sequence[Matches], replicates: int) -> None:
    if not runs:
        raise ValueError("bootstrap(): there is no run. Expected the matches of at least one.")
    if replicates < 2:
        raise ValueError(
            f"bootstrap(): replicates is {replicates}. Expected 2 or more; 1000 give steady ends."
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


def _shown(matches: Matches, score_floor: float) -> Int64:
    """int64 [K + 1], detections that are right or wrong at IoU 0.5 with at least a score."""
    t = matches.at(0.5)
    rows = ~matches.is_ignored[:, t] & (matches.predictions.scores >= score_floor)
    labels = matches.predictions.labels[rows]
    return np.bincount(labels, minlength=len(matches.num_positive))


def _means(values: Float32 | Float64, group_of_class: npt.ArrayLike) -> Float64:
    """Means [..., groups] of [..., K + 1] over the defined classes of each group."""
    groups = np.asarray(group_of_class)
    size = int(groups.max(initial=-1)) + 1
    result = np.full((*values.shape[:-1], size), np.nan)
    for group in range(size):
        chosen = values[..., groups == group].astype(np.float64)
        defined = ~np.isnan(chosen)
        number = defined.sum(axis=-1)
        total = np.where(defined, chosen, 0.0).sum(axis=-1)
        np.divide(total, number, out=result[..., group], where=number > 0)
    return result


def _interval(
    estimate: Float64, values: Float32 | Float64, count: Float64, confidence: float
) -> tuple[Float64, Float64]:
    """Wilson's interval with as many boxes as would vary as much as the draws do."""
    defined = ~np.isnan(values)
    number = defined.sum(axis=0)
    center = np.where(defined, values, 0.0).sum(axis=0) / np.maximum(number, 1)
    squares = np.where(defined, (values - center) ** 2, 0.0).sum(axis=0)
    variance = squares / np.maximum(number - 1, 1)
    size = np.full(len(estimate), np.inf)
    np.divide(estimate * (1 - estimate), variance, out=size, where=variance > 0)
    size = np.minimum(size, count)
    known = ~np.isnan(estimate) & (count > 0)
    share, size = np.where(known, estimate, 0.0), np.where(known, size, 0.0)
    low, high = wilson_interval(np.clip(share, 0, 1) * size, size, confidence=confidence)
    return low, high
