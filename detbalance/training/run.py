"""The state of a run: everything that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from detbalance.sampling import RepeatFactorSampler
from detbalance.training.checkpoint import save_checkpoint
from detbalance.training.config import Config
from detbalance.training.exposure import ExposureTotals
from detbalance.training.push import PushTotals
from detbalance.training.schedule import build_schedule
from detbalance.training.setup import (
    Data,
    build_model,
    build_optimizer,
    classification_loss,
)
from detbalance.training.stream import BatchStream


def start_accelerator(mixed_precision: str, accumulation: int) -> Accelerator:
    """An accelerator for this run.

    Accelerate keeps its settings for the whole process; a second run in it would get the first's.
    """
    AcceleratorState._reset_state()
    GradientState._reset_state()
    return Accelerator(
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=accumulation,
        # Without this, processes without a GPU are not taken as parts of one run.
        cpu=not torch.accelerator.is_available(),
    )


class Run:
    """Model, optimizer, schedule, averaged weights, data stream and random state of a run.

    Args:
        config: of the run.
        data: what it reads.
        accelerator: devices and processes.
        batch_size: images a batch on this process.

    Attributes:
        model: as accelerate wraps it.
        bare_model: the torchvision model inside.
        loss: its classification loss; None for torchvision's own.
        push: gradient per class so far.
        exposure: boxes per class shown and pasted so far.
        iteration: optimizer steps done.
        best: the best value of the chosen metric so far.
    """

    def __init__(
        self, config: Config, data: Data, accelerator: Accelerator, *, batch_size: int
    ) -> None:
        self.config, self.data, self.accelerator = config, data, accelerator
        # Same first weights on all processes, other random draws (of proposals) afterwards.
        torch.manual_seed(config.seed)
        model = build_model(config, data.train.categories, data.frequency)
        torch.manual_seed(config.seed + accelerator.process_index)
        # Channels last: a fifth to a quarter faster convolutions, on CPUs too.
        self.bare_model = model.to(accelerator.device).to(memory_format=torch.channels_last)
        self.ema: AveragedModel | None = None
        if config.train.ema_decay is not None:
            average = get_ema_multi_avg_fn(config.train.ema_decay)  # type: ignore[no-untyped-call]
            self.ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.loss = classification_loss(model)
        self.push = PushTotals(self.loss, data.train.categories.num_classes)
        optimizer = build_optimizer(config.train, model)
        self.schedule = build_schedule(config.train, optimizer)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        sampler = RepeatFactorSampler(
            data.factors,
            seed=config.seed,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            infinite=True,
        )
        self.stream = BatchStream(sampler, batch_size)
        self.exposure = ExposureTotals(data.train.categories.num_classes, sampler.epoch_length)
        self.iteration = 0
        self.best: float | None = None
        self._first = 0  # the iteration that this process started after

    def update_average(self) -> None:
        """Take the weights after a step into the average, where one is kept."""
        if self.ema is None:
            return
        self.ema.update_parameters(self.bare_model)
        averaged = classification_loss(self.ema.module)
        if self.loss is not None and averaged is not None:
            # What a loss has counted is no weight: it is taken over as it is.
            averaged.load_state_dict(self.loss.state_dict())

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up a run where its checkpoint left it."""
        self.bare_model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
            self.ema.n_averaged.fill_(state["iteration"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.stream.load_state_dict(state["sampler"])
        self._first = self.iteration = state["iteration"]
        self.best = state["best"]
        if "push" in state:  # earlier versions did not count it
            self.push.load_state_dict(state["push"])
        if "exposure" in state:  # likewise
            self.exposure.load_state_dict(state["exposure"])
        rng = state["rng"]
        if len(rng) == self.accelerator.num_processes:
            _set_rng(rng[self.accelerator.process_index])

    def save(self, name: str) -> None:
        """Write the state; all processes take part, the main process writes."""
        rng = gather_object([_rng()])
        self.push.collect(self.accelerator.device)
        self.exposure.collect(self.accelerator.device)
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        frequency = self.data.frequency
        batches = (self.iteration - self._first) * self.config.train.accumulation
        state = {
            "iteration": self.iteration,
            "model": self.bare_model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "sampler": self.stream.state_dict(batches),
            "rng": rng,
            "best": self.best,
            "push": self.push.state_dict(),
            "exposure": self.exposure.state_dict(),
            "config": self.config.to_dict(),
            "categories": self.data.train.categories.to_dict(),
            "frequency": {
                "image_counts": torch.from_numpy(np.array(frequency.image_counts)),
                "instance_counts": torch.from_numpy(np.array(frequency.instance_counts)),
                "num_images": frequency.num_images,
                "source": frequency.source,
            },
        }
        save_checkpoint(self.config.output / name, state)


def _rng() -> dict[str, Tensor]:
    """The random states that training draws from (augmentation has its own, see stream.py)."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_rng(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
