"""AP50 and recall on parts of the images agree with evaluating those parts alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scenes import load, make_scene

from detbalance.data import load_annotations, load_predictions
from detbalance.evaluation import (
    Report,
    build_report,
    evaluate,
    image_slices,
    slice_rows,
)
from detbalance.evaluation.slices import SLICE_FIGURES


@pytest.fixture
def scene(tmp_path: Path):
    """A scene whose images are of two cameras, the last of none."""
    truth, found = make_scene(1, crowded=True)
    for i, image in enumerate(truth["images"][:-1]):
        image["taken"] = {"camera": ["north", "south"][i % 2]}
    for image in truth["images"]:
        image["site"] = 7
    return (truth, found, *load(tmp_path, truth, found))


def test_one_slice_of_all_images_has_the_figures_and_intervals_of_the_report(scene):
    *_, annotations, predictions = scene
    result = evaluate(annotations, predictions, num_bootstrap=50, seed=4)
    (row,) = slice_rows(result, image_slices(annotations, ["site"]))
    every = build_report(result, annotations).groups["all"]
    assert (row.key, row.value) == ("site", "7")
    assert row.val_images == annotations.num_images
    assert (row.val_boxes, row.num_evaluated) == (every.val_boxes, every.num_evaluated)
    for name in SLICE_FIGURES:
        assert row.figures[name] == pytest.approx(every.figures[name], abs=1e-12)
        assert row.intervals[name] == pytest.approx(every.intervals[name], abs=1e-12)


@pytest.mark.parametrize("by_class", [False, True], ids=["one threshold", "one for each class"])
def test_a_slice_is_evaluated_as_a_file_of_its_own(scene, tmp_path, by_class):
    truth, found, annotations, predictions = scene
    threshold = 0.9
    if by_class:
        threshold = np.linspace(0.6, 0.95, annotations.categories.num_classes)
    result = evaluate(annotations, predictions, score_threshold=threshold)
    rows = slice_rows(result, image_slices(annotations, ["taken.camera"]))
    assert [row.value for row in rows][-1] is None
    assert sum(row.val_images for row in rows) == annotations.num_images
    assert rows[0].val_images >= rows[1].val_images
    for row in rows:
        images = [i for i in truth["images"] if i.get("taken", {}).get("camera") == row.value]
        ids = {image["id"] for image in images}
        own = {
            **truth,
            "images": images,
            "annotations": [a for a in truth["annotations"] if a["image_id"] in ids],
        }
        (tmp_path / "part.json").write_text(json.dumps(own))
        there = [one for one in found if one["image_id"] in ids]
        (tmp_path / "found.json").write_text(json.dumps(there))
        part = load_annotations(tmp_path / "part.json")
        one = evaluate(
            part, load_predictions(tmp_path / "found.json", part), score_threshold=threshold
        )
        every = build_report(one, part).groups["all"]
        assert row.val_boxes == every.val_boxes
        for name in SLICE_FIGURES:
            expected = pytest.approx(every.figures[name], abs=1e-12, nan_ok=True)
            assert row.figures[name] == expected
        assert not row.intervals  # no images were drawn


def test_a_report_with_slices_is_read_again(scene):
    *_, annotations, predictions = scene
    result = evaluate(annotations, predictions, num_bootstrap=20)
    report = build_report(result, annotations)
    assert report.slices == ()
    rows = slice_rows(result, image_slices(annotations, ["taken.camera", "site"]))
    content = {**report.to_dict(), "slices": []}
    assert Report.from_dict(content).slices == ()
    del content["slices"]  # a file of before there were slices
    assert Report.from_dict(content).slices == ()
    whole = type(report)(**{**vars(report), "slices": rows})
    again = Report.from_dict(json.loads(json.dumps(whole.to_dict())))
    assert [(row.key, row.value) for row in again.slices] == [(row.key, row.value) for row in rows]
    assert again.to_dict() == whole.to_dict()


def test_keys_that_no_image_has_and_keys_of_single_images_are_refused(scene, tmp_path):
    truth, found, annotations, _ = scene
    with pytest.raises(ValueError, match=r'val\.json: no image has the key "camra"\. .*--slice'):
        image_slices(annotations, ["camra"])
    truth["images"] += [
        {"id": 1000 + i, "file_name": f"more {i}.png", "width": 9, "height": 9} for i in range(101)
    ]
    annotations, _ = load(tmp_path, truth, found)
    with pytest.raises(ValueError, match=r'key "file_name" of the images has 1\d\d values'):
        image_slices(annotations, ["file_name"])
