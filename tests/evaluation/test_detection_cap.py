"""What the cap of detections leaves out is said, with the figures that a perfect detector gets."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scenes import load

from detbalance.calibration import choose_strength, fit_thresholds
from detbalance.data import Annotations, Predictions
from detbalance.data.frequency import class_frequency
from detbalance.evaluation import Matches, build_report, compare, evaluate, match
from detbalance.evaluation.average_precision import average_precision, recall
from detbalance.evaluation.rules import Rules
from detbalance.evaluation.sanity_checks import cap_notes


def side_by_side(
    folder: Path, counts: list[list[int]], *, crowds: int = 0, lvis: bool = False
) -> tuple[Annotations, Predictions]:
    """Images with so many boxes of each class, none over another, and all of them as results."""
    images, annotations = [], []
    for image, row in enumerate(counts):
        lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []} if lvis else {}
        images.append(
            {"id": image, "file_name": f"{image}.png", "width": 9999, "height": 9, **lists}
        )
        labels = [label for label, number in enumerate(row) for _ in range(number)]
        annotations += [
            {"image_id": image, "category_id": label, "bbox": [9 * x, 0, 8, 8], "iscrowd": 0}
            for x, label in enumerate(labels)
        ]
    for crowd in annotations[:crowds]:
        crowd["iscrowd"] = 1
    truth = {
        "images": images,
        "categories": [{"id": i, "name": f"kind {i}"} for i in range(len(counts[0]))],
        "annotations": [{"id": i, **one} for i, one in enumerate(annotations)],
    }
    found = [{**one, "score": 0.9} for one in annotations if not one["iscrowd"]]
    return load(folder, truth, [{k: v for k, v in one.items() if k != "iscrowd"} for one in found])


@pytest.mark.parametrize("seed", range(8))
def test_a_perfect_detector_gets_the_figures_that_the_note_names(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    annotations, predictions = side_by_side(tmp_path, rng.integers(0, 7, (4, 3)).tolist())
    for cap in range(1, 8):
        rules = Rules(max_detections=cap)
        matches = match(annotations, predictions, rules=rules)
        limited = np.flatnonzero(recall(matches)[0] < 1).tolist()
        notes = cap_notes(annotations, rules)
        assert len(notes) == bool(limited)
        named = re.findall(r"(\.\d+) \(AP (\.\d+)\) for kind (\d)", "".join(notes))
        figures = {
            label: (recall(matches)[0, label], average_precision(matches)[0, label])
            for label in limited
        }
        assert {int(one[2]) + 1 for one in named} == set(limited)
        for found, ap, label in named:
            expected = figures[int(label) + 1]
            np.testing.assert_allclose((float(found), float(ap)), expected, atol=5e-4)


def test_the_note_counts_images_and_classes_and_leaves_crowds_out(tmp_path: Path) -> None:
    annotations, _ = side_by_side(tmp_path, [[4, 5, 0], [4, 0, 1], [1, 1, 1]])
    (note,) = cap_notes(annotations, Rules(max_detections=3))
    assert note.startswith(
        "2 images have more than 3 boxes to find of one of 2 classes (up to 5), and of an image and"
        " class at most 3 detections count: "
    )
    assert note.endswith(
        "recall and AR are at most .667 (AP .663) for kind 1, .778 (AP .772) for kind 0."
    )
    crowded, _ = side_by_side(tmp_path, [[4, 3, 0]], crowds=1)
    assert cap_notes(crowded, Rules(max_detections=3)) == ()
    assert cap_notes(annotations, Rules(max_detections=None)) == ()


def test_lvis_counts_the_boxes_of_an_image_whatever_their_class(tmp_path: Path) -> None:
    annotations, predictions = side_by_side(tmp_path, [[2, 2], [1, 1], [0, 4]], lvis=True)
    rules = Rules("lvis", max_detections=3)
    (note,) = cap_notes(annotations, rules)
    matches: Matches = match(annotations, predictions, rules=rules)
    assert matches.is_true_positive[:, 0].sum() == 8
    assert note == (
        "2 images have more than 3 boxes to find (up to 4), and of an image at most 3 detections"
        " count: whatever the detector, at most 8 of all 10 boxes are found, a share of .800."
    )
    assert cap_notes(annotations, Rules("lvis", max_detections=4)) == ()


def test_the_report_has_the_note_and_is_silent_at_a_hundred(tmp_path: Path) -> None:
    annotations, predictions = side_by_side(tmp_path, [[125], [0]])
    result = evaluate(annotations, predictions)
    notes = build_report(result, annotations).notes
    assert (result.recall[1], result.AP[1]) == (0.8, pytest.approx(81 / 101))
    assert any("1 image has more than 100" in n and ".800 (AP .802) for kind 0" in n for n in notes)
    few, found = side_by_side(tmp_path, [[100], [0]])
    assert not any("more than" in note for note in build_report(evaluate(few, found), few).notes)


def test_thresholds_and_comparisons_say_it_too(tmp_path: Path) -> None:
    annotations, predictions = side_by_side(tmp_path, [[101], [1], [1]])
    run = evaluate(annotations, predictions)
    frequency = class_frequency(annotations)
    for notes in (
        fit_thresholds(annotations, predictions, num_folds=3).notes,
        choose_strength(annotations, predictions, frequency, num_folds=3).notes,
        compare([run], [run], num_bootstrap=2).notes,
    ):
        assert sum("1 image has more than 100 boxes to find" in note for note in notes) == 1
