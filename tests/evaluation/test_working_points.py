"""Working points: what every score threshold gives, found by trying all of them."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import load, make_report, make_scene

from detbalance.data import Predictions
from detbalance.evaluation import Report
from detbalance.evaluation.filters import images_checked
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.operating_points import (
    at_score,
    best_f,
    f_score,
    recall_at_false_positives,
    recall_at_precision,
)
from detbalance.evaluation.report import FROC_RATES
from detbalance.evaluation.rules import COCO, LVIS

SEEDS = st.integers(0, 10_000)


def matched(seed: int) -> Matches:
    with tempfile.TemporaryDirectory() as folder:
        return match(*load(Path(folder), *make_scene(seed)))


def floors(matches: Matches, label: int, iou: float) -> list[tuple[float, int, int]]:
    """Score, right and wrong detections of a class at each floor that is a score of it."""
    t = matches.at(iou)
    rows = np.flatnonzero(
        (matches.predictions.labels == label) & ~matches.is_ignored[:, t] & matches.takes_part
    )
    found = []
    for floor in sorted(set(matches.predictions.scores[rows].tolist()), reverse=True):
        shown = rows[matches.predictions.scores[rows] >= floor]
        right = int(matches.is_true_positive[shown, t].sum())
        found.append((floor, right, len(shown) - right))
    return found


def best_of(candidates: list[tuple[float, float]], total: int) -> tuple[float, float]:
    """Highest value with the highest floor of it; 0 without a candidate, NaN without boxes."""
    if not total:
        return np.nan, np.nan
    return max(((value, floor) for floor, value in candidates), default=(0.0, np.nan))


@settings(max_examples=25)
@given(seed=SEEDS, iou=st.sampled_from([0.5, 0.75]), wanted=st.sampled_from([0.3, 0.5, 1.0]))
def test_the_best_floor_is_the_best_of_all_floors(seed: int, iou: float, wanted: float) -> None:
    matches = matched(seed)
    images = matches.annotations.num_images
    at_precision = recall_at_precision(matches, wanted, iou=iou)
    at_false = recall_at_false_positives(matches, wanted, iou=iou)
    at_best = best_f(matches, beta=2, iou=iou)
    for label in range(1, len(matches.num_positive)):
        total = int(matches.num_positive[label])
        every = floors(matches, label, iou)
        for (value, floor), candidates in (
            (at_precision, [(s, r / max(total, 1)) for s, r, w in every if r / (r + w) >= wanted]),
            (at_false, [(s, r / max(total, 1)) for s, r, w in every if w <= wanted * images]),
            (at_best, [(s, 5 * r / (4 * total + r + w)) for s, r, w in every if r]),
        ):
            best = best_of(candidates, total)
            assert value[label] == pytest.approx(best[0], nan_ok=True)
            if not candidates or best[0] > 0:
                assert floor[label] == pytest.approx(best[1], nan_ok=True)


@settings(max_examples=15)
@given(seed=SEEDS, floor=st.sampled_from([0.0, 0.3, 0.7, 2.0]))
def test_counts_at_a_score_are_those_of_its_floor(seed: int, floor: float) -> None:
    matches = matched(seed)
    counts = at_score(matches, floor)
    for label in range(1, len(matches.num_positive)):
        above = [(r, w) for s, r, w in floors(matches, label, 0.5) if s >= floor]
        right, wrong = above[-1] if above else (0, 0)
        assert (counts.true_positives[label], counts.false_positives[label]) == (right, wrong)
        total = counts.num_positive[label]
        assert counts.recall[label] == pytest.approx(
            right / total if total else np.nan, nan_ok=True
        )
        shown = right + wrong
        assert counts.precision[label] == pytest.approx(
            right / shown if shown else np.nan, nan_ok=True
        )


def test_f_weighs_recall_by_beta_and_is_undefined_without_boxes() -> None:
    precision, recall = np.array([0.5, np.nan, 0.0, 0.7]), np.array([1.0, 0.0, 0.0, np.nan])
    np.testing.assert_allclose(f_score(precision, recall), [2 / 3, 0, 0, np.nan])
    np.testing.assert_allclose(f_score(precision, recall, beta=2), [5 / 6, 0, 0, np.nan])
    with pytest.raises(ValueError, match=r"beta is 0\. Expected a number > 0"):
        f_score(precision, recall, beta=0)
    for beta in (math.nan, math.inf, -1.0):
        with pytest.raises(ValueError, match="Expected a number > 0"):
            f_score(precision, recall, beta=beta)


def test_a_precision_that_no_floor_holds_leaves_a_recall_of_zero_and_no_floor() -> None:
    matches = matched(3)
    recall, floor = recall_at_precision(matches, 1.1)
    assert (recall[matches.num_positive > 0] == 0).all()
    assert np.isnan(recall[matches.num_positive == 0]).all()
    assert np.isnan(floor).all()


def test_no_detections() -> None:
    annotations = matched(1).annotations
    nothing = Predictions(np.empty(0), np.empty(0), np.empty((0, 4)), np.empty(0))
    matches = match(annotations, nothing)
    for value, floor in (best_f(matches), recall_at_precision(matches, 0.5)):
        assert (value[matches.num_positive > 0] == 0).all()
        assert np.isnan(floor).all()


def test_lvis_counts_the_images_that_were_checked(shared: Path) -> None:
    from detbalance.data import load_annotations

    annotations = load_annotations(shared / "eval" / "lvis_val_100" / "lvis_val_100.json")
    checked = images_checked(annotations, LVIS)
    assert annotations.neg_labels is not None
    for label in (1, 20, 900, *np.unique(annotations.labels)[:20].tolist()):
        images = {
            image
            for image in range(annotations.num_images)
            if label in annotations.neg_labels[image]
            or label in annotations.labels[annotations.rows(image)]
        }
        assert checked[label] == len(images)
    assert (images_checked(annotations, COCO) == annotations.num_images).all()


def test_froc_in_a_report_is_the_recall_at_each_rate_and_is_read_again(tmp_path: Path) -> None:
    report, result, annotations = make_report(tmp_path)
    details = Report.from_dict(json.loads(json.dumps(report.to_dict()))).details
    assert details is not None
    for k, rate in enumerate(FROC_RATES):
        recall, scores = recall_at_false_positives(result.matches, rate)
        for label, name in enumerate(annotations.categories.names, start=1):
            if not result.val_boxes[label]:
                assert name not in details.froc
                continue
            one = details.froc[name]
            assert one.recall[k] == pytest.approx(recall[label], abs=1e-4)
            assert one.scores[k] == pytest.approx(scores[label], abs=1e-4, nan_ok=True)
            found = result.matches.is_false_positive[:, result.matches.at(0.5)]
            wrong = found & (result.matches.predictions.labels == label)
            wrong &= result.matches.predictions.scores >= scores[label]
            assert wrong.sum() <= rate * annotations.num_images
    old = report.to_dict()
    del old["details"]["froc"]  # a file of before it was there
    assert Report.from_dict(old).details.froc == {}
