"""Checkpoints: what is damaged or of another run is said in one line, and never crashes."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from squares import write_config

from detbalance.detection.models import build_detector
from detbalance.training import load_detector
from detbalance.training.checkpoint import (
    config_from_checkpoint,
    load_checkpoint,
    misfit,
    save_checkpoint,
)
from detbalance.training.config import load_config
from detbalance.training.loop import train
from detbalance.training.run import Run, start_accelerator
from detbalance.training.setup import load_data

OVERRIDES = ["train.iterations=3", "train.ema_decay=0.9", "train.log_every=2"]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run's configuration, and what its last checkpoint holds."""
    config = load_config(write_config(data, tmp_path_factory.mktemp("run")), OVERRIDES)
    train(config)
    return config, torch.load(config.output / "last.pt", weights_only=True)


@pytest.fixture(scope="module")
def run(finished):
    """A run of that configuration, before its first step."""
    config, _ = finished
    return Run(config, load_data(config), start_accelerator("no", 1), batch_size=4)


def without(*keys):
    def change(state):
        *parents, last = keys
        for key in parents:
            state = state[key]
        del state[last]

    return change


def having(value, *keys):
    def change(state):
        *parents, last = keys
        for key in parents:
            state = state[key]
        state[last] = value

    return change


READ = [
    (without("config"), r"is damaged \(config is missing\)"),
    (having([1], "config"), r"is damaged \(config is a list of 1, not dict\)"),
    (having("x", "config", "loss"), r"x\.pt: loss is 'x'"),
    (having(10**9, "config", "model", "fpn_channels"), r"fpn_channels is 1000000000"),
    (without("categories", "names"), r"is damaged \(categories\.names is missing\)"),
    (having(["a", 2], "categories", "names"), r"categories\.names\.1 is int, not str"),
    (having([2, 1], "categories", "ids"), r"ids are \(2, 1\)\. Ids ascend strictly"),
    (having([1, 2**70], "categories", "ids"), r"is damaged \("),
    (having(None, "frequency"), r"frequency is NoneType, not a mapping"),
    (
        having(torch.zeros(2, dtype=torch.int64), "frequency", "image_counts"),
        r"frequency\.image_counts is int64 \[2\], not int64 \[3\]",
    ),
    (having({}, "ema"), r"its weights are not those of the model"),
    (having(None, "model"), r"model is NoneType, not dict"),
    (having([], "ema"), r"ema is a list of 0, not dict or NoneType"),
    (
        having("x", "ema", "head.classification_head.cls_logits.bias"),
        r"cls_logits\.bias is no tensor of",
    ),
    (having(torch.zeros(1), "ema", None), r"ema\.None is no tensor of that name"),
    (having(torch.zeros(3, device="meta"), "push", "run"), r"push\.run is float32 \[3\], not"),
    (having(torch.zeros(1), "format"), r"has the format Tensor"),
]
RESUMED = [
    (without("iteration"), r"is damaged \(iteration is missing\)"),
    (having(7, "iteration"), r"is damaged \(iteration is 7\)"),
    (having(True, "iteration"), r"iteration is bool, not int"),
    (having("x", "best"), r"best is str, not int or float or NoneType"),
    (without("optimizer", "state"), r"optimizer\.state is missing"),
    (having([], "optimizer", "param_groups"), r"param_groups is a list of 0, not a list of"),
    (without("optimizer", "param_groups", 0, "params"), r"param_groups\.0\.params is missing"),
    (without("optimizer", "state", 0, "exp_avg"), r"optimizer\.state\.0\.exp_avg is missing"),
    (
        having(torch.zeros(3), "optimizer", "state", 0, "exp_avg_sq"),
        r"0\.exp_avg_sq is float32 \[3\], not float32 \[",
    ),
    (having({}, "optimizer", "state", 999), r"optimizer\.state has 999"),
    (having("2", "sampler", "epoch"), r"sampler\.epoch is str, not int"),
    (having(5, "sampler", "seed"), r"x\.pt: RepeatFactorSampler: the state was saved with seed 5"),
    (having([{}], "rng"), r"is damaged \(rng\.cpu is missing\)"),
    (having(torch.zeros(5056, dtype=torch.uint8), "rng", 0, "cpu"), r"rng is no random state"),
    (having({}, "push"), r"push\.run is missing"),
    (having(torch.zeros(2, 3), "exposure", "run"), r"exposure\.run is float32 \[2, 3\], not int64"),
    (having([3], "tally"), r"tally is int, not a mapping"),
    (having("x", "tally", 0, "sums", "classification"), r"classification is str, not float"),
    (having(None, "ema"), r"its weights are not those of the model"),
]


