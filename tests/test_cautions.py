"""Slips of exporting detections are named; results in order are not accused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from detbalance.annotations import Annotations, Categories
from detbalance.annotations.packed import PackedBytes, PackedLabels
from detbalance.evaluation.cautions import cautions
from detbalance.evaluation.matching import match
from detbalance.evaluation.overlaps import overlaps
from detbalance.predictions import Predictions

IMAGES, CLASSES = 40, 6


def truth() -> Annotations:
    """Forty images of 200 x 150 with four boxes each."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(IMAGES), 4)
    corner = rng.uniform(0, 60, (len(image), 2)) + np.tile(
        [[0, 0], [45, 0], [0, 30], [45, 30]], (IMAGES, 1)
    )
    bbox = np.hstack([corner, rng.uniform(20, 40, (len(image), 2))])
    return Annotations(
        source="val.json",
        categories=Categories(tuple(range(CLASSES)), tuple("abcdef")),
        image_ids=np.arange(IMAGES),
        sizes=np.full((IMAGES, 2), [200, 150], dtype=np.int32),
        file_names=PackedBytes.from_items([b""] * IMAGES),
        offsets=np.arange(0, 4 * IMAGES + 1, 4),
        image_index=image,
        annotation_ids=np.arange(len(image)),
        labels=rng.integers(1, CLASSES + 1, len(image)),
        is_crowd=np.zeros(len(image), bool),
        areas=bbox[:, 2] * bbox[:, 3],
        bbox=bbox,
        boxes=np.hstack([corner, corner + bbox[:, 2:]]).astype(np.float32),
    )


def found(annotations: Annotations) -> Predictions:
    """A fair detector: near every box, one in five of a wrong class, with scores down to 0."""
    rng = np.random.default_rng(1)
    wrong = rng.random(annotations.num_annotations) < 0.2
    labels = np.where(wrong, rng.integers(1, CLASSES + 1, len(wrong)), annotations.labels)
    scores = np.linspace(0.001, 1, len(wrong))
    bbox = annotations.bbox + rng.normal(0, 1, annotations.bbox.shape)
    return Predictions(annotations.image_index, labels, bbox, scores)


def said(predictions: Predictions, annotations: Annotations | None = None) -> tuple[str, ...]:
    annotations = truth() if annotations is None else annotations
    pairs = overlaps(annotations, predictions)
    return cautions(match(annotations, predictions, pairs=pairs), pairs)


def taken(predictions: Predictions, rows: Any) -> Predictions:
    fields = (field.name for field in dataclasses.fields(predictions))
    return Predictions(**{name: getattr(predictions, name)[rows] for name in fields})


def test_results_in_order_raise_no_caution() -> None:
    assert said(found(truth())) == ()


def test_no_detection_at_all() -> None:
    nothing = Predictions(np.empty(0), np.empty(0), np.empty((0, 4)), np.empty(0))
    assert said(nothing) == ("The results hold no detection at all.",)


def test_images_that_the_detector_did_not_see() -> None:
    fair = found(truth())
    (line,) = said(taken(fair, fair.image_index < 28))
    assert line.startswith("12 of the 40 images with boxes have no detection")
    assert said(taken(fair, fair.image_index < 35)) == ()


def test_a_score_floor() -> None:
    fair = found(truth())
    (line,) = said(dataclasses.replace(fair, scores=0.05 + 0.95 * fair.scores))
    assert line.startswith("No detection has a score below 0.051")


def test_the_lowest_score_of_full_images_is_no_floor() -> None:
    fair = found(truth())
    high = dataclasses.replace(fair, scores=0.05 + 0.95 * fair.scores)
    many = np.tile(np.arange(len(fair.scores)), 10)  # 40 an image, or 120 of 3 classes
    assert np.unique(np.bincount(high.image_index[many])).size == 1
    assert not any("score below" in line for line in said(taken(high, many)))
    assert any("score below" in line for line in said(taken(high, many[:-1])))


@pytest.mark.parametrize("lvis", [False, True])
def test_a_cut_at_a_number(lvis: bool) -> None:
    annotations = truth()
    if lvis:
        every = PackedLabels.from_items([range(1, CLASSES + 1)] * IMAGES)
        none = PackedLabels.from_items([()] * IMAGES)
        annotations = dataclasses.replace(annotations, neg_labels=every, not_exhaustive_labels=none)
    fair = found(annotations)
    rows = np.concatenate([np.flatnonzero(fair.image_index == i) for i in range(IMAGES)] * 3)
    seen = np.bincount(fair.image_index[rows], minlength=IMAGES)
    assert (seen == 12).all()
    place = np.arange(len(rows)) // len(fair.scores)  # first, second or third copy
    cut = taken(fair, rows[(place < 2) | (fair.image_index[rows] < 9)])
    (line,) = said(cut, annotations)
    assert line.startswith("9 images have exactly 12 detections")
    assert ("up to 300." if lvis else "up to 100 of each class.") in line


def test_corners_instead_of_sizes() -> None:
    fair = found(truth())
    corners = np.hstack([fair.bbox[:, :2], fair.bbox[:, :2] + fair.bbox[:, 2:]])
    lines = said(dataclasses.replace(fair, bbox=corners + np.array([60, 50, 60, 50])))
    assert any("look like [x1, y1, x2, y2]" in line for line in lines)


def test_shares_of_the_image_instead_of_pixels() -> None:
    fair = found(truth())
    lines = said(dataclasses.replace(fair, bbox=fair.bbox / [200, 150, 200, 150]))
    assert any("shares of the image's size" in line for line in lines)


def test_classes_numbered_from_another_start() -> None:
    fair = found(truth())
    (line,) = said(dataclasses.replace(fair, labels=fair.labels % CLASSES + 1))
    assert "category_id in the results may be numbered otherwise" in line
    # A detector that is right as often as chance is bad, not misnumbered.
    mixed = np.random.default_rng(0).permutation(fair.labels)
    assert said(dataclasses.replace(fair, labels=mixed)) == ()
