"""Cycles of the learning rate, and the snapshots that a run leaves at their ends."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from detbalance.cli.quickstart import finished
from detbalance.cli.train import run_training
from detbalance.training import run as run_module
from detbalance.training.checkpoint import load_checkpoint, save_checkpoint
from detbalance.training.config import TrainSection, load_config
from detbalance.training.loop import train
from detbalance.training.metrics import read_metrics
from detbalance.training.schedule import build_schedule, cycle_ends

# One cycle is longer than the warm-up, and last.pt is written at its end but not at the others'.
CYCLES = ["train.cycles=3", "train.warmup=1"]


def rates(options: TrainSection) -> list[float]:
    """The rate of each iteration, as a multiple of the full one."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = build_schedule(options, optimizer)
    found = []
    for _ in range(options.iterations):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def rate_without_cycles(options: TrainSection, iteration: int) -> float:
    """The schedule of a run without cycles."""
    if iteration < options.warmup:
        return (iteration + 1) / options.warmup
    done = iteration / options.iterations
    if options.schedule == "step":
        return float(0.1 ** sum(done >= step for step in options.steps))
    if options.schedule == "cosine":
        left = max(1, options.iterations - options.warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (iteration - options.warmup) / left)))
    return 1.0


@given(
    iterations=st.integers(1, 80),
    warmup=st.integers(0, 100),
    schedule=st.sampled_from(["cosine", "step", "constant"]),
)
@settings(max_examples=60)
def test_one_cycle_is_bit_for_bit_the_schedule_without_cycles(iterations, warmup, schedule):
    options = TrainSection(iterations=iterations, warmup=warmup, schedule=schedule)
    assert rates(options) == [rate_without_cycles(options, i) for i in range(iterations)]


@given(lengths=st.integers(2, 25), more=st.integers(0, 7), cycles=st.integers(2, 8), data=st.data())
@settings(max_examples=60)
def test_each_cycle_is_a_cosine_of_its_own_from_the_full_rate(lengths, more, cycles, data):
    iterations = lengths * cycles + min(more, cycles - 1)
    warmup = data.draw(st.integers(0, lengths - 1))
    found = rates(TrainSection(iterations=iterations, warmup=warmup, cycles=cycles))
    ends = [0, *cycle_ends(iterations, cycles)]
    assert ends[-1] == iterations
    assert set(np.diff(ends)) <= {lengths, lengths + 1}
    for cycle, (start, end) in enumerate(pairwise(ends)):
        begin = max(start, warmup)
        assert begin == (warmup if cycle == 0 else start)  # only the first one is warmed up
        assert found[begin] == 1.0
        phase = math.pi * (np.arange(begin, end) - begin) / (end - begin)
        np.testing.assert_allclose(found[begin:end], (1 + np.cos(phase)) / 2, atol=1e-12)
    assert found[:warmup] == [(i + 1) / warmup for i in range(warmup)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["train.cycles=2", "train.schedule=step"],
            r'train\.cycles is 2 and train\.schedule is "step", .*Set train\.schedule to cosine',
        ),
        (["train.cycles=2", "train.schedule=constant"], r'train\.schedule is "constant"'),
        (
            ["train.cycles=7", "train.warmup=0"],
            r"train\.cycles is 7, which leaves 0 of the 6 iterations for a cycle,.*Lower",
        ),
        # A cycle that is all warm-up would leave a snapshot at the full rate.
        (
            ["train.cycles=3"],
            r"leaves 2 of the 6 iterations .* train\.warmup is 2\. Cycles longer than the warm-up",
        ),
        (["train.cycles=0"], r"train\.cycles is 0: .*greater than 0"),
    ],
)
def test_cycles_that_cannot_be_are_refused(config_file, overrides, message):
    with pytest.raises(ValueError, match=message) as error:
        load_config(config_file, overrides)
    assert "\n" not in str(error.value)


def test_one_cycle_may_be_shorter_than_the_warm_up_and_of_any_schedule(config_file):
    load_config(config_file, ["train.warmup=100"])
    load_config(config_file, ["train.schedule=constant"])


