"""Running statistics of losses: kept in float64, summed over steps and processes, not compiled."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from detbalance.data.arrays import Float64

P = ParamSpec("P")
R = TypeVar("R")


def outside_graphs(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function run as it stands where the model around it is compiled."""
    # Torch's own lazy form: unlike what could be written here, no compiler looks into it.
    disabled = cast("Callable[P, R]", _disable_dynamo(function))

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        # Not only while this is compiled: after a break in the graph of the caller the compiler
        # still looks at every function that is called.
        return disabled(*args, **kwargs)

    return call


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Tell the type for sums over many rows: float64, or float32 where a device has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class Float64Buffers(nn.Module):
    """A module whose own buffers move with it but keep their type: `half()` must not round them."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # TorchScript reads them, does not know them, and sees the types of buffers without them.
        cls.__annotations__ = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float64Buffers:
        kept = dict(self._buffers)
        for name, value in kept.items():
            # A device without float64 refuses it, so what is moved for a look is float32.
            if value is not None and value.dtype == torch.float64:
                self._buffers[name] = value.float()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in kept.items():
            moved = self._buffers[name]
            if value is not None and moved is not None:
                wide = value.dtype in (torch.float32, torch.float64)
                dtype = accumulation_dtype(moved.device) if wide else value.dtype
                self._buffers[name] = value.to(device=moved.device, dtype=dtype)
        return self


def num_processes() -> int:
    """Count the processes of the process group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum over all processes, where there are several."""
    if num_processes() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def by_rank(values: Tensor) -> tuple[Tensor, int]:
    """Give the values of all processes, and which are one's own."""
    if num_processes() == 1:
        return values[None], 0
    parts = [torch.empty_like(values) for _ in range(num_processes())]
    dist.all_gather(parts, values.contiguous())
    return torch.stack(parts), dist.get_rank()


class GradientSums(Float64Buffers):
    """Sums of positive and negative gradient per class over all optimizer steps so far."""

    positive: Tensor
    negative: Tensor
    steps: Tensor

    def __init__(self, num_columns: int, *, initial_ratio: float) -> None:
        super().__init__()
        self.register_buffer("positive", torch.zeros(num_columns, dtype=torch.float64))
        self.register_buffer("negative", torch.zeros(num_columns, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._initial_ratio = initial_ratio
        # The two sums and the normalizers of the calls of a step. Not a buffer:
        # DistributedDataParallel may replace every buffer by that of the first process between two
        # calls, and these differ by process.
        self._pending: Tensor | None = None
        self._calls = 0

    @outside_graphs
    @torch.no_grad()
    def add(
        self,
        positive: Tensor,
        negative: Tensor,
        *,
        normalizer: Tensor | float | None = None,
        accumulation: int = 1,
    ) -> None:
        """Take in the sums of one call."""
        own = positive.new_zeros(1) if normalizer is None else positive.new_zeros(1) + normalizer
        parts = torch.cat([positive, negative, own])
        self._pending = parts if self._pending is None else self._pending + parts
        self._calls += 1
        if self._calls < accumulation:
            return
        total = sum_over_ranks(self._pending)
        self._pending, self._calls = None, 0
        sums = total[:-1] if normalizer is None else total[:-1] / total[-1].clamp(min=1)
        finite = sums.isfinite().all()
        sums = torch.where(finite, sums, 0.0)
        self.positive += sums[: len(self.positive)]
        self.negative += sums[len(self.positive) :]
        self.steps += finite

    def ratio(self) -> Tensor:
        """Positive over negative sums, float64 [D]; 0 for a class without a positive so far."""
        return torch.where(
            self.steps > 0, self.positive / (self.negative + 1e-10), self._initial_ratio
        )


class GradientGauge:
    """Positive and negative gradient per class since it was last read; never saved."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._sums: Tensor | None = None

    def add(self, positive: Tensor, negative: Tensor) -> None:
        """Take in the sums of |gradient| of one call, each [K], without waiting for the device."""
        sums = torch.stack([positive, negative]).detach()
        self._sums = sums if self._sums is None else self._sums + sums

    def take(self) -> Float64:
        """Read the sums of this process and begin again."""
        sums = np.zeros((2, self._num_classes))
        if self._sums is not None:
            sums[:, 1:] = self._sums.cpu().double().numpy()
            self._sums = None
        return sums
