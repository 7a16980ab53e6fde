"""The stream of batches: complete, endless, and taken up again at any batch."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from detbalance.sampling import RepeatFactorSampler
from detbalance.training.run import BatchStream

FACTORS = [1.0, 2.5, 1.0, 0.5, 3.0, 1.0]


def stream(batch_size: int, factors=FACTORS, *, rank: int = 0, world_size: int = 1) -> BatchStream:
    sampler = RepeatFactorSampler(factors, seed=1, rank=rank, world_size=world_size, infinite=True)
    return BatchStream(sampler, batch_size)


def batches(stream: BatchStream, number: int) -> list:
    return list(islice(stream, number))


def test_batches_run_over_epochs_and_are_always_full():
    sampler = RepeatFactorSampler(FACTORS, seed=1)
    drawn = batches(stream(4), 9)  # 36 draws are 4 epochs of 9
    assert {len(batch) for batch in drawn} == {4}
    draws = [draw for batch in drawn for draw in batch]
    assert [draw.position for draw in draws] == list(range(36))
    for epoch in range(4):
        sampler.set_epoch(epoch)
        part = draws[epoch * 9 : epoch * 9 + 9]
        assert [d.index for d in part] == list(sampler)


@pytest.mark.parametrize("used", range(8))
def test_resumed_stream_goes_on_after_any_batch_however_far_the_loader_read_ahead(used):
    whole = batches(stream(4), 14)
    first = stream(4)
    batches(first, used + 3)
    state = first.state_dict(used)
    again = stream(4)
    again.load_state_dict(state)
    assert batches(again, 14 - used) == whole[used:]
    assert again.state_dict(0) == state
    assert batches(again, 3) == whole[used : used + 3]


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_one_stream(world_size):
    alone = batches(stream(6), 8)
    shares = [
        batches(stream(6 // world_size, rank=rank, world_size=world_size), 8)
        for rank in range(world_size)
    ]
    for number, together in enumerate(zip(*shares, strict=True)):
        draws = sorted((d for batch in together for d in batch), key=lambda d: d.position)
        assert draws == alone[number]


def test_resume_on_another_number_of_processes_keeps_the_place():
    first = stream(6, np.ones(12))
    seen = batches(first, 1)[0]
    state = first.state_dict(1)
    rest = []
    for rank in range(2):
        again = stream(3, np.ones(12), rank=rank, world_size=2)
        again.load_state_dict(state)
        rest += batches(again, 1)[0]
    assert sorted(d.index for d in [*seen, *rest]) == list(range(12))
