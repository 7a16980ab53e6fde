"""Thresholds per class: fitted as a search over all of them would, judged on other images only."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from calibration_sets import counted, make_set, part, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import training_file

from detbalance.calibration import (
    Thresholds,
    apply_thresholds,
    fit_thresholds,
    load_thresholds,
    parse_objective,
    save_thresholds,
)
from detbalance.calibration.cross_fitting import image_folds, judge, mean_utility
from detbalance.calibration.threshold_curves import (
    SHARED,
    count_scores,
    fit,
    lower_end,
    make_curves,
)
from detbalance.data import Categories, Predictions
from detbalance.data.frequency import class_frequency
from detbalance.data.intervals import wilson_interval
from detbalance.evaluation.matching import Matches, match

SEEDS = st.integers(0, 10_000)
GOALS = st.sampled_from(["f1", "f2", "f0.5", "recall>=0.6", "precision>=0.5"])
SHRINKAGES = [SHARED, 10.0, 0.0]


# ---- objectives ----------------------------------------------------------------------------------


def test_objectives_are_read_as_they_are_written() -> None:
    for text, shown_as in (
        ("f1", "f1"),
        ("F2", "f2"),
        ("f.5", "f0.5"),
        ("recall>=.9", "recall>=0.9"),
        ("precision >= 0.80", "precision>=0.8"),
        ("recall=.9", "recall>=0.9"),  # no quotes needed in a shell
    ):
        assert str(parse_objective(text)) == shown_as


@pytest.mark.parametrize(
    "text", ["f0", "f", "f-1", f"f{'9' * 400}", "recall>=1", "recall>=0", "accuracy>=.5", ""]
)
def test_other_objectives_are_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(
        ValueError, match=r'cannot be read\. Expected one of f1, f2, f0\.5, "recall'
    ):
        parse_objective(text)


def test_an_objective_cut_by_the_shell_is_explained() -> None:
    with pytest.raises(
        ValueError, match=r'has no floor\. Expected for example "recall>=0\.9", with'
    ):
        parse_objective("recall")


def test_the_utility_of_a_floor_rises_up_to_it_and_then_stays() -> None:
    goal = parse_objective("recall>=0.5")
    right = np.array([0, 30, 45, 50, 55, 90, 100])
    # Precision is one half everywhere.
    utility = goal.utility(right, right, np.full(7, 100))
    assert utility[0] == 0
    assert utility[3] == pytest.approx(0.5 * 0.5)
    assert (np.diff(utility) >= 0).all()
    assert utility[-1] == pytest.approx(0.5)
    assert np.isnan(goal.utility(np.array([0]), np.array([4]), np.array([0]))).all()


# ---- counts and curves ---------------------------------------------------------------------------


@settings(max_examples=15)
@given(seed=SEEDS)
def test_counts_are_those_of_each_fold_alone(seed: int) -> None:
    matches = scene(seed)
    if not matches.is_true_positive[:, 0].any():
        return
    folds = np.arange(matches.annotations.num_images) % 3
    counts = count_scores(matches, folds)
    for fold in range(3):
        alone = part(matches.annotations, matches.predictions, np.flatnonzero(folds == fold))
        for label in range(1, len(matches.num_positive)):
            for g, threshold in enumerate(counts.thresholds):
                expected = counted(alone, threshold, label)
                found = counts.right[fold, label, g], counts.wrong[fold, label, g]
                assert (*found, counts.boxes[fold, label]) == expected


def test_many_scores_are_thinned_so_that_every_class_has_its_say(tmp_path: Path) -> None:
    # The rare class has other scores than the frequent one, which has 50 times its boxes and the
    # lowest score.
    annotations, predictions = make_set(tmp_path, [2000, 40], shifts=[-6, 0], missed=0)
    matches = match(annotations, predictions)
    folds = image_folds(annotations, 5, 0)
    thresholds = count_scores(matches, folds, most=100).thresholds
    assert len(thresholds) <= 101
    assert 40 <= np.count_nonzero(thresholds < 0.05) <= 60
    assert thresholds[0] == predictions.scores[matches.is_true_positive[:, 0]].min()


@settings(max_examples=25)
@given(seed=SEEDS, text=GOALS)
def test_own_and_shared_thresholds_are_the_best_of_all(seed: int, text: str) -> None:
    matches, goal = scene(seed), parse_objective(text)
    if not matches.is_true_positive[:, 0].any():
        return
    counts = count_scores(matches, np.arange(matches.annotations.num_images) % 3)
    curves = make_curves(*counts.without(), goal, confidence=0.9)
    every = range(1, len(matches.num_positive))
    present = [label for label in every if matches.num_positive[label]]
    table = {}  # threshold -> class -> (estimate, lower end)
    for threshold in counts.thresholds:
        row = {}
        for label in present:
            right, wrong, boxes = counted(matches, threshold, label)
            if goal.kind == "f":
                b = goal.beta**2
                value = (1 + b) * right / (b * boxes + right + wrong)
                row[label] = (value, value)
                continue
            trials = boxes if goal.kind == "recall" else right + wrong
            if trials:
                low = wilson_interval(right, trials, confidence=0.8)[0]
                row[label] = (right / trials, low, trials)
        table[float(threshold)] = row

    def best(values: dict[float, tuple[float, float]]) -> float:
        if goal.is_floor:
            for i in (1, 0):
                holds = [t for t, value in values.items() if value[i] >= goal.amount - 1e-9]
                if holds:
                    return max(holds) if goal.kind == "recall" else min(holds)
        highest = max(value[0] for value in values.values())
        return max(t for t, value in values.items() if value[0] >= highest - 1e-12)

    def mean(row: dict[int, tuple[float, ...]]) -> tuple[float, float]:
        if not row:
            return 0.0, 0.0
        value = sum(v[0] for v in row.values()) / len(row)
        if not goal.is_floor:
            return value, value
        trials = len(row) ** 2 / sum(1 / v[2] for v in row.values())
        return value, wilson_interval(value * trials, trials, confidence=0.8)[0]

    shared = best({t: mean(row) for t, row in table.items()})
    own, common = (counts.thresholds[fit(curves, n)] for n in (0.0, SHARED))
    assert (common == shared).all()
    for label in every:
        found = any(row.get(label, (0,))[0] for row in table.values())
        expected = (
            best({t: row.get(label, (0, 0))[:2] for t, row in table.items()}) if found else shared
        )
        assert own[label] == expected


# ---- shrinkage -----------------------------------------------------------------------------------


def many_and_one(boxes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six frequent classes that agree, and one with so many boxes that wants a low threshold."""
    falling = np.arange(11)[::-1]
    right = [0 * falling, *[100 * falling + 300] * 6, boxes / 10 * falling]
    wrong = [0 * falling, *[60 * falling**2] * 6, 0 * falling]
    counts = np.array([0, *[1300] * 6, boxes])
    return np.stack(right).astype(np.int64), np.stack(wrong), counts


