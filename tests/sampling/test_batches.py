"""Batches: every draw once, exact number, copies apart, groups kept together.

What they share with the samplers is in test_streams.py.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, RandomSampler

from detbalance.sampling import BalancedBatchSampler, RepeatFactorSampler, aspect_ratio_groups

COUNTS = st.lists(st.integers(0, 7), min_size=1, max_size=20).filter(any)


def batches_of(counts, size, *, seed=0, epoch=0, **options):
    """The batches of whole factors, in which every image has exactly its copies."""
    sampler = BalancedBatchSampler(
        RepeatFactorSampler(np.array(counts, dtype=float), seed=seed), size, **options
    )
    sampler.set_epoch(epoch)
    return list(sampler)


def meetings(batches):
    """Draws that find their image already in their batch."""
    return sum(len(batch) - len(set(batch)) for batch in batches)


@given(COUNTS, st.integers(1, 9), st.integers(0, 3), st.data())
def test_every_draw_is_in_one_batch_and_all_but_the_last_are_full(counts, size, epoch, data):
    groups = data.draw(
        st.none() | st.lists(st.integers(-1, 3), min_size=len(counts), max_size=len(counts))
    )
    batches = batches_of(counts, size, epoch=epoch, groups=groups)
    drawn = Counter(itertools.chain(*batches))
    assert drawn == Counter(np.repeat(np.arange(len(counts)), counts).tolist())
    assert len(batches) == math.ceil(sum(counts) / size)
    assert {len(batch) for batch in batches[:-1]} <= {size}
    if sum(counts) >= size:
        kept = batches_of(counts, size, epoch=epoch, groups=groups, drop_last=True)
        assert kept == batches[: sum(counts) // size]


@cache
def fewest_meetings(counts, rooms):
    """Try every way: images one after the other, their copies in all ways over the batches."""
    if not counts:
        return 0
    best = math.inf
    for put in itertools.product(*(range(min(room, counts[0]) + 1) for room in rooms)):
        if sum(put) == counts[0]:
            left = tuple(sorted(room - n for room, n in zip(rooms, put, strict=True)))
            met = sum(max(0, n - 1) for n in put)
            best = min(best, met + fewest_meetings(counts[1:], left))
    return best


@settings(max_examples=150)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 5), st.integers(0, 9))
def test_no_other_way_has_fewer_meetings(counts, size, seed):
    total = sum(counts)
    rooms = [size] * (total // size) + [total % size] * (total % size > 0)
    if len(rooms) > 5:
        return
    expected = fewest_meetings(tuple(sorted(counts)), tuple(sorted(rooms)))
    assert meetings(batches_of(counts, size, seed=seed)) == expected


@pytest.mark.parametrize("counts", [[9, 2], [6, 6, 2], [8, 1, 2]])
def test_of_few_images_the_most_frequent_fill_the_last_batch(counts):
    size = len(counts) + 2
    rooms = [size] * (sum(counts) // size) + [sum(counts) % size]
    expected = fewest_meetings(tuple(sorted(counts)), tuple(sorted(rooms)))
    assert {meetings(batches_of(counts, size, seed=seed)) for seed in range(40)} == {expected}


@given(COUNTS, st.integers(1, 9))
def test_copies_are_in_as_many_batches_as_there_are(counts, size):
    batches = batches_of(counts, size)
    for image, copies in enumerate(counts):
        held = [batch.count(image) for batch in batches if len(batch) == size]
        # The batch that is not full has no room for everyone.
        assert sum(map(bool, held)) >= min(copies, len(held)) - (len(held) < len(batches))
        assert max(held, default=0) - min(held, default=0) <= 1


def test_shuffled_batches_let_copies_meet():
    factors = np.r_[np.full(20, 5.0), np.ones(100)]
    naive = BatchSampler(RepeatFactorSampler(factors), 16, drop_last=False)
    assert meetings(naive) > 5
    assert meetings(batches_of(factors, 16)) == 0


@given(COUNTS, st.integers(1, 6), st.integers(1, 4), st.integers(0, 3), st.data())
def test_groups_keep_to_themselves_but_for_what_is_left(counts, size, number, seed, data):
    groups = np.array(
        data.draw(st.lists(st.integers(0, number - 1), min_size=len(counts), max_size=len(counts)))
    )
    batches = batches_of(counts, size, seed=seed, groups=groups * 10 - 5)
    drawn = np.bincount(groups, weights=counts, minlength=number).astype(int)
    pure = defaultdict(int)
    mixed = []
    for batch in batches:
        held = set(groups[batch].tolist())
        if len(held) == 1 and len(batch) == size:
            pure[held.pop()] += 1
        else:
            mixed.append(held)
    assert len(mixed) <= number
    for group, total in enumerate(drawn):
        assert total // size <= pure[group]
    # Mixed batches take neighbours: those between two of a batch have nothing left, or it too.
    for held in mixed:
        between = set(range(min(held), max(held) + 1)) - held
        assert all(drawn[group] % size == 0 for group in between)
    for image, copies in enumerate(counts):
        if copies <= drawn[groups[image]] // size:
            assert all(batch.count(image) <= 1 for batch in batches)


def grouped_like_torchvision(indices, groups, size, length):
    """Fill a buffer per group; then fill up the fullest buffers with draws seen before."""
    held, seen, batches = defaultdict(list), defaultdict(list), []
    for index in indices:
        group = groups[index]
        held[group].append(index)
        seen[group].append(index)
        if len(held[group]) == size:
            batches.append(held.pop(group))
    for group in sorted(held, key=lambda g: -len(held[g]))[: max(0, length - len(batches))]:
        again = itertools.islice(itertools.cycle(seen[group]), size - len(held[group]))
        batches.append([*held[group], *again])
    return batches


def test_buffers_by_group_repeat_some_draws_and_lose_others():
    """T4: torchvision's GroupedBatchSampler, whose length is that of batches without groups."""
    groups = np.arange(21) % 3
    indices = list(range(21))
    length = len(indices) // 4
    naive = grouped_like_torchvision(indices, groups, 4, length)
    drawn, shown = Counter(indices), Counter(itertools.chain(*naive))
    assert len(naive) == length
    assert shown - drawn
    assert drawn - shown
    # And where stochastic rounding draws more than len() said, its length is wrong as well.
    assert len(grouped_like_torchvision(indices * 2, groups, 4, length)) > length
    ours = BalancedBatchSampler(
        RepeatFactorSampler(np.full(21, 1.4), seed=1), 4, groups=groups, drop_last=True
    )
    for epoch in range(10):
        ours.set_epoch(epoch)
        batches = list(ours)
        drawn = Counter(ours.sampler.epoch_indices().tolist())
        assert len(batches) == len(ours) == 29 // 4
        assert Counter(itertools.chain(*batches)) <= drawn


