"""Class-aware sampling: all classes take turns, each goes through its images, empties stay in."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detbalance.sampling import ClassAwareSampler, ImageLabels, class_aware_factors

LABELS = [[1]] * 6 + [[2]] * 3 + [[3]] + [[]] * 2  # each image shows one class, or none
CLASS = np.array([labels[0] if labels else 0 for labels in LABELS])
some_labels = st.lists(st.lists(st.integers(1, 6), max_size=3), min_size=1, max_size=15)


def epochs_of(sampler, number):
    return np.array([sampler.epoch_indices(epoch) for epoch in range(number)])


@given(some_labels, st.integers(1, 40), st.integers(0, 3))
def test_draws_agree_with_the_factors_to_less_than_two_per_class(labels, length, seed):
    factors = class_aware_factors(labels, target_length=length)
    sampler = ClassAwareSampler(labels, target_length=length, seed=seed)
    drawn = np.zeros(len(labels))
    for epoch in range(6):
        drawn += np.bincount(sampler.epoch_indices(epoch), minlength=len(labels))
        # One for the class's own rounding, one for that of its turns; the empties have their own.
        tolerance = np.array([2 * max(len(set(held)), 1) for held in labels])
        assert (np.abs(drawn - (epoch + 1) * factors) < tolerance + 1e-9).all()
    assert drawn.sum() == 6 * length


def test_mean_draws_are_the_factors():
    generator = np.random.default_rng(0)
    labels = [generator.zipf(1.6, generator.integers(0, 5)).clip(max=12) for _ in range(60)]
    assert not all(map(len, labels))
    for background in (None, 0.4, 0.0):
        factors = class_aware_factors(labels, background=background)
        # One epoch of each of many seeds: nothing carries over from one to the next.
        draws = [
            ClassAwareSampler(labels, background=background, seed=s)._draw(s) for s in range(300)
        ]
        mean = np.bincount(np.concatenate(draws), minlength=60) / 300
        rounding = 0.5 / sum(not len(held) for held in labels)
        bound = 4.5 * np.sqrt(factors / 300) + rounding
        assert (np.abs(mean - factors) <= bound).all()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(1, 30), st.integers(0, 2))
def test_every_class_has_its_turn_in_every_cycle(classes, length, epoch):
    sampler = ClassAwareSampler(
        [[label] if label else [] for label in classes], target_length=length
    )
    drawn = np.array(classes)[sampler.epoch_indices(epoch)]
    turns = drawn[drawn > 0]
    number = len(set(classes) - {0})
    for start in range(0, len(turns), max(number, 1)):
        cycle = turns[start : start + number]
        assert len(set(cycle)) == len(cycle)
    counts = Counter(turns.tolist())
    for label in set(classes) - {0}:
        assert len(turns) // number <= counts[label] <= math.ceil(len(turns) / number)


def test_drawing_classes_at_random_is_not_taking_turns():
    naive = np.random.default_rng(0).integers(1, 4, 12)
    assert set(Counter(naive.tolist()).values()) != {4}
    drawn = CLASS[ClassAwareSampler(LABELS, background=0.0).epoch_indices()]
    assert Counter(drawn.tolist()) == {1: 4, 2: 4, 3: 4}


@pytest.mark.parametrize("length", [2, 7, 12, 40])
def test_class_shows_all_its_images_before_any_again_also_over_epochs(length):
    sampler = ClassAwareSampler(LABELS, target_length=length, background=0.25)
    drawn = epochs_of(sampler, 240 // length).ravel()
    for label in range(4):
        mine = drawn[CLASS[drawn] == label]
        own = set(np.flatnonzero(label == CLASS).tolist())
        passes = [mine[i : i + len(own)].tolist() for i in range(0, len(mine), len(own))]
        assert all(set(whole) == own for whole in passes[:-1])
        assert len(own) < 3 or len({tuple(whole) for whole in passes[:-1]}) > 1


def test_every_cycle_has_a_new_order():
    drawn = CLASS[ClassAwareSampler(LABELS, target_length=300, background=0.0).epoch_indices()]
    orders = Counter(tuple(cycle) for cycle in drawn.reshape(-1, 3).tolist())
    assert len(orders) == 6
    assert max(orders.values()) < 40  # 16.7 expected
    begun = epochs_of(ClassAwareSampler([[1], [2], [3]], target_length=2), 40)
    assert len(set(map(tuple, begun.tolist()))) == 6


def test_further_turns_go_round():
    sampler = ClassAwareSampler([[1], [2], [3], [4], [5]], target_length=7)
    for first in range(0, 20, 5):
        extra = np.zeros(5)
        for epoch in range(first, first + 5):
            extra += np.bincount(sampler.epoch_indices(epoch), minlength=5) - 1
        assert extra.tolist() == [2] * 5


@pytest.mark.parametrize("background", [None, 0.0, 0.03, 0.3, 0.75])
def test_images_without_boxes_have_their_share_evenly_spread(background):
    share = 2 / 12 if background is None else background
    sampler = ClassAwareSampler(LABELS, target_length=25, background=background)
    places = []
    for epoch in range(40):
        empty = np.flatnonzero(CLASS[sampler.epoch_indices(epoch)] == 0)
        assert math.floor(25 * share) <= len(empty) <= math.ceil(25 * share)
        if len(empty) > 1:
            assert np.ptp(np.diff(empty)) <= 1
        places += empty.tolist()
    assert len(places) == round(40 * 25 * share)
    assert not places or set(range(25)) == set(places) or background == 0.03


def test_class_aware_sampling_by_classes_alone_never_shows_backgrounds():
    """T9: the usual class-aware samplers choose a class, then an image that has it."""
    images = {label: np.flatnonzero(label == CLASS) for label in (1, 2, 3)}
    generator = np.random.default_rng(0)
    naive = {generator.choice(images[generator.integers(1, 4)]) for _ in range(500)}
    empty = {10, 11}
    assert not naive & empty
    ours = epochs_of(ClassAwareSampler(LABELS, target_length=5), 8)
    assert empty <= set(ours.ravel().tolist())
    told = epochs_of(ClassAwareSampler(LABELS, background=0.0), 8)
    assert not empty & set(told.ravel().tolist())


def test_data_of_one_kind_only_are_drawn_in_passes():
    for labels in ([[], [], []], [[1], [1], [1]]):
        drawn = ClassAwareSampler(labels, target_length=6).epoch_indices()
        assert sorted(drawn[:3]) == sorted(drawn[3:]) == [0, 1, 2]
    assert ClassAwareSampler([[7]], target_length=2).epoch_indices().tolist() == [0, 0]
    assert ClassAwareSampler([[]]).epoch_indices().tolist() == [0]


def test_all_forms_of_the_data_give_the_same_draws():
    flat = {
        "image_index": [3, 0, 0, 1, 2],
        "labels": [1, 1, 2, 2, 3],
        "num_images": 4,
        "is_crowd": [False, False, False, False, True],
    }
    forms = [
        ClassAwareSampler(**flat, seed=3),
        ClassAwareSampler(ImageLabels(**flat), seed=3),
        ClassAwareSampler([[2, 1], [2], [], [1, 1]], seed=3),
    ]
    assert len({tuple(form) for form in forms}) == 1
    assert len({form.digest for form in forms}) == 1


def test_states_of_other_draws_are_refused():
    fixed = {"target_length": 12, "background": 0.25}
    state = ClassAwareSampler(LABELS, **fixed).state_dict()
    for other in (
        ClassAwareSampler(LABELS[::-1], **fixed),
        ClassAwareSampler([*LABELS, []], **fixed),
        ClassAwareSampler(LABELS, **{**fixed, "target_length": 11}),
        ClassAwareSampler(LABELS, **{**fixed, "background": 0.0}),
    ):
        with pytest.raises(ValueError, match=r"other labels\. Expected the same annotations, targ"):
            other.load_state_dict(state)


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (LABELS, {"background": 1.5}, ValueError, r"background is 1\.5"),
        (LABELS[:5], {"background": 0.1}, ValueError, r"background is 0\.1, but no image without"),
        ([[], []], {"background": 0.1}, ValueError, "no image with boxes"),
        (
            LABELS,
            {"target_length": 0},
            ValueError,
            "target_length is 0. Expected a whole number >= 1. Leave",
        ),
        (LABELS, {"target_length": 2.5}, ValueError, r"target_length is 2\.5"),
        (None, {}, ValueError, r"ClassAwareSampler: image_index, labels or num_images"),
        (None, {"boxes": []}, TypeError, r"ClassAwareSampler: does not know boxes"),
    ],
)
def test_bad_arguments_are_refused(labels, options, error, message):
    with pytest.raises(error, match=message):
        ClassAwareSampler(labels, **options)