def test_without_boxes_the_threshold_is_shared_and_with_many_it_is_the_class_s_own() -> None:
    for text in ("f1", "recall>=0.5", "precision>=0.5"):
        goal = parse_objective(text)
        for boxes, expected in ((0, SHARED), (10**7, 0.0)):
            curves = make_curves(*many_and_one(boxes), goal)
            wanted = fit(curves, expected)[-1]
            for shrink_boxes in (1.0, 10.0, 300.0):
                assert fit(curves, shrink_boxes)[-1] == wanted
            assert wanted == fit(curves, 0.0 if boxes else SHARED)[-1]
    curves = make_curves(*many_and_one(10**7), parse_objective("f1"))
    assert fit(curves, 0.0)[-1] == 0 < fit(curves, SHARED)[-1]


def test_between_them_the_curves_are_mixed_by_boxes() -> None:
    goal = parse_objective("f1")
    right, wrong, boxes = many_and_one(50)
    utility = goal.utility(right, wrong, boxes[:, None])
    mean = utility[1:].mean(axis=0)
    for shrink_boxes in (5.0, 20.0, 50.0, 200.0, 1000.0):
        share = 50 / (50 + shrink_boxes)
        mixed = share * utility[-1] + (1 - share) * mean
        place = fit(make_curves(right, wrong, boxes, goal), shrink_boxes)[-1]
        assert mixed[place] == pytest.approx(mixed.max())
    # More shrinkage never moves it away from the shared one.
    places = [fit(make_curves(right, wrong, boxes, goal), n)[-1] for n in (0, 20, 200, 2000, 1e9)]
    assert places == sorted(places)
    assert places[0] < places[-1]


