"""What a training would take on this machine, by a few steps of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from detbalance.detection.dataset import DetectionDataset, batches_of, worker_deaths
from detbalance.detection.predict import predict
from detbalance.training.config import Config
from detbalance.training.loop import TrainingLoop
from detbalance.training.run import Run, start_accelerator
from detbalance.training.setup import load_data, loader_workers


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
    loop = TrainingLoop(run, None, None, None)
    loader = run.stream.loader(run.data.train_dataset, loader_workers(options.workers))
    with batches_of(loader) as batches, worker_deaths():
        times = [_seconds(lambda: loop.step(batches)) for _ in range(steps + 2)]
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
