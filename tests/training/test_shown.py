"""What training showed: boxes and pastes counted per class, logged, and said at the end."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from killed_runs import train_until_killed

from detbalance.augmentation.paste import OUTCOMES
from detbalance.data import Categories
from detbalance.training.checkpoint import load_checkpoint
from detbalance.training.config import load_config
from detbalance.training.loop import TrainingStopped, train
from detbalance.training.metrics import ExposureTotals, read_metrics

CPU = torch.device("cpu")
NAMES = Categories(ids=(1, 2, 3), names=("a", "b", "c"))
PLACED, NO_ROOM, TOO_LARGE = (OUTCOMES.index(n) for n in ("placed", "no_room", "too_large"))


def target(labels=(), pasted=(), pastes=()):
    """A target as the data set gives it; by default without boxes and pastes."""
    return {
        "labels": torch.tensor(labels, dtype=torch.int64),
        "pasted": torch.tensor(pasted or [False] * len(labels), dtype=torch.bool),
        "pastes": torch.tensor(pastes, dtype=torch.int64).reshape(-1, 2),
    }


boxes = st.lists(st.tuples(st.sampled_from([-1, 1, 2, 3]), st.booleans()), max_size=4)
pastes = st.lists(st.tuples(st.integers(1, 3), st.integers(0, len(OUTCOMES) - 1)), max_size=4)


@given(
    st.lists(st.tuples(boxes, pastes, st.sampled_from(["", "log", "save"])), max_size=12),
)
@settings(max_examples=40)
def test_records_add_up_to_what_was_shown(batches):
    """Also where the run was saved and taken up again between two records."""
    totals = ExposureTotals(4, 1000)
    records = []
    for found, asked, event in batches:
        labels, put = zip(*found, strict=True) if found else ((), ())
        totals.add([target(labels, put, asked)])
        if event:
            totals.collect(CPU)
        if event == "log":
            records.append(totals.record(NAMES, shown=len(records) % 2 == 0))
        if event == "save":
            state, totals = totals.state_dict(), ExposureTotals(4, 1000)
            totals.load_state_dict(state)
    totals.collect(CPU)
    records.append(totals.record(NAMES, shown=True))

    def summed(key):
        names = {name for record in records for name in record.get(key, {})}
        sums = {name: sum(r.get(key, {}).get(name, 0) for r in records) for name in names}
        return {name: number for name, number in sums.items() if number}

    def counted(values):
        return {value: values.count(value) for value in set(values)}

    every = [(label, put) for found, _, _ in batches for label, put in found if label > 0]
    asked = [paste for _, several, _ in batches for paste in several]
    assert summed("shown") == counted(["-abc"[label] for label, _ in every])
    assert summed("pasted") == counted(["-abc"[label] for label, put in every if put])
    refused = [OUTCOMES[code] for _, code in asked if code != PLACED]
    assert summed("paste_refused") == counted(refused)
    lines = totals.summary(NAMES)
    assert len(lines) == len({label for label, _ in asked})
    for line in lines:
        label = "-abc".index(line[0])
        codes = [code for asked_for, code in asked if asked_for == label]
        number, placed = len(codes), codes.count(PLACED)
        told = f"{line[0]}: {number} pastes asked for, {placed} placed, {number - placed} refused"
        assert line.startswith(told)
        for code in set(codes) - {PLACED}:
            assert f"{OUTCOMES[code].replace('_', ' ')} {codes.count(code)}" in line[len(told) :]


def test_an_epoch_without_a_paste_is_a_problem_that_says_why():
    totals = ExposureTotals(4, 50)

    def draw(number, *pastes):
        totals.add([target(pastes=pastes)] + [target()] * (number - 1))
        totals.collect(CPU)
        return totals.problem()

    refused = [(1, NO_ROOM)] * 15 + [(2, TOO_LARGE)] * 4
    assert draw(40) is None  # nothing was asked for
    assert draw(40, *refused) is None  # 19 pastes are too few to judge by
    assert draw(1, (1, PLACED)) is None
    assert draw(49, *refused, (1, NO_ROOM)) is None  # not yet an epoch
    line = draw(1)
    assert line.startswith(
        "none of 20 pastes asked for in the last 50 images was placed (no room 16, too large 4)."
    )
    assert "\n" not in line
    assert "augmentation.paste" in line
    other = ExposureTotals(4, 50)
    other.load_state_dict(totals.state_dict())
    assert other.problem() == line
    assert draw(1, (3, PLACED)) is None


def test_many_classes_are_summed_up():
    names = Categories(ids=tuple(range(1, 31)), names=tuple(f"n{i}" for i in range(1, 31)))
    totals = ExposureTotals(31, 10)
    pastes = [(c, NO_ROOM) for c in range(1, 31) for _ in range(c)]
    totals.add([target(pastes=pastes)])
    totals.collect(CPU)
    lines = totals.summary(names)
    assert [line.split(":")[0] for line in lines[:-1]] == [f"n{i}" for i in range(11, 31)]
    assert lines[-1] == (
        "10 further classes: 55 pastes asked for, 0 placed, 55 refused (no room 55)"
    )


def test_balance_tells_most_and_least_shown():
    totals = ExposureTotals(4, 10)
    expected = np.array([5.0, 80.0, 10.0, np.nan])
    assert totals.balance(NAMES, expected) is None
    totals.add([target([1, 1, 1, 1, 2, 2, -1])])
    totals.collect(CPU)
    assert totals.balance(NAMES, expected) == (
        "boxes shown: a 4, b 2; most to least 2 to 1, by the sampler alone 8 to 1"
    )
    assert "most to least inf to 1" in totals.balance(NAMES, np.array([5.0, 80.0, 10.0, 2.0]))


# In training


def counts(folder, key):
    """The sum of a key's numbers over all records."""
    total = {}
    for record in read_metrics(folder):
        for name, number in record.get(key, {}).items():
            total[name] = total.get(name, 0) + number
    return total


