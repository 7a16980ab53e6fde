"""The repeat factor sampler's own promises: exact expectation and length, and the peers' faults.

What it shares with the other samplers is in test_streams.py.
"""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from detbalance import sampling
from detbalance.sampling import RepeatFactorSampler

FACTORS = [1.0, 1.0, 2.5, 0.25, 0.0, 3.0, 1.25, 1.0, 1.7, 1.3]
some_factors = st.lists(
    st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3000.0]), st.floats(0, 4)),
    min_size=1,
    max_size=30,
).filter(any)


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


@given(some_factors, st.integers(1, 8), st.integers(0, 3), st.data())
def test_sampler_ranks_are_parts_of_one_stream_from_any_place(factors, world_size, epoch, data):
    whole = stream(factors, epoch=epoch)
    used = data.draw(st.integers(0, len(whole)))
    ranks = []
    for rank in range(world_size):
        sampler = RepeatFactorSampler(factors, rank=rank, world_size=world_size)
        sampler.load_state_dict({**sampler.state_dict(), "epoch": epoch, "position": used})
        ranks.append(list(sampler))
    union = [index for step in zip(*ranks, strict=True) for index in step]
    assert 0 <= len(union) - (len(whole) - used) < world_size
    wrapped = itertools.islice(itertools.cycle(whole), used, used + len(union))
    assert union == list(wrapped)


def test_sampler_takes_factors_of_every_size():
    drawn = Counter(stream([0.0, 1e6, 0.5, 0.5]))
    assert drawn[1] == 1_000_000
    assert drawn[0] == 0
    assert drawn[2] + drawn[3] == 1
    assert stream([0.3]) == [0]
    assert stream([2.0]) == [0, 0]


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


def test_rounding_up_once_draws_more_than_asked():
    """T1: mmengine rounds factors up at the start, which doubles every image just above 1."""
    factors = np.random.default_rng(0).pareto(3, 2000) * 0.2 + 1.0
    rounded_up = np.ceil(factors)
    assert rounded_up.sum() > 1.6 * factors.sum()
    sampler = RepeatFactorSampler(factors)
    epochs = np.array([sampler.epoch_indices(epoch) for epoch in range(400)])
    assert epochs.shape == (400, round(factors.sum()))
    drawn = np.bincount(epochs.ravel(), minlength=2000) / 400
    deviation = np.sqrt(factors % 1 * (1 - factors % 1) / 400)
    assert (np.abs(drawn - factors) <= 5 * deviation + 1e-3).all()
    assert not (np.abs(rounded_up - factors) <= 5 * deviation + 1e-3).all()


def test_one_seed_for_all_runs_replays_one_order():
    """T2: detectron2's default seed of -1 is a fixed one, also after a resume."""

    def detectron2_like(run_seed, first_step):
        generator = np.random.default_rng(2**32 - 1)  # neither the run nor the step matters
        return generator.permutation(20).tolist()[:8]

    def ours(run_seed, first_step):
        sampler = RepeatFactorSampler(np.ones(20), seed=run_seed, infinite=True)
        place = {"epoch": first_step // 20, "position": first_step % 20}
        sampler.load_state_dict({**sampler.state_dict(), **place})
        return list(itertools.islice(sampler, 8))

    runs = [(0, 0), (1, 0), (0, 7), (0, 20)]
    orders = [{tuple(sample(*run)) for run in runs} for sample in (detectron2_like, ours)]
    assert [len(order) for order in orders] == [1, 4]


def test_global_random_state_makes_ranks_miss_images():
    """T3: United-Perception rounds and shuffles by the global generator, then slices."""
    factors = np.random.default_rng(0).pareto(3, 2000) * 0.2 + 1.0

    def by_global_state(rank):
        generator = np.random.RandomState(rank)
        copies = np.floor(factors) + (generator.random_sample(2000) < factors % 1)
        drawn = generator.permutation(np.repeat(np.arange(2000), copies.astype(int)))
        return drawn[rank * len(drawn) // 8 : (rank + 1) * len(drawn) // 8].tolist()

    naive = [by_global_state(rank) for rank in range(8)]
    assert len({len(part) for part in naive}) > 1
    assert len(set().union(*naive)) < 0.75 * 2000
    ours = [stream(factors, rank=rank, world_size=8) for rank in range(8)]
    assert len({len(part) for part in ours}) == 1
    assert len(set().union(*ours)) == 2000


def test_sampler_draws_neighbours_independently_of_their_order():
    # Laid end to end in file order, exactly one of the images 0 and 1 would be drawn every time.
    both = [{0, 1} <= set(stream(np.full(20, 0.5), epoch=epoch)) for epoch in range(1000)]
    assert 0.15 < np.mean(both) < 0.35


def test_sampler_order_is_shuffled_evenly():
    first = Counter(stream(np.ones(5), epoch=epoch)[0] for epoch in range(1000))
    assert len(first) == 5
    assert all(abs(n - 200) < 4.5 * math.sqrt(1000 * 0.2 * 0.8) for n in first.values())


def test_sampler_keeps_its_own_copy_of_the_factors():
    factors = np.array(FACTORS)
    sampler = RepeatFactorSampler(factors)
    factors[:] = 9
    assert sampler.repeat_factors.tolist() == FACTORS
    with pytest.raises(ValueError, match="read-only"):
        sampler.repeat_factors[0] = 2


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


def test_sampler_refuses_states_of_other_factors():
    state = RepeatFactorSampler(FACTORS).state_dict()
    with pytest.raises(ValueError, match=r"other factors\. Expected the same annotations"):
        RepeatFactorSampler(FACTORS[::-1]).load_state_dict(state)


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
    assert re.search(r"needs torch. Install with: pip install .*\[sampling\]", done.stderr)
