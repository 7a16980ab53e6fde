"""The one matching pass: each match is the evaluators', by COCO's and by LVIS's rules."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_oracle import evaluator_of
from hypothesis import given, settings
from hypothesis import strategies as st
from matching_twin import iou, twin_match
from scenes import load, make_scene

from detbalance.data import Annotations, Predictions, load_annotations, load_predictions
from detbalance.evaluation.matching import Matches, match, overlaps
from detbalance.evaluation.rules import COCO, LVIS, Rules, choose_rules


def scene(seed: int, **options: Any) -> tuple[Annotations, Predictions]:
    with tempfile.TemporaryDirectory() as folder:
        return load(Path(folder), *make_scene(seed, **options))


def lvis_scene(seed: int) -> tuple[Annotations, Predictions]:
    """The same with LVIS's lists; classes may be in both, in none, or annotated and negative."""
    truth, found = make_scene(seed)
    rng = np.random.default_rng(seed)
    ids = [category["id"] for category in truth["categories"]]
    for image in truth["images"]:
        image["neg_category_ids"] = rng.choice(ids, rng.integers(0, 4), False).tolist()
        image["not_exhaustive_category_ids"] = rng.choice(ids, rng.integers(0, 3), False).tolist()
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
        annotation["ignore"] = int(rng.random() < 0.1)
    with tempfile.TemporaryDirectory() as folder:
        return load(Path(folder), truth, found)


def assert_is_twin(matches: Matches) -> None:
    annotation, is_ignored = twin_match(matches.annotations, matches.predictions, matches.rules)
    np.testing.assert_array_equal(matches.annotation, annotation)
    np.testing.assert_array_equal(matches.is_ignored, is_ignored)


# Oracles


@pytest.mark.parametrize("library", ["pycocotools", "hotcoco"])
@pytest.mark.parametrize("seed", range(8))
def test_every_match_is_that_of_the_evaluator(library: Any, seed: int) -> None:
    annotations, predictions = scene(seed, crowded=seed == 3)
    matches = match(annotations, predictions)
    evaluator = evaluator_of(library, annotations, predictions)
    evaluator.evaluate()
    seen = np.zeros(len(predictions.scores), bool)
    for entry in evaluator.evalImgs:
        if entry is None or list(entry["aRng"]) != [0, 1e10]:
            continue
        rows = np.asarray(entry["dtIds"], dtype=np.int64) - 1
        seen[rows] = True
        np.testing.assert_array_equal(
            matches.annotation[rows].T, np.asarray(entry["dtMatches"]).reshape(10, -1) - 1
        )
        np.testing.assert_array_equal(
            matches.is_ignored[rows].T, np.asarray(entry["dtIgnore"]).reshape(10, -1).astype(bool)
        )
    np.testing.assert_array_equal(matches.takes_part, seen)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_coco_matches_equal_the_loops(seed: int) -> None:
    assert_is_twin(match(*scene(seed)))


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), cap=st.sampled_from([1, 3, 300, None]))
def test_lvis_matches_equal_the_loops(seed: int, cap: int | None) -> None:
    annotations, predictions = lvis_scene(seed)
    assert choose_rules(annotations) == LVIS
    assert_is_twin(match(annotations, predictions, rules=Rules("lvis", max_detections=cap)))


@pytest.mark.parametrize("cap", [1, 2, None])
def test_a_cap_of_coco_holds_for_each_class(cap: int | None) -> None:
    annotations, predictions = scene(5)
    assert_is_twin(match(annotations, predictions, rules=Rules(max_detections=cap)))


def test_equal_overlaps_go_to_the_last_annotation_as_the_evaluators_have_it() -> None:
    truth, found = make_scene(7)
    for annotation in list(truth["annotations"]):
        truth["annotations"].append({**annotation, "id": annotation["id"] + 1})
    with tempfile.TemporaryDirectory() as folder:
        matches = match(*load(Path(folder), truth, found * 2))
    assert_is_twin(matches)
    rows = np.flatnonzero(matches.is_true_positive[:, 0])
    ids = matches.annotations.annotation_ids[matches.annotation[rows, 0]]
    assert (ids % 3 == 1).any()  # the copies


def test_matches_of_lvis_images_equal_the_loops(shared: Path) -> None:
    folder = shared / "eval" / "lvis_val_100"
    annotations = load_annotations(folder / "lvis_val_100.json")
    predictions = load_predictions(folder / "made_results_100.json", annotations)
    found = match(annotations, predictions)
    # The loops go over all classes of an image: those that occur are enough.
    used = np.unique(np.concatenate([annotations.labels, predictions.labels]))
    names = [annotations.categories.name(label) for label in used.tolist()]
    small = annotations.select(names)
    fewer = load_predictions(folder / "made_results_100.json", annotations)
    fewer = dataclasses.replace(fewer, labels=np.searchsorted(used, fewer.labels) + 1)
    expected, is_ignored = twin_match(small, fewer, LVIS)
    np.testing.assert_array_equal(found.annotation, expected)
    np.testing.assert_array_equal(found.is_ignored, is_ignored)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), floor=st.sampled_from([0.05, 0.1, 0.5]))