def test_a_run_counts_and_says_what_it_showed_also_after_a_kill(config_file, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    overrides = ["augmentation.mosaic={probability: 1, scale: [0.5, 0.5]}", "train.log_every=3"]
    overrides += ["augmentation.paste.probability=1", "augmentation.crop={}"]
    overrides += ["augmentation.mixup={}", "augmentation.policy={}", "train.iterations=4"]
    whole = load_config(config_file, [*overrides, f"output={tmp_path / 'whole'}"])
    train(whole)
    state = load_checkpoint(tmp_path / "whole" / "last.pt")["exposure"]
    shown, pasted = counts(whole.output, "shown"), counts(whole.output, "pasted")
    # Four images with a square each, in most mosaics.
    assert 16 * 3 < sum(shown.values()) - sum(pasted.values()) < 16 * 5
    assert [shown["red"], shown["green"]] == state["run"][0, 1:].tolist()
    (line,) = [m for m in caplog.messages if "pastes asked for" in m]
    refused = sum(counts(whole.output, "paste_refused").values())
    assert line.startswith(f"green: {state['run'][2:].sum()} pastes asked for")
    assert f"{refused} refused" in line
    (line,) = [m for m in caplog.messages if m.startswith("boxes shown: ")]
    assert f"red {shown['red']}" in line
    assert "by the sampler alone" in line

    config = load_config(config_file, overrides)
    train_until_killed(config, 3)
    train(config, resume=True)  # from iteration 2, between two records
    for key in ("shown", "pasted", "paste_refused"):
        assert counts(config.output, key) == counts(whole.output, key)


NOTHING_FITS = ["augmentation.paste={probability: 1, max_pastes: 4, scale: [50, 50]}"]


def test_training_stops_where_nothing_can_be_placed(config_file, tmp_path):
    config = load_config(config_file, ["train.iterations=40", *NOTHING_FITS])
    with pytest.raises(TrainingStopped, match=r"iteration \d+: none of \d+ pastes.*too large") as e:
        train(config)
    assert "\n" not in str(e.value)
    assert "augmentation.paste" in str(e.value)
    last = read_metrics(tmp_path / "run")[-1]
    assert last["paste_refused"]["too_large"] > 0
    assert f"iteration {last['iteration']}:" in str(e.value)
