"""How to fuse, chosen on held-out images: calibration, weights, and what is said of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from calibration_sets import logit, make_set, member
from scenes import training_file

from detbalance.calibration import Calibrator, Options, ScoreCalibration, choose_fusion, fuse
from detbalance.calibration.cross_fitting import first_best, image_folds
from detbalance.calibration.fusion_choice import fuse_folds
from detbalance.calibration.fusion_members import (
    Fitted,
    comparable,
    settings_to_try,
    weights_by_skill,
)
from detbalance.data import Annotations, Predictions
from detbalance.data.frequency import class_frequency
from detbalance.evaluation.average_precision import average_precision
from detbalance.evaluation.matching import Matches, match
from detbalance.evaluation.rules import Rules

AP50 = Rules(iou_thresholds=(0.5,))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Annotations, Predictions]:
    return make_set(tmp_path_factory.mktemp("data"), [120, 50, 20], images=60, wrong=2.0)


@pytest.fixture(scope="module")
def incomparable(data: tuple[Annotations, Predictions]) -> list[Predictions]:
    """Members about as good as each other; one gives high scores, one low ones."""
    _, predictions = data
    scales = [(1.0, 0.0), (0.5, 4.0), (2.0, -6.0)]
    return [
        member(predictions, i, slope=slope, shift=shift) for i, (slope, shift) in enumerate(scales)
    ]


def mean_ap50(annotations: Annotations, predictions: Predictions) -> float:
    return float(np.nanmean(average_precision(match(annotations, predictions, rules=AP50))))


def everywhere(annotations: Annotations) -> np.ndarray:
    return np.ones(annotations.num_images, dtype=bool)


# ---- calibration ---------------------------------------------------------------------------------


def loss(matches: Matches, c: ScoreCalibration) -> float:
    """What the fit makes small, written from its definition."""
    p = np.clip(c.apply(matches.predictions).scores, 1e-300, 1)
    right = matches.is_true_positive[:, 0]
    likelihood = -np.log(np.where(right, p, 1 - p)).sum()
    priors = 0.02 * (c.slope - 1) ** 2 + 0.01 * c.offset**2 + (c.class_offsets**2).sum()
    return float(likelihood + priors / 2)


def test_a_calibration_is_the_best_one_that_there_is(data) -> None:
    annotations, predictions = data
    matches = match(annotations, member(predictions, 1, slope=0.6, shift=2), rules=AP50)
    fitted = Calibrator(matches).fit(everywhere(annotations))
    best = loss(matches, fitted)
    for step in (1e-3, 0.1):
        for sign in (-step, step):
            others = [
                dataclasses.replace(fitted, slope=fitted.slope + sign),
                dataclasses.replace(fitted, offset=fitted.offset + sign),
                *(
                    dataclasses.replace(fitted, class_offsets=fitted.class_offsets + sign * one)
                    for one in np.eye(4)
                ),
            ]
            assert all(loss(matches, other) > best for other in others)


@pytest.mark.parametrize(("slope", "shift"), [(0.5, 3.0), (2.0, -4.0)])
def test_calibration_undoes_a_scale_of_scores(data, slope: float, shift: float) -> None:
    annotations, predictions = data
    plain, moved = (
        member(predictions, 1, noise=0.0, slope=a, shift=b) for a, b in ((1, 0), (slope, shift))
    )
    each = [
        Calibrator(match(annotations, one, rules=AP50)).fit(everywhere(annotations)).apply(one)
        for one in (plain, moved)
    ]
    # Not to the last bit: the prior holds slopes near 1.
    np.testing.assert_allclose(logit(each[0].scores), logit(each[1].scores), atol=0.3)
    # Among detections of a probability, that share is right.
    right = match(annotations, moved, rules=AP50).is_true_positive[:, 0]
    scores = each[1].scores
    for rows in (scores > np.median(scores), scores <= np.median(scores)):
        assert scores[rows].mean() == pytest.approx(right[rows].mean(), abs=0.05)


def test_calibration_keeps_the_order_within_a_class_even_of_bad_scores(data) -> None:
    annotations, predictions = data
    wrong_way = dataclasses.replace(predictions, scores=1 - predictions.scores)
    for one in (predictions, wrong_way):
        fitted = Calibrator(match(annotations, one, rules=AP50)).fit(everywhere(annotations))
        assert fitted.slope >= 0.05
        after = fitted.apply(one)
        assert ((after.scores > 0) & (after.scores < 1)).all()
        for label in (1, 2, 3):
            rows = one.labels == label
            np.testing.assert_array_equal(
                np.argsort(one.scores[rows], kind="stable"),
                np.argsort(after.scores[rows], kind="stable"),
            )
        assert mean_ap50(annotations, after) == mean_ap50(annotations, one)


def test_calibration_is_steady_where_there_is_little_to_fit_on(data) -> None:
    annotations, predictions = data
    nothing = Predictions([], [], [], [])
    fitted = Calibrator(match(annotations, nothing, rules=AP50)).fit(everywhere(annotations))
    assert (fitted.slope, fitted.offset, fitted.class_offsets.any()) == (1.0, 0.0, False)
    # Scores that tell right from wrong without a mistake, and scores of 0 and 1.
    right = match(annotations, predictions, rules=AP50).is_true_positive[:, 0]
    perfect = dataclasses.replace(predictions, scores=right.astype(float))
    fitted = Calibrator(match(annotations, perfect, rules=AP50)).fit(everywhere(annotations))
    after = fitted.apply(perfect).scores
    assert np.isfinite([fitted.slope, fitted.offset, *fitted.class_offsets, *after]).all()
    assert after[right].min() > 0.9
    assert after[~right].max() < 0.1


def test_only_differences_between_members_are_kept_of_class_offsets() -> None:
    each = [ScoreCalibration(1.0, 0.5, np.array(own)) for own in ([0.0, 1, 3], [0.0, 2, -1])]
    one, other = comparable(each)
    np.testing.assert_array_equal(one.class_offsets, [0, -0.5, 2])
    np.testing.assert_array_equal(other.class_offsets, [0, 0.5, -2])
    assert (one.slope, one.offset) == (1.0, 0.5)


# ---- weights -------------------------------------------------------------------------------------


def test_weights_follow_skill_and_lean_on_the_mean_where_boxes_are_few() -> None:
    ap = np.array([[np.nan, 0.8, 0.1, np.nan], [np.nan, 0.4, 0.5, np.nan]])
    boxes = np.array([0, 1000, 10, 0])
    inf = float("inf")
    np.testing.assert_allclose(weights_by_skill(ap, boxes, power=0, shrink_boxes=10), 1)
    shared = weights_by_skill(ap, boxes, power=2, shrink_boxes=inf)
    np.testing.assert_allclose(shared, [[1] * 4, [1.0] * 4])  # 0.45 on average, both
    own = weights_by_skill(ap, boxes, power=1, shrink_boxes=10)
    half = (0.5 * 0.1 + 0.5 * 0.45, 0.5 * 0.5 + 0.5 * 0.45)
    np.testing.assert_allclose(own[:, 2], [half[0] / half[1], 1])
    assert own[1, 1] == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(own[:, [0, 3]], 1)
    only_best = weights_by_skill(ap, boxes, power=inf, shrink_boxes=10)
    np.testing.assert_array_equal(only_best[:, 1:3], [[1, 0], [0, 1]])
    nobody = weights_by_skill(np.zeros((2, 4)), boxes, power=1, shrink_boxes=10)
    np.testing.assert_array_equal(nobody, 1)


# ---- the choice ----------------------------------------------------------------------------------


def test_scores_of_different_scales_are_made_comparable(data, incomparable) -> None:
    annotations, _ = data
    choice = choose_fusion(annotations, incomparable)
    ways = choice.ways
    assert ways["equal"].mean > ways["as they are"].mean + 0.03
    assert choice.used != "as they are"
    assert ways[choice.used].mean > max(one.mean for one in choice.alone)
    assert choice.over_best == ways[choice.used].mean - max(one.mean for one in choice.alone)
    assert choice.warnings == ()
    slopes = [one.slope for one in choice.calibrations]
    assert slopes[1] > slopes[0] > slopes[2]
    assert "with equal weights and calibrated scores" in choice.verdict


@pytest.mark.parametrize("method", ["wbf", "soft_nms"])
def test_figures_are_those_of_what_is_given(data, incomparable, method: str) -> None:
    annotations, _ = data
    choice = choose_fusion(annotations, incomparable, method, names=["a", "b", "c"])
    assert choice.ways[choice.used].mean == pytest.approx(mean_ap50(annotations, choice.held_out))
    assert [one.name for one in choice.alone] == ["a", "b", "c"]
    for figures, one in zip(choice.alone, incomparable, strict=True):
        assert figures.mean == pytest.approx(mean_ap50(annotations, one))
    calibrated = [c.apply(m) for c, m in zip(choice.calibrations, incomparable, strict=True)]
    expected = fuse(calibrated, method, weights=choice.weights, options=choice.options)
    np.testing.assert_array_equal(choice.fuse(incomparable).scores, expected.scores)
    assert [row.boxes for row in choice.classes] == sorted(row.boxes for row in choice.classes)
    for row in choice.classes:
        assert len(row.members) == len(row.weights) == 3


def test_a_poor_member_gets_less_weight_and_equal_ones_do_not(data) -> None:
    annotations, predictions = data
    good = [member(predictions, i, keep=0.95, noise=0.2) for i in (1, 2)]
    poor = [member(predictions, i, keep=0.4, noise=4.0) for i in (3, 4)]
    choice = choose_fusion(annotations, [*good, *poor])
    assert choice.used == "chosen"
    assert choice.gain > choice.standard_error > 0
    assert choice.weights[:2, 1:].min() > choice.weights[2:, 1:].max()
    assert f"Used: {choice.best_setting}" in choice.verdict
    alike = choose_fusion(annotations, [good[0], good[0]])
    assert alike.used != "chosen"
    assert (alike.weights == 1).all()
    assert "No clear gain on held-out images by other weights" in alike.verdict
    assert "Used: equal weights" in alike.verdict


def test_a_gain_counts_from_one_standard_error_on(data) -> None:
    annotations, predictions = data
    doubtful = 0
    for seed in range(4):
        two = [member(predictions, 2 * seed + i, noise=1 + i) for i in range(2)]
        choice = choose_fusion(annotations, two, "nms", num_folds=3)
        clear = choice.gain > choice.standard_error > 0
        assert clear or choice.used != "chosen"
        doubtful += choice.best_setting.power > 0 and not clear
        if choice.used != "chosen":
            assert (choice.weights == 1).all()
    assert doubtful


def test_where_fusion_is_worse_it_is_said(data, tmp_path: Path) -> None:
    annotations, predictions = data
    good, poor = predictions, member(predictions, 3, keep=0.3, noise=5.0)
    # The frequent class is the one that the poor member spoils.
    frequent = poor.labels == 1
    poor = Predictions(
        poor.image_index[frequent],
        poor.labels[frequent],
        poor.bbox[frequent] + [2, 2, 0, 0],
        np.full(frequent.sum(), 0.99),
    )
    counts = {"c1": 500, "c2": 50, "c3": 5}
    frequency = class_frequency(training_file(tmp_path, counts))
    # A high threshold keeps both boxes of every object; a single setting leaves nothing to choose.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "detbalance.calibration.fusion_choice.settings_to_try",
            lambda ious, n: settings_to_try(ious, 1),
        )
        choice = choose_fusion(
            annotations,
            [good, poor],
            "nms",
            names=["good", "poor"],
            options=Options(iou_threshold=0.9),
            frequency=frequency,
        )
    assert choice.used in ("equal", "as they are")
    assert choice.over_best < 0
    worse, harm = choice.warnings
    assert worse.startswith("Fusion is worse than good alone on held-out images: mean AP50 .")
    assert harm.startswith("Fusion costs the frequent classes 0.")
    assert set(choice.alone[0].groups) == {"rare", "common", "frequent"}


def test_a_fold_has_no_say_in_how_it_is_fused(data, incomparable) -> None:
    annotations, _ = data
    folds = image_folds(annotations, 4, 0)
    tried = settings_to_try((0.55, 0.45), 3)[:6]
    rng = np.random.default_rng(0)
    # In fold 1 the scores of one member become those of chance, and another's are turned round.
    spoilt = []
    for i, one in enumerate(incomparable):
        rows = folds[one.image_index] == 1
        scores = one.scores.copy()
        scores[rows] = rng.random(rows.sum()) if i else 1 - scores[rows]
        spoilt.append(dataclasses.replace(one, scores=scores))
    results = []
    for members in (incomparable, spoilt):
        fitted = Fitted([match(annotations, m, rules=AP50) for m in members], folds)
        trials = (fuse_folds(fitted, k, "wbf", Options(), tried) for k in (0, 1))
        results.append((fitted, *(list(zip(*one, strict=True)) for one in trials)))
    (before, (_, on_others), (parts, utility)), (after, (_, spoilt_others), (_, again)) = results
    # Fold 1 is fused by what is known without it, and had no part in choosing how.
    np.testing.assert_allclose(utility, again, rtol=1e-12)
    assert first_best(utility) == first_best(again)
    assert on_others != spoilt_others
    for setting, part in zip(tried, parts, strict=True):
        own = [
            calibration.apply(m.take(folds[m.image_index] == 1))
            for calibration, m in zip(before.calibrations(1), incomparable, strict=True)
        ]
        options = Options(iou_threshold=setting.iou_threshold)
        expected = fuse(own, weights=before.weights(setting, 1), options=options)
        np.testing.assert_allclose(part.scores, expected.scores, rtol=1e-12)
        np.testing.assert_allclose(part.bbox, expected.bbox, rtol=1e-12)
    for j in range(4):
        for one, other in zip(before.calibrations(1, j), after.calibrations(1, j), strict=True):
            assert (one.slope, one.offset) == (other.slope, other.offset)
            np.testing.assert_array_equal(one.class_offsets, other.class_offsets)
        for setting in tried:
            np.testing.assert_allclose(
                before.weights(setting, 1, j), after.weights(setting, 1, j), rtol=1e-12
            )
    # And other folds do have theirs.
    assert before.calibrations(0)[0].slope != after.calibrations(0)[0].slope


def test_thresholds_are_chosen_too_and_one_member_needs_no_weights(data, incomparable) -> None:
    annotations, _ = data
    tried = settings_to_try((0.55, 0.7), 1)
    assert [setting.iou_threshold for setting in tried] == [0.55, 0.7]
    assert all(setting.power == 0 for setting in tried)
    assert len(settings_to_try((0.55,), 2)) == 13
    # Fusing all that overlaps at all is far worse here than the usual threshold.
    choice = choose_fusion(annotations, incomparable[:1], iou_thresholds=[0.0, 0.55])
    assert choice.best_setting.iou_threshold in (0.0, 0.55)
    alone = choose_fusion(annotations, incomparable[:1], "nms")
    assert alone.ways["as they are"].mean == pytest.approx(alone.alone[0].mean)
    assert "other weights" not in alone.verdict


def test_members_without_detections_and_classes_without_boxes(tmp_path: Path) -> None:
    annotations, predictions = make_set(tmp_path, [40, 0, 20], images=30)
    choice = choose_fusion(
        annotations, [predictions, Predictions([], [], [], [])], names=["a", "b"], num_folds=3
    )
    assert any("1 class without boxes" in n and "c2" in n for n in choice.notes)
    assert any(n.startswith("b has no detection at all on") for n in choice.notes)
    assert np.isnan(next(row.used for row in choice.classes if row.name == "c2"))
    assert choice.fuse([predictions, predictions]).num_predictions


def test_the_same_twice_and_wrong_input(data, incomparable) -> None:
    annotations, _ = data
    two = incomparable[:2]
    one, other = (choose_fusion(annotations, two, num_folds=3, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one.held_out.scores, other.held_out.scores)
    assert (one.verdict, one.standard_error) == (other.verdict, other.standard_error)
    with pytest.raises(ValueError, match=r"folds: 2 folds of the 60 images"):
        choose_fusion(annotations, two, num_folds=2)
    with pytest.raises(ValueError, match="method is"):
        choose_fusion(annotations, two, "mean")