def weights(path) -> dict[str, torch.Tensor]:
    model = load_checkpoint(path)["model"]
    return {name: v for name, v in model.items() if isinstance(v, torch.Tensor)}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_snapshot_is_saved_at_the_end_of_each_cycle(config_file, tmp_path):
    train(load_config(config_file, [*CYCLES, "train.checkpoint_every=100"]))
    run = tmp_path / "run"
    paths = [run / f"snapshot-{k}.pt" for k in range(3)]
    assert set(paths) == set(run.glob("snapshot*"))
    assert [load_checkpoint(path)["iteration"] for path in paths] == [2, 4, 6]
    first, second, last = map(weights, paths)
    assert not equal(first, second)
    assert not equal(second, last)
    assert equal(last, weights(run / "last.pt"))
    logged = [r["learning_rate"] for r in read_metrics(run) if "learning_rate" in r]
    # Of iterations 1 to 6: the warm-up's one at the full rate, two half-way through a cosine.
    assert np.array(logged) / 1e-3 == pytest.approx([1, 1, 1, 0.5, 1, 0.5])


def test_without_cycles_there_is_no_snapshot(config_file, tmp_path):
    train(load_config(config_file, ["train.iterations=1"]))
    assert not list((tmp_path / "run").glob("snapshot*"))


class Kill(BaseException):
    """Not to be caught."""


@pytest.mark.parametrize("moment", ["within a cycle", "between the two files"])
def test_killed_and_resumed_gives_the_same_snapshots(config_file, tmp_path, monkeypatch, moment):
    whole = load_config(config_file, [*CYCLES, f"output={tmp_path / 'whole'}"])
    train(whole)
    config = load_config(config_file, CYCLES)

    def kill(step):
        if step.iteration == 5 and moment == "within a cycle":
            raise Kill

    def save(path, state):
        """A kill after the first of the files that are written at the end of the second cycle."""
        save_checkpoint(path, state)
        if state["iteration"] == 4 and moment == "between the two files":
            raise Kill

    monkeypatch.setattr(run_module, "save_checkpoint", save)
    with pytest.raises(Kill):
        train(config, on_step=kill)
    monkeypatch.undo()
    train(config, resume=True)
    for name in ("snapshot-0.pt", "snapshot-1.pt", "snapshot-2.pt"):
        ours, theirs = weights(config.output / name), weights(whole.output / name)
        for key, value in ours.items():
            torch.testing.assert_close(value, theirs[key], rtol=1e-4, atol=1e-5)


def test_overwriting_a_run_removes_its_snapshots_and_no_other_file(config_file, tmp_path):
    train(load_config(config_file, CYCLES))
    other = tmp_path / "run" / "snapshot-mine.pt"
    other.write_text("mine")
    train(load_config(config_file, ["train.cycles=2", "train.warmup=1"]), overwrite=True)
    found = {path.name for path in (tmp_path / "run").glob("snapshot*")}
    assert found == {"snapshot-0.pt", "snapshot-1.pt", "snapshot-mine.pt"}


def test_a_run_is_not_resumed_with_other_cycles(config_file):
    train(load_config(config_file, CYCLES))
    with pytest.raises(ValueError, match=r"started with train\.cycles 3, now it is 1"):
        train(load_config(config_file, ["train.warmup=1"]), resume=True)


def test_runs_of_versions_without_cycles_stay_the_same_run(config_file, tmp_path):
    config = load_config(config_file, ["train.iterations=2"])
    run_training(config)
    saved = config.output / "config.yaml"
    raw = yaml.safe_load(saved.read_text())
    del raw["train"]["cycles"]
    saved.write_text(yaml.safe_dump(raw, sort_keys=False))
    assert finished(config)
    assert not finished(load_config(config_file, ["train.iterations=2", "seed=1"]))
    state = load_checkpoint(config.output / "last.pt")
    del state["config"]["train"]["cycles"]
    save_checkpoint(config.output / "last.pt", state)
    train(config, resume=True)
    for text in ("", "[", "train: {iterations: 2}", saved.read_text() + "more: 1\n"):
        assert not config.is_written_in(text)
