"""What makes the figures of a results file doubtful: the usual slips of exporting detections.

Each of them gives low figures without an error, and looks like a bad detector.

Corners, centres and fractions of the image are what other tools write. Each is tried where few
boxes are found, by the evaluation's own matching: on a sample of the images first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from detbalance.data import Annotations, Predictions
from detbalance.data.annotations import repeated_boxes, repeated_rows
from detbalance.data.arrays import Float64, Int64
from detbalance.data.categories import shorten
from detbalance.data.messages import counted
from detbalance.evaluation.average_precision import RECALL_LEVELS, average_precision
from detbalance.evaluation.matching import Matches, Overlaps, ignored_annotations, match
from detbalance.evaluation.rules import Rules, RulesName

if TYPE_CHECKING:
    from detbalance.data import Annotations, Predictions


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


_CROWDED_NAMED = 3


def cap_notes(annotations: Annotations, rules: Rules) -> tuple[str, ...]:
    """Say which boxes nobody can find under the cap of detections, and how high figures can be."""
    cap = rules.max_detections
    if cap is None:
        return ()
    positive = ~ignored_annotations(annotations, rules)[0]
    images, labels = annotations.image_index[positive], annotations.labels[positive]
    if not rules.cap_is_per_class:
        return _of_images(np.bincount(images), cap)
    num_classes = annotations.categories.num_classes
    pairs, boxes = np.unique(images * num_classes + labels, return_counts=True)
    over = boxes > cap
    if not over.any():
        return ()
    label = pairs % num_classes
    total = np.bincount(label, boxes, num_classes)
    findable = np.bincount(label, np.minimum(boxes, cap), num_classes)
    capped = np.unique(label[over])
    share = findable[capped] / total[capped]
    order = np.argsort(share, kind="stable")
    levels = np.searchsorted(RECALL_LEVELS, share, side="right") / len(RECALL_LEVELS)
    names = annotations.categories.names
    listed = [
        f"{_below(share[i])} (AP {_below(levels[i])}) for {names[capped[i] - 1]}" for i in order
    ]
    number = len(np.unique(pairs[over] // num_classes))
    whose = "a class" if len(capped) == 1 else f"one of {len(capped)} classes"
    return (
        f"{_crowded(number, cap)} of {whose} (up to {boxes.max():,}), and of an image and class at"
        f" most {cap} detections count: whatever the detector, recall and AR are at most"
        f" {shorten(listed, _CROWDED_NAMED)}.",
    )


def _of_images(boxes: Int64, cap: int) -> tuple[str, ...]:
    number = int((boxes > cap).sum())
    if not number:
        return ()
    total, findable = int(boxes.sum()), int(np.minimum(boxes, cap).sum())
    return (
        f"{_crowded(number, cap)} (up to {boxes.max():,}), and of an image at most {cap} detections"
        f" count: whatever the detector, at most {findable:,} of all {total:,} boxes are found, a"
        f" share of {_below(findable / total)}.",
    )


def _crowded(number: int, cap: int) -> str:
    images = "1 image has" if number == 1 else f"{number:,} images have"
    return f"{images} more than {cap} box{'es' if cap > 1 else ''} to find"


def _below(share: float) -> str:
    """Three decimals of a share below 1, never rounded up to it."""
    return f"{min(share, 0.999):.3f}".removeprefix("0")


# Detectors are exported with a floor of 0.001 or none; 0.05 is torchvision's default.
_HIGHEST_FLOOR = 0.02
# Nobody cuts results at fewer detections an image.
_FEWEST_OF_A_CUT = 10
# With fewer detections than this a share says nothing.
_ENOUGH = 50
_NAMED = 5


def cautions(matches: Matches, pairs: Overlaps) -> tuple[str, ...]:
    """Say what looks wrong with a results file, each in one sentence or two."""
    if not matches.predictions.num_predictions:
        return ("The results hold no detection at all.",)
    return tuple(
        [
            *_images_left_out(matches),
            *_scores(matches),
            *_cut_by_number(matches),
            *_repeats(matches),
            *(list(other_readings(matches)) or _boxes_of_another_kind(matches)),
            *_other_class_numbers(matches, pairs),
        ]
    )


def doubts_on_boxes(annotations: Annotations, rules: RulesName) -> Iterator[str]:
    """Say what looks wrong with the boxes that detections are held against."""
    crowd, names = annotations.is_crowd, annotations.categories.names
    if rules == "coco" and crowd.any():
        every, regions = (
            np.bincount(labels, minlength=len(names) + 1)[1:]
            for labels in (annotations.labels, annotations.labels[crowd])
        )
        only = [names[i] for i in np.flatnonzero((regions > 0) & (regions == every))]
        number, one = int(every[regions == every].sum()), "annotation"
        whose = annotations.source if crowd.all() else shorten(only, _NAMED)
        if only:
            them = f"The only {one}" if number == 1 else f"All {counted(number, one)}"
            yield (
                f"{them} of {whose} {'is a crowd region' if number == 1 else 'are crowd regions'}"
                " (iscrowd 1): there is nothing to find, and detections there are neither right"
                " nor wrong. Set iscrowd to 0 where an annotation is one object."
            )
    repeated = repeated_boxes(annotations)
    if repeated.any():
        images = np.unique(annotations.image_index[repeated])
        yield (
            f"{counted(int(repeated.sum()), 'box')} of {annotations.source} repeat an"
            f" earlier box of the same image and class exactly, in {_images(annotations, images)}:"
            " a detector finds such a box once, and the repeat counts as missed. Remove repeats."
        )


def odd_scores(predictions: Predictions) -> str:
    """Say that scores are no probabilities, and what they look like; "" where they may be some."""
    scores = predictions.scores
    wrong = ~((scores >= 0) & (scores <= 1))  # a NaN, too
    if not wrong.any():
        return ""
    first = int(np.argmax(wrong))
    low, high = float(scores.min()), float(scores.max())
    # A share that rounding has put above 1 is no per cent.
    looks = "logits" if low < 0 else "per cent" if 2 < high <= 100 else "no probabilities"
    have = "detection has" if len(wrong) == 1 else "detections have"
    return (
        f"{int(wrong.sum()):,} of {len(wrong):,} {have} a score outside 0..1 (first: detection"
        f" {first}, score {scores[first]:.9g}): they look like {looks}"
    )


def _scores(matches: Matches) -> Iterator[str]:
    if odd := odd_scores(matches.predictions):
        yield (
            f"{odd}. AP needs their order only; score thresholds expect probabilities."
            " Export those."
        )
    else:
        yield from _cut_by_score(matches)


def _repeats(matches: Matches) -> Iterator[str]:
    predictions, order = matches.predictions, matches.order
    # In this order equal detections are neighbours, but for others of the same score.
    keys = [column[order] for column in (predictions.image_index, predictions.scores)]
    tied = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    images = np.unique(keys[0][1:][tied])
    rows = np.flatnonzero(np.isin(predictions.image_index, images))
    columns = (predictions.scores, predictions.labels, predictions.image_index)
    again = rows[repeated_rows(*predictions.bbox[rows].T, *(column[rows] for column in columns))]
    if len(again):
        where = _images(matches.annotations, np.unique(predictions.image_index[again]))
        verb = "repeats" if len(again) == 1 else "repeat"
        yield (
            f"{counted(len(again), 'detection')} {verb} another one to the last digit, in {where}:"
            " evaluations on several devices show the last images twice to fill their batches."
            " Repeats count as wrong. Leave them out."
        )


def _images(annotations: Annotations, rows: npt.NDArray[np.int64]) -> str:
    ids = shorten(annotations.image_ids[rows].tolist(), _NAMED)
    return f"{counted(len(rows), 'image')} ({'id' if len(rows) == 1 else 'ids'} {ids})"


def _images_left_out(matches: Matches) -> Iterator[str]:
    annotations = matches.annotations
    shows_boxes = np.bincount(
        annotations.image_index[matches.positive], minlength=annotations.num_images
    )
    found = np.bincount(matches.predictions.image_index, minlength=annotations.num_images)
    wanted = int((shows_boxes > 0).sum())
    empty = int(((shows_boxes > 0) & (found == 0)).sum())
    if empty >= max(2, wanted / 4):
        yield (
            f"{empty} of the {wanted} images with boxes have no detection: all their boxes count as"
            " missed. If the detector was not run on them, evaluate on the others only."
        )


def _cut_by_score(matches: Matches) -> Iterator[str]:
    scores, images = matches.predictions.scores, matches.predictions.image_index
    counts = np.bincount(images, minlength=matches.annotations.num_images)
    # Where every image is full, the lowest score is that of the cut by number.
    full = counts.max() >= _FEWEST_OF_A_CUT and (counts[counts > 0] == counts.max()).all()
    lowest = 0.0 if full else float(scores.min())
    if lowest >= _HIGHEST_FLOOR:
        yield (
            f"No detection has a score below {lowest:.2g}: the results were cut there, which lowers"
            " AP and AR, most for classes that are found with low scores. Export them with a floor"
            " of 0.001 or less."
        )


def _cut_by_number(matches: Matches) -> Iterator[str]:
    predictions = matches.predictions
    counts = np.bincount(predictions.image_index, minlength=matches.annotations.num_images)
    most, usual = int(counts.max()), 300 if matches.rules.name == "lvis" else 100
    full = int((counts == most).sum())
    if _FEWEST_OF_A_CUT <= most < usual and full >= max(3, len(counts) / 10):
        yield (
            f"{full} images have exactly {most} detections: the results were cut at that number,"
            f" and the rules count up to {usual}"
            f"{'' if matches.rules.name == 'lvis' else ' of each class'}. Export more of them."
        )


def _boxes_of_another_kind(matches: Matches) -> Iterator[str]:
    annotations, predictions = matches.annotations, matches.predictions
    if predictions.num_predictions < _ENOUGH:
        return
    right_and_bottom = predictions.bbox[:, :2] + predictions.bbox[:, 2:]
    if len(annotations.bbox) and right_and_bottom.max() <= 2 < annotations.bbox[:, 2:].max():
        yield (
            "All detections lie within 2 pixels of the corner: their boxes look like shares of the"
            " image's size. COCO results are in pixels."
        )
        return
    sizes = annotations.sizes[predictions.image_index]
    beyond = (right_and_bottom > 1.02 * sizes + 2).any(axis=1) & (sizes > 0).all(axis=1)
    share = float(beyond.mean())
    if share > 1 / 3:
        yield (
            f"{share:.0%} of the detections reach beyond their image: their boxes look like"
            " [x1, y1, x2, y2]. COCO results are [x, y, width, height]."
        )


def _other_class_numbers(matches: Matches, pairs: Overlaps) -> Iterator[str]:
    labels = matches.annotations.labels[pairs.annotation]
    close = pairs.iou >= 0.5
    on_box = np.unique(pairs.detection[close])
    agree = close & (labels == matches.predictions.labels[pairs.detection])
    same = np.unique(pairs.detection[agree])
    present = np.unique(matches.annotations.labels)
    # By chance alone one in K agrees; a detector that has learnt anything agrees far more often.
    if len(on_box) < _ENOUGH or len(present) < 3 or len(same) > len(on_box) / len(present) / 2:
        return
    yield (
        f"Of {len(on_box):,} detections that lie on a box only {len(same):,} have its class, fewer"
        " than by chance: category_id in the results may be numbered otherwise than in the"
        " annotations, for example from 0."
    )
