"""The training loop."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from detbalance.sampling import RepeatFactorSampler
from detbalance.training.checkpoint import (
    BEST,
    LAST,
    load_checkpoint,
    prepare_folder,
    save_checkpoint,
)
from detbalance.training.config import Config
from detbalance.training.metrics import MetricsLog
from detbalance.training.setup import (
    Data,
    build_model,
    build_optimizer,
    build_schedule,
    load_data,
)
from detbalance.training.stream import BatchStream

logger = logging.getLogger(__name__)

Evaluate = Callable[[nn.Module, Data], Mapping[str, float | None]]


class TrainingStopped(ValueError):
    """Training cannot go on, and the user can do something about it."""


class Interrupted(Exception):
    """The user stopped the run; what was done is saved."""


@dataclass(frozen=True)
class Step:
    """What the loop tells after an iteration."""

    iteration: int
    iterations: int
    loss: float
    images_per_second: float


def train(
    config: Config,
    *,
    resume: bool = False,
    overwrite: bool = False,
    evaluate: Evaluate | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> None:
    """Train a detector; everything that comes of it is in the folder `config.output`.

    Args:
        config: what to train.
        resume: go on from the folder's last checkpoint.
        overwrite: replace a run that the folder holds.
        evaluate: judges the model on val and returns the figures to log; called every
            `train.evaluate_every` iterations and at the end, on the main process, in eval mode.
        on_step: told about every iteration, on the main process.

    Raises:
        ValueError: for anything in the configuration or the data that cannot work; before training.
        TrainingStopped: when the loss is not finite.
        Interrupted: after Ctrl-C or SIGTERM, when the run has been saved.
    """
    options = config.train
    accelerator = _accelerator(options.mixed_precision, options.accumulation)
    share = accelerator.num_processes * options.accumulation
    if options.batch_size % share:
        raise ValueError(
            f"train.batch_size is {options.batch_size}, which {accelerator.num_processes} processes"
            f" x {options.accumulation} accumulated steps cannot share. A multiple of {share} is"
            " expected. Change train.batch_size."
        )
    data = load_data(config)
    if accelerator.is_main_process:
        prepare_folder(config.output, config, resume=resume, overwrite=overwrite)
        logger.info("training in %s", config.output)
    accelerator.wait_for_everyone()
    run = _Run(config, data, accelerator, batch_size=options.batch_size // share)
    if resume:
        run.load(load_checkpoint(config.output / LAST))
    run.train(evaluate, on_step)


def _accelerator(mixed_precision: str, accumulation: int) -> Accelerator:
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


class _Run:
    """The state of a run: everything that a checkpoint holds."""

    def __init__(
        self, config: Config, data: Data, accelerator: Accelerator, *, batch_size: int
    ) -> None:
        self.config, self.data, self.accelerator = config, data, accelerator
        # Same first weights on all processes, other random draws (of proposals) afterwards.
        torch.manual_seed(config.seed)
        model = build_model(config, data.train.categories, data.frequency.instance_counts)
        torch.manual_seed(config.seed + accelerator.process_index)
        # Channels last: a fifth to a quarter faster convolutions, on CPUs too.
        self.bare_model = model.to(accelerator.device).to(memory_format=torch.channels_last)
        self.ema: AveragedModel | None = None
        if config.train.ema_decay is not None:
            average = get_ema_multi_avg_fn(config.train.ema_decay)  # type: ignore[no-untyped-call]
            self.ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        optimizer = build_optimizer(config.train, model)
        self.schedule = build_schedule(config.train, optimizer)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        sampler = RepeatFactorSampler(
            data.factors,
            seed=config.seed,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
        )
        self.stream = BatchStream(sampler, batch_size)
        self.first = 0  # the iteration that this process started after
        self.iteration = 0
        self.best: float | None = None

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
        self.first = self.iteration = state["iteration"]
        self.best = state["best"]
        rng = state["rng"]
        if len(rng) == self.accelerator.num_processes:
            _set_rng(rng[self.accelerator.process_index])

    def save(self, name: str) -> None:
        """Write the run's state; all processes take part, the main process writes."""
        rng = gather_object([_rng()])
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        frequency = self.data.frequency
        batches = (self.iteration - self.first) * self.config.train.accumulation
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

    def train(self, evaluate: Evaluate | None, on_step: Callable[[Step], None] | None) -> None:
        """Run from where the state stands to the last iteration."""
        options, main = self.config.train, self.accelerator.is_main_process
        log = MetricsLog(self.config.output, iteration=self.iteration) if main else None
        tally = _Tally(self.data.train.categories.num_classes)
        batches = iter(self.stream.loader(self.data.train_dataset, options.workers))
        with _stop_request() as stop:
            try:
                while self.iteration < options.iterations:
                    started = time.perf_counter()
                    loss = self._step(batches, tally)
                    self.iteration += 1
                    last = self.iteration == options.iterations
                    seconds = time.perf_counter() - started
                    tally.seconds += seconds
                    if main and on_step is not None:
                        rate = options.batch_size / seconds
                        on_step(Step(self.iteration, options.iterations, loss, rate))
                    stopping = stop.is_set() and self.accelerator.num_processes == 1
                    if self.iteration % options.log_every == 0 or last:
                        self._log(log, tally)
                        # Processes must agree, which costs a message: asked for only now and then.
                        stopping = any(gather_object([stop.is_set()]))
                    every = options.evaluate_every
                    if evaluate and (last or (every and self.iteration % every == 0)):
                        self._evaluate(evaluate, log)
                    if last or stopping or self.iteration % options.checkpoint_every == 0:
                        self.save(LAST)
                    if stopping and not last:
                        raise Interrupted(
                            f"stopped after iteration {self.iteration}; go on with --resume"
                        )
            finally:
                if log is not None:
                    log.close()

    def _step(self, batches: Iterator[Any], tally: _Tally) -> float:
        """One optimizer step; returns its loss on this process."""
        self.model.train()
        total = 0.0
        for _ in range(self.config.train.accumulation):
            images, targets = next(batches)
            device = self.accelerator.device
            images = [image.to(device, non_blocking=True) for image in images]
            targets = [
                {key: value.to(device, non_blocking=True) for key, value in target.items()}
                for target in targets
            ]
            with self.accelerator.accumulate(self.model):
                with self.accelerator.autocast():
                    losses = self.model(images, targets)
                    loss = sum(losses.values(), torch.zeros((), device=device))
                self._check_finite(loss, losses, targets)
                self.accelerator.backward(loss)
                norm = self.config.train.clip_norm
                if self.accelerator.sync_gradients and norm is not None:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            tally.add(losses, targets)
            total += loss.item() / self.config.train.accumulation
        self.schedule.step()
        if self.ema is not None:
            self.ema.update_parameters(self.bare_model)
        return total

    def _check_finite(
        self, loss: Tensor, losses: Mapping[str, Tensor], targets: list[dict[str, Tensor]]
    ) -> None:
        if math.isfinite(loss.item()):
            return
        names = [self.data.train.file_name(int(target["image_id"])) for target in targets]
        terms = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
        raise TrainingStopped(
            f"iteration {self.iteration + 1}: the loss is not finite ({terms}) on the images"
            f" {', '.join(names)}. A finite loss is expected. Look at these images and their boxes,"
            " or lower train.learning_rate or train.clip_norm."
        )

    def _log(self, log: MetricsLog | None, tally: _Tally) -> None:
        losses = {
            name: float(self.accelerator.reduce(value.clone(), reduction="mean"))
            for name, value in tally.mean_losses().items()
        }
        if log is not None:
            log.write(self.iteration, self._record(losses, tally))
        tally.reset()

    def _record(self, losses: dict[str, float], tally: _Tally) -> dict[str, Any]:
        values: dict[str, Any] = {
            "loss": sum(losses.values()),
            "losses": losses,
            "learning_rate": self.schedule.get_last_lr()[-1],
            "images_per_second": tally.rate() * self.accelerator.num_processes,
        }
        pasted = tally.pasted
        if pasted.any():
            categories = self.data.train.categories
            values["pasted"] = {categories.name(c): n for c, n in enumerate(pasted.tolist()) if n}
        return values

    def _evaluate(self, evaluate: Evaluate, log: MetricsLog | None) -> None:
        """Judge the model; a better one than before becomes best.pt."""
        better = False
        if self.accelerator.is_main_process:
            assert log is not None
            model = self.bare_model if self.ema is None else self.ema.module
            # Evaluation must not move the random state that training draws from.
            devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                figures = dict(evaluate(model, self.data))
            log.write(self.iteration, {"val": figures})
            value = figures.get(self.config.evaluation.best_metric)
            better = value is not None and (self.best is None or value > self.best)
            if better:
                self.best = value
        if gather_object([better])[0]:
            self.save(BEST)


class _Tally:
    """Losses, pasted boxes and images since the last log record."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._batches = self._images = 0
        self.seconds = 0.0
        self.pasted = np.zeros(self._num_classes, dtype=np.int64)

    def add(self, losses: Mapping[str, Tensor], targets: list[dict[str, Tensor]]) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()
        self._batches += 1
        self._images += len(targets)
        for target in targets:
            labels = target["labels"][target["pasted"]].cpu().numpy()
            self.pasted += np.bincount(labels, minlength=self._num_classes)

    def mean_losses(self) -> dict[str, Tensor]:
        return {name: value / self._batches for name, value in self._sums.items()}

    def rate(self) -> float:
        return self._images / self.seconds


@contextmanager
def _stop_request() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into a request that the loop honours between iterations."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
