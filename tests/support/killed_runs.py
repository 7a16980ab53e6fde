"""Training that is killed after an iteration, without saving, and the losses that a run logged."""

from __future__ import annotations

from pathlib import Path

import pytest

from detbalance.training.config import Config
from detbalance.training.loop import Step, train
from detbalance.training.metrics import read_metrics


class _Kill(Exception):
    pass


def train_until_killed(config: Config, iteration: int) -> None:
    """Train, and kill the run after an iteration."""

    def kill(step: Step) -> None:
        if step.iteration == iteration:
            raise _Kill

    with pytest.raises(_Kill):
        train(config, on_step=kill)


def losses_of(folder: Path) -> list[float]:
    """The loss of each record."""
    return [record["loss"] for record in read_metrics(folder) if "loss" in record]
