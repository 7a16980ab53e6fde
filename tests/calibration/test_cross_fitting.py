"""Settings judged and chosen on folds that had no part in it, and how sure the gain is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from calibration_sets import counted, make_set, part, scene
from hypothesis import given, settings
from hypothesis import strategies as st

from detbalance.calibration import parse_objective
from detbalance.calibration.cross_fitting import (
    choose,
    cross_fit,
    image_folds,
    mean_utility,
    run_trials,
    shown,
    standard_error,
    total_counts,
)
from detbalance.calibration.threshold_curves import SHARED, count_scores, fit, make_curves
from detbalance.evaluation.matching import match

SEEDS = st.integers(0, 10_000)
SHRINKAGES = [SHARED, 10.0, 0.0]


def test_folds_are_even_and_deal_out_rare_classes_first(tmp_path: Path) -> None:
    annotations, _ = make_set(tmp_path, [300, 30, 7], images=53)
    folds = image_folds(annotations, 5, 3)
    assert np.ptp(np.bincount(folds)) <= 1
    rare = np.unique(annotations.image_index[annotations.labels == 3])
    assert np.ptp(np.bincount(folds[rare], minlength=5)) <= 1
    np.testing.assert_array_equal(folds, image_folds(annotations, 5, 3))
    assert (folds != image_folds(annotations, 5, 4)).any()


def test_too_few_images_or_folds_are_refused(tmp_path: Path) -> None:
    annotations, _ = make_set(tmp_path, [5], images=4)
    for number in (2, 5):
        with pytest.raises(ValueError, match=f"{number} folds of the 4 images.*3 or more"):
            image_folds(annotations, number, 0)


@pytest.mark.parametrize("text", ["f1", "recall>=0.7"])
def test_held_out_counts_are_those_of_refitting_without_the_fold(tmp_path: Path, text: str) -> None:
    annotations, predictions = make_set(tmp_path, [60, 12, 3], shifts=[0, -1, 1], images=20)
    goal, matches = parse_objective(text), match(annotations, predictions)
    folds = image_folds(annotations, 4, 0)
    trials, _ = run_trials(count_scores(matches, folds), goal, SHRINKAGES)
    for a, shrink_boxes in enumerate(SHRINKAGES):
        total = np.zeros((3, 4), dtype=np.int64)
        for fold in range(4):
            others = part(annotations, predictions, np.flatnonzero(folds != fold))
            counts = count_scores(others, np.zeros(others.annotations.num_images, dtype=np.int64))
            place = fit(make_curves(*counts.without(), goal), shrink_boxes)
            alone = part(annotations, predictions, np.flatnonzero(folds == fold))
            for label in range(1, 4):
                total[:, label] += counted(alone, counts.thresholds[place[label]], label)
        np.testing.assert_array_equal(total_counts(choose(trials, goal), a), total)


def test_what_a_fold_is_judged_by_does_not_know_the_fold(tmp_path: Path) -> None:
    annotations, predictions = make_set(tmp_path, [80, 20, 8], shifts=[0, -2, 2], images=30)
    goal, folds = parse_objective("f1"), image_folds(annotations, 5, 0)
    settings_of = [SHARED, 100.0, 30.0, 10.0, 3.0, 0.0]
    matches = match(annotations, predictions)
    right = matches.is_true_positive[:, 0]
    # The same detections with scores of fold 2 turned upside down, at scores that exist already.
    scores = predictions.scores.copy()
    inside = folds[predictions.image_index] == 2
    scores[inside & ~right] = scores[right].max()
    scores[inside & right] = scores[right].min()
    other = match(annotations, dataclasses.replace(predictions, scores=scores))
    results = []
    for each in (matches, other):
        trials, thresholds = run_trials(count_scores(each, folds), goal, settings_of)
        results.append((thresholds, choose(trials, goal).of_fold))
    (before, chosen), (after, chosen_after) = results
    np.testing.assert_array_equal(before[:, 2], after[:, 2])
    assert chosen[2] == chosen_after[2]
    assert (before != after).any()


def test_the_engine_judges_a_choice_that_each_fold_had_no_part_in() -> None:
    gains = np.array([[1, 1, 9], [2, 2, 2]])  # of two settings on three folds

    def trials(k: int) -> Iterator[tuple[int, float]]:
        return ((own[k], own.sum() - own[k]) for own in gains)

    crossed = cross_fit(3, trials, sum)
    assert (crossed.utility, crossed.best) == ([11, 6], 0)
    np.testing.assert_array_equal(crossed.of_fold, [0, 0, 1])
    assert crossed.held_out(crossed.of_fold) == [1, 1, 2]
    assert crossed.held_out(1) == [2, 2, 2]
    never = cross_fit(2, lambda k: [(0, np.nan), (0, 0.0)], lambda parts: np.nan)
    assert (never.best, never.of_fold.tolist()) == (0, [1, 1])


def test_a_fold_has_no_vote_on_its_own_setting() -> None:
    # The second setting is a little better on every fold, and far worse on the first.
    right = np.full((2, 3, 3, 2), 50)
    right[1] += 2
    right[1, :, 0] = 0
    boxes = np.full((3, 2), 100)
    right[..., 0] = boxes[:, 0] = 0
    trials = np.stack([right, np.zeros_like(right), np.broadcast_to(boxes, right.shape)], axis=3)
    for first, best, of_fold in ((0, 0, [1, 0, 0]), (1, 1, [1, 1, 1])):
        crossed = choose(trials, parse_objective("f1"), first=first)
        assert crossed.best == best
        np.testing.assert_array_equal(crossed.of_fold, of_fold)


@settings(max_examples=15)
@given(seed=SEEDS)
def test_what_is_shown_is_what_is_counted(seed: int) -> None:
    matches = scene(seed)  # many equal scores
    if not matches.is_true_positive[:, 0].any():
        return
    folds = np.arange(matches.annotations.num_images) % 3
    goal, settings_of_folds = parse_objective("f1"), np.array([2, 0, 1])
    trials, thresholds = run_trials(count_scores(matches, folds), goal, SHRINKAGES)
    result = total_counts(choose(trials, goal), settings_of_folds)
    masks = shown(matches, folds, thresholds[settings_of_folds, np.arange(3)])
    labels, num_classes = matches.predictions.labels, len(matches.num_positive)
    for mask, counts in zip(masks, result[:2], strict=True):
        np.testing.assert_array_equal(np.bincount(labels[mask], minlength=num_classes), counts)


def test_the_plainest_of_equally_good_settings_is_chosen(tmp_path: Path) -> None:
    annotations, predictions = make_set(tmp_path, [50, 50])
    goal = parse_objective("f1")
    counts = count_scores(match(annotations, predictions), image_folds(annotations, 4, 0))
    crossed = choose(run_trials(counts, goal, [SHARED, SHARED, SHARED])[0], goal)
    assert crossed.best == 0
    assert (crossed.of_fold == 0).all()


def test_the_standard_error_is_that_of_drawing_images_again(tmp_path: Path) -> None:
    goal = parse_objective("f1")
    world = make_set(tmp_path, [1500, 1500, 1500], images=4500)
    gains, errors = [], []
    for drawn in np.random.default_rng(0).permutation(4500).reshape(-1, 90):
        matches = part(*world, drawn)
        folds = np.zeros(90, dtype=np.int64)
        # Two thresholds that are given, not fitted.
        pair = [shown(matches, folds, np.full((1, 4), t)) for t in (0.3, 0.6)]
        errors.append(standard_error(matches, *pair, goal))
        utilities = []
        for masks in pair:
            counts = [np.bincount(matches.predictions.labels[mask], minlength=4) for mask in masks]
            utilities.append(mean_utility(goal, np.stack([*counts, matches.num_positive])))
        gains.append(utilities[1] - utilities[0])
    assert np.mean(errors) == pytest.approx(np.std(gains), rel=0.2)
    assert standard_error(matches, pair[0], pair[0], goal) == 0