def test_a_class_that_is_never_found_gets_the_shared_threshold() -> None:
    right, wrong, boxes = many_and_one(50)
    right[-1] = 0
    curves = make_curves(right, wrong, boxes, parse_objective("f1"))
    assert fit(curves, 0.0)[-1] == fit(curves, SHARED)[-1]


def test_shrinking_helps_where_boxes_are_few(tmp_path: Path) -> None:
    # Forty classes with four boxes each and the same scores: own thresholds are luck.
    fitted = fit_thresholds(*make_set(tmp_path, [4] * 40, seed=3))
    fresh = match(*make_set(tmp_path, [400] * 40, images=400, seed=4))
    categories = fresh.annotations.categories

    def utility(values: dict[str, float]) -> float:
        floors = Thresholds(values).by_label(categories)[fresh.predictions.labels]
        visible = fresh.predictions.scores >= floors
        right, wrong = (
            np.bincount(fresh.predictions.labels[visible & kind[:, 0]], minlength=41)
            for kind in (fresh.is_true_positive, fresh.is_false_positive)
        )
        return mean_utility(parse_objective("f1"), np.stack([right, wrong, fresh.num_positive]))

    own = utility({row.name: row.own for row in fitted.classes})
    shrunk = utility(dict(fitted.thresholds.values))
    assert fitted.shrink_boxes >= 10
    assert shrunk > own + 0.03
    assert fitted.held_out["shrunk"].utility > fitted.held_out["own"].utility


# ---- floors --------------------------------------------------------------------------------------


def test_two_right_detections_of_two_do_not_keep_a_floor_of_precision(tmp_path: Path) -> None:
    fitted = fit_thresholds(
        *make_set(tmp_path, [200, 2], missed=0, wrong=0), "precision>=0.8", per_class="always"
    )
    few, many = fitted.classes
    assert (few.name, few.floor) == ("c2", "unsure")
    assert (many.name, many.floor) == ("c1", "kept")
    assert lower_end(2, 2, 0.9) == pytest.approx(0.549, abs=1e-3)
    assert any(
        note == "1 class keeps precision>=0.8 here, but by too few detections for 90% confidence:"
        " c2."
        for note in fitted.notes
    )


def test_a_floor_that_cannot_be_reached_is_said_with_the_best_there_is(tmp_path: Path) -> None:
    annotations, predictions = make_set(tmp_path, [300, 200], missed=0)
    lost = np.flatnonzero(predictions.labels == 2)[:120]
    fewer = predictions.take(np.setdiff1d(np.arange(len(predictions.scores)), lost))
    fitted = fit_thresholds(annotations, fewer, "recall>=0.9", per_class="always")
    row = next(row for row in fitted.classes if row.name == "c2")
    assert row.floor == "missed"
    right = match(annotations, fewer).is_true_positive[:, 0] & (fewer.labels == 2)
    best = right.sum() / 200
    note = next(note for note in fitted.notes if "out of reach" in note)
    assert f"c2 {best:.2f} (200 boxes)" in note
    assert "c1" not in note
    # The next best: every right detection that there is, and no lower.
    assert row.own == fewer.scores[right].min()
    assert any("The lowest score in the predictions is" in note for note in fitted.notes)


def test_a_floor_is_kept_from_its_last_box_on() -> None:
    goal = parse_objective("recall>=0.8")
    counts = np.array([[0, 80, 79, 81, 0], [0, 9, 9, 9, 3], [0, 100, 100, 100, 0]])
    groups = [None, "rare", "rare", "frequent", "frequent"]
    result = judge(counts, goal, groups)
    assert (result.kept, result.num_classes) == (2, 3)
    assert result.means["rare"].recall == pytest.approx(0.795)
    assert result.means["frequent"].recall == pytest.approx(0.81)
    assert result.means["all"].precision == pytest.approx((80 / 89 + 79 / 88 + 81 / 90) / 3)


