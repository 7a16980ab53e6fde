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
from scenes import Found, Truth, load, make_scene

from detbalance.annotations import load_annotations
from detbalance.evaluation import Evaluation, build_report, compute_curves, evaluate, match_boxes
from detbalance.evaluation.grid import MAX_DETECTIONS
from detbalance.evaluation.rules import AREA_RANGES, IOU_THRESHOLDS
from detbalance.predictions import load_predictions

BACKENDS = [
    name for name in ("hotcoco", "pycocotools") if importlib.util.find_spec(name) is not None
]
both_backends = pytest.mark.parametrize("backend", BACKENDS)
ARRAYS = ("AP", "AP50", "AR", "recall", "precision")
COUNTS = ("true_positives", "false_positives", "val_boxes")

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


def overlap(box: list[float], other: list[float], other_is_crowd: bool) -> float:
    x1, y1 = max(box[0], other[0]), max(box[1], other[1])
    x2, y2 = min(box[0] + box[2], other[0] + other[2]), min(box[1] + box[3], other[1] + other[3])
    if x2 <= x1 or y2 <= y1:
        return 0.0
    shared, area = (x2 - x1) * (y2 - y1), box[2] * box[3]
    return shared / (area if other_is_crowd else area + other[2] * other[3] - shared)


def twin_verdicts(truth: Found, found: Found, iou: float, low: float, high: float) -> list[Any]:
    """One image and class: (score, verdict) per detection, best first; None is "ignored"."""
    wanted = [a for a in truth if not a["iscrowd"] and low <= a["area"] <= high]
    ignored = [a for a in truth if a["iscrowd"] or not low <= a["area"] <= high]
    taken: list[int] = []
    verdicts: list[Any] = []
    for detection in sorted(found, key=lambda d: -d["score"])[: MAX_DETECTIONS[-1]]:
        area = detection["bbox"][2] * detection["bbox"][3]
        verdict: bool | None = False if low <= area <= high else None
        for group, outcome in ((wanted, True), (ignored, None)):
            overlaps = [
                (overlap(detection["bbox"], a["bbox"], bool(a["iscrowd"])), k, a)
                for k, a in enumerate(group)
                if id(a) not in taken or a["iscrowd"]
            ]
            good = [entry for entry in overlaps if entry[0] >= iou]
            if good:
                # Of equal overlaps the later annotation wins, as in the reference.
                best = max(good, key=lambda entry: (entry[0], entry[1]))[2]
                taken.append(id(best))
                verdict = outcome
                break
        verdicts.append((detection["score"], verdict))
    return verdicts


def twin_curves(truth: Truth, found: Found) -> tuple[np.ndarray, np.ndarray]:
    """COCO's precision [T, R, K, A, M] and recall [T, K, A, M] in plain loops, float64."""
    categories = sorted(c["id"] for c in truth["categories"])
    images = sorted(i["id"] for i in truth["images"])
    shape = (len(IOU_THRESHOLDS), len(categories), len(AREA_RANGES), len(MAX_DETECTIONS))
    recall = np.full(shape, np.nan)
    precision = np.full((shape[0], 101, *shape[1:]), np.nan)
    for k, category in enumerate(categories):
        for a, (low, high) in enumerate(AREA_RANGES.values()):
            of_class = [x for x in truth["annotations"] if x["category_id"] == category]
            total = sum(not x["iscrowd"] and low <= x["area"] <= high for x in of_class)
            if not total:
                continue
            for t, iou in enumerate(IOU_THRESHOLDS):
                per_image = [
                    twin_verdicts(
                        [x for x in of_class if x["image_id"] == i],
                        [d for d in found if d["image_id"] == i and d["category_id"] == category],
                        iou,
                        low,
                        high,
                    )
                    for i in images
                ]
                for m, cap in enumerate(MAX_DETECTIONS):
                    ranked = sorted(
                        (v for image in per_image for v in image[:cap]), key=lambda v: -v[0]
                    )
                    hits = np.array([v for _, v in ranked if v is not None], dtype=float)
                    right = np.cumsum(hits)
                    recall[t, k, a, m] = right[-1] / total if len(hits) else 0.0
                    levels = right / total
                    exact = right / np.arange(1, len(hits) + 1)
                    for r, level in enumerate(np.linspace(0, 1, 101)):
                        reached = exact[levels >= level]
                        precision[t, r, k, a, m] = reached.max() if len(reached) else 0.0
    return precision, recall


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
    for name in (*ARRAYS, *COUNTS):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert list(one.summary) == list(other.summary)
    np.testing.assert_array_equal(list(one.summary.values()), list(other.summary.values()))


