"""What one matching pass gives if each image counts so and so many times.

The matches stay as they are: an image that counts twice has its boxes and its detections twice.
Counting goes along each class's detections in the order of their scores, and only where a
detection is right can the interpolated precision change, so only there it is worked out.

Letters: B draws of images, M images, K categories, T IoU thresholds, P detections of a class, S of
them right.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detbalance.evaluation.average_precision import RECALL_LEVELS
from detbalance.evaluation.matching import Matches

Bool = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

FIGURES = ("AP", "AP50", "AR", "recall", "precision")
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
    result = {name: np.full((len(weights), num_classes), np.nan) for name in FIGURES}
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