def test_classes_that_keep_and_miss_a_floor_are_counted_and_named(tmp_path: Path) -> None:
    annotations, predictions = make_set(tmp_path, [200, 200, 200], shifts=[0, 1, -2], missed=0.02)
    for per_class, way, missed in (("always", "shrunk", 0), ("never", "shared", 1)):
        fitted = fit_thresholds(annotations, predictions, "recall>=0.8", per_class=per_class)
        reached = [row.held_out.recall >= 0.8 for row in fitted.classes]
        assert fitted.held_out[way].kept == sum(reached)
        assert fitted.held_out[way].num_classes == 3
        assert [row.name for row in fitted.classes if row.floor == "missed"] == ["c3"][:missed]
        named = "1 class misses recall>=0.8 at the threshold chosen, though another would keep it"
        assert any(f"{named} here: c3." == note for note in fitted.notes) == bool(missed)


@pytest.mark.parametrize("text", ["recall>=0.8", "precision>=0.8"])
def test_floors_are_kept_on_new_images(tmp_path: Path, text: str) -> None:
    goal = parse_objective(text)
    shifts = [0.0, 1.0, -1.0, 2.0]
    kept = 0
    for seed in range(10):
        fitted = fit_thresholds(
            *make_set(tmp_path, [150] * 4, shifts=shifts, missed=0.05, seed=seed),
            goal,
            per_class="always",
        )
        fresh = match(
            *make_set(tmp_path, [1500] * 4, shifts=shifts, missed=0.05, images=300, seed=100 + seed)
        )
        for label, name in enumerate(fresh.annotations.categories.names, start=1):
            counts = counted_fast(fresh, fitted.thresholds.values[name], label)
            found, trials = goal.successes(*map(np.asarray, counts))
            kept += found >= 0.8 * trials - 1e-9
    # With 90% confidence for one threshold; the extreme of many is chosen, which costs a little.
    assert kept >= 32


def counted_fast(matches: Matches, floor: float, label: int) -> tuple[int, int, int]:
    chosen = (matches.predictions.scores >= floor) & (matches.predictions.labels == label)
    right, wrong = matches.is_true_positive[:, 0], matches.is_false_positive[:, 0]
    return (chosen & right).sum(), (chosen & wrong).sum(), int(matches.num_positive[label])


# ---- the whole -----------------------------------------------------------------------------------


def test_classes_with_other_scores_get_other_thresholds(tmp_path: Path) -> None:
    shifts = [2.0, -2.0, 0.0]
    annotations, predictions = make_set(tmp_path, [200, 60, 25], shifts=shifts)
    fitted = fit_thresholds(annotations, predictions, predictions_file="p.json")
    assert fitted.is_per_class
    assert fitted.gain > 0.05 > 2 * fitted.standard_error
    assert fitted.verdict.startswith("On held-out images mean F1 is .")
    assert [row.name for row in fitted.classes] == ["c3", "c2", "c1"]  # fewest boxes first
    by_name = {row.name: row for row in fitted.classes}
    for name, shift in zip(("c1", "c2", "c3"), shifts, strict=True):
        # Equally many right and wrong ones around +-1: halfway is near a logit of 0.
        threshold = by_name[name].threshold
        assert abs(math.log(threshold / (1 - threshold)) - shift) < 1
    assert fitted.settings.predictions == "p.json"
    again = fit_thresholds(annotations, predictions)
    assert again.thresholds.values == fitted.thresholds.values
    assert again.standard_error == fitted.standard_error


def test_where_they_do_not_help_the_shared_threshold_stays(tmp_path: Path) -> None:
    annotations, predictions = make_set(tmp_path, [100, 8, 8, 8, 8])
    fitted = fit_thresholds(annotations, predictions)
    assert not fitted.is_per_class
    assert set(fitted.thresholds.values.values()) == {fitted.shared}
    assert "No clear gain on held-out images by thresholds per class" in fitted.verdict
    assert all(row.held_out == row.shared for row in fitted.classes)
    asked = fit_thresholds(annotations, predictions, per_class="always")
    assert asked.is_per_class
    assert "as was asked for" in asked.verdict
    assert len(set(asked.thresholds.values.values())) > 1
    never = fit_thresholds(*make_set(tmp_path, [200, 60], shifts=[2, -2]), per_class="never")
    assert not never.is_per_class
    assert never.gain > never.standard_error


