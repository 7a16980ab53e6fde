"""What a detector's loss sums are divided by."""

from __future__ import annotations

from typing import Literal

import torch.distributed as dist
from torch import Tensor

Normalizer = Literal["batch", "image"]


def over_ranks(count: Tensor) -> Tensor:
    """Average a count over all processes, so that all divide by the same number, at least 1."""
    total, processes = count.float(), 1
    if dist.is_available() and dist.is_initialized():
        total, processes = total.clone(), dist.get_world_size()
        dist.all_reduce(total)
    return total.clamp(min=1) / processes
