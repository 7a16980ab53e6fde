"""Would results fit if their boxes, or those of the annotations, were of another format?

Corners, centres and fractions of the image are what other tools write. Each is tried where few
boxes are found, by the evaluation's own matching: on a sample of the images first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from detbalance.data import Annotations, Predictions
from detbalance.evaluation.average_precision import average_precision
from detbalance.evaluation.matching import Matches, match

Float64 = npt.NDArray[np.float64]

_FOUND = 0.5  # share of the boxes; where as many are found the format is right
_SAMPLE = 200  # images
_RIGHT = 3  # detections, at least
_BETTER = 0.05  # of AP50, at least, and twice as much as it is
_FRACTIONS = 2.0  # fractions of an image are hardly above; boxes in pixels are not all below
_OWN = "x, y, width, height"
_FORMATS: dict[str, Callable[[Float64], Float64]] = {
    _OWN: lambda bbox: bbox,
    "x1, y1, x2, y2": lambda bbox: np.hstack(
        [bbox[:, :2], np.maximum(bbox[:, 2:] - bbox[:, :2], 0)]
    ),
    "centre x, centre y, width, height": lambda bbox: np.hstack(
        [bbox[:, :2] - bbox[:, 2:] / 2, bbox[:, 2:]]
    ),
}


class _Reading(NamedTuple):
    """Boxes of one side taken for another format."""

    of_annotations: bool
    form: str
    of_image: bool

    def __str__(self) -> str:
        return self.form + (" in shares of the image's size" if self.of_image else "")

    def of(
        self, annotations: Annotations, predictions: Predictions
    ) -> tuple[Annotations, Predictions]:
        """Both sides, one of them read so."""
        side = annotations if self.of_annotations else predictions
        bbox = _FORMATS[self.form](side.bbox)
        if self.of_image:
            bbox = bbox * np.tile(annotations.sizes[side.image_index], 2)
        if self.of_annotations:
            return dataclasses.replace(annotations, bbox=bbox), predictions
        return annotations, dataclasses.replace(predictions, bbox=bbox)


def other_readings(matches: Matches) -> Iterator[str]:
    """Say in which other format of boxes the results would fit, and how well."""
    found = int(matches.is_true_positive[:, matches.at(0.5)].sum())
    if not matches.positive.any() or found >= _FOUND * matches.positive.sum():
        return
    both = matches.annotations, matches.predictions
    sample = _sample(*both)
    now, readings = _at_half(matches, *sample)[0], list(_readings(*both))
    best = max(readings, key=lambda reading: _at_half(matches, *reading.of(*sample))[0])
    if _at_half(matches, *best.of(*sample))[0] < max(now + _BETTER, 2 * now):
        return
    (now, _), (then, right) = (_at_half(matches, *both), _at_half(matches, *best.of(*both)))
    if then < max(now + _BETTER, 2 * now) or right < _RIGHT:
        return
    figures = f"these results would have AP50 {_short(then)} instead of {_short(now)}"
    if best.of_annotations:
        yield (
            f"With the boxes of {both[0].source} read as {best} {figures}: {_OWN} in pixels are"
            " expected there. Correct the file."
        )
    else:
        yield f"Read as {best} {figures}: {_OWN} in pixels are expected. Write them so."


def _readings(annotations: Annotations, predictions: Predictions) -> Iterator[_Reading]:
    for of_annotations, bbox in ((False, predictions.bbox), (True, annotations.bbox)):
        yield from (_Reading(of_annotations, form, False) for form in _FORMATS if form != _OWN)
        if bbox.max(initial=0) <= _FRACTIONS:
            yield from (_Reading(of_annotations, form, True) for form in _FORMATS)


def _sample(annotations: Annotations, predictions: Predictions) -> tuple[Annotations, Predictions]:
    """Some images with boxes, evenly spread over the file."""
    shown = np.unique(annotations.image_index)
    rows = shown[:: -(-len(shown) // _SAMPLE)]
    place = np.full(annotations.num_images, -1)
    place[rows] = np.arange(len(rows))
    index = place[predictions.image_index]
    kept = index >= 0
    fewer = Predictions(
        index[kept], predictions.labels[kept], predictions.bbox[kept], predictions.scores[kept]
    )
    return annotations.subset(rows), fewer


def _at_half(
    matches: Matches, annotations: Annotations, predictions: Predictions
) -> tuple[float, int]:
    """Mean AP50, and the number of right detections."""
    rules = dataclasses.replace(matches.rules, iou_thresholds=(0.5,))
    matched = match(annotations, predictions, rules=rules)
    return float(np.nanmean(average_precision(matched))), int(matched.is_true_positive.sum())


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")