def test_always_is_per_class_even_where_the_shared_threshold_is_best(tmp_path: Path) -> None:
    shrinkages = []
    for seed in range(6):
        data = make_set(tmp_path, [60, 20, 20], seed=seed)
        asked = fit_thresholds(*data, per_class="always").shrink_boxes
        shrinkages.append((fit_thresholds(*data).shrink_boxes, asked))
        assert asked < SHARED
    assert any(free == SHARED for free, _ in shrinkages)


def test_a_gain_counts_from_one_standard_error_on(tmp_path: Path) -> None:
    doubtful = 0
    for seed in range(8):
        fitted = fit_thresholds(
            *make_set(tmp_path, [60, 30, 15], shifts=[0, 0.7, -0.7], images=40, seed=seed)
        )
        clear = fitted.gain > fitted.standard_error and fitted.shrink_boxes < SHARED
        assert fitted.is_per_class == clear
        assert ("No clear gain" in fitted.verdict) != clear
        doubtful += 0 < fitted.gain <= fitted.standard_error
    assert doubtful


def test_groups_and_order_come_from_the_training_file(tmp_path: Path) -> None:
    annotations, predictions = make_set(tmp_path, [200, 60, 25], shifts=[2, -2, 0])
    train = class_frequency(training_file(tmp_path, {"c1": 5, "c2": 50, "c3": 500}))
    fitted = fit_thresholds(annotations, predictions, frequency=train)
    assert [(row.name, row.group, row.train_boxes) for row in fitted.classes] == [
        ("c1", "rare", 5),
        ("c2", "common", 50),
        ("c3", "frequent", 500),
    ]
    means = fitted.held_out["shrunk"].means
    assert set(means) == {"all", "rare", "common", "frequent"}
    each = [means[name].f_score for name in ("rare", "common", "frequent")]
    assert means["all"].f_score == pytest.approx(np.mean(each))
    assert fitted.held_out["shrunk"].utility == pytest.approx(means["all"].f_score)


def test_classes_without_boxes_or_right_detections_are_named(tmp_path: Path) -> None:
    annotations, predictions = make_set(tmp_path, [100, 0, 60, 5], shifts=[0, 0, -2, 0], missed=0)
    predictions = predictions.take(predictions.labels != 4)
    fitted = fit_thresholds(annotations, predictions, per_class="always")
    for name in ("c2", "c4"):
        assert fitted.thresholds.values[name] == fitted.shared
    assert any(f"1 class without boxes in {annotations.source}" in note for note in fitted.notes)
    assert any("1 class with boxes and no right detection" in note for note in fitted.notes)


