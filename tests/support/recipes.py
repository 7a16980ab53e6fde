"""What the tests of the recipes for other codebases share."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch.multiprocessing import get_context, spawn
from torch.utils.data import Dataset

from detbalance.sampling import BalancedBatchSampler, RepeatFactorSampler

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "host-frameworks.md"
# 12 draws: 6 batches of 2, 3 for each of 2 processes.
FACTORS = [1.0, 2.5, 1.0, 0.5, 3.0, 1.0, 1.0, 1.0, 1.0]
# The labels of 9 images, one without boxes, and a threshold that repeats the one of class 2.
LABELS = [[1], [1, 1], [1], [1], [1, 2], [1], [], [1], [1]]
THRESHOLD = 0.9


class Indices(Dataset[int]):
    """Each image is its index."""

    def __len__(self) -> int:
        return len(FACTORS)

    def __getitem__(self, index: int) -> int:
        return index


def recipe_text(framework: str) -> str:
    """The code block of a framework on the page of recipes."""
    parts = PAGE.read_text(encoding="utf-8")
    found = re.search(
        rf"^\*\*{framework}.*?^```python\n(.*?)^```$", parts, re.DOTALL | re.MULTILINE
    )
    assert found, f"{PAGE.name} has no recipe for {framework}"
    return found[1]


def recipe(framework: str, **options: str) -> CodeType:
    """The same, ready to run, with some values of its options for a small data set."""
    text = recipe_text(framework)
    for name, value in options.items():
        text, changed = re.subn(rf"{name}=[\d.]+", f"{name}={value}", text)
        assert changed == 1, name
    return compile(text, f"{PAGE.name}: {framework}", "exec")


def drawn(epoch: int, factors: Any = FACTORS, seed: int = 0) -> list[int]:
    """The stream of an epoch over all processes."""
    return RepeatFactorSampler(factors, seed=seed).epoch_indices(epoch).tolist()


def batches(epoch: int) -> list[list[int]]:
    """The stream of an epoch in batches of 2 without copies."""
    sampler = BalancedBatchSampler(RepeatFactorSampler(FACTORS, seed=0), 2)
    sampler.set_epoch(epoch)
    return list(sampler)


def on_two_processes(function: Callable[..., Any], *args: Any) -> list[Any]:
    """What a function returns on each of two processes that are set up as by torchrun."""
    results = get_context("spawn").SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_process, (function, args, port, results), nprocs=2)
    return [result for _, result in sorted((results.get(), results.get()), key=itemgetter(0))]


def _process(rank: int, function: Callable[..., Any], args: Any, port: int, results: Any) -> None:
    torch.set_num_threads(1)
    places = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2}
    meeting = {"LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in {**places, **meeting, "TORCHELASTIC_RUN_ID": "none"}.items():
        os.environ[name] = str(value)
    results.put((rank, function(*args)))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # none leaves while the other still talks to it
        torch.distributed.destroy_process_group()
    # Gloo's threads now and then abort a process whose interpreter is taken down around them.
    sys.stdout.flush()
    os._exit(0)
