"""The training loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from detbalance.data.arrays import Float64
from detbalance.data.files import lock_folder
from detbalance.detection.dataset import DetectionDataset, batches_of, worker_deaths
from detbalance.detection.predict import predict
from detbalance.sampling.balanced_exposure import class_exposure
from detbalance.training.checkpoint import BEST, LAST, check_folder, prepare_folder
from detbalance.training.config import Config
from detbalance.training.gradient_ratio import settings_gradient_ratio
from detbalance.training.metrics import MANY_CLASSES, MetricsLog
from detbalance.training.run import Interrupted, Run, StopRequest, start_accelerator, stop_request
from detbalance.training.setup import Data, load_data, loader_workers

logger = logging.getLogger(__name__)

Evaluate = Callable[[nn.Module, Data, Float64], Mapping[str, float | None]]


class TrainingStopped(ValueError):
    """Training cannot go on, and the user can do something about it."""


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
        resume: go on from the folder's last checkpoint; a run without one starts anew.
        overwrite: replace a run that the folder holds.
        evaluate: judges the model on val and returns the figures to log; called every
            `train.evaluate_every` iterations and at the end, on the main process, in eval mode. The
            third argument is the positive part of each class's gradient so far, float64 [K + 1],
            NaN where the loss does not tell.
        on_step: told about every iteration, on the main process.

    Raises:
        ValueError: for anything in the configuration or the data that cannot work; before training.
        TrainingStopped: when the loss is not finite, or no paste is placed in a whole epoch.
        Interrupted: after Ctrl-C or SIGTERM, when the run has been saved.
    """
    options = config.train
    accelerator = start_accelerator(options.mixed_precision, options.accumulation)
    share = accelerator.num_processes * options.accumulation
    if options.batch_size % share:
        raise ValueError(
            f"train.batch_size is {options.batch_size}, which {accelerator.num_processes} processes"
            f" x {options.accumulation} accumulated steps cannot share. A multiple of {share} is"
            " expected. Change train.batch_size."
        )
    with lock_folder(config.output) if accelerator.is_main_process else nullcontext():
        state = check_folder(config.output, config, resume=resume, overwrite=overwrite)
        run = Run(config, load_data(config), accelerator, batch_size=options.batch_size // share)
        if state is not None:
            run.load(state, config.output / LAST)
        # All processes have looked at the folder before the main process writes to it.
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            prepare_folder(config.output, config, resume=state is not None)
            logger.info("training in %s", config.output)
        accelerator.wait_for_everyone()
        log = None
        if accelerator.is_main_process:
            log = MetricsLog(config.output, iteration=run.iteration, evaluated=run.evaluated)
        with nullcontext() if log is None else closing(log), worker_deaths():
            _Loop(run, log, evaluate, on_step).run_to_end()


@dataclass(frozen=True)
class Timing:
    """What a training costs on this machine, in seconds."""

    step: float
    evaluation: float


def time_training(config: Config, *, steps: int = 4) -> Timing:
    """Train a few steps and detect on a few val images, to say what the whole would take.

    Args:
        config: what would be trained; nothing is written to its folder.
        steps: that are timed, after two that are not: the first ones of a shape take longer.

    Returns:
        Seconds of an iteration, and of an evaluation on all of val: medians.

    Raises:
        ValueError: as `train`.
    """
    options = config.train
    accelerator = start_accelerator(options.mixed_precision, options.accumulation)
    share = accelerator.num_processes * options.accumulation
    run = Run(config, load_data(config), accelerator, batch_size=options.batch_size // share)
    loop = _Loop(run, None, None, None)
    loader = run.stream.loader(run.data.train_dataset, loader_workers(options.workers))
    with batches_of(loader) as batches, worker_deaths():
        times = [_seconds(lambda: loop._step(batches)) for _ in range(steps + 2)]
    val, size = run.data.val_dataset, config.evaluation.batch_size
    parts = [range(at, min(at + size, len(val))) for at in range(0, min(3 * size, len(val)), size)]
    of_parts = [
        _seconds(
            lambda rows: predict(
                run.bare_model,
                DetectionDataset(val.annotations.subset(rows), val.image_dir),
                batch_size=size,
            ),
            part,
        )
        / len(part)
        for part in parts
    ]
    return Timing(median(times[2:]), median(of_parts[1:] or of_parts) * len(val))


def _seconds(work: Callable[..., Any], *arguments: Any) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


class _Loop:
    """A run, and whom it tells about its progress; the log is None beside the main process."""

    def __init__(
        self,
        run: Run,
        log: MetricsLog | None,
        evaluate: Evaluate | None,
        on_step: Callable[[Step], None] | None,
    ) -> None:
        self.run, self.log, self.evaluate, self.on_step = run, log, evaluate, on_step
        self.config, self.data, self.accelerator = run.config, run.data, run.accelerator
        self.rate: float | Tensor = 0.0  # the last step's learning rate

    def run_to_end(self) -> None:
        """Train from where the run stands to its last iteration."""
        options, run = self.config.train, self.run
        if self.log is not None and run.iteration >= options.iterations:
            logger.info("%s: all %d iterations are done", self.config.output, options.iterations)
        if self.log is not None and run.iteration == 0:
            self._log_settings(self.log)
        loader = run.stream.loader(self.data.train_dataset, loader_workers(options.workers))
        with batches_of(loader) as batches, stop_request() as stop:
            if run.evaluated < run.iteration:  # stopped in between
                self._evaluate_if_due(stop)
            while run.iteration < options.iterations:
                started = time.perf_counter()
                loss = self._step(batches)
                run.iteration += 1
                last = run.iteration == options.iterations
                seconds = time.perf_counter() - started
                run.tally.seconds += seconds
                if self.log is not None and self.on_step is not None:
                    rate = options.batch_size / seconds
                    self.on_step(Step(run.iteration, options.iterations, loss, rate))
                stopping = stop.is_set() and self.accelerator.num_processes == 1
                if run.iteration % options.log_every == 0 or last:
                    self._log_losses()
                    # Processes must agree, which costs a message: asked for only now and then.
                    stopping = any(gather_object([stop.is_set()]))
                self._evaluate_if_due(stop)
                if last or stopping or run.iteration % options.checkpoint_every == 0:
                    run.save(LAST)
                if stopping and not last:
                    raise Interrupted(
                        f"stopped after iteration {run.iteration}; go on with --resume"
                    )
        if self.log is not None:
            self._say_what_was_shown()

    def _log_settings(self, log: MetricsLog) -> None:
        """Log what the settings make each class count; methods that pile up are the usual fault."""
        if self.config.loads_weights:
            logger.info(
                "the backbone has loaded weights and learns at %g times the rate of the new layers"
                " (train.backbone_rate)",
                self.config.train.backbone_rate,
            )
        names, limit = self.data.train.categories, self.config.train.gradient_ratio_limit
        ratio = settings_gradient_ratio(
            self.data.train,
            self.data.factors,
            loss=self.run.loss,
            paste=self.data.paste,
            mixing=self.data.mixing,
        )
        log.write(0, ratio.record(names), board=False)
        if limit is not None and (warning := ratio.warning(names, limit)):
            logger.warning(warning)

    def _say_what_was_shown(self) -> None:
        """An augmentation that silently does nothing is the classic fault of its kind."""
        names, exposure = self.data.train.categories, self.run.exposure
        lines = exposure.summary(names)
        if self.config.augmentation.paste is not None and not lines:
            logger.warning("augmentation.paste was on, but no paste was asked for")
        expected = class_exposure(self.data.train, self.data.factors)
        if balance := exposure.balance(names, expected):
            lines.append(balance)
        for line in lines:
            logger.info(line)

    def _step(self, batches: Iterator[Any]) -> float:
        """One optimizer step; returns its loss on this process."""
        self.run.model.train()
        total = 0.0
        for _ in range(self.config.train.accumulation):
            images, targets = next(batches)
            self.run.exposure.add(targets)
            device = self.accelerator.device
            images = [image.to(device, non_blocking=True) for image in images]
            targets = [
                {key: value.to(device, non_blocking=True) for key, value in target.items()}
                for target in targets
            ]
            with self.accelerator.accumulate(self.run.model):
                with self.accelerator.autocast():
                    losses = self.run.model(images, targets)
                    loss = sum(losses.values(), torch.zeros((), device=device))
                self._check_finite(loss, losses, targets)
                self.accelerator.backward(loss)
                norm = self.config.train.clip_norm
                if self.accelerator.sync_gradients and norm is not None:
                    self.accelerator.clip_grad_norm_(self.run.model.parameters(), norm)
                self.run.optimizer.step()
                self.run.optimizer.zero_grad()
            self.run.tally.add(losses, len(targets))
            total += loss.item() / self.config.train.accumulation
        self.rate = self.run.schedule.get_last_lr()[-1]
        self.run.schedule.step()
        self.run.update_average()
        return total

    def _check_finite(
        self, loss: Tensor, losses: Mapping[str, Tensor], targets: list[dict[str, Tensor]]
    ) -> None:
        if math.isfinite(loss.item()):
            return
        names = [self.data.train.file_name(int(target["image_id"])) for target in targets]
        terms = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
        raise TrainingStopped(
            f"iteration {self.run.iteration + 1}: the loss is not finite ({terms}) on the images"
            f" {', '.join(names)}. A finite loss is expected. Look at these images and their boxes,"
            " or lower train.learning_rate or train.clip_norm."
        )

    def _log_losses(self) -> None:
        """Log what happened since the last record."""
        losses = {
            name: float(self.accelerator.reduce(value.clone(), reduction="mean"))
            for name, value in self.run.tally.mean_losses().items()
        }
        self.run.gradients.collect(self.accelerator.device)
        self.run.exposure.collect(self.accelerator.device)
        if self.log is not None:
            self.log.write(self.run.iteration, self._record(losses))
        self.run.tally.reset()
        if problem := self.run.exposure.problem():
            raise TrainingStopped(f"iteration {self.run.iteration}: {problem}")

    def _record(self, losses: dict[str, float]) -> dict[str, Any]:
        values: dict[str, Any] = {
            "loss": sum(losses.values()),
            "losses": losses,
            "learning_rate": float(self.rate),
            "images_per_second": self.run.tally.rate() * self.accelerator.num_processes,
        }
        categories = self.data.train.categories
        # With very many classes not every record has them all: the log would grow by gigabytes.
        every = self.config.train.log_every * (1 + categories.num_categories // MANY_CLASSES)
        last = self.run.iteration == self.config.train.iterations
        all_classes = last or self.run.iteration % every == 0
        values.update(self.run.exposure.record(categories, shown=all_classes))
        if all_classes:
            values.update(self.run.gradients.record(categories))
        return values

    def _evaluate_if_due(self, stop: StopRequest) -> None:
        """Evaluate in or at the end of training; that takes minutes, and may be stopped."""
        iteration, every = self.run.iteration, self.config.train.evaluate_every
        last = iteration == self.config.train.iterations
        if self.evaluate is None or not (last or (every and iteration % every == 0)):
            return
        self.run.save(LAST)
        try:
            with stop.at_once():
                better = self._evaluate(self.evaluate)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped in the evaluation after iteration {iteration}; go on with --resume"
            ) from None
        self.run.evaluated = iteration
        if gather_object([better])[0]:
            self.run.save(BEST)

    def _evaluate(self, evaluate: Evaluate) -> bool:
        """Judge the model; say whether it is better than before."""
        self.run.gradients.collect(self.accelerator.device)
        if self.log is None:
            return False
        model = self.run.bare_model if self.run.ema is None else self.run.ema.module
        # Evaluation must not move the random state that training draws from.
        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            figures = dict(evaluate(model, self.data, self.run.gradients.positive_share()))
        self.log.write(self.run.iteration, {"val": figures})
        value = figures.get(self.config.evaluation.best_metric)
        better = value is not None and (self.run.best is None or value > self.run.best)
        if better:
            self.run.best = value
        return better
