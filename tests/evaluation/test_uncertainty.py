"""The design effect of recall, and how many more boxes it takes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import load, make_scene

from detbalance.data.intervals import boxes_for_half_width, wilson_half_width
from detbalance.evaluation.bootstrap import bootstrap
from detbalance.evaluation.bootstrap_variance import more_boxes, recall_design_effect
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.operating_points import at_score


def matched(truth: dict, found: list) -> Matches:
    with tempfile.TemporaryDirectory() as folder:
        return match(*load(Path(folder), truth, found))


def on_images(found_of_image: list[tuple[int, int]]) -> Matches:
    """One class; on each image so many boxes are found, so many not."""
    images, annotations, detections = [], [], []
    for image, (found, missed) in enumerate(found_of_image):
        images.append({"id": image, "file_name": f"{image}.png", "width": 999, "height": 99})
        for number in range(found + missed):
            box = {"image_id": image, "category_id": 1, "bbox": [20 * number, 0, 10, 10]}
            annotations.append({**box, "id": len(annotations)})
            score = 0.9 if number < found else 0.1
            detections.append({**box, "score": score})
    categories = [{"id": 1, "name": "cat"}]
    truth = {"images": images, "categories": categories, "annotations": annotations}
    return matched(truth, detections)


def effect(found_of_image: list[tuple[int, int]]) -> float:
    return recall_design_effect(on_images(found_of_image), 0.5)[1]


def test_boxes_that_share_their_fate_count_as_one() -> None:
    # All four boxes of an image are found, or none: 4 times the variance, 20 images of 20 - 1.
    assert effect([(4, 0), (0, 4)] * 10) == pytest.approx(4 * 20 / 19)
    assert effect([(1, 0), (0, 1)] * 10) == pytest.approx(20 / 19)


def test_a_fixed_share_on_each_image_hardly_varies() -> None:
    assert effect([(2, 2)] * 10) == 0.1


def test_where_it_is_undefined_it_is_nan() -> None:
    assert np.isnan(effect([(3, 0), (2, 0)]))
    assert np.isnan(effect([(0, 3), (0, 2)]))
    assert np.isnan(effect([(1, 3), (0, 0)]))


def test_images_without_the_class_make_no_difference() -> None:
    some = [(3, 1), (0, 2), (1, 0), (2, 2)]
    assert effect(some) == effect(some + [(0, 0)] * 50)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_it_is_the_ratio_of_two_variances(seed: int) -> None:
    """The same in loops, from the definition."""
    matches = matched(*make_scene(seed))
    ours = recall_design_effect(matches, 0.3)
    counts = at_score(matches, 0.3)
    truth, shown = matches.annotations, matches.predictions.scores >= 0.3
    hit = set(matches.annotation[matches.is_true_positive[:, 0] & shown, 0].tolist())
    for label in range(1, truth.categories.num_classes):
        r, residuals, total = counts.recall[label], [], counts.num_positive[label]
        for image in range(truth.num_images):
            rows = range(truth.offsets[image], truth.offsets[image + 1])
            own = [a for a in rows if truth.labels[a] == label and matches.positive[a]]
            if own:
                residuals.append(sum(a in hit for a in own) - r * len(own))
        if len(residuals) < 2 or r in (0, 1):
            assert np.isnan(ours[label])
            continue
        m = len(residuals)
        variance = m / (m - 1) * sum(e**2 for e in residuals) / total**2
        assert ours[label] == pytest.approx(max(variance / (r * (1 - r) / total), 0.1))
    assert np.isnan(ours[0])


def test_it_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(2)
    found = rng.binomial(4, rng.beta(1, 1, 80))
    matches = on_images([(int(f), 4 - int(f)) for f in found])
    drawn = bootstrap([matches], num_bootstrap=2000, score_threshold=0.5).values["recall"][0, :, 1]
    recall = at_score(matches, 0.5).recall[1]
    by_draws = drawn.var() / (recall * (1 - recall) / 320)
    assert recall_design_effect(matches, 0.5)[1] == pytest.approx(by_draws, rel=0.15)


@settings(max_examples=60)
@given(
    recall=st.floats(0, 1),
    boxes=st.integers(0, 3000),
    half_width=st.sampled_from([0.02, 0.05, 0.1]),
)
def test_so_many_more_boxes_are_enough(recall: float, boxes: int, half_width: float) -> None:
    missing = int(more_boxes(recall, boxes, half_width=half_width))
    assert missing >= 0
    if boxes > 300:  # the recall to expect is then the one measured, nearly
        width = wilson_half_width(boxes + missing, rate=recall)
        assert width <= half_width * 1.05


def test_known_numbers() -> None:
    assert more_boxes(0.5, 81) == boxes_for_half_width(0.05, rate=0.5) - 81
    # Nothing is known: as for the widest interval.
    assert more_boxes(np.nan, 0) == boxes_for_half_width(0.05)
    assert more_boxes(0.5, 400) == 0
    # Two boxes on each image with one fate: twice as many are needed in all.
    assert more_boxes(0.5, 100, design_effect=2) == 2 * boxes_for_half_width(0.05) - 100
    assert more_boxes(0.5, 100, design_effect=[0.5, np.nan]).tolist() == [281, 281]


def test_few_boxes_all_found_promise_no_recall_of_one() -> None:
    few, many = more_boxes([1.0, 1.0], [5, 500])
    assert few > boxes_for_half_width(0.05, rate=1.0)
    assert many == 0


def test_arrays_keep_their_shape() -> None:
    result = more_boxes(np.full((2, 3), 0.5), np.arange(3))
    assert result.shape == (2, 3)
    assert result.dtype == np.int64


def test_a_half_width_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="half_width is 0"):
        more_boxes(0.5, 10, half_width=0)