# Properties and oracles


@both_backends
@pytest.mark.parametrize("seed", range(4))
def test_curves_equal_a_twin_in_plain_loops(tmp_path: Path, backend: Any, seed: int) -> None:
    truth, found = make_scene(seed, crowded=seed == 3)
    curves = compute_curves(*load(tmp_path, truth, found), backend=backend)
    precision, recall = twin_curves(truth, found)
    np.testing.assert_allclose(curves.recall, recall, rtol=0, atol=1e-12)
    np.testing.assert_allclose(curves.precision, precision, rtol=0, atol=1e-12)
    assert np.nanmax(recall) > 0


@both_backends
@pytest.mark.parametrize("seed", range(4))
def test_class_figures_equal_means_and_counts_of_the_twin(
    tmp_path: Path, backend: Any, seed: int
) -> None:
    crowded = seed == 3  # with more detections above the floor than the cap lets through
    floor = 0.0 if crowded else 0.4
    truth, found = make_scene(seed, crowded=crowded)
    result = evaluate(*load(tmp_path, truth, found), score_floor=floor, backend=backend)
    precision, recall = twin_curves(truth, found)
    low, high = AREA_RANGES["all"]
    for k, category in enumerate(sorted(c["id"] for c in truth["categories"])):
        if np.isnan(recall[0, k, 0, -1]):
            assert np.isnan([result.AP[k + 1], result.AP50[k + 1], result.AR[k + 1]]).all()
        else:
            assert result.AP[k + 1] == pytest.approx(precision[:, :, k, 0, -1].mean(), abs=1e-12)
            assert result.AP50[k + 1] == pytest.approx(precision[0, :, k, 0, -1].mean(), abs=1e-12)
            assert result.AR[k + 1] == pytest.approx(recall[:, k, 0, -1].mean(), abs=1e-12)
        of_class = [a for a in truth["annotations"] if a["category_id"] == category]
        verdicts = [
            verdict
            for image in truth["images"]
            for score, verdict in twin_verdicts(
                [a for a in of_class if a["image_id"] == image["id"]],
                [d for d in found if (d["image_id"], d["category_id"]) == (image["id"], category)],
                0.5,
                low,
                high,
            )
            if score >= floor
        ]
        right, wrong = verdicts.count(True), verdicts.count(False)
        wanted = sum(not a["iscrowd"] for a in of_class)
        assert result.val_boxes[k + 1] == wanted
        assert (result.true_positives[k + 1], result.false_positives[k + 1]) == (right, wrong)
        expected = (
            right / wanted if wanted else math.nan,
            right / (right + wrong) if right + wrong else math.nan,
        )
        assert (result.recall[k + 1], result.precision[k + 1]) == pytest.approx(
            expected, nan_ok=True
        )


@pytest.mark.parametrize("seed", range(25))
def test_summary_equals_pycocotools_bit_for_bit(tmp_path: Path, seed: int) -> None:
    truth, found = make_scene(seed, first_annotation_id=1, crowded=seed % 5 == 0)
    for backend in BACKENDS:
        result = evaluate(*load(tmp_path, truth, found), backend=backend)
        np.testing.assert_array_equal(
            list(result.summary.values()), reference_summary(truth, found)
        )


