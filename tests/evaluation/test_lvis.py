"""LVIS's rules: lvis-api's recorded numbers, and the same grid as loops written from the rules."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_sets import as_arrays, evaluation_sets
from coco_twin import twin_grid
from hypothesis import given, settings
from hypothesis import strategies as st

from detbalance.data import Annotations, Predictions, load_annotations, load_predictions
from detbalance.evaluation.accumulate import Grid, compute_grid
from detbalance.evaluation.average_precision import interpolated_precision, recall
from detbalance.evaluation.matching import match
from detbalance.evaluation.rules import LVIS, Rules

BACKENDS = [
    name for name in ("hotcoco", "numpy") if name == "numpy" or importlib.util.find_spec(name)
]
NAMES = ("precision", "recall", "scores")
SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
RECALLS = ("AR@300", "ARs@300", "ARm@300", "ARl@300")
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def assert_equal(grid: Grid, expected: tuple[np.ndarray, ...]) -> None:
    for name, values in zip(NAMES, expected, strict=True):
        np.testing.assert_array_equal(getattr(grid, name), values, err_msg=name)


def summary(grid: Grid, frequency: dict[int, str], category_ids: tuple[int, ...]) -> dict[str, Any]:
    """The thirteen numbers of lvis-api: means over what is defined."""
    precision, recall = grid.precision[..., -1], grid.recall[..., -1]
    groups = [
        precision[:, :, [frequency[category] == tag for category in category_ids], 0]
        for tag in "rcf"
    ]
    values = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0]]
    values += [precision[..., a] for a in (1, 2, 3)] + groups
    values += [recall[..., a] for a in range(4)]
    return dict(zip((*SUMMARY, *RECALLS), map(np.nanmean, values), strict=True))


# Oracles


@every_backend
@given(data=evaluation_sets(lvis=True), cap=st.sampled_from([2, 5, 300]))
@settings(max_examples=60)
def test_arrays_are_those_of_plain_loops(
    backend: Any, data: tuple[dict[str, Any], list[Any]], cap: int
) -> None:
    annotations, predictions = as_arrays(*data)
    rules = Rules("lvis", max_detections=cap)
    grid = compute_grid(annotations, predictions, rules=rules, backend=backend)
    caps = (*(c for c in (1, 10) if c < cap), cap)
    assert grid.max_detections == caps
    assert_equal(grid, twin_grid(*data, lvis=True, caps=caps))


@every_backend
@given(data=evaluation_sets(lvis=True))
@settings(max_examples=15)
def test_the_same_file_by_coco_rules(backend: Any, data: tuple[dict[str, Any], list[Any]]) -> None:
    grid = compute_grid(*as_arrays(*data), rules="coco", backend=backend)
    assert_equal(grid, twin_grid(*data, caps=(1, 10, 100)))


@given(data=evaluation_sets(lvis=True))
@settings(max_examples=30)
def test_the_matching_pass_agrees_with_the_grid(data: tuple[dict[str, Any], list[Any]]) -> None:
    annotations, predictions = as_arrays(*data)
    grid = compute_grid(annotations, predictions)
    matches = match(annotations, predictions)
    assert (grid.rules, matches.rules) == (LVIS, LVIS)
    np.testing.assert_array_equal(
        interpolated_precision(matches)[..., 1:], grid.precision[..., 0, -1]
    )
    np.testing.assert_array_equal(recall(matches)[:, 1:], grid.recall[..., 0, -1])


# Recorded values


@every_backend
def test_numbers_of_lvis_api_on_real_annotations(shared: Path, backend: Any) -> None:
    folder = shared / "eval/lvis_val_100"
    annotations = load_annotations(folder / "lvis_val_100.json")
    predictions = load_predictions(folder / "made_results_100.json", annotations)
    grid = compute_grid(annotations, predictions, backend=backend)
    assert grid.rules == LVIS
    categories = annotations.categories
    tags = dict(zip(categories.ids, categories.frequency or (), strict=True))
    retagged = json.loads((folder / "frequency_retag.json").read_text())
    for frequency, file in (
        (tags, "expected_made_results_lvis053.json"),
        (
            {int(category): tag for category, tag in retagged.items()},
            "expected_made_results_retagged_lvis053.json",
        ),
    ):
        recorded = json.loads((folder / file).read_text())
        figures = summary(grid, frequency, categories.ids)
        assert figures == pytest.approx(recorded["results"], abs=1e-14)
        for category, known in recorded.get("per_class", {}).items():
            label = int(categories.labels([int(category)])[0])
            figure = grid.precision[:, :, label - 1, 0, -1].mean()
            assert figure == pytest.approx(known["AP"], abs=1e-14)


@every_backend
@pytest.mark.parametrize("name", ["lvis_synthetic", "lvis_val100_half"])
def test_recorded_arrays_of_lvis_api(shared: Path, backend: Any, name: str) -> None:
    golden = np.load(shared / f"golden/{name}.npz")
    annotations = load_annotations(shared / f"golden/{name}_gt.json")
    predictions = load_predictions(shared / f"golden/{name}_dt.json", annotations)
    grid = compute_grid(annotations, predictions, backend=backend)
    categories = annotations.categories
    np.testing.assert_array_equal(categories.ids, golden["cat_ids"])

    def defined(values: np.ndarray) -> np.ndarray:
        return np.where(values < 0, np.nan, values)

    rows = golden["cats_with_precision"]
    average = grid.precision[..., -1].mean(axis=1)
    np.testing.assert_array_equal(
        grid.precision[:, :, rows, 0, -1], defined(golden["precision_TRK_all"])
    )
    np.testing.assert_array_equal(average[:, rows], defined(golden["ap_TKA"]))
    recorded = defined(golden["recall_TKA"])
    reached = grid.recall[..., -1]
    if recorded.shape[1] == len(rows):
        reached = reached[:, rows]
    np.testing.assert_array_equal(reached, recorded)
    np.testing.assert_allclose(
        average[..., 0].mean(axis=0), defined(golden["ap_per_cat"]), rtol=0, atol=1e-14
    )
    tags = dict(zip(categories.ids, categories.frequency or (), strict=True))
    figures = summary(grid, tags, categories.ids)
    np.testing.assert_allclose(list(figures.values()), golden["results"], rtol=0, atol=1e-14)


def test_the_recorded_file_marks_annotations_to_ignore(shared: Path) -> None:
    annotations = load_annotations(shared / "golden/lvis_synthetic_gt.json")
    predictions = load_predictions(shared / "golden/lvis_synthetic_dt.json", annotations)
    assert annotations.is_ignored is not None
    assert annotations.is_ignored.any()
    unmarked = dataclasses.replace(annotations, is_ignored=None)
    for backend in BACKENDS:
        marked = compute_grid(annotations, predictions, backend=backend)  # type: ignore[arg-type]
        other = compute_grid(unmarked, predictions, backend=backend)  # type: ignore[arg-type]
        assert np.nanmean(marked.recall) > np.nanmean(other.recall)


# Edges and choices


def lvis_file(tmp_path: Path) -> Annotations:
    images = [
        {"id": 3, "neg_category_ids": [8], "not_exhaustive_category_ids": [9]},
        {"id": 1, "neg_category_ids": [], "not_exhaustive_category_ids": []},
    ]
    categories = [{"id": i, "name": f"class {i}", "frequency": "r"} for i in (7, 8, 9)]
    box = {"bbox": [0, 0, 10, 10], "image_id": 3}
    notes = [{"id": i, "category_id": c, **box} for i, c in enumerate((7, 9))]
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": notes}))
    return load_annotations(path)


@every_backend
def test_what_nobody_looked_for_is_not_wrong(tmp_path: Path, backend: Any) -> None:
    annotations = lvis_file(tmp_path)
    away = [50, 50, 10, 10]
    right = Predictions([0, 0], [1, 3], [[0, 0, 10, 10]] * 2, [0.5, 0.5])
    precise = compute_grid(annotations, right, backend=backend).precision[0, -1, :, 0, -1]
    for image, label, verdict in ((0, 1, "wrong"), (0, 3, "ignored"), (1, 1, "no part")):
        more = Predictions(
            [0, 0, image], [1, 3, label], [*right.bbox.tolist(), away], [0.5, 0.5, 0.9]
        )
        grid = compute_grid(annotations, more, backend=backend)
        changed = grid.precision[0, -1, label - 1, 0, -1] < precise[label - 1]
        assert changed == (verdict == "wrong")
    # A class without an annotation anywhere has no figure, also where it was looked for.
    assert np.isnan(grid.precision[:, :, 1]).all()


@every_backend
def test_the_cap_holds_for_all_classes_of_an_image_together(tmp_path: Path, backend: Any) -> None:
    annotations = lvis_file(tmp_path)
    crowd = [[0, 200], [2, 1], [[60, 60, 5, 5], [0, 0, 10, 10]], [0.9, 0.5]]
    for others, found in ((299, 1.0), (300, 0.0)):
        repeat = np.array([others, 1])
        predictions = Predictions(
            [0] * (others + 1),
            *(np.repeat(np.array(values), repeat, axis=0) for values in crowd[1:]),
        )
        grid = compute_grid(annotations, predictions, backend=backend)
        assert grid.recall[0, 0, 0].tolist()[-1] == found
