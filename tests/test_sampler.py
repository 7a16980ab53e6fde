"""The sampler's promises: exact length, exact expectation, one stream for all ranks, resume."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, Dataset

from detbalance import sampling
from detbalance.sampling import RepeatFactorSampler

FACTORS = [1.0, 1.0, 2.5, 0.25, 0.0, 3.0, 1.25, 1.0, 1.7, 1.3]
some_factors = st.lists(
    st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.floats(0, 4)), min_size=1, max_size=30
).filter(any)


class Identity(Dataset):
    def __len__(self):
        return len(FACTORS)

    def __getitem__(self, index):
        return index


def stream(factors=FACTORS, *, epoch=0, **options):
    sampler = RepeatFactorSampler(factors, **options)
    sampler.set_epoch(epoch)
    return list(sampler)


@given(some_factors, st.integers(0, 5), st.integers(0, 5))
def test_sampler_draws_floor_or_ceil_and_always_the_same_number(factors, seed, epoch):
    drawn = stream(factors, seed=seed, epoch=epoch)
    counts = Counter(drawn)
    assert all(math.floor(r) <= counts[i] <= math.ceil(r) for i, r in enumerate(factors))
    assert len(drawn) == len(RepeatFactorSampler(factors))
    assert abs(len(drawn) - sum(factors)) <= 0.5 or len(drawn) == 1


@given(some_factors, st.integers(1, 8), st.integers(0, 3))
def test_sampler_ranks_are_parts_of_one_stream(factors, world_size, epoch):
    whole = stream(factors, epoch=epoch)
    ranks = [
        stream(factors, epoch=epoch, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    length = len(RepeatFactorSampler(factors, world_size=world_size))
    assert {len(part) for part in ranks} == {length}
    assert 0 <= length * world_size - len(whole) < world_size
    union = [index for step in zip(*ranks, strict=True) for index in step]
    wrapped = itertools.islice(itertools.cycle(whole), len(union))
    assert union == list(wrapped)


def test_sampler_of_small_factors_draws_one_image():
    drawn = Counter(stream([0.1, 0.2, 0.0], epoch=epoch)[0] for epoch in range(300))
    assert set(drawn) == {0, 1}


def test_sampler_mean_count_is_the_factor():
    factors = np.array([0.1, 0.1, 0.3, 1.0, 1.5, 2.75, 0.25, 3.0, 0.0, 1.0])
    assert factors.sum() == 10
    sampler = RepeatFactorSampler(factors, seed=1)
    epochs = 4000
    total = np.zeros(len(factors))
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        counts = np.bincount(list(sampler), minlength=len(factors))
        total += counts
    fraction = factors % 1
    deviation = np.sqrt(fraction * (1 - fraction) / epochs)
    assert (np.abs(total / epochs - factors) <= 4.5 * deviation).all()


def test_sampler_draws_neighbours_independently_of_their_order():
    # Laid end to end in file order, exactly one of the images 0 and 1 would be drawn every time.
    both = [{0, 1} <= set(stream(np.full(20, 0.5), epoch=epoch)) for epoch in range(1000)]
    assert 0.15 < np.mean(both) < 0.35


def test_sampler_order_is_shuffled_evenly():
    first = Counter(stream(np.ones(5), epoch=epoch)[0] for epoch in range(1000))
    assert len(first) == 5
    assert all(abs(n - 200) < 4.5 * math.sqrt(1000 * 0.2 * 0.8) for n in first.values())


def test_sampler_depends_on_seed_and_epoch_alone():
    expected = stream(seed=5, epoch=3)
    sampler = RepeatFactorSampler(FACTORS, seed=5)
    for epoch in (7, 0, 3):
        random.random()
        np.random.default_rng().random()
        torch.manual_seed(epoch)
        sampler.set_epoch(epoch)
    assert list(sampler) == expected == list(sampler)
    assert stream(seed=5, epoch=4) != expected
    assert stream(seed=4, epoch=3) != expected
    assert stream(seed=3, epoch=5) != expected


def test_sampler_leaves_global_random_state_alone():
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    stream(epoch=2)
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1][1]).all()  # noqa: NPY002
    assert (torch.get_rng_state() == states[2]).all()


def test_sampler_draw_is_frozen_while_iterating():
    sampler = RepeatFactorSampler(FACTORS)
    running = iter(sampler)
    head = list(itertools.islice(running, 3))
    sampler.set_epoch(1)
    assert head + list(running) == stream()
    assert list(sampler) == stream(epoch=1)


def test_sampler_keeps_its_own_copy_of_the_factors():
    factors = np.array(FACTORS)
    sampler = RepeatFactorSampler(factors)
    factors[:] = 9
    assert sampler.repeat_factors.tolist() == FACTORS
    with pytest.raises(ValueError, match="read-only"):
        sampler.repeat_factors[0] = 2


@given(some_factors, st.integers(1, 4), st.integers(1, 8), st.integers(0, 3), st.data())
def test_sampler_resumes_in_the_middle_on_any_world_size(factors, before, after, epoch, data):
    old = RepeatFactorSampler(factors, world_size=before)
    old.set_epoch(epoch)
    used = data.draw(st.integers(0, len(old)))
    list(itertools.islice(old, used))
    state = json.loads(json.dumps(old.state_dict()))
    assert state["position"] == used * before

    whole = stream(factors, epoch=epoch)
    left = len(whole) - used * before
    ranks = []
    for rank in range(after):
        sampler = RepeatFactorSampler(factors, rank=rank, world_size=after)
        sampler.load_state_dict(state)
        sampler.set_epoch(epoch)  # a loop does this at the start of every epoch
        ranks.append(list(sampler))
        assert list(sampler) == stream(factors, epoch=epoch, rank=rank, world_size=after)
    assert {len(part) for part in ranks} == {max(0, math.ceil(left / after))}
    union = [index for step in zip(*ranks, strict=True) for index in step]
    assert union[: max(0, left)] == whole[used * before :]
    assert len(union) - max(0, left) < after


def test_sampler_resumes_twice_in_one_epoch():
    sampler = RepeatFactorSampler(FACTORS)
    whole = list(sampler)
    for used in (2, 3, 1):
        resumed = RepeatFactorSampler(FACTORS)
        resumed.load_state_dict(sampler.state_dict(consumed=0))
        start = resumed.state_dict()["position"]
        assert list(itertools.islice(resumed, used)) == whole[start : start + used]
        state = resumed.state_dict()
        assert state["position"] == start + used
        sampler = RepeatFactorSampler(FACTORS)
        sampler.load_state_dict(state)


def test_sampler_state_counts_what_was_consumed_not_what_was_read_ahead():
    sampler = RepeatFactorSampler(FACTORS)
    sampler.set_epoch(2)
    loader = DataLoader(Identity(), sampler=sampler, batch_size=2, num_workers=1, prefetch_factor=2)
    batches = iter(loader)
    used = [next(batches).tolist() for _ in range(2)]
    assert sampler.state_dict()["position"] > 4
    state = sampler.state_dict(consumed=4)
    del batches
    resumed = RepeatFactorSampler(FACTORS)
    resumed.load_state_dict(state)
    assert [*used[0], *used[1], *resumed] == stream(epoch=2)


def test_sampler_set_epoch_after_loading_starts_the_other_epoch_from_its_beginning():
    sampler = RepeatFactorSampler(FACTORS)
    list(itertools.islice(sampler, 3))
    resumed = RepeatFactorSampler(FACTORS)
    resumed.load_state_dict(sampler.state_dict())
    resumed.set_epoch(1)
    assert list(resumed) == stream(epoch=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_sampler_drives_a_loader(workers):
    sampler = RepeatFactorSampler(FACTORS)
    loader = DataLoader(
        Identity(),
        sampler=sampler,
        batch_size=3,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(loader) == math.ceil(len(sampler) / 3)
        assert torch.cat(batches).tolist() == stream(epoch=epoch)


def test_sampler_drives_a_batch_sampler():
    batches = BatchSampler(RepeatFactorSampler(FACTORS), batch_size=4, drop_last=True)
    assert len(list(batches)) == len(batches)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ([1.0, math.nan, math.inf], r"2 factors .*factors\[1\] is nan.*repeat_factors\(\)"),
        ([1.0, -0.5], r"factors\[1\] is -0\.5"),
        ([0.0, 0.0], "all 2 factors are 0"),
        ([], r"shape \(0,\)"),
        ([[1.0]], r"shape \(1, 1\). Expected one number per image"),
    ],
)
def test_sampler_refuses_bad_factors(factors, message):
    with pytest.raises(ValueError, match=message):
        RepeatFactorSampler(factors)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 2, "world_size": 2}, ValueError, r"rank is 2. Expected 0\.\.1"),
        ({"rank": -1}, ValueError, "rank is -1"),
        ({"world_size": 0}, ValueError, "world_size is 0. Expected 1 or more"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"seed": 0.5}, TypeError, r"seed is 0\.5. Expected an integer"),
    ],
)
def test_sampler_refuses_bad_numbers(options, error, message):
    with pytest.raises(error, match=message):
        RepeatFactorSampler(FACTORS, **options)
    with pytest.raises(ValueError, match="epoch is -1"):
        RepeatFactorSampler(FACTORS).set_epoch(-1)


def test_sampler_refuses_states_that_are_not_its_own():
    state = RepeatFactorSampler(FACTORS, seed=1).state_dict()
    with pytest.raises(ValueError, match="saved with other factors"):
        RepeatFactorSampler(FACTORS[::-1], seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="saved with seed 1, this sampler has seed 0"):
        RepeatFactorSampler(FACTORS).load_state_dict(state)
    with pytest.raises(ValueError, match="the state has no factors, position"):
        RepeatFactorSampler(FACTORS).load_state_dict({"epoch": 0, "seed": 0})
    for consumed in (1, -1):
        with pytest.raises(ValueError, match=f"consumed is {consumed}. Expected 0..0"):
            RepeatFactorSampler(FACTORS).state_dict(consumed=consumed)


def test_sampling_has_no_other_names():
    with pytest.raises(AttributeError, match="no attribute 'Sampler'"):
        _ = sampling.Sampler


SCRIPT = """
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torchvision", "albumentations", "accelerate", "sklearn"}:
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Blocked())
from torch.utils.data import DataLoader
from detbalance.sampling import RepeatFactorSampler, repeat_factors

factors = repeat_factors(
    image_index=[0, 1, 1, 2, 3], labels=[1, 1, 2, 1, 1], num_images=5, threshold=0.9
)
sampler = RepeatFactorSampler(factors, seed=0, rank=0, world_size=1)
loader = DataLoader(list(range(5)), sampler=sampler, batch_size=2)
for epoch in range(2):
    sampler.set_epoch(epoch)
    drawn = [index for batch in loader for index in batch.tolist()]
    assert len(drawn) == len(sampler) == round(factors.sum()), drawn
    assert set(drawn) == set(range(5))
"""


def test_sampler_works_alone_in_a_plain_loader():
    subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], check=True)


def test_sampling_says_how_to_install_torch():
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import detbalance.sampling as s\n"
        "s.repeat_factors(image_index=[0], labels=[1], num_images=1, threshold=0.5)\n"
        "s.RepeatFactorSampler"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert 'needs torch. Install it with: pip install "detbalance[sampling]"' in done.stderr
