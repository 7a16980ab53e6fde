"""The recipe for Accelerate, against Accelerate itself."""

from __future__ import annotations

from collections import Counter

import pytest
from recipes import FACTORS, Indices, batches, drawn, on_two_processes, recipe
from torch.utils.data import DataLoader

accelerate = pytest.importorskip("accelerate", reason="pip install accelerate")
from accelerate.state import AcceleratorState  # noqa: E402

WHOLE = [batch for epoch in range(3) for batch in batches(epoch)]


def run(epoch=0, step=0, batch_size=2, epochs=3):
    """The batches of this process from a step of an epoch on."""
    seen = []
    names = {"factors": FACTORS, "dataset": Indices(), "batch_size": batch_size, "epochs": epochs}
    names |= {"first_epoch": epoch, "step": step, "DataLoader": DataLoader}
    names["accelerator"] = accelerate.Accelerator(cpu=True)
    names["train"] = lambda batch: seen.append(batch.tolist())
    exec(recipe("Accelerate"), names)
    return seen


def runs():
    return run(), run(1, 1), run(batch_size=5, epochs=1)


@pytest.fixture
def fresh_state():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_state")
def test_recipe_draws_the_stream_and_goes_on_where_it_stopped():
    assert run() == WHOLE
    assert batches(0) != batches(1)
    for number in range(18):
        assert run(*divmod(number, 6)) == WHOLE[number:]


def test_recipe_shares_the_stream_between_two_processes():
    padded = []
    for rank, (whole, left, longer) in enumerate(on_two_processes(runs)):
        assert whole == WHOLE[rank::2]
        assert left == whole[4:]
        padded += longer
    # 12 draws in batches of 5 are 3 batches; Accelerate makes 4 full ones, with draws of the first.
    assert [len(batch) for batch in padded] == [5, 5, 5, 5]
    assert Counter(image for batch in padded for image in batch) > Counter(drawn(0))