def test_overlaps_are_all_pairs_of_an_image(seed: int, floor: float) -> None:
    annotations, predictions = scene(seed)
    pairs = overlaps(annotations, predictions, floor=floor)
    expected = [
        (d, a, value)
        for d in range(len(predictions.scores))
        for a in range(annotations.num_annotations)
        if predictions.image_index[d] == annotations.image_index[a]
        and (
            value := iou(
                predictions.bbox[d].tolist(),
                annotations.bbox[a].tolist(),
                bool(annotations.is_crowd[a]),
            )
        )
        >= floor
    ]
    listed = zip(pairs.detection.tolist(), pairs.annotation.tolist(), pairs.iou, strict=True)
    assert list(listed) == expected
    same = overlaps(annotations, predictions, floor=floor, same_class=True)
    of_one_class = [
        (d, a) for d, a, _ in expected if predictions.labels[d] == annotations.labels[a]
    ]
    assert list(zip(same.detection, same.annotation, strict=True)) == of_one_class


def test_overlaps_do_not_depend_on_how_many_are_looked_at_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    annotations, predictions = scene(2)
    whole = overlaps(annotations, predictions)
    monkeypatch.setattr("detbalance.evaluation.matching._CHUNK", 7)
    parts = overlaps(annotations, predictions)
    for field in ("detection", "annotation", "iou"):
        np.testing.assert_array_equal(getattr(whole, field), getattr(parts, field))


# Properties


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_no_box_is_found_twice_and_no_detection_of_another_image_or_class_finds_it(
    seed: int,
) -> None:
    annotations, predictions = scene(seed)
    matches = match(annotations, predictions)
    for t in range(len(matches.rules.iou_thresholds)):
        rows = np.flatnonzero(matches.is_true_positive[:, t])
        found = matches.annotation[rows, t]
        assert len(np.unique(found)) == len(found)
        assert matches.positive[found].all()
        np.testing.assert_array_equal(annotations.labels[found], predictions.labels[rows])
        np.testing.assert_array_equal(annotations.image_index[found], predictions.image_index[rows])
    # A higher threshold never finds more.
    counts = matches.is_true_positive.sum(axis=0)
    assert (np.diff(counts) <= 0).all()


def test_the_order_is_by_class_then_score_then_image_id_then_place_in_the_file() -> None:
    annotations, predictions = scene(4, crowded=True)
    matches = match(annotations, predictions)
    assert sorted(matches.order.tolist()) == np.flatnonzero(matches.takes_part).tolist()
    keys = [
        (
            predictions.labels[row],
            -predictions.scores[row],
            annotations.image_ids[predictions.image_index[row]],
            row,
        )
        for row in matches.order.tolist()
    ]
    assert keys == sorted(keys)
    for label in range(annotations.categories.num_classes):
        part = matches.order[matches.offsets[label] : matches.offsets[label + 1]]
        assert (predictions.labels[part] == label).all()


def test_pairs_given_are_the_pairs_found() -> None:
    annotations, predictions = scene(6)
    pairs = overlaps(annotations, predictions, floor=0.1)
    one, other = match(annotations, predictions), match(annotations, predictions, pairs=pairs)
    np.testing.assert_array_equal(one.annotation, other.annotation)


def test_no_detections_and_no_annotations() -> None:
    annotations, predictions = scene(0)
    nothing = Predictions(np.empty(0), np.empty(0), np.empty((0, 4)), np.empty(0))
    matches = match(annotations, nothing)
    assert matches.annotation.shape == (0, 10)
    assert matches.order.shape == (0,)
    assert matches.num_positive.sum() == (~annotations.is_crowd).sum()
    matches = match(annotations, predictions, rules=Rules(iou_thresholds=(1.0,)))
    assert matches.annotation.shape == (len(predictions.scores), 1)


# Rules


def test_an_lvis_file_asks_for_lvis_rules_and_others_refuse_them() -> None:
    coco, lvis = scene(1)[0], lvis_scene(1)[0]
    assert choose_rules(coco) == COCO
    assert choose_rules(lvis) == LVIS
    assert choose_rules(lvis, "coco") == COCO
    with pytest.raises(ValueError, match="LVIS's rules need neg_category_ids"):
        choose_rules(coco, "lvis")
    with pytest.raises(ValueError, match=r'"voc" is unknown\. Known: auto, coco, lvis'):
        choose_rules(coco, "voc")  # type: ignore[arg-type]


def test_a_threshold_that_was_not_matched_is_refused() -> None:
    matches = match(*scene(1))
    assert matches.at(0.5) == 0
    assert matches.at(0.75) == 5
    with pytest.raises(ValueError, match=r"iou: 0.4 is none of the thresholds .* 0.5, 0.55"):
        matches.at(0.4)
    for unknown in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"iou: (nan|inf) is none of the thresholds"):
            matches.at(unknown)
    with pytest.raises(ValueError, match=r"floor is 0\. Expected a number > 0 and <= 1"):
        overlaps(*scene(1), floor=0)
