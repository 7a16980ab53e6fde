"""Slips of exporting detections are named; results in order are not accused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detbalance.data import Annotations, Categories, Predictions
from detbalance.data.arrays import PackedBytes, PackedLabels
from detbalance.evaluation.average_precision import average_precision
from detbalance.evaluation.matching import match, overlaps
from detbalance.evaluation.sanity_checks import cautions, doubts_on_boxes

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


def test_a_score_threshold() -> None:
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
    apart = 1e-6 * np.arange(len(cut.bbox))[:, None]  # no two are equal
    (line,) = said(dataclasses.replace(cut, bbox=cut.bbox + apart), annotations)
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


# Boxes in another format

SIZE = np.array([200, 150, 200, 150])
OWN, CORNERS = "x, y, width, height", "x1, y1, x2, y2"
CENTRES, SHARES = "centre x, centre y, width, height", " in shares of the image's size"
FORMS = [CORNERS, CENTRES, OWN + SHARES, CORNERS + SHARES, CENTRES + SHARES]


def written_as(bbox: npt.NDArray[np.float64], form: str) -> npt.NDArray[np.float64]:
    """Boxes as tools that know another format write them."""
    low, size = bbox[:, :2], bbox[:, 2:]
    first = low + size / 2 if CENTRES in form else low
    whole = np.hstack([first, low + size if CORNERS in form else size])
    return whole / SIZE if SHARES in form else whole


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", ["results", "annotations"])
def test_boxes_in_another_format_are_named_with_the_ap50_that_they_would_have(
    form: str, side: str
) -> None:
    annotations = truth()
    fair = found(annotations)
    ap50 = np.nanmean(average_precision(match(annotations, fair))[0])
    assert ap50 > 0.5
    if side == "results":
        fair = dataclasses.replace(fair, bbox=written_as(fair.bbox, form))
        start = f"Read as {form} these results would have AP50 "
    else:
        bbox = written_as(annotations.bbox, form)
        annotations = dataclasses.replace(annotations, bbox=bbox)
        start = f"With the boxes of val.json read as {form} these results would have AP50 "
    (line,) = (line for line in said(fair, annotations) if "would have" in line)
    assert line.startswith(f"{start}{ap50:.2f}".replace(" 0.", " .") + " instead of .0")


def test_few_detections_in_another_format_are_named_too() -> None:
    annotations = truth()
    few = taken(found(annotations), annotations.image_index < 2)
    few = dataclasses.replace(few, bbox=written_as(few.bbox, CORNERS))
    two = annotations.subset(np.arange(2))
    assert any(line.startswith("Read as x1, y1, x2, y2 these") for line in said(few, two))
    assert not any("would have" in line for line in said(taken(few, slice(0, 1)), two))


@pytest.mark.parametrize("seed", range(20))
def test_a_bad_detector_is_not_told_that_its_boxes_are_of_another_format(seed: int) -> None:
    annotations, rng = truth(), np.random.default_rng(seed)
    number = 40 * IMAGES
    bbox = np.hstack([rng.uniform(0, 120, (number, 2)), rng.uniform(5, 60, (number, 2))])
    labels = rng.integers(1, CLASSES + 1, number)
    lost = Predictions(rng.integers(0, IMAGES, number), labels, bbox, rng.random(number))
    assert not any("would have" in line for line in said(lost, annotations))


# Detections and boxes that are there twice, scores that are none, crowd regions only


def test_detections_of_a_padded_evaluation_are_counted_with_their_images() -> None:
    fair = found(truth())
    last = np.flatnonzero(fair.image_index >= 38)
    (line,) = said(taken(fair, np.concatenate([np.arange(len(fair.scores)), last])))
    assert line.startswith(
        f"{len(last)} detections repeat another one to the last digit, in 2 images (ids 38, 39):"
    )
    (line,) = said(taken(fair, np.append(np.arange(len(fair.scores)), 7)))
    assert line.startswith("1 detection repeats another one to the last digit, in 1 image (id 1):")


@given(st.lists(st.tuples(*[st.integers(0, 1)] * 4), min_size=1, max_size=30))
def test_repeats_are_those_that_a_set_of_detections_leaves_out(
    rows: list[tuple[int, int, int, int]],
) -> None:
    image, label, x, score = np.array(rows).T
    bbox = np.stack([x, x, x + 9, x + 9], axis=1)
    lines = said(Predictions(image, label + 1, bbox, score / 2))
    repeats = len(rows) - len(set(rows))
    told = [int(line.split()[0]) for line in lines if "to the last digit" in line]
    assert told == ([repeats] if repeats else [])


@pytest.mark.parametrize(
    ("change", "looks"),
    [
        (lambda s: 100 * s, "per cent"),
        (lambda s: 8 * s - 4, "logits"),
        (lambda s: 9e3 * s, "no "),
        (lambda s: s + 0.2, "no "),
    ],
)
def test_scores_that_are_no_probabilities_are_named(change: Any, looks: str) -> None:
    fair = found(truth())
    scores = change(fair.scores)
    (line,) = (line for line in said(dataclasses.replace(fair, scores=scores)) if "0..1" in line)
    number = int(((scores < 0) | (scores > 1)).sum())
    assert line.startswith(f"{number} of 160 detections have a score outside 0..1 (first:")
    assert f"look like {looks}" in line


def test_boxes_listed_twice_are_counted() -> None:
    annotations = truth()
    assert list(doubts_on_boxes(annotations, "coco")) == []
    bbox, labels = annotations.bbox.copy(), annotations.labels.copy()
    for row in (4, 8, 9):  # of two images
        bbox[row + 2], labels[row + 2] = bbox[row], labels[row]
    twice = dataclasses.replace(annotations, bbox=bbox, labels=labels)
    (line,) = doubts_on_boxes(twice, "coco")
    assert line.startswith(
        "3 boxes of val.json repeat an earlier box of the same image and class exactly, in 2 images"
        " (ids 1, 2):"
    )


def test_classes_of_crowd_regions_only_are_named() -> None:
    annotations = truth()

    def doubts(is_crowd: Any, labels: Any = annotations.labels, rules: Any = "coco") -> list[str]:
        changed = dataclasses.replace(annotations, is_crowd=is_crowd, labels=labels)
        return list(doubts_on_boxes(changed, rules))

    (line,) = doubts(np.ones(annotations.num_annotations, dtype=bool))
    assert line.startswith("All 160 annotations of val.json are crowd regions (iscrowd 1):")
    of_b = annotations.labels == 2
    (line,) = doubts(of_b)
    assert line.startswith(f"All {of_b.sum()} annotations of b are crowd regions (iscrowd 1):")
    assert doubts(of_b, rules="lvis") == []
    assert doubts(of_b & (np.arange(len(of_b)) > np.argmax(of_b))) == []  # one is to be found
    labels = np.minimum(annotations.labels, 5)
    labels[0] = 6
    (line,) = doubts(labels == 6, labels)
    assert line.startswith("The only annotation of f is a crowd region (iscrowd 1):")
