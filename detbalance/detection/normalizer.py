"""What a detector's loss sums are divided by."""

from __future__ import annotations

from typing import Literal

import torch.distributed as dist
from torch import Tensor

Normalizer = Literal["batch", "image"]


def over_ranks(count: Tensor) -> Tensor:
    """Average a count over all processes, so that all divide by the same number, at least 1.

    Gradients are averaged over processes, so sum / mean count is the loss of the one large batch.

    Args:
        count: scalar, this process's number.

    Returns:
        float32 scalar, at least 1 over the number of processes.

    Example:
        >>> import torch
        >>> over_ranks(torch.tensor(0)).item(), over_ranks(torch.tensor(7)).item()
        (1.0, 7.0)
    """
    total, processes = count.float(), 1
    if dist.is_available() and dist.is_initialized():
        total, processes = total.clone(), dist.get_world_size()
        dist.all_reduce(total)
    return total.clamp(min=1) / processes
