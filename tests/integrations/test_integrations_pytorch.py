"""The recipe for plain PyTorch loops, alone and under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest
from recipes import FACTORS, Indices, batches, drawn, recipe

from detbalance.integrations.pytorch import ResumableLoader
from detbalance.sampling import BalancedBatchSampler, RepeatFactorSampler

WHOLE = [batch for epoch in range(3) for batch in batches(epoch)]


def run(state=None):
    """The batches of a run of three epochs, and the loader's state after each."""
    seen, states = [], []

    def train(batch):
        seen.append(batch.tolist())
        states.append(json.loads(json.dumps(names["loader"].state_dict())))

    names = {"os": os, "factors": FACTORS, "dataset": Indices(), "batch_size": 2, "epochs": 3}
    names |= {"state": state, "train": train}
    exec(recipe("PyTorch"), names)
    return seen, states


def test_recipe_draws_what_the_sampler_says_in_every_epoch():
    seen, _ = run()
    assert seen == WHOLE
    for epoch in range(3):
        images = [image for batch in seen[6 * epoch : 6 * epoch + 6] for image in batch]
        assert Counter(images) == Counter(drawn(epoch))
    assert batches(0) != batches(1)


def test_recipe_goes_on_after_any_batch():
    _, states = run()
    for number, state in enumerate(states, 1):
        assert run(state)[0] == WHOLE[number:]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_state_is_what_it_gave_not_what_workers_read(workers):
    def loader():
        sampler = BalancedBatchSampler(RepeatFactorSampler(FACTORS, seed=0), 5)
        return ResumableLoader(Indices(), sampler, num_workers=workers)

    whole = [batch.tolist() for batch in loader()]
    assert [len(batch) for batch in whole] == [5, 5, 2]
    for number in range(4):
        first, second = loader(), loader()
        head = [batch.tolist() for batch in islice(first, number)]
        next(iter(second))
        second.load_state_dict(first.state_dict())
        assert second.state_dict() == first.state_dict()
        assert head + [batch.tolist() for batch in second] == whole
        assert len(second) == 3
    running = loader()
    next(iter(running))
    naive = running.batch_sampler.state_dict()["position"]
    assert naive == (1 if workers == 0 else 3)


def test_recipe_under_torchrun_and_with_the_state_of_one_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, pathlib, sys\n"
        "from test_integrations_pytorch import run\n"
        "found = [run()[0], run(json.loads(sys.argv[1]))[0]]\n"
        "path = pathlib.Path(__file__).with_name(os.environ['RANK'])\n"
        "path.write_text(json.dumps(found))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    state = run()[1][7]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, str(script), json.dumps(state)], check=True, env={**os.environ, **paths}
    )
    ranks = [json.loads((tmp_path / rank).read_text()) for rank in "01"]
    for seen, expected in zip(zip(*ranks, strict=True), (WHOLE, WHOLE[8:]), strict=True):
        assert seen == (expected[::2], expected[1::2])
