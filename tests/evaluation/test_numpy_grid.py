"""The grid counted from our own matches: the arrays of pycocotools, bit for bit."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from coco_oracle import pycocotools_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import load, make_scene

from detbalance.data import Annotations, Predictions
from detbalance.evaluation.accumulate import numpy_grid
from detbalance.evaluation.rules import COCO

NAMES = ("precision", "recall", "scores")


def assert_is_pycocotools(annotations: Annotations, predictions: Predictions) -> None:
    labels = np.arange(1, annotations.categories.num_classes)
    ours = numpy_grid(annotations, predictions, COCO, (1, 10, 100), labels)
    theirs = pycocotools_arrays(annotations, predictions)
    for name, values, expected in zip(NAMES, ours, theirs, strict=True):
        np.testing.assert_array_equal(values, expected, err_msg=name)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_random_scenes(seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        annotations, predictions = load(Path(folder), *make_scene(seed))
    assert_is_pycocotools(annotations, predictions)


def test_more_detections_than_the_cap(tmp_path: Path) -> None:
    assert_is_pycocotools(*load(tmp_path, *make_scene(3, crowded=True)))


def test_no_detections(tmp_path: Path) -> None:
    annotations, _ = load(tmp_path, *make_scene(1))
    labels = np.arange(1, annotations.categories.num_classes)
    nothing = Predictions(np.empty(0), np.empty(0), np.empty((0, 4)), np.empty(0))
    precision, recall, scores = numpy_grid(annotations, nothing, COCO, (100,), labels)
    present = np.unique(annotations.labels[~annotations.is_crowd]) - 1
    for values in (precision[:, :, present, 0], scores[:, :, present, 0], recall[:, present, 0]):
        assert (values == 0).all()
    assert np.isnan(precision[:, :, -1]).all()