@pytest.mark.skipif("hotcoco" not in BACKENDS, reason="compares hotcoco with pycocotools")
@pytest.mark.parametrize("seed", range(25))
def test_both_evaluators_give_the_same_figures_bit_for_bit(tmp_path: Path, seed: int) -> None:
    truth, found = make_scene(100 + seed, crowded=seed % 5 == 0)
    annotations, predictions = load(tmp_path, truth, found)
    one, other = (
        evaluate(annotations, predictions, score_floor=seed % 3 * 0.3, backend=backend)
        for backend in ("hotcoco", "pycocotools")
    )
    assert_same(one, other)
    for floor in (0.0, 0.5):
        first, second = (
            match_boxes(annotations, predictions, score_floor=floor, backend=backend)
            for backend in ("hotcoco", "pycocotools")
        )
        np.testing.assert_array_equal(first.annotation, second.annotation)
        np.testing.assert_array_equal(first.counted, second.counted)


@both_backends
def test_figures_do_not_depend_on_annotation_ids(tmp_path: Path, backend: Any) -> None:
    results = []
    for first_id in (0, 1, 5000):
        truth, found = make_scene(7, first_annotation_id=first_id)
        results.append(evaluate(*load(tmp_path, truth, found), backend=backend))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


@both_backends
@pytest.mark.parametrize("seed", range(3))
def test_a_score_floor_only_leaves_out_what_is_below(
    tmp_path: Path, backend: Any, seed: int
) -> None:
    annotations, predictions = load(tmp_path, *make_scene(seed, crowded=seed == 0))
    every = match_boxes(annotations, predictions, backend=backend)
    some = match_boxes(annotations, predictions, score_floor=0.5, backend=backend)
    kept = predictions.scores >= 0.5
    np.testing.assert_array_equal(some.annotation[kept], every.annotation[kept])
    np.testing.assert_array_equal(some.counted[kept], every.counted[kept])
    assert not some.counted[~kept].any()
    assert (some.annotation[~kept] == -1).all()


def test_matched_annotations_have_the_same_image_and_class(tmp_path: Path) -> None:
    annotations, predictions = load(tmp_path, *make_scene(2))
    matches = match_boxes(annotations, predictions)
    right = np.flatnonzero(matches.is_true_positive)
    rows = matches.annotation[right]
    assert len(right) > 3
    assert len(np.unique(rows)) == len(rows)
    np.testing.assert_array_equal(annotations.image_index[rows], predictions.image_index[right])
    np.testing.assert_array_equal(annotations.labels[rows], predictions.labels[right])
    assert matches.positive[rows].all()


# Edges


@both_backends
def test_no_detections_is_zero_recall_and_no_precision(tmp_path: Path, backend: Any) -> None:
    result = evaluate(*load(tmp_path, one_class_each([CAT]), []), backend=backend)
    assert (result.AP[1], result.AP50[1], result.AR[1], result.recall[1]) == (0, 0, 0, 0)
    assert math.isnan(result.precision[1])
    assert np.isnan(result.AP[[0, 2, 3]]).all()
    assert (result.summary["AP"], result.summary["APs"]) == (0, 0)
    assert math.isnan(result.summary["APl"])


@both_backends
def test_false_positives_of_an_absent_class_do_not_vanish(tmp_path: Path, backend: Any) -> None:
    detection = {"image_id": 4, "category_id": 7, "bbox": [1, 1, 5, 5], "score": 0.9}
    result = evaluate(*load(tmp_path, one_class_each([CAT]), [detection]), backend=backend)
    assert result.precision[2] == 0
    assert result.false_positives.tolist() == [0, 0, 1, 0]
    assert np.isnan([result.AP[2], result.recall[2], result.precision[3]]).all()