def test_batches_are_shuffled_evenly():
    first, last = Counter(), Counter()
    for epoch in range(600):
        batches = batches_of([1] * 8, 3, epoch=epoch)
        first.update(batches[0])
        last.update(batches[-1])
    for counts, share in ((first, 3 / 8), (last, 2 / 8)):
        deviation = math.sqrt(600 * share * (1 - share))
        assert all(abs(counts[image] - 600 * share) < 4.5 * deviation for image in range(8))


def test_repeated_images_have_no_place_of_their_own_in_a_batch():
    places = Counter()
    for epoch in range(300):
        batches = batches_of([4] + [1] * 12, 4, epoch=epoch)
        places.update(batch.index(0) for batch in batches)
    deviation = math.sqrt(1200 * 1 / 4 * 3 / 4)
    assert all(abs(places[place] - 300) < 4.5 * deviation for place in range(4))


def test_copies_are_not_in_batches_next_to_each_other_only():
    gaps = Counter()
    for epoch in range(300):
        held = [
            n for n, batch in enumerate(batches_of([2] + [1] * 10, 2, epoch=epoch)) if 0 in batch
        ]
        gaps[held[1] - held[0]] += 1
    assert set(gaps) == {1, 2, 3, 4, 5}


def test_epoch_may_be_set_on_the_sampler_as_frameworks_do():
    def build():
        return BalancedBatchSampler(RepeatFactorSampler([1.5] * 8, seed=2), 3)

    expected = build()
    expected.set_epoch(2)
    batches = build()
    list(batches)
    batches.sampler.set_epoch(2)
    assert batches.epoch == 2
    assert batches.state_dict() == expected.state_dict()
    assert list(batches) == list(expected)
    assert (batches.batch_size, batches.drop_last) == (3, False)


