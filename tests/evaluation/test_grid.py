"""COCO's grid: the arrays of pycocotools bit for bit, whichever evaluator runs."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_oracle import pycocotools_arrays
from coco_sets import as_arrays, evaluation_sets
from coco_twin import twin_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import load, make_scene

from detbalance.data import Annotations, Predictions
from detbalance.evaluation.accumulate import Grid, compute_grid
from detbalance.evaluation.rules import COCO, Rules

BACKENDS = [name for name in ("hotcoco", "numpy") if importlib.util.find_spec(name) is not None]
NAMES = ("precision", "recall", "scores")
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def pycocotools_grid(truth: dict[str, Any], found: list[Any]) -> tuple[np.ndarray, ...]:
    return pycocotools_arrays(*as_arrays(truth, found))


def assert_equal(grid: Grid, expected: tuple[np.ndarray, ...]) -> None:
    for name, values in zip(NAMES, expected, strict=True):
        np.testing.assert_array_equal(getattr(grid, name), values, err_msg=name)


def from_files(truth: Path, found: Path) -> tuple[dict[str, Any], list[Any]]:
    return json.loads(truth.read_text()), json.loads(found.read_text())


# Oracles


@every_backend
@given(data=evaluation_sets())
@settings(max_examples=100)
def test_arrays_are_those_of_pycocotools(
    backend: Any, data: tuple[dict[str, Any], list[Any]]
) -> None:
    grid = compute_grid(*as_arrays(*data), backend=backend)
    assert (grid.backend, grid.rules, grid.max_detections) == (backend, COCO, (1, 10, 100))
    assert_equal(grid, pycocotools_grid(*data))


@every_backend
@given(data=evaluation_sets())
@settings(max_examples=15)
def test_arrays_are_those_of_plain_loops(
    backend: Any, data: tuple[dict[str, Any], list[Any]]
) -> None:
    grid = compute_grid(*as_arrays(*data), backend=backend)
    assert_equal(grid, twin_grid(*data, caps=(1, 10, 100)))


@every_backend
@pytest.mark.parametrize("seed", range(3))
def test_larger_scenes_equal_pycocotools_and_the_loops(
    tmp_path: Path, backend: Any, seed: int
) -> None:
    truth, found = make_scene(seed, crowded=seed == 2)
    grid = compute_grid(*load(tmp_path, truth, found), backend=backend)
    expected = twin_grid(truth, found, caps=(1, 10, 100))
    assert_equal(grid, expected)
    assert_equal(grid, pycocotools_grid(truth, found))
    assert np.nanmax(grid.recall) > 0


@every_backend
@given(data=evaluation_sets(), flat=st.sets(st.integers(0, 14), max_size=5))
@settings(max_examples=15)
def test_boxes_of_zero_size_find_nothing_and_are_not_found(
    backend: Any, data: tuple[dict[str, Any], list[Any]], flat: set[int]
) -> None:
    """Files with such annotations are refused, arrays are not."""
    annotations, predictions = as_arrays(*data)
    bbox = annotations.bbox.copy()
    for n in flat & set(range(len(bbox))):
        bbox[n, 2] = 0
    annotations = dataclasses.replace(annotations, bbox=bbox)
    grid = compute_grid(annotations, predictions, backend=backend)
    assert_equal(grid, pycocotools_arrays(annotations, predictions))


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    data=evaluation_sets(),
    rules=st.builds(
        Rules,
        iou_thresholds=st.sampled_from([(0.5,), (0.3, 0.75, 1.0)]),
        max_detections=st.sampled_from([1, 2, 10, 15]),
    ),
)
@settings(max_examples=15)
def test_thresholds_and_caps_of_your_own(
    backend: Any, data: tuple[dict[str, Any], list[Any]], rules: Rules
) -> None:
    annotations, predictions = as_arrays(*data)
    grid = compute_grid(annotations, predictions, rules=rules, backend=backend)
    expected = compute_grid(annotations, predictions, rules=rules, backend="numpy")
    assert_equal(grid, tuple(getattr(expected, name) for name in NAMES))
    largest = rules.max_detections
    assert grid.max_detections == (*(cap for cap in (1, 10) if cap < largest), largest)
    assert grid.precision.shape[0] == len(rules.iou_thresholds)


def test_no_cap_counts_every_detection(tmp_path: Path) -> None:
    annotations, predictions = load(tmp_path, *make_scene(2, crowded=True))
    grids = [
        compute_grid(annotations, predictions, rules=Rules(max_detections=cap), backend=backend)
        for cap in (None, len(predictions.scores))
        for backend in BACKENDS
    ]
    assert grids[0].max_detections == (1, 10, len(predictions.scores))
    for grid in grids[1:]:
        assert_equal(grid, tuple(getattr(grids[0], name) for name in NAMES))


# Recorded values


@every_backend
def test_shared_sets_equal_pycocotools_bit_for_bit(shared: Path, backend: Any) -> None:
    small = shared / "eval/faster_coco_eval_small"
    truth, found = from_files(small / "gt_ignore_test.json", small / "dt_ignore_test.json")
    # Image ids are text in the one file and numbers in the other.
    for image in truth["images"]:
        image["id"] = int(image["id"])
    for entry in (*truth["annotations"], *found):
        entry["image_id"] = int(entry["image_id"])
    coco = shared / "eval/coco_fakebbox100"
    metrics = shared / "eval/torchmetrics_small"
    sets = (
        (truth, found),
        (truth, [d for d in found if d["score"] >= 0.1]),
        from_files(
            coco / "instances_val2014_100.json",
            coco / "instances_val2014_fakebbox100_results.json",
        ),
        from_files(metrics / "gt.json", metrics / "dt.json"),
        from_files(shared / "golden/coco_gt.json", shared / "golden/coco_dt.json"),
    )
    for truth, found in sets:
        grid = compute_grid(*as_arrays(truth, found), rules="coco", backend=backend)
        assert_equal(grid, pycocotools_grid(truth, found))


@every_backend
def test_recorded_arrays_of_pycocotools(shared: Path, backend: Any) -> None:
    golden = np.load(shared / "golden/coco_eval.npz")
    truth, found = from_files(shared / "golden/coco_gt.json", shared / "golden/coco_dt.json")
    annotations, predictions = as_arrays(truth, found)
    grid = compute_grid(annotations, predictions, backend=backend)

    def defined(name: str) -> np.ndarray:
        return np.where(golden[name] < 0, np.nan, golden[name])

    np.testing.assert_array_equal(grid.recall, defined("recall_TKAM"))
    precision, scores = (values[:, :, :, 0, -1] for values in (grid.precision, grid.scores))
    np.testing.assert_array_equal(precision, defined("precision_TRK_all_max"))
    np.testing.assert_array_equal(scores, defined("scores_TRK_all_max"))
    np.testing.assert_array_equal(grid.precision.mean(axis=1), defined("ap_TKAM"))
    wide = compute_grid(annotations, predictions, rules=Rules(max_detections=300), backend=backend)
    np.testing.assert_array_equal(wide.precision.mean(axis=1), defined("maxdets300_ap_TKAM"))
    # The file marks annotations with "ignore", which COCO's evaluator does not look at.
    assert annotations.is_ignored is not None
    unmarked = dataclasses.replace(annotations, is_ignored=None)
    again = compute_grid(unmarked, predictions, backend=backend)
    assert_equal(again, tuple(getattr(grid, name) for name in NAMES))


@every_backend
def test_published_numbers_of_one_image(shared: Path, backend: Any) -> None:
    folder = shared / "eval/faster_coco_eval_small"
    truth, found = from_files(folder / "gt_ignore_test.json", folder / "dt_ignore_test.json")
    for entry in (*truth["annotations"], *found):
        entry["image_id"] = int(entry["image_id"])
    truth["images"][0]["id"] = int(truth["images"][0]["id"])
    grid = compute_grid(*as_arrays(truth, [d for d in found if d["score"] >= 0.1]), backend=backend)
    precision, recall = grid.precision[..., 0, -1], grid.recall[:, :, 0]
    published = [0.7099009900990099, 1.0, 0.8415841584158416, 0.0, 0.45384615384615384]
    figures = [
        *(np.nanmean(values) for values in (precision, precision[0], precision[5])),
        *(np.nanmean(recall[..., m]) for m in range(3)),
    ]
    np.testing.assert_allclose(figures, [*published, 0.7153846153846154], rtol=0, atol=1e-12)
    assert np.isnan(grid.precision[..., 1, :]).all()
    assert np.isnan(grid.precision[..., 3, :]).all()


# Edges and choices


@every_backend
def test_no_detections_and_no_annotations(tmp_path: Path, backend: Any) -> None:
    annotations, predictions = load(tmp_path, *make_scene(1))
    nothing = Predictions(np.empty(0), np.empty(0), np.empty((0, 4)), np.empty(0))
    grid = compute_grid(annotations, nothing, backend=backend)
    present = np.unique(annotations.labels[~annotations.is_crowd]) - 1
    assert (grid.recall[:, present, 0] == 0).all()
    assert (grid.precision[:, :, present, 0] == 0).all()
    assert np.isnan(grid.scores[:, :, -1]).all()
    empty = annotations.subset([0])
    rows = predictions.image_index == 0
    arrays = (getattr(predictions, name)[rows] for name in ("image_index", "labels", "bbox"))
    grid = compute_grid(empty, Predictions(*arrays, predictions.scores[rows]), backend=backend)
    assert np.isnan(grid.precision).all()
    assert np.isnan(grid.recall).all()


@every_backend
def test_detections_far_outside_the_image_are_judged_like_others(
    tmp_path: Path, backend: Any
) -> None:
    truth, found = make_scene(4)
    for detection in found[::2]:
        detection["bbox"][0] -= 10_000
    found[1]["bbox"] = [-1e9, -1e9, 3e9, 3e9]
    grid = compute_grid(*load(tmp_path, truth, found), backend=backend)
    assert_equal(grid, pycocotools_grid(truth, found))


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    annotations, predictions = load(tmp_path, *make_scene(0))
    for backend in BACKENDS:
        compute_grid(annotations, predictions, backend=backend)  # type: ignore[arg-type]
    assert capfd.readouterr() == ("", "")


def scene(tmp_path: Path) -> tuple[Annotations, Predictions]:
    return load(tmp_path, *make_scene(0))


def test_an_unknown_evaluator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'"cocoapi"\. Known: auto, hotcoco, numpy'):
        compute_grid(*scene(tmp_path), backend="cocoapi")  # type: ignore[arg-type]


def test_without_other_evaluators_our_own_grid_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = scene(tmp_path)
    with_all = compute_grid(*data)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    grid = compute_grid(*data)
    assert grid.backend == "numpy"
    assert_equal(grid, tuple(getattr(with_all, name) for name in NAMES))
    with pytest.raises(ImportError, match=r"needs hotcoco.*pip install .*\[fast\]"):
        compute_grid(*data, backend="hotcoco")