@both_backends
def test_a_crowd_region_is_neither_found_nor_missed(tmp_path: Path, backend: Any) -> None:
    crowd = {**CAT, "id": 5, "image_id": 4, "bbox": [0, 0, 100, 100], "area": 10000, "iscrowd": 1}
    inside = {"image_id": 4, "category_id": 2, "bbox": [10, 10, 20, 20], "score": 0.9}
    found = [inside, {**inside, "bbox": [50, 50, 20, 20]}, {**inside, "image_id": 9, "score": 0.8}]
    result = evaluate(*load(tmp_path, one_class_each([CAT, crowd]), found), backend=backend)
    assert result.val_boxes[1] == 1
    assert (result.recall[1], result.precision[1], result.AP[1]) == pytest.approx((1, 1, 1))


@both_backends
def test_the_score_floor_is_inclusive_and_spares_ap(tmp_path: Path, backend: Any) -> None:
    found = [{"image_id": 9, "category_id": 2, "bbox": [10, 10, 20, 20], "score": 0.3}]
    annotations, predictions = load(tmp_path, one_class_each([CAT]), found)
    at = evaluate(annotations, predictions, score_floor=0.3, backend=backend)
    above = evaluate(annotations, predictions, score_floor=0.31, backend=backend)
    assert (at.recall[1], above.recall[1]) == (1, 0)
    assert at.AP[1] == above.AP[1] == pytest.approx(1)
    assert at.settings.score_floor == 0.3


@both_backends
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


@both_backends
def test_published_coco_numbers(shared: Path, backend: Any) -> None:
    folder = shared / "eval/coco_fakebbox100"
    expected = read(folder / "expected_pycocotools.json")
    annotations = load_annotations(folder / "instances_val2014_100.json")
    predictions = load_predictions(
        folder / "instances_val2014_fakebbox100_results.json", annotations
    )
    result = evaluate(annotations, predictions, score_floor=0.0, backend=backend)
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


@both_backends
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


@both_backends
def test_recorded_curves_of_pycocotools(shared: Path, backend: Any) -> None:
    golden = np.load(shared / "golden/coco_eval.npz")
    annotations = load_annotations(shared / "golden/coco_gt.json")
    predictions = load_predictions(shared / "golden/coco_dt.json", annotations)
    result = evaluate(annotations, predictions, backend=backend)
    curves = compute_curves(annotations, predictions, backend=backend)

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


def test_string_image_ids_are_refused(shared: Path) -> None:
    path = shared / "eval/faster_coco_eval_small/gt_ignore_test.json"
    with pytest.raises(ValueError, match=r"gt_ignore_test\.json: .*image") as info:
        load_annotations(path)
    assert "\n" not in str(info.value)


def test_lvis_file_is_evaluated_by_coco_rules_and_says_so(shared: Path) -> None:
    folder = shared / "eval/lvis_val_100"
    annotations = load_annotations(folder / "lvis_val_100.json")
    predictions = load_predictions(folder / "made_results_100.json", annotations)
    result = evaluate(annotations, predictions)
    expected = reference_summary(
        read(folder / "lvis_val_100.json"), read(folder / "made_results_100.json")
    )
    np.testing.assert_array_equal(list(result.summary.values()), expected)
    report = build_report(result, annotations)
    evaluated = [report.groups[name].num_evaluated for name in ("rare", "common", "frequent")]
    assert evaluated == [1, 30, 159]
    assert "not LVIS AP" in report.notes[0]
    assert "LVIS" in str(report.settings.frequency_source)


# Wrong input


def test_a_score_floor_that_is_no_number_is_refused(tmp_path: Path) -> None:
    data = load(tmp_path, *make_scene(0))
    with pytest.raises(ValueError, match=r"score_floor is nan\. Expected a finite number"):
        evaluate(*data, score_floor=math.nan)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("labels", 0, r"1 detections have an impossible labels \(first: detection 2, 0\)"),
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
    with pytest.raises(ValueError, match=r'"cocoapi"\. Known: auto, hotcoco, pycocotools'):
        evaluate(*data, backend="cocoapi")  # type: ignore[arg-type]
