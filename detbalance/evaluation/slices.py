"""AP50 and recall on parts of the images: those of one camera, one hospital, one time of day."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from detbalance.data.grouping import image_values
from detbalance.data.predictions import Predictions
from detbalance.evaluation.accumulate import mean_of_defined
from detbalance.evaluation.average_precision import average_precision
from detbalance.evaluation.bootstrap import bootstrap
from detbalance.evaluation.figures import RECALL_IOU_THRESHOLD, shifted
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.operating_points import at_score
from detbalance.evaluation.report import SliceRow

if TYPE_CHECKING:
    from detbalance.data import Annotations
    from detbalance.data.arrays import Int64
    from detbalance.evaluation.evaluate import Evaluation

# A key with more values is one of single images, such as a file name.
MOST_SLICES = 100
SLICE_FIGURES = ("AP50", "recall")


def image_slices(annotations: Annotations, keys: Sequence[str]) -> dict[str, Sequence[str | None]]:
    """Read the values of some keys of the images, in text.

    Args:
        annotations: whose images; their file is read again.
        keys: of its image entries, with dots between nested ones.

    Returns:
        By key the value of each image, None where it has none.

    Raises:
        ValueError: if no image has such a key, or it has more than 100 values; or the file cannot
            be read again.
    """
    return {key: _values(annotations, key) for key in keys}


def _values(annotations: Annotations, key: str) -> Sequence[str | None]:
    values = image_values(annotations, key)
    number = len({value for value in values if value is not None})
    if not number:
        raise ValueError(
            f'{annotations.source}: no image has the key "{key}". A key of the image entries is'
            " expected, with dots between nested ones. Correct --slice."
        )
    if number > MOST_SLICES:
        raise ValueError(
            f'{annotations.source}: the key "{key}" of the images has {number:,} values. At most'
            f" {MOST_SLICES} are expected. Name a key whose values many images share."
        )
    return values


def slice_rows(
    evaluation: Evaluation, slices: Mapping[str, Sequence[str | None]]
) -> tuple[SliceRow, ...]:
    """Evaluate the images of each value of some keys apart.

    Args:
        evaluation: of `evaluate`; where it has draws of images, so have the slices.
        slices: by key the value of each image, as `image_slices` gives them.

    Returns:
        A row for each value, the largest slice of a key first; images without a value come last.
    """
    return tuple(row for key, values in slices.items() for row in _of_key(evaluation, key, values))


def _of_key(evaluation: Evaluation, key: str, values: Sequence[str | None]) -> list[SliceRow]:
    images: dict[str | None, list[int]] = {}
    for image, value in enumerate(values):
        images.setdefault(value, []).append(image)
    order = sorted(images, key=lambda value: (value is None, -len(images[value]), value))
    return [_row(evaluation, key, value, np.array(images[value])) for value in order]


def _row(evaluation: Evaluation, key: str, value: str | None, images: Int64) -> SliceRow:
    matches = shifted(_part(evaluation.matches, images), evaluation.score_thresholds)
    figures = {
        "AP50": average_precision(matches)[matches.at(RECALL_IOU_THRESHOLD)],
        "recall": at_score(matches, 0.0).recall,
    }
    settings, intervals = evaluation.settings, {}
    if settings.num_bootstrap:
        drawn = bootstrap(
            [matches],
            num_bootstrap=settings.num_bootstrap,
            seed=settings.seed,
            score_threshold=0.0,
        )
        every = np.zeros(len(matches.num_positive), dtype=np.int64)
        every[0] = -1
        for name in SLICE_FIGURES:
            low, high = drawn.group_interval(name, every, confidence=settings.confidence)
            if not math.isnan(low[0]):
                intervals[name] = (float(low[0]), float(high[0]))
    return SliceRow(
        key=key,
        value=value,
        val_images=len(images),
        val_boxes=int(matches.num_positive.sum()),
        num_evaluated=int((matches.num_positive > 0).sum()),
        figures={name: mean_of_defined(by_class[1:]) for name, by_class in figures.items()},
        intervals=intervals,
    )


def _part(matches: Matches, images: Int64) -> Matches:
    """The matches on some of the images; boxes of one image never depend on another one."""
    found = matches.predictions
    place = np.full(matches.annotations.num_images, -1)
    place[images] = np.arange(len(images))
    rows = np.flatnonzero(place[found.image_index] >= 0)
    part = Predictions(
        image_index=place[found.image_index[rows]],
        labels=found.labels[rows],
        bbox=found.bbox[rows],
        scores=found.scores[rows],
    )
    return match(matches.annotations.subset(images), part, rules=matches.rules)