def changed(state, change, path):
    state = copy.deepcopy(state)
    change(state)
    torch.save(state, path)
    return path


def refused(path, message, read):
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    line = str(error.value)
    assert type(error.value) is ValueError
    assert line.startswith(str(path))
    assert "\n" not in line
    assert "weights_only" not in line


@pytest.mark.parametrize(("change", "message"), READ)
def test_checkpoints_that_cannot_be_read_name_what_is_wrong(finished, tmp_path, change, message):
    refused(changed(finished[1], change, tmp_path / "x.pt"), message, load_detector)


@pytest.mark.parametrize(("change", "message"), RESUMED)
def test_checkpoints_that_cannot_be_resumed_name_what_is_wrong(
    finished, run, tmp_path, change, message
):
    path = changed(finished[1], change, tmp_path / "x.pt")
    refused(path, message, lambda path: run.load(load_checkpoint(path), path))


def test_damaged_bytes_are_no_readable_checkpoint(finished, run, tmp_path):
    path = tmp_path / "x.pt"
    torch.save(finished[1], path)
    whole, draw = path.read_bytes(), random.Random(0)
    lines = set()
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            # Most of a file is numbers; the pickle is at its begin.
            content[draw.randrange(draw.choice([3000, len(content)]))] = draw.randrange(256)
        path.write_bytes(content if draw.random() < 0.7 else content[: draw.randrange(len(whole))])
        try:
            run.load(load_checkpoint(path), path)
        except ValueError as error:
            lines.add(str(error))
    assert any("is no readable checkpoint" in line for line in lines)
    assert all(line.startswith(str(path)) and "\n" not in line for line in lines)


def test_a_pickle_with_code_is_refused_without_advice_to_run_it(tmp_path):
    torch.save({"format": print}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "is no readable checkpoint", load_checkpoint)
    message = r"x\.pt: cannot be read as weights\. A state_dict .* Correct weights\.$"
    with pytest.raises(ValueError, match=message):
        build_detector(3, backbone="tiny", weights=str(tmp_path / "x.pt"))


def test_checkpoints_of_versions_that_saved_less_are_resumed(finished, run, tmp_path):
    _, state = finished
    old = {key: value for key, value in state.items() if key not in ("tally", "evaluated", "push")}
    old["schedule"] = {"last_epoch": 3}
    save_checkpoint(tmp_path / "x.pt", old)
    run.load(load_checkpoint(tmp_path / "x.pt"), tmp_path / "x.pt")
    assert (run.iteration, run.evaluated) == (3, 3)
    assert run.optimizer.param_groups[0]["lr"] == state["optimizer"]["param_groups"][0]["lr"]


def test_configurations_of_earlier_versions_are_read_by_their_names_of_today(finished):
    config, state = finished
    old = copy.deepcopy(state["config"])
    old["evaluation"]["score_floor"] = old["evaluation"].pop("score_threshold")
    old["train"]["push_limit"] = old["train"].pop("gradient_ratio_limit")
    old["train"]["cycles"] = 1
    assert config_from_checkpoint({"config": old}, "x.pt").to_dict() == config.to_dict()
    old["sampling"] = {"method": "background", "share": 0.1, "also": [{"method": "solve"}]}
    read = config_from_checkpoint({"config": old}, "x.pt").sampling
    assert read.also[0].method == "balanced_exposure"


def test_misfit_names_the_first_part_that_is_not_as_wanted():
    wanted = {"a": [int, "x"], "b": torch.zeros(2, dtype=torch.int64), "c": (int, type(None))}
    good = {"a": [1, "y"], "b": torch.ones(2, dtype=torch.int64), "c": None, "more": 1}
    assert misfit(good, wanted, "") is None
    for change, fault in (
        ({"a": [1]}, "a is a list of 1, not a list of 2"),
        ({"a": [1, 2]}, "a.1 is int, not str"),
        ({"b": torch.ones(2)}, "b is float32 [2], not int64 [2]"),
        ({"b": good["b"].to_sparse()}, "b is int64 [2], not int64 [2]"),
        ({"c": True}, "c is bool, not int or NoneType"),
    ):
        assert misfit(good | change, wanted, "") == fault
