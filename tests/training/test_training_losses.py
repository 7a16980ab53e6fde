"""Each loss trains a tiny detector on the digits: finite, falling, and resumable to the bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_runs import losses_of, train_until_killed

from detbalance.data.digits import make_digits
from detbalance.losses import LOSSES
from detbalance.training.checkpoint import load_checkpoint, load_detector
from detbalance.training.config import Config, load_config
from detbalance.training.loop import train
from detbalance.training.setup import classification_loss

pytest.importorskip("sklearn")

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits") / "data"
    make_digits(root, train_images=120, val_images=10)
    return root


def configured(name: str, root: Path, output: Path, *changes: str) -> Config:
    """The shipped configuration of the digits for a loss: softmax losses need two stages."""
    softmax = LOSSES[name].activation == "softmax"
    file = CONFIGS / ("digits_fasterrcnn.yaml" if softmax else "digits.yaml")
    overrides = [f"loss.name={name}", f"output={output}", "train.log_every=1", "train.workers=0"]
    return load_config(file, [*overrides, *changes], data_root=root)


def run_with_a_kill(config: Config, iteration: int) -> None:
    """Train, stop without warning after an iteration, and go on from the last checkpoint."""
    train_until_killed(config, iteration)
    assert load_checkpoint(config.output / "last.pt")["iteration"] < iteration
    train(config, resume=True)


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every tensor and number of a nested state, by its path."""
    if isinstance(value, (dict, list, tuple)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, part in pairs for k, v in leaves(part, f"{path}/{key}").items()}
    return {path: value}


def assert_same_run(one: Config, other: Config) -> None:
    """The same losses at every iteration and the same state after the last, to the bit."""
    assert losses_of(one.output) == losses_of(other.output)
    states = [load_checkpoint(config.output / "last.pt") for config in (one, other)]
    first, second = (
        leaves({key: state[key] for key in ("model", "ema", "optimizer", "push")})
        for state in states
    )
    assert first.keys() == second.keys()
    for path, value in first.items():
        other_value = second[path]
        tensors = isinstance(value, torch.Tensor)
        assert torch.equal(value, other_value) if tensors else value == other_value, path


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains_and_resumes_to_the_bit(name, digits, tmp_path):
    changes = ["train.iterations=4", "train.checkpoint_every=2", "train.warmup=1"]
    changes += ["train.batch_size=4", "train.accumulation=2"]
    changes += ["model.min_size=64", "model.max_size=64", "model.fpn_channels=16"]
    changes += ["train.ema_decay=0.9", "loss.class_weights={four: 2}"]
    whole = configured(name, digits, tmp_path / "whole", *changes)
    train(whole)
    assert len(losses_of(whole.output)) == 4
    assert all(math.isfinite(loss) and loss > 0 for loss in losses_of(whole.output))
    killed = configured(name, digits, tmp_path / "killed", *changes)
    run_with_a_kill(killed, 3)
    assert_same_run(killed, whole)
    assert_loads_again(whole)


def assert_loads_again(config: Config) -> None:
    """The averaged weights, and what the loss has counted as it is; with all that it was told."""
    path = config.output / "last.pt"
    state, model = load_checkpoint(path), load_detector(path)
    loaded = model.state_dict()
    assert loaded.keys() == state["ema"].keys() == state["model"].keys()
    for key, value in loaded.items():
        kept = state["model" if "classification_loss" in key else "ema"][key]
        same = torch.equal(value, kept) if isinstance(value, torch.Tensor) else value == kept
        assert same, key
    loss = classification_loss(model)
    assert loss.label_weights[list(model.class_names).index("four")] == 2
    assert loss.counts.num_images == 120
    with torch.inference_mode():
        assert set(model([torch.rand(3, 64, 64)])[0]) == {"boxes", "labels", "scores"}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_in_100_iterations(name, digits, tmp_path):
    changes = ["train.iterations=100", "train.checkpoint_every=40", "train.warmup=10"]
    changes += ["train.batch_size=8"]
    whole = configured(name, digits, tmp_path / "whole", *changes)
    train(whole)
    seen = losses_of(whole.output)
    assert all(math.isfinite(loss) for loss in seen)
    assert sum(seen[-10:]) < sum(seen[:10])
    killed = configured(name, digits, tmp_path / "killed", *changes)
    run_with_a_kill(killed, 55)
    assert_same_run(killed, whole)
