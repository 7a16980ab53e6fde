"""The training loop."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from detbalance.data.arrays import Float64
from detbalance.data.files import lock_folder, naming
from detbalance.detection.backbones import TINY
from detbalance.detection.dataset import batches_of, worker_deaths
from detbalance.sampling.balanced_exposure import class_exposure
from detbalance.training.checkpoint import (
    BEST,
    LAST,
    check_folder,
    config_from_checkpoint,
    prepare_folder,
)
from detbalance.training.config import Config
from detbalance.training.gradient_ratio import settings_gradient_ratio
from detbalance.training.metrics import MANY_CLASSES, MetricsLog, Track
from detbalance.training.run import Interrupted, Run, StopRequest, start_accelerator, stop_request
from detbalance.training.setup import Data, load_data, loader_workers

logger = logging.getLogger(__name__)

Evaluate = Callable[[nn.Module, Data, Float64], Mapping[str, float | None]]


class TrainingStopped(ValueError):
    """Training cannot go on, and the user can do something about it."""


@dataclass(frozen=True)
class Step:
    """What the loop tells after an iteration.

    Attributes:
        iteration: counted from 1.
        iterations: of the whole run.
        loss: of this iteration.
        losses: the parts of the loss, as they were logged last.
        learning_rate: of the new layers.
        images_per_second: of this iteration.
        memory: gigabytes that the process has had at most, on the GPU where it trains on one.
        seconds_left: of training, without evaluations; by the mean of this process's iterations.
    """

    iteration: int
    iterations: int
    loss: float
    losses: Mapping[str, float]
    learning_rate: float
    images_per_second: float
    memory: float
    seconds_left: float


def train(
    config: Config,
    *,
    resume: bool = False,
    overwrite: bool = False,
    evaluate: Evaluate | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_data: Callable[[Data], None] | None = None,
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
        on_data: told what was read, before anything is trained; may refuse it.

    Raises:
        ValueError: for anything in the configuration or the data that cannot work; before training.
        TrainingStopped: when the loss is not finite, or no paste is placed in a whole epoch.
        Interrupted: after Ctrl-C or SIGTERM, when the run has been saved.
    """
    options = config.train
    accelerator = start_accelerator(
        options.mixed_precision, options.accumulation, options.trackers, config.output
    )
    share = accelerator.num_processes * options.accumulation
    if options.batch_size % share:
        raise ValueError(
            f"train.batch_size is {options.batch_size}, which {accelerator.num_processes} processes"
            f" x {options.accumulation} accumulated steps cannot share. A multiple of {share} is"
            " expected. Change train.batch_size."
        )
    with lock_folder(config.output) if accelerator.is_main_process else nullcontext():
        state = check_folder(config.output, config, resume=resume, overwrite=overwrite)
        data = load_data(config)
        if on_data is not None:
            on_data(data)
        run = Run(config, data, accelerator, batch_size=options.batch_size // share)
        if state is not None:
            run.load(state, config.output / LAST)
        # All processes have looked at the folder before the main process writes to it.
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            prepare_folder(config.output, config, resume=state is not None)
            logger.info("training in %s", config.output)
            if state is not None:
                _note_lengthening(run, state)
        accelerator.wait_for_everyone()
        log = None
        if accelerator.is_main_process:
            track = _start_trackers(run)
            log = MetricsLog(config.output, track, iteration=run.iteration, evaluated=run.evaluated)
        try:
            with nullcontext() if log is None else closing(log), worker_deaths():
                TrainingLoop(run, log, evaluate, on_step).run_to_end()
        finally:
            for tracker in accelerator.trackers:
                tracker.finish()


def _note_lengthening(run: Run, state: Mapping[str, Any]) -> None:
    """Say what becomes of the learning rate where a run gets more iterations than it began with."""
    before = config_from_checkpoint(dict(state), LAST).train.iterations
    now = run.config.train.iterations
    if now > before:
        rate = run.schedule.get_last_lr()[-1]
        logger.info(
            "lengthened from %d to %d iterations: the learning rate is that of a run of the new"
            " length, %.2g at iteration %d",
            *(before, now, rate, run.iteration),
        )


def _start_trackers(run: Run) -> Track | None:
    """Start what the configuration names; on the main process."""
    options, accelerator = run.config.train, run.accelerator
    if not options.trackers:
        return None
    purge = {"purge_step": run.iteration + 1} if run.iteration else {}
    # TensorBoard would make a table of the settings for each start of a run.
    settings = None if options.trackers == ("tensorboard",) else run.config.to_dict()
    with naming(run.config.output):
        accelerator.init_trackers("detbalance", settings, {"tensorboard": purge})
    return lambda numbers, iteration: accelerator.log(numbers, step=iteration)


class TrainingLoop:
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
        self.losses: dict[str, float] = {}

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
            first, seconds_of_all = run.iteration, 0.0
            while run.iteration < options.iterations:
                started = time.perf_counter()
                loss = self.step(batches)
                run.iteration += 1
                last = run.iteration == options.iterations
                seconds = time.perf_counter() - started
                run.tally.seconds += seconds
                seconds_of_all += seconds
                if self.log is not None and self.on_step is not None:
                    each = seconds_of_all / (run.iteration - first)
                    self.on_step(self._told(loss, seconds, each))
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
        elif self.config.model.model_dump()["backbone"] != TINY:
            logger.warning(
                "the backbone starts without pretrained weights (model.weights: none): it takes"
                " several times as long to learn, and finds less where images are few"
            )
        names, limit = self.data.train.categories, self.config.train.gradient_ratio_limit
        ratio = settings_gradient_ratio(
            self.data.train,
            self.data.factors,
            loss=self.run.loss,
            paste=self.data.paste,
            mixing=self.data.mixing,
        )
        log.write(0, ratio.record(names), track=False)
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

    def _told(self, loss: float, seconds: float, each: float) -> Step:
        iterations, iteration = self.config.train.iterations, self.run.iteration
        return Step(
            iteration=iteration,
            iterations=iterations,
            loss=loss,
            losses=self.losses,
            learning_rate=float(self.rate),
            images_per_second=self.config.train.batch_size / seconds,
            memory=_memory(self.accelerator.device),
            seconds_left=(iterations - iteration) * each,
        )

    def step(self, batches: Iterator[Any]) -> float:
        """One optimizer step; returns its loss on this process."""
        self.run.model.train()
        total = 0.0
        for _ in range(self.config.train.accumulation):
            started = time.perf_counter()
            images, targets = next(batches)
            self.run.tally.waiting += time.perf_counter() - started
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
        self.losses = losses = {
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
            "waiting": self.run.tally.waiting / self.run.tally.seconds,
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
        drawn = self.run.iteration * self.config.train.batch_size
        epoch = drawn / self.data.train.num_images
        self.log.write(self.run.iteration, {"val": figures, "epoch": epoch})
        value = figures.get(self.config.evaluation.best_metric)
        better = value is not None and (self.run.best is None or value > self.run.best)
        if better:
            self.run.best = value
        return better


def _memory(device: torch.device) -> float:
    """Gigabytes that this process has had at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource  # not on Windows
    except ImportError:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
