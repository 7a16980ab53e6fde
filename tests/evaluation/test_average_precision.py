"""AP, recall and curves counted from matches: equal to the evaluators' grid, and as defined."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
from coco_oracle import pycocotools_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import load, make_scene

from detbalance.data import Predictions
from detbalance.evaluation.average_precision import (
    RECALL_LEVELS,
    average_precision,
    interpolated_precision,
    precision_recall,
    recall,
)
from detbalance.evaluation.matching import Matches, match


def matched(seed: int) -> Matches:
    with tempfile.TemporaryDirectory() as folder:
        return match(*load(Path(folder), *make_scene(seed)))


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_the_curves_are_those_of_pycocotools_bit_for_bit(seed: int) -> None:
    matches = matched(seed)
    precision, reached, _ = pycocotools_arrays(matches.annotations, matches.predictions)
    ours = interpolated_precision(matches)[:, :, 1:]
    np.testing.assert_array_equal(ours, precision[..., 0, -1])
    np.testing.assert_array_equal(recall(matches)[:, 1:], reached[..., 0, -1])


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_average_precision_is_the_best_precision_from_each_recall_on(seed: int) -> None:
    matches = matched(seed)
    result = average_precision(matches)
    for label in range(1, matches.annotations.categories.num_classes):
        reached, precision, _ = precision_recall(matches, label)
        if not matches.num_positive[label]:
            assert np.isnan(result[:, label]).all()
            continue
        best = [precision[reached >= level].max(initial=0.0) for level in RECALL_LEVELS]
        assert result[0, label] == pytest.approx(np.mean(best), abs=1e-12)
        found = reached[-1] if len(reached) else 0.0
        assert recall(matches)[0, label] == pytest.approx(found)


def test_only_the_order_of_the_scores_of_a_class_counts() -> None:
    matches = matched(3)
    predictions = dataclasses.replace(
        matches.predictions,
        scores=np.exp(matches.predictions.scores * 3) - matches.annotations.num_images,
    )
    changed = match(matches.annotations, predictions)
    np.testing.assert_array_equal(average_precision(changed), average_precision(matches))


def test_the_truth_itself_has_a_precision_of_one() -> None:
    annotations = matched(2).annotations
    rows = ~annotations.is_crowd
    perfect = Predictions(
        annotations.image_index[rows],
        annotations.labels[rows],
        annotations.bbox[rows],
        np.ones(rows.sum()),
    )
    matches = match(annotations, perfect)
    present = matches.num_positive > 0
    np.testing.assert_allclose(average_precision(matches)[:, present], 1, rtol=1e-12)
    assert (recall(matches)[:, present] == 1).all()
    assert np.isnan(average_precision(matches)[:, ~present]).all()


def test_the_points_of_a_curve(tmp_path: Path) -> None:
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "width": 99, "height": 99}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "owl"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": [x, 0, 10, 10], "iscrowd": crowd}
            for i, x, crowd in ((1, 0, 0), (2, 20, 0), (3, 40, 1))
        ],
    }
    found = [
        {"image_id": 1, "category_id": category, "bbox": [x, 0, 10, 10], "score": score}
        for category, x, score in (
            (1, 0, 0.9),
            (1, 60, 0.8),
            (1, 40, 0.7),
            (1, 20, 0.6),
            (2, 0, 0.5),
        )
    ]
    matches = match(*load(tmp_path, truth, found))
    reached, precision, scores = precision_recall(matches, 1)
    assert reached.tolist() == [0.5, 0.5, 1.0]  # the one on the crowd region does not count
    assert precision.tolist() == [1.0, 0.5, pytest.approx(2 / 3)]
    assert scores.tolist() == [0.9, 0.8, 0.6]
    reached, precision, scores = precision_recall(matches, 2)
    assert np.isnan(reached).all()
    assert precision.tolist() == [0.0]
    with pytest.raises(ValueError, match=r"label is 3\. Expected 1 to 2"):
        precision_recall(matches, 3)
