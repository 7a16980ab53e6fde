"""How sure AP, AR, recall and precision are: a bootstrap over images.

Boxes of one image share their fate, so images are drawn, not boxes. The detections are matched
once; a draw only says how often each image counts.

The matches stay as they are: an image that counts twice has its boxes and its detections twice.
Counting goes along each class's detections in the order of their scores, and only where a
detection is right can the interpolated precision change, so only there it is worked out.

Letters: B draws of images, M images, K categories, T IoU thresholds, P detections of a class, S of
them right.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Bool, Float32, Float64, Int64
from detbalance.data.checks import check_number
from detbalance.evaluation.accumulate import check_memory
from detbalance.evaluation.average_precision import RECALL_LEVELS
from detbalance.evaluation.bootstrap_variance import (
    FORMS,
    BootstrapVariance,
    class_variance,
    group_variance,
    interval,
)
from detbalance.evaluation.figures import WITH_INTERVALS
from detbalance.evaluation.matching import Matches

Int32 = npt.NDArray[np.int32]

_LAST = len(RECALL_LEVELS) - 1
# Levels whose float is above the nearest float to k / 100: a recall of exactly that misses them.
_LEVEL_IS_ABOVE: Bool = np.arange(_LAST + 1) / _LAST < RECALL_LEVELS
# Entries of one working array: small enough for the cache of a core.
_WORKING_SIZE = 1 << 18


def draw_images(num_images: int, draws: int, rng: np.random.Generator) -> Int32:
    """Draw as many images as there are, with replacement, again and again."""
    counts = np.empty((draws, num_images), dtype=np.int32)
    for row in counts:
        row[:] = np.bincount(rng.integers(0, num_images, num_images), minlength=num_images)
    return counts


def weighted_figures(
    matches: Matches, weights: Int32, *, score_threshold: float, workers: int | None = None
) -> dict[str, Float64]:
    """Work out the figures of every class for every weighting of the images."""
    num_classes = len(matches.num_positive)
    result = {name: np.full((len(weights), num_classes), np.nan) for name in WITH_INTERVALS}
    positive = matches.positive
    truth = np.argsort(matches.annotations.labels[positive], kind="stable")
    truth_image = matches.annotations.image_index[positive][truth]
    truth_offsets = np.concatenate([[0], np.cumsum(matches.num_positive)])

    def one(label: int) -> None:
        images = truth_image[truth_offsets[label] : truth_offsets[label + 1]]
        sequence = _sequence(matches, label, score_threshold, matches.at(0.5))
        for part in _parts(len(weights), max(len(sequence.image), len(images), 1)):
            for name, values in _figures(sequence, images, weights[part]).items():
                result[name][part, label] = values

    # The largest first, so that no thread is left alone with one at the end.
    sizes = np.diff(matches.offsets)
    labels = np.flatnonzero(sizes + matches.num_positive)
    labels = labels[np.argsort(-sizes[labels], kind="stable")]
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for _ in pool.map(one, labels.tolist()):
            pass
    return result


@dataclass(frozen=True, eq=False)
class _Sequence:
    """The detections of one class that count at some threshold, from the highest score down."""

    image: Int64  # [P]
    right: list[Int64]  # per threshold, places of those that found a box
    ignored: list[Int64]  # per threshold, places of those that do not count
    shown: int  # how many are at or above the score threshold
    at_half: int  # index of IoU 0.5


def _sequence(matches: Matches, label: int, score_threshold: float, at_half: int) -> _Sequence:
    rows = matches.order[matches.offsets[label] : matches.offsets[label + 1]]
    rows = rows[~matches.is_ignored[rows].all(axis=1)]
    right, ignored = matches.is_true_positive[rows], matches.is_ignored[rows]
    return _Sequence(
        matches.predictions.image_index[rows],
        [np.flatnonzero(column) for column in right.T],
        [np.flatnonzero(column) for column in ignored.T],
        int((matches.predictions.scores[rows] >= score_threshold).sum()),
        at_half,
    )


def _parts(draws: int, width: int) -> Iterator[slice]:
    step = max(1, _WORKING_SIZE // width)
    for start in range(0, draws, step):
        yield slice(start, min(start + step, draws))


def _figures(sequence: _Sequence, images: Int64, weights: Int32) -> dict[str, Float64]:
    """The figures [B] of one class."""
    total = np.take(weights, images, axis=1).sum(axis=1)
    counted = _running(weights, sequence.image)
    levels = _levels_reached(total)
    width = levels.shape[1]
    levels = levels.ravel()
    starts = np.arange(len(weights))[:, None] * width
    ap, found_share = [], []
    recall = precision = np.empty(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        for t, (places, ignored) in enumerate(zip(sequence.right, sequence.ignored, strict=True)):
            found = _running(weights, sequence.image[places])
            skipped = _running(weights, sequence.image[ignored])
            seen = np.take(counted, places + 1, axis=1)
            if len(ignored):
                seen -= np.take(skipped, np.searchsorted(ignored, places), axis=1)
            share = found[:, 1:] / np.maximum(seen, 1)
            best = np.maximum.accumulate(share[:, ::-1], axis=1)[:, ::-1]
            reached = np.take(levels, found + starts)
            gained = np.diff(reached, axis=1)
            ap.append((best * gained).sum(axis=1) / (_LAST + 1))
            found_share.append(found[:, -1] / total)
            if t == sequence.at_half:
                right = found[:, np.searchsorted(places, sequence.shown)]
                shown = counted[:, sequence.shown]
                shown = shown - skipped[:, np.searchsorted(ignored, sequence.shown)]
                recall, precision = right / total, right / shown
    undefined = np.where(total > 0, 0.0, np.nan)
    return {
        "AP": np.mean(ap, axis=0) + undefined,
        "AP50": ap[sequence.at_half] + undefined,
        "AR": np.mean(found_share, axis=0),
        "recall": recall,
        "precision": precision,
    }


def _running(weights: Int32, images: Int64) -> Int32:
    """int32 [B, n + 1], the sum of the weights of the first 0..n of a list of images."""
    sums = np.zeros((len(weights), len(images) + 1), dtype=np.int32)
    np.cumsum(np.take(weights, images, axis=1), axis=1, out=sums[:, 1:], dtype=np.int32)
    return sums


def _levels_reached(total: Int64) -> Int32:
    """int32 [B, max(total) + 1], how many of the 101 recall levels so many found boxes reach."""
    found = np.arange(max(int(total.max(initial=0)), 0) + 1)
    size = np.maximum(total, 1)[:, None]
    level = np.minimum(found * _LAST // size, _LAST)
    exact = level * size == found * _LAST
    reached = level + 1 - (exact & _LEVEL_IS_ABOVE[level])
    reached[:, 0] = 0
    return np.asarray(reached, dtype=np.int32)


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
        spread = group_variance(self.values[figure][run], single, group_of_class, size)
        return interval(spread, confidence=confidence, **FORMS[figure])

    def spread(self, figure: str, *, run: int = 0) -> BootstrapVariance:
        """What the draws say of a figure of each class, background in front."""
        estimate = self.estimates[figure][run]
        boxes, images = self.boxes[figure][run], self.images[figure][run]
        return class_variance(self.values[figure][run], estimate, boxes, images)


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
    values = {name: np.full(shape, np.nan, dtype=np.float32) for name in WITH_INTERVALS}
    widest = max(4 * num_images, 8 * len(WITH_INTERVALS) * num_classes)
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
        {name: np.concatenate([figures[name] for figures in whole]) for name in WITH_INTERVALS},
        *_numbers(runs, score_threshold),
    )


def drawn_bytes(num_runs: int, num_bootstrap: int, num_classes: int) -> float:
    """Memory that the figures on all draws take, and while intervals are made of them."""
    return 4.0 * (num_runs * len(WITH_INTERVALS) + 2) * num_bootstrap * num_classes


def _check(runs: Sequence[Matches], num_bootstrap: int) -> None:
    if not runs:
        raise ValueError("bootstrap(): there is no run. Expected the matches of at least one.")
    advice = "1000 give steady ends."
    check_number("bootstrap()", "num_bootstrap", num_bootstrap, least=2, whole=True, advice=advice)
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
        numbers.append({name: shown if name == "precision" else to_find for name in WITH_INTERVALS})
    boxes, images = (
        {name: np.stack([number[name][i] for number in numbers]) for name in WITH_INTERVALS}
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
