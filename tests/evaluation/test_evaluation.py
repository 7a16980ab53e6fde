"""Per-class figures against a slow twin, against the reference evaluator and recorded values."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_sets import as_arrays, evaluation_sets
from coco_twin import twin_grid
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matching_twin import twin_match
from scenes import Found, Truth, load, make_scene

from detbalance.data import Annotations, Predictions, load_annotations, load_predictions
from detbalance.data.intervals import wilson_interval
from detbalance.evaluation import Evaluation, build_report, compute_grid, evaluate, with_bootstrap
from detbalance.evaluation.average_precision import fixed_ap
from detbalance.evaluation.bootstrap import bootstrap
from detbalance.evaluation.bootstrap_variance import more_boxes, recall_design_effect
from detbalance.evaluation.errors import confusion, error_kinds
from detbalance.evaluation.figures import FIGURES, GROUP_FIGURES, WITH_INTERVALS
from detbalance.evaluation.matching import overlaps
from detbalance.evaluation.operating_points import (
    at_score,
    best_f,
    f_score,
    recall_at_false_positives,
    recall_at_precision,
)
from detbalance.evaluation.report import GROUP_NAMES
from detbalance.evaluation.rules import COCO, LVIS
from detbalance.evaluation.sanity_checks import cautions

BACKENDS = [
    name
    for name in ("hotcoco", "numpy")
    if name == "numpy" or importlib.util.find_spec(name) is not None
]
every_backend = pytest.mark.parametrize("backend", BACKENDS)
COUNTS = ("true_positives", "false_positives", "val_boxes", "val_images")

CAT = {
    "id": 0,
    "image_id": 9,
    "category_id": 2,
    "bbox": [10, 10, 20, 20],
    "area": 400,
    "iscrowd": 0,
}


def one_class_each(annotations: Found) -> Truth:
    return {
        "images": [{"id": 9, "file_name": "a.png"}, {"id": 4, "file_name": "b.png"}],
        "categories": [
            {"id": 2, "name": "cat"},
            {"id": 7, "name": "owl"},
            {"id": 8, "name": "elk"},
        ],
        "annotations": annotations,
    }


def reference_summary(truth: Truth, found: Found) -> list[float]:
    """The twelve numbers of pycocotools itself, in its own order."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        gt = coco.COCO()
        gt.dataset = json.loads(json.dumps(truth))
        for annotation in gt.dataset["annotations"]:
            annotation.setdefault("iscrowd", 0)
        gt.createIndex()
        evaluator = cocoeval.COCOeval(gt, gt.loadRes(json.loads(json.dumps(found))), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [math.nan if value == -1 else value for value in evaluator.stats]


def assert_same(one: Evaluation, other: Evaluation) -> None:
    for name in (*GROUP_FIGURES, *COUNTS):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert list(one.summary) == list(other.summary)
    np.testing.assert_array_equal(list(one.summary.values()), list(other.summary.values()))


# Properties and oracles


@given(data=evaluation_sets(), floor=st.sampled_from([0.0, 0.3, 0.5]))
@settings(max_examples=25)
def test_figures_of_classes_are_those_of_plain_loops(
    data: tuple[dict[str, Any], list[Any]], floor: float
) -> None:
    annotations, predictions = as_arrays(*data)
    assume(bool((annotations.areas <= 1e10).all()))  # `twin_match` knows no area ranges
    check_against_loops(data, annotations, predictions, floor, lvis=False)


@given(data=evaluation_sets(lvis=True), floor=st.sampled_from([0.0, 0.3, 0.5]))
@settings(max_examples=25)
def test_figures_by_lvis_rules_are_those_of_plain_loops(
    data: tuple[dict[str, Any], list[Any]], floor: float
) -> None:
    truth, found = data
    # `twin_match` knows neither that LVIS's rules drop detections of no area nor area ranges.
    found = [d for d in found if d["bbox"][2] * d["bbox"][3]]
    annotations, predictions = as_arrays(truth, found)
    assume(bool((annotations.areas <= 1e10).all()))
    check_against_loops((truth, found), annotations, predictions, floor, lvis=True)


@pytest.mark.parametrize("seed", range(2))
def test_figures_of_larger_scenes_are_those_of_plain_loops(tmp_path: Path, seed: int) -> None:
    data = make_scene(seed, crowded=seed == 1)
    check_against_loops(data, *load(tmp_path, *data), 0.0 if seed else 0.4, lvis=False)


def check_against_loops(
    data: tuple[dict[str, Any], list[Any]],
    annotations: Annotations,
    predictions: Predictions,
    floor: float,
    *,
    lvis: bool,
) -> None:
    """All figures of a class against loops over the JSON and over the arrays."""
    result = evaluate(annotations, predictions, score_threshold=floor)
    rules = LVIS if lvis else COCO
    assert result.settings.rules == rules.name
    caps = (1, 10, 300 if lvis else 100)
    assert result.settings.max_detections == caps
    precision, recall, _ = twin_grid(*data, lvis=lvis, caps=caps)
    means = {
        **{"AP": precision[..., 0, -1], "AP50": precision[:1, ..., 0, -1]},
        **{"AP75": precision[5:6, ..., 0, -1], "APs": precision[..., 1, -1]},
        **{"APm": precision[..., 2, -1], "APl": precision[..., 3, -1]},
        **{"AR": recall[..., 0, -1], "AR1": recall[..., 0, 0], "AR10": recall[..., 0, 1]},
        **{"ARs": recall[..., 1, -1], "ARm": recall[..., 2, -1], "ARl": recall[..., 3, -1]},
    }
    for name, values in means.items():
        expected = values.mean(axis=tuple(range(values.ndim - 1)))
        np.testing.assert_allclose(getattr(result, name)[1:], expected, atol=1e-12, err_msg=name)
        assert math.isnan(getattr(result, name)[0])
    annotation, is_ignored = twin_match(annotations, predictions, rules)
    marked = annotations.is_crowd
    if lvis:
        marked = np.zeros(len(marked), bool)
        if annotations.is_ignored is not None:
            marked = annotations.is_ignored
    wanted = ~marked
    shown = predictions.scores >= floor
    for label in range(1, annotations.categories.num_classes):
        rows = shown & (predictions.labels == label)
        boxes = np.flatnonzero(wanted & (annotations.labels == label))
        assert result.val_boxes[label] == len(boxes)
        assert result.val_images[label] == len(set(annotations.image_index[boxes].tolist()))
        for t, suffix in ((0, ""), (5, "75")):
            right = int((rows & ~is_ignored[:, t] & (annotation[:, t] >= 0)).sum())
            wrong = int((rows & ~is_ignored[:, t] & (annotation[:, t] < 0)).sum())
            expected_pair = (
                right / len(boxes) if len(boxes) else math.nan,
                right / (right + wrong) if right + wrong else math.nan,
            )
            recall_there = getattr(result, f"recall{suffix}")[label]
            precision_there = getattr(result, f"precision{suffix}")[label]
            pair = (recall_there, precision_there)
            assert pair == pytest.approx(expected_pair, nan_ok=True)
            if t == 0:
                assert (result.true_positives[label], result.false_positives[label]) == (
                    right,
                    wrong,
                )


@pytest.mark.parametrize("seed", range(25))
def test_summary_equals_pycocotools_bit_for_bit(tmp_path: Path, seed: int) -> None:
    truth, found = make_scene(seed, first_annotation_id=1, crowded=seed % 5 == 0)
    for backend in BACKENDS:
        result = evaluate(*load(tmp_path, truth, found), backend=backend)
        np.testing.assert_array_equal(
            list(result.summary.values()), reference_summary(truth, found)
        )


@pytest.mark.skipif("hotcoco" not in BACKENDS, reason="compares hotcoco with our own")
@pytest.mark.parametrize("seed", range(25))
def test_both_evaluators_give_the_same_figures_bit_for_bit(tmp_path: Path, seed: int) -> None:
    truth, found = make_scene(100 + seed, crowded=seed % 5 == 0)
    annotations, predictions = load(tmp_path, truth, found)
    one, other = (
        evaluate(annotations, predictions, score_threshold=seed % 3 * 0.3, backend=backend)
        for backend in ("hotcoco", "numpy")
    )
    assert_same(one, other)


@every_backend
def test_figures_do_not_depend_on_annotation_ids(tmp_path: Path, backend: Any) -> None:
    results = []
    for first_id in (0, 1, 5000):
        truth, found = make_scene(7, first_annotation_id=first_id)
        results.append(evaluate(*load(tmp_path, truth, found), backend=backend))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


# Options


def test_options_reach_what_they_are_for(tmp_path: Path) -> None:
    annotations, predictions = load(tmp_path, *make_scene(1))
    result = evaluate(
        annotations, predictions, score_threshold=0.4, beta=2, min_precision=0.5, max_fppi=0.25
    )
    matches = result.matches
    counts = at_score(matches, 0.4)
    expected = {
        "f_score": f_score(counts.precision, counts.recall, beta=2),
        "fixed_AP": fixed_ap(matches).mean(axis=0),
        "design_effect": recall_design_effect(matches, 0.4),
    }
    for names, values in (
        (("recall_at_precision", "score_at_precision"), recall_at_precision(matches, 0.5)),
        (("recall_at_fppi", "score_at_fppi"), recall_at_false_positives(matches, 0.25)),
        (("best_f", "best_f_score"), best_f(matches, beta=2)),
    ):
        expected |= dict(zip(names, values, strict=True))
    for name, values in expected.items():
        np.testing.assert_array_equal(getattr(result, name), values, err_msg=name)
    pairs = overlaps(annotations, predictions, floor=0.1)
    for kind, errors in error_kinds(matches, pairs, score_threshold=0.4).items():
        for field in ("count", "shown", "cost"):
            found = getattr(result.errors[kind], field)
            np.testing.assert_array_equal(found, getattr(errors, field), err_msg=kind)
    assert result.errors["localisation"].shown.sum() > 0
    confused = confusion(matches, pairs, score_threshold=0.4)
    np.testing.assert_array_equal(result.confusion.counts, confused.counts)
    assert (expected["design_effect"][1:] > 1).any()
    lacking = more_boxes(
        counts.recall, counts.num_positive, design_effect=expected["design_effect"]
    )
    np.testing.assert_array_equal(result.more_boxes[1:], lacking[1:])
    assert result.more_boxes[0] == 0


def test_one_floor_for_all_classes_is_that_floor_for_each(tmp_path: Path) -> None:
    annotations, predictions = load(tmp_path, *make_scene(2))
    floors = np.array([math.nan, 0.0, 0.3, 0.3, 0.5, 0.9, 0.3])
    each = evaluate(annotations, predictions, score_threshold=floors, thresholds_file="floors.json")
    for floor in (0.0, 0.3, 0.5, 0.9):
        every = evaluate(annotations, predictions, score_threshold=floor)
        for label in np.flatnonzero(floors == floor):
            for name in (*FIGURES.keys() - {"positive_share"}, *COUNTS, "score_thresholds"):
                figures = [getattr(one, name)[label] for one in (each, every)]
                assert figures[0] == pytest.approx(figures[1], nan_ok=True), name
            for kind, errors in each.errors.items():
                assert errors.shown[label] == every.errors[kind].shown[label]
    assert math.isnan(each.settings.score_threshold)
    assert math.isnan(each.score_thresholds[0])
    draws = with_bootstrap(each, 10).bootstrap
    assert draws is not None
    for figure in WITH_INTERVALS:
        estimates = draws.estimates[figure][0]
        np.testing.assert_allclose(estimates, getattr(each, figure), atol=1e-12, err_msg=figure)
    assert each.settings.thresholds == "floors.json"
    same = evaluate(annotations, predictions, score_threshold=np.full(7, 0.3))
    np.testing.assert_array_equal(
        same.confusion.counts,
        evaluate(annotations, predictions, score_threshold=0.3).confusion.counts,
    )


def test_intervals_are_those_of_the_boxes_or_of_the_draws(tmp_path: Path) -> None:
    annotations, predictions = load(tmp_path, *make_scene(2))
    result = evaluate(annotations, predictions, confidence=0.8)
    shown = result.true_positives + result.false_positives
    for figure, total in (("recall", result.val_boxes), ("precision", shown)):
        expected = wilson_interval(result.true_positives, total, confidence=0.8)
        np.testing.assert_array_equal(result.intervals[figure], expected)
    assert set(result.intervals) == {"recall", "precision"}
    assert result.bootstrap is None
    assert result.settings.score_threshold == 0.3
    drawn = with_bootstrap(result, 50, seed=3)
    assert drawn.settings.num_bootstrap == 50
    assert drawn.bootstrap is not None
    plain = bootstrap([result.matches], num_bootstrap=50, seed=3, score_threshold=0.3)
    for figure in WITH_INTERVALS:
        expected = plain.interval(figure, confidence=0.8)
        np.testing.assert_array_equal(drawn.intervals[figure], expected)
        low, high = drawn.intervals[figure]
        figures = getattr(result, figure)
        known = ~np.isnan(figures)
        assert known.any()
        assert (low[known] <= figures[known] + 1e-12).all()
        assert (figures[known] <= high[known] + 1e-12).all()
    again = evaluate(annotations, predictions, confidence=0.8, num_bootstrap=50, seed=3)
    for figure, ends in drawn.intervals.items():
        np.testing.assert_array_equal(again.intervals[figure], ends)


def test_slips_of_exporting_are_told_in_the_notes(tmp_path: Path) -> None:
    truth, found = make_scene(2)
    for detection in found:
        detection["score"] = 0.5 + detection["score"] / 2
    annotations, predictions = load(tmp_path, truth, found)
    result = evaluate(annotations, predictions)
    assert result.cautions == cautions(result.matches, overlaps(annotations, predictions))
    assert "No detection has a score below 0.5" in build_report(result, annotations).notes[0]


# Edges


@every_backend
def test_no_detections_is_zero_recall_and_no_precision(tmp_path: Path, backend: Any) -> None:
    result = evaluate(*load(tmp_path, one_class_each([CAT]), []), backend=backend)
    assert (result.AP[1], result.AP50[1], result.AR[1], result.recall[1]) == (0, 0, 0, 0)
    assert math.isnan(result.precision[1])
    assert np.isnan(result.AP[[0, 2, 3]]).all()
    assert (result.summary["AP"], result.summary["APs"]) == (0, 0)
    assert math.isnan(result.summary["APl"])


@every_backend
def test_false_positives_of_an_absent_class_do_not_vanish(tmp_path: Path, backend: Any) -> None:
    detection = {"image_id": 4, "category_id": 7, "bbox": [1, 1, 5, 5], "score": 0.9}
    result = evaluate(*load(tmp_path, one_class_each([CAT]), [detection]), backend=backend)
    assert result.precision[2] == 0
    assert result.false_positives.tolist() == [0, 0, 1, 0]
    assert np.isnan([result.AP[2], result.recall[2], result.precision[3]]).all()


@every_backend
def test_a_crowd_region_is_neither_found_nor_missed(tmp_path: Path, backend: Any) -> None:
    crowd = {**CAT, "id": 5, "image_id": 4, "bbox": [0, 0, 100, 100], "area": 10000, "iscrowd": 1}
    inside = {"image_id": 4, "category_id": 2, "bbox": [10, 10, 20, 20], "score": 0.9}
    found = [inside, {**inside, "bbox": [50, 50, 20, 20]}, {**inside, "image_id": 9, "score": 0.8}]
    result = evaluate(*load(tmp_path, one_class_each([CAT, crowd]), found), backend=backend)
    assert result.val_boxes[1] == 1
    assert (result.recall[1], result.precision[1], result.AP[1]) == pytest.approx((1, 1, 1))


@every_backend
def test_the_score_threshold_is_inclusive_and_spares_ap(tmp_path: Path, backend: Any) -> None:
    found = [{"image_id": 9, "category_id": 2, "bbox": [10, 10, 20, 20], "score": 0.3}]
    annotations, predictions = load(tmp_path, one_class_each([CAT]), found)
    at = evaluate(annotations, predictions, score_threshold=0.3, backend=backend)
    above = evaluate(annotations, predictions, score_threshold=0.31, backend=backend)
    assert (at.recall[1], above.recall[1]) == (1, 0)
    assert at.AP[1] == above.AP[1] == pytest.approx(1)
    assert at.settings.score_threshold == 0.3


@every_backend
def test_files_without_any_box_give_undefined_figures(tmp_path: Path, backend: Any) -> None:
    annotations, predictions = load(tmp_path, one_class_each([CAT]), [])
    none = annotations.subset([1])
    result = evaluate(none, predictions, backend=backend)
    assert np.isnan(result.AP).all()
    assert all(math.isnan(value) for value in result.summary.values())


def test_evaluation_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    annotations, predictions = load(tmp_path, *make_scene(0))
    for backend in BACKENDS:
        evaluate(annotations, predictions, backend=backend)
    assert capfd.readouterr() == ("", "")


# Recorded values


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def undefined_as_nan(value: float) -> float:
    return math.nan if value == -1 else value


@every_backend
def test_published_coco_numbers(shared: Path, backend: Any) -> None:
    folder = shared / "eval/coco_fakebbox100"
    expected = read(folder / "expected_pycocotools.json")
    annotations = load_annotations(folder / "instances_val2014_100.json")
    predictions = load_predictions(
        folder / "instances_val2014_fakebbox100_results.json", annotations
    )
    result = evaluate(annotations, predictions, score_threshold=0.0, backend=backend)
    assert result.summary == pytest.approx(expected["overall"], abs=1e-12)
    rounded = [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564]
    assert [round(value, 3) for value in result.summary.values()] == rounded
    for label, name in enumerate(annotations.categories.names, start=1):
        known = expected["per_class"][name]
        crowds = np.count_nonzero(annotations.is_crowd & (annotations.labels == label))
        assert result.val_boxes[label] + crowds == known["gt_instances"]
        figures = [result.AP[label], result.AP50[label], result.AR[label], result.recall[label]]
        values = [undefined_as_nan(known[key]) for key in ("AP", "AP50", "AR100", "recall50")]
        assert figures == pytest.approx(values, abs=1e-12, nan_ok=True)


@every_backend
def test_recorded_small_set_with_a_class_only_in_detections(shared: Path, backend: Any) -> None:
    folder = shared / "eval/torchmetrics_small"
    expected = read(folder / "expected_pycocotools.json")
    annotations = load_annotations(folder / "gt.json")
    result = evaluate(
        annotations, load_predictions(folder / "dt.json", annotations), backend=backend
    )
    assert result.summary == pytest.approx(expected["overall"], abs=1e-12)
    for key, known in expected["per_class"].items():
        label = int(annotations.categories.labels([int(key)])[0])
        values = [undefined_as_nan(known["AP"]), undefined_as_nan(known["AR100"])]
        assert [result.AP[label], result.AR[label]] == pytest.approx(values, abs=1e-12, nan_ok=True)


@every_backend
def test_recorded_curves_of_pycocotools(shared: Path, backend: Any) -> None:
    golden = np.load(shared / "golden/coco_eval.npz")
    annotations = load_annotations(shared / "golden/coco_gt.json")
    predictions = load_predictions(shared / "golden/coco_dt.json", annotations)
    result = evaluate(annotations, predictions, backend=backend)
    curves = compute_grid(annotations, predictions, backend=backend)

    def defined(name: str) -> np.ndarray:
        return np.where(golden[name] < 0, np.nan, golden[name])

    np.testing.assert_array_equal(list(annotations.categories.ids), golden["cat_ids"])
    np.testing.assert_allclose(curves.recall, defined("recall_TKAM"), rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        curves.precision[:, :, :, 0, -1], defined("precision_TRK_all_max"), rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(list(result.summary.values()), defined("stats"), rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.AP[1:], defined("ap_per_cat"), rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.AR[1:], defined("ar_per_cat"), rtol=0, atol=1e-12)


def test_an_lvis_file_can_be_evaluated_by_coco_rules_which_is_said(shared: Path) -> None:
    folder = shared / "eval/lvis_val_100"
    annotations = load_annotations(folder / "lvis_val_100.json")
    predictions = load_predictions(folder / "made_results_100.json", annotations)
    result = evaluate(annotations, predictions, rules="coco")
    expected = reference_summary(
        read(folder / "lvis_val_100.json"), read(folder / "made_results_100.json")
    )
    np.testing.assert_array_equal(list(result.summary.values()), expected)
    report = build_report(result, annotations)
    evaluated = [report.groups[name].num_evaluated for name in ("rare", "common", "frequent")]
    assert evaluated == [1, 30, 159]
    assert any("not LVIS AP" in note for note in report.notes)
    assert "LVIS" in str(report.settings.frequency_source)


def test_recorded_figures_of_lvis_api_by_class_and_group(shared: Path) -> None:
    folder = shared / "eval/lvis_val_100"
    annotations = load_annotations(folder / "lvis_val_100.json")
    predictions = load_predictions(folder / "made_results_100.json", annotations)
    marks = tuple(read(folder / "frequency_retag.json")[str(i)] for i in annotations.categories.ids)
    marked = dataclasses.replace(annotations.categories, frequency=marks)
    for truth, file in (
        (annotations, "expected_made_results_lvis053.json"),
        (
            dataclasses.replace(annotations, categories=marked),
            "expected_made_results_retagged_lvis053.json",
        ),
    ):
        recorded = read(folder / file)
        report = build_report(evaluate(truth, predictions), truth)
        known = {name.replace("AR@", "AR"): v for name, v in recorded["results"].items()}
        for size in "sml":
            known[f"AR{size}"] = known.pop(f"AR{size}@300")
        groups = {f"AP{name[0]}": report.groups[name].AP for name in GROUP_NAMES}
        figures = {**report.summary, **groups}
        assert {name: figures[name] for name in known} == pytest.approx(known, abs=1e-14)
        assert set(figures) - set(known) == {"AR1", "AR10"}
        assert not any("LVIS" in note for note in report.notes)
        rows = {row.category_id: row for row in report.classes}
        for category, expected in recorded.get("per_class", {}).items():
            assert pytest.approx(expected["AP"], abs=1e-14) == rows[int(category)].AP


# Wrong input


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"score_threshold": math.nan}, r"score_threshold is nan\. Expected a finite number"),
        ({"score_threshold": np.array([0, 1, 2, math.inf, 4, 5, 6])}, "score_threshold is inf"),
        ({"score_threshold": np.zeros(6)}, r"score_threshold is \[6\], .*val\.json has 6 classes"),
        ({"beta": 0}, r"beta is 0\. Expected a number > 0"),
        ({"min_precision": 1.5}, r"min_precision is 1\.5\. Expected a number >= 0 and <= 1"),
        ({"max_fppi": -1}, r"max_fppi is -1\. Expected a number >= 0"),
        ({"confidence": 95}, r"confidence is 95\. Expected a number > 0 and < 1"),
        ({"num_bootstrap": 1}, r"num_bootstrap is 1\. Expected a whole number >= 2"),
        ({"rules": "voc"}, r'rules: "voc" is unknown'),
    ],
)
def test_options_out_of_range_are_refused(
    tmp_path: Path, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        evaluate(*load(tmp_path, *make_scene(0)), **options)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("labels", 0, r"1 detection has an impossible labels \(first: detection 2, 0\)"),
        ("labels", 7, r"Expected 1 to 6 of .*val\.json"),
        ("image_index", -1, r"impossible image_index .*Expected rows 0 to"),
        ("scores", math.nan, r"impossible scores \(first: detection 2, nan\)"),
        ("bbox", math.inf, r"impossible bbox"),
    ],
)
def test_impossible_detections_are_refused(
    tmp_path: Path, field: str, value: float, match: str
) -> None:
    annotations, predictions = load(tmp_path, *make_scene(0))
    changed = getattr(predictions, field).copy()
    changed[2] = value
    with pytest.raises(ValueError, match=match):
        evaluate(annotations, dataclasses.replace(predictions, **{field: changed}))


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    data = load(tmp_path, *make_scene(0))
    with pytest.raises(ValueError, match=r'"cocoapi"\. Known: auto, hotcoco, numpy'):
        evaluate(*data, backend="cocoapi")  # type: ignore[arg-type]