def test_endless_batches_stay_where_they_were_restored():
    """Accelerate sets the sampler's epoch to its own count before each iterator."""

    def build():
        return BalancedBatchSampler(RepeatFactorSampler([1.5] * 8, seed=2, infinite=True), 3)

    whole = list(itertools.islice(build(), 20))
    old = build()
    list(itertools.islice(old, 9))
    resumed = build()
    resumed.load_state_dict(old.state_dict())
    resumed.set_epoch(0)
    resumed.sampler.set_epoch(0)
    assert list(itertools.islice(resumed, 6)) == whole[9:15]
    again = build()
    again.load_state_dict(resumed.state_dict())
    assert list(itertools.islice(again, 5)) == whole[15:]


def test_states_of_other_batches_are_refused():
    sampler = RepeatFactorSampler([1.0] * 6)
    state = BalancedBatchSampler(sampler, 2).state_dict()
    for other in (
        BalancedBatchSampler(sampler, 3),
        BalancedBatchSampler(sampler, 2, drop_last=True),
        BalancedBatchSampler(sampler, 2, groups=[0, 0, 0, 1, 1, 1]),
        BalancedBatchSampler(RepeatFactorSampler([2.0] * 6), 2),
    ):
        with pytest.raises(ValueError, match=r"other batches\. Expected the same sampler, batch"):
            other.load_state_dict(state)


@pytest.mark.parametrize(
    ("size", "options", "error", "message"),
    [
        (0, {}, ValueError, "batch_size is 0. Expected a whole number >= 1. Pass the"),
        (2.0, {}, ValueError, r"batch_size is 2\.0"),
        (7, {"drop_last": True}, ValueError, "batch_size is 7 for 6 draws in an epoch"),
        (2, {"groups": [0, 1]}, ValueError, r"shape \(2,\) for 6 images.*aspect_ratio_groups"),
        (2, {"groups": [0.5] * 6}, TypeError, "groups are float64. Expected integers"),
    ],
)
def test_bad_arguments_are_refused(size, options, error, message):
    with pytest.raises(error, match=message):
        BalancedBatchSampler(RepeatFactorSampler([1.0] * 6), size, **options)


def test_other_samplers_are_refused():
    with pytest.raises(TypeError, match=r"sampler is a RandomSampler\. Expected a sampler of"):
        BalancedBatchSampler(RandomSampler(range(3)), 2)


def test_aspect_ratio_groups():
    widths, heights = [100, 200, 100, 0, 300, 99], [100, 100, 200, 0, 100, 100]
    assert aspect_ratio_groups(widths, heights).tolist() == [1, 1, 0, 1, 1, 0]
    groups = aspect_ratio_groups(widths, heights, edges=[0.5, 1.0, 2.0])
    assert groups.tolist() == [2, 3, 1, 2, 3, 1]
    assert groups.dtype == np.int64


@pytest.mark.parametrize(
    ("sizes", "edges", "message"),
    [
        (([1, 2], [1]), [1.0], r"widths have the shape \(2,\), heights \(1,\)"),
        (([1], [1]), [2.0, 1.0], r"edges are \[2\.0, 1\.0\]. Expected ascending"),
        (([1], [1]), [0.0], r"edges are \[0\.0\]"),
    ],
)
def test_aspect_ratio_groups_refuse_bad_arguments(sizes, edges, message):
    with pytest.raises(ValueError, match=message):
        aspect_ratio_groups(*sizes, edges=edges)