def test_nothing_right_and_wrong_arguments_are_refused(tmp_path: Path) -> None:
    annotations, predictions = make_set(tmp_path, [30], missed=1.0)
    with pytest.raises(ValueError, match=r"none of the 30 detections is right at IoU 0\.5"):
        fit_thresholds(annotations, predictions)
    with pytest.raises(ValueError, match="none of the 0 detections"):
        fit_thresholds(annotations, Predictions([], [], [], []))
    for options, message in (
        ({"confidence": 0.3}, "confidence is 0.3. Expected a number > 0.5 and < 1. A floor"),
        ({"per_class": "yes"}, 'per_class is "yes". Known: auto, always, never'),
        ({"iou": 0.4}, "iou: 0.4 is none of the thresholds"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_thresholds(annotations, predictions, **options)


def test_lvis_rules_leave_out_what_they_leave_out(shared: Path) -> None:
    from detbalance.data import load_annotations, load_predictions

    annotations = load_annotations(shared / "eval/lvis_val_100/lvis_val_100.json")
    predictions = load_predictions(shared / "eval/lvis_val_100/made_results_100.json", annotations)
    fitted = fit_thresholds(annotations, predictions)
    assert fitted.settings.rules == "lvis"
    assert len(fitted.thresholds.values) == 1230
    assert fitted.held_out["shared"].num_classes == 190


# ---- use and files -------------------------------------------------------------------------------


def test_detections_from_the_threshold_of_their_class_on_are_kept() -> None:
    categories = Categories(ids=(3, 9), names=("cat", "owl"))
    predictions = Predictions([0, 0, 1, 1], [1, 2, 1, 2], [[0, 0, 5, 5]] * 4, [0.5, 0.5, 0.4, 0.2])
    kept = apply_thresholds(predictions, Thresholds({"owl": 0.2, "cat": 0.5}), categories)
    np.testing.assert_array_equal(kept.labels, [1, 2, 2])
    np.testing.assert_array_equal(kept.image_index, [0, 0, 1])
    assert apply_thresholds(
        Predictions([], [], [], []), Thresholds({"cat": 0, "owl": 1}), categories
    )


def test_other_classes_are_named_with_the_nearest() -> None:
    categories = Categories(ids=(3, 9), names=("cat", "barn owl"))
    with pytest.raises(
        ValueError,
        match=r't\.json: no threshold for 1 of the classes \(first: "barn owl", nearest: '
        r'"barn-owl"\); unknown classes with a threshold: 1 \(first: "barn-owl", nearest: '
        r'"barn owl"\)',
    ):
        Thresholds({"cat": 0.5, "barn-owl": 0.1}, "t.json").by_label(categories)


def test_a_file_gives_back_the_thresholds_to_the_last_bit(tmp_path: Path) -> None:
    annotations, predictions = make_set(tmp_path, [90, 30, 0], shifts=[2, -2, 0])
    path = tmp_path / "new" / "thresholds.json"
    for goal in ("f1", "recall>=0.8"):
        fitted = fit_thresholds(annotations, predictions, goal, per_class="always")
        save_thresholds(path, fitted)
        read = load_thresholds(path)
        assert read.values == fitted.thresholds.values
        assert read.source == str(path)
        np.testing.assert_array_equal(
            read.by_label(annotations.categories)[1:],
            [fitted.thresholds.values[name] for name in ("c1", "c2", "c3")],
        )
        document = json.loads(path.read_text())
        assert document["schema"] == "detbalance.thresholds/1"
        assert document["objective"] == goal
        assert document["settings"]["annotations"] == annotations.source
        assert document["classes"]["c2"]["boxes"] == 30
        assert document["classes"]["c3"]["held_out"]["recall"] is None
        assert "threshold" not in document["classes"]["c2"]
        assert "NaN" not in path.read_text()


def test_shrinkage_without_end_is_null_in_the_file(tmp_path: Path) -> None:
    fitted = fit_thresholds(*make_set(tmp_path, [100, 8]))
    save_thresholds(tmp_path / "t.json", dataclasses.replace(fitted, shrink_boxes=SHARED))
    assert json.loads((tmp_path / "t.json").read_text())["shrink_boxes"] is None


def test_a_file_written_by_hand_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('{"schema": "detbalance.thresholds/1", "thresholds": {"a": 0.5, "b": 1}}')
    assert load_thresholds(path).values == {"a": 0.5, "b": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", r"the file holds \[\]\. Expected"),
        ('{"thresholds": {"a": 1}}', '"schema" is missing'),
        ('{"schema": "detbalance.report/2"}', r"\"schema\" is .detbalance\.report/2."),
        ('{"schema": "detbalance.thresholds/1"}', '"thresholds" is None'),
        ('{"schema": "detbalance.thresholds/1", "thresholds": {}}', '"thresholds" is {}'),
        (
            '{"schema": "detbalance.thresholds/1", "thresholds": {"a": 0.1, "b": NaN, "c": true}}',
            r'2 thresholds are not finite numbers \(first: "b": nan\)',
        ),
        (
            '{"schema": "detbalance.thresholds/1", "thresholds": {"a": "0.5"}}',
            "1 threshold is no finite number",
        ),
        ('{"schema": ', "not JSON"),
        ("", "the file is empty"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"t.json: .*{message}"):
        load_thresholds(path)
