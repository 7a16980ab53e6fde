"""Two processes with halves of a batch: loss, gradient and statistics are those of the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recipes import on_two_processes

from detbalance.losses import LOSSES, ClassCounts

ROWS, STEPS = 16, 3
# Class 4 is rare, and alone in its group.
COUNTS = ClassCounts([0, 2000, 300, 200, 3], [0, 900, 200, 100, 2], 1000)


def batches(loss):
    """Logits and labels of some steps; in each, class 4 is in the second half only."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        logits = torch.randn(ROWS, loss.num_outputs, generator=draw, dtype=torch.float64)
        labels = torch.randint(-1, 4, (ROWS,), generator=draw)
        labels[-2:] = 4
        yield logits, labels


def trained(rows: slice, processes: int):
    """Value and gradient of each loss in each step on some of the rows, and its statistics."""
    results, statistics = {}, {}
    for name in LOSSES:
        loss = LOSSES[name](COUNTS)
        results[name] = []
        for logits, labels in batches(loss):
            part = logits[rows].clone().requires_grad_()
            # What a head gives: the rows that count of the whole batch, by process.
            normalizer = float(loss.own_normalizer(labels)) / processes
            value = loss(part, labels[rows], normalizer=normalizer)
            value.backward()
            results[name].append((value.item(), part.grad.numpy()))
        statistics[name] = {key: buffer.numpy() for key, buffer in loss.named_buffers()}
    return results, statistics


def on_a_half():
    torch.distributed.init_process_group("gloo")
    half = ROWS // 2 * torch.distributed.get_rank()
    return trained(slice(half, half + ROWS // 2), 2)


@pytest.fixture(scope="module")
def halves():
    return on_two_processes(on_a_half)


@pytest.fixture(scope="module")
def whole():
    return trained(slice(None), 1)


@pytest.mark.parametrize("name", LOSSES)
def test_halves_of_a_batch_are_the_batch(name, halves, whole):
    steps, statistics = whole
    for step, (value, gradient) in enumerate(steps[name]):
        parts = [half[name][step] for half, _ in halves]
        assert np.mean([part[0] for part in parts]) == pytest.approx(value, rel=1e-10)
        joined = np.concatenate([part[1] for part in parts]) / 2  # processes average gradients
        np.testing.assert_allclose(joined, gradient, rtol=1e-9, atol=1e-14)
    for _, own in halves:
        for key, value in statistics[name].items():
            np.testing.assert_allclose(own[name][key], value, rtol=1e-10, err_msg=key)
