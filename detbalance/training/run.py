"""The state of a run: everything that a checkpoint holds; its stream of batches; Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import ProjectConfiguration, gather_object
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from detbalance.detection.dataset import DetectionDataset, Draw, collate, worker_init
from detbalance.sampling import RepeatFactorSampler
from detbalance.sampling.streams import StreamSampler
from detbalance.training.checkpoint import damaged, load_weights, refuse_misfit, save_checkpoint
from detbalance.training.config import Config
from detbalance.training.gradient_ratio import GradientTotals
from detbalance.training.metrics import ExposureTotals, Tally
from detbalance.training.setup import (
    Data,
    build_model,
    build_optimizer,
    build_schedule,
    classification_loss,
)


class Interrupted(Exception):
    """The user stopped the run; what was done is saved."""


class StopRequest(threading.Event):
    """Whether the user asked to stop; and whether that is to be at once, by a KeyboardInterrupt."""

    _at_once = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Stop what takes long and leaves nothing to save; a request from before is one, too."""
        self._at_once = True
        try:
            if self.is_set():
                raise KeyboardInterrupt
            yield
        finally:
            self._at_once = False

    def ask(self, number: int, frame: object) -> None:
        """Ask to stop, as the handler of a signal. Who asks a second time does not want to wait."""
        again = self.is_set()
        self.set()
        if again or self._at_once:
            raise KeyboardInterrupt


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request that the loop honours between iterations."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop.ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class BatchStream:
    """Batches of draws without end, running over the borders of epochs."""

    def __init__(self, sampler: StreamSampler, batch_size: int) -> None:
        assert sampler.infinite
        self._sampler = sampler
        self._batch_size = batch_size
        self._start = sampler.state_dict()

    def __iter__(self) -> Iterator[list[Draw]]:
        sampler = self._sampler
        sampler.load_state_dict(self._start)
        start = self._start["epoch"] * sampler.epoch_length + self._start["position"]
        draws = map(Draw, sampler, count(start + sampler.rank, sampler.world_size))
        while True:
            yield list(islice(draws, self._batch_size))

    def state_dict(self, batches: int) -> dict[str, Any]:
        """The sampler's state after the first `batches` batches of the iterator."""
        return self._sampler.state_dict(batches * self._batch_size)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken, also on another number of processes."""
        self._sampler.load_state_dict(state)
        self._start = state

    def loader(self, dataset: DetectionDataset, workers: int) -> DataLoader[Any]:
        """A loader of these batches, from where the stream stands."""
        return DataLoader(
            dataset,
            batch_sampler=self,
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=worker_init,
            # Its own generator: a loader without one draws from torch's global state.
            generator=torch.Generator().manual_seed(0),
            pin_memory=torch.cuda.is_available(),
        )


def start_accelerator(
    mixed_precision: str,
    accumulation: int,
    trackers: Sequence[str] = (),
    folder: Path | None = None,
) -> Accelerator:
    """An accelerator for this run; trackers that need a folder get one of their own in `folder`."""
    available = [str(name) for name in get_available_trackers()]
    if missing := [name for name in trackers if name not in available]:
        known = ", ".join(str(name) for name in LOGGER_TYPE_TO_CLASS)
        raise ValueError(
            f'train.trackers: "{missing[0]}" cannot be used here. One of {known} is expected, with'
            f" its package installed (here: {', '.join(available) or 'none'}). Install it, or leave"
            " it out."
        )
    AcceleratorState._reset_state()
    GradientState._reset_state()
    place = None if folder is None else str(folder / "tensorboard")
    return Accelerator(
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=accumulation,
        log_with=list(trackers) or None,
        project_config=ProjectConfiguration(logging_dir=place),
        # Without this, processes without a GPU are not taken as parts of one run.
        cpu=not torch.accelerator.is_available(),
    )


class Run:
    """Model, optimizer, schedule, averaged weights, data stream and random state of a run."""

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
        self.gradients = GradientTotals(self.loss, data.train.categories.num_classes)
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
        self.tally = Tally()
        self.iteration = self.evaluated = 0
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

    def load(self, state: Mapping[str, Any], where: str | Path) -> None:
        """Take up a run where its checkpoint left it."""
        totals: dict[str, GradientTotals | ExposureTotals]
        totals = {"push": self.gradients, "exposure": self.exposure}
        totals = {key: total for key, total in totals.items() if key in state}  # not in old ones
        expected = {
            "iteration": int,
            "best": (int, float, type(None)),
            "sampler": self.stream.state_dict(0),
            "optimizer": {"state": dict, "param_groups": list},
            "rng": list,
            **{key: total.state_dict() for key, total in totals.items()},
        }
        scaler = self.accelerator.scaler
        if scaler is not None and state.get("scaler") is not None:
            expected["scaler"] = scaler.state_dict()
        if "tally" in state:  # nor are these
            expected |= {"tally": list, "evaluated": int}
        refuse_misfit(state, expected, where)
        iteration = state["iteration"]
        if not 0 <= iteration <= self.config.train.iterations:
            raise damaged(where, f"iteration is {iteration}")
        load_weights(self.bare_model, state["model"], where)
        if self.ema is not None:
            load_weights(self.ema.module, state["ema"] or {}, where)
            self.ema.n_averaged.fill_(iteration)
        self._load_optimizer(state["optimizer"], iteration, where)
        if "scaler" in expected:
            scaler.load_state_dict(state["scaler"])
        try:
            self.stream.load_state_dict(state["sampler"])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        for key, total in totals.items():
            total.load_state_dict(state[key])
        self._first = self.iteration = iteration
        self.best = state["best"]
        self.evaluated = state.get("evaluated", iteration)
        process = self.accelerator.process_index
        if len(state["rng"]) == self.accelerator.num_processes:
            _set_rng(state["rng"][process], where)
            if len(state.get("tally", ())) == len(state["rng"]):
                _load_tally(self.tally, state["tally"][process], where)

    def _load_optimizer(self, saved: Mapping[str, Any], iteration: int, where: str | Path) -> None:
        """Take over what it has summed up; rates and options follow from the configuration."""
        own = self.optimizer.state_dict()
        layout = [{"params": group["params"]} for group in own["param_groups"]]
        refuse_misfit(saved, {"param_groups": layout}, where, "optimizer")
        known = dict(enumerate(p for group in self.optimizer.param_groups for p in group["params"]))
        if unknown := set(saved["state"]) - set(known):
            raise damaged(where, f"optimizer.state has {next(iter(unknown))!r:.80}")
        options = self.config.train
        adam = options.optimizer == "adamw"
        sums = ("exp_avg", "exp_avg_sq") if adam else ("momentum_buffer",) * bool(options.momentum)
        step = {"step": torch.zeros(())} if adam else {}
        expected = {i: {**dict.fromkeys(sums, known[i]), **step} for i in saved["state"]}
        refuse_misfit(saved["state"], expected, where, "optimizer.state")
        self.optimizer.load_state_dict({**own, "state": saved["state"]})
        factors = self.schedule.lr_lambdas  # of the iteration alone
        rates = [s * f(iteration) for s, f in zip(self.schedule.base_lrs, factors, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        done = {"last_epoch": iteration, "_step_count": iteration + 1, "_last_lr": rates}
        self.schedule.load_state_dict({**self.schedule.state_dict(), **done})

    def save(self, name: str) -> None:
        """Write the state; all processes take part, the main process writes."""
        own = gather_object([(_rng(), self.tally.state_dict())])
        self.gradients.collect(self.accelerator.device)
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
            "scaler": None if scaler is None else scaler.state_dict(),
            "sampler": self.stream.state_dict(batches),
            "rng": [rng for rng, _ in own],
            "tally": [tally for _, tally in own],
            "evaluated": self.evaluated,
            "best": self.best,
            "push": self.gradients.state_dict(),
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
    """The random states that training draws from (augmentation has its own, see `Draw`)."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _load_tally(tally: Tally, state: Any, where: str | Path) -> None:
    parts = {"sums": dict, "batches": int, "images": int, "seconds": float}
    if isinstance(state, dict) and "waiting" in state:  # not in old ones
        parts["waiting"] = float
    refuse_misfit(state, parts, where, "tally")
    refuse_misfit(state["sums"], dict.fromkeys(state["sums"], float), where, "tally.sums")
    tally.load_state_dict(state)


def _set_rng(state: Any, where: str | Path) -> None:
    own = _rng()
    known = {name: own[name] for name in own if isinstance(state, dict) and name in state}
    refuse_misfit(state, {"cpu": own["cpu"], **known}, where, "rng")
    try:
        torch.set_rng_state(state["cpu"])
        if "cuda" in known:
            torch.cuda.set_rng_state(state["cuda"])
    except RuntimeError as error:
        raise damaged(where, "rng is no random state") from error
