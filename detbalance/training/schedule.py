"""The learning rate over a run, and the cycles that a cosine can be cut into."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from detbalance.training.config import TrainSection


def cycle_ends(iterations: int, cycles: int) -> tuple[int, ...]:
    """Cut a run into cycles whose lengths differ by one iteration at most."""
    return tuple(iterations * done // cycles for done in range(1, cycles + 1))


def check_cycles(options: TrainSection, where: str) -> None:
    """Refuse cycles of a schedule that has none, and cycles that end within the warm-up."""
    if options.cycles == 1:
        return
    if options.schedule != "cosine":
        raise ValueError(
            f'{where}: train.cycles is {options.cycles} and train.schedule is "{options.schedule}",'
            " which does not start again. The cosine schedule is expected. Set train.schedule to"
            " cosine, or train.cycles to 1."
        )
    shortest = options.iterations // options.cycles
    if shortest <= options.warmup:
        raise ValueError(
            f"{where}: train.cycles is {options.cycles}, which leaves {shortest} of the"
            f" {options.iterations} iterations for a cycle, and train.warmup is {options.warmup}."
            " Cycles longer than the warm-up are expected. Lower train.cycles or train.warmup, or"
            " raise train.iterations."
        )


def build_schedule(
    options: TrainSection, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LambdaLR:
    """A linear warm-up, then the configured schedule, as a function of the iteration alone.

    Source: Huang et al., Snapshot Ensembles: Train 1, Get M for Free, 2017, arXiv:1704.00109,
    eq. 2. Differs: the warm-up takes the place of the first cycle's begin; where cycles cannot be
    equal, all of them differ by one iteration at most, instead of the last being cut short.
    """
    ends = cycle_ends(options.iterations, options.cycles)
    starts = (options.warmup, *ends[:-1])

    def factor(iteration: int) -> float:
        if iteration < options.warmup:
            return (iteration + 1) / options.warmup
        done = iteration / options.iterations
        if options.schedule == "step":
            return float(0.1 ** sum(done >= step for step in options.steps))
        if options.schedule == "cosine":
            # Asked once after the last iteration, too, which begins no cycle.
            cycle = bisect_right(ends[:-1], iteration)
            left = max(1, ends[cycle] - starts[cycle])
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (iteration - starts[cycle]) / left)))
        return 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
