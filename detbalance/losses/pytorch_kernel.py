"""The sigmoid kernel in plain PyTorch, for any device: chunks of rows.

A chunk that fits the processor's cache goes through the whole formula at once, every entry as if it
were a negative; the one positive entry of each foreground row is then put right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from detbalance.losses.statistics import accumulation_dtype

Factor = float | Tensor

# Elements per chunk and CPU core: few enough for its cache, enough that calls cost little.
CPU_CHUNK = 1 << 18
GPU_CHUNK = 1 << 21
# More cores get larger chunks, but at least so many: a chunk needs four or five tensors of its
# size, and together they shall not be felt beside the gradient.
CHUNKS = 64
LOG2_E = 1.4426950408889634
# Above this softplus(y) is y to the last bit of float64; exp(40) is far from overflow in float32.
SOFTPLUS_THRESHOLD = 40.0


@dataclass(frozen=True, eq=False)
class Terms:
    """The constants of a call; see `sigmoid_loss_sum`."""

    positive_weight: Factor
    negative_weight: Factor
    gamma: Factor
    normalizer: Factor
    row_weights: Tensor | None
    groups: Tensor | None
    shift: Tensor | None
    quality: Tensor | None

    def rows(self, rows: slice) -> Terms:
        """The part of the constants that belongs to some rows."""

        def cut(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows]

        return replace(
            self,
            row_weights=cut(self.row_weights),
            groups=cut(self.groups),
            quality=cut(self.quality),
        )


def run(
    logits: Tensor, labels: Tensor, terms: Terms, with_gradient: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Give loss, gradient and column sums, divided by the normalizer."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    columns = logits.shape[1]
    gradient = logits.new_empty(logits.shape, dtype=dtype) if with_gradient else None
    # Sums over hundreds of thousands of rows, in the precision that running statistics keep.
    column_sums = logits.new_zeros(2, columns, dtype=accumulation_dtype(logits.device))
    step = rows_per_chunk(logits)
    sums = [logits.new_zeros((), dtype=dtype)]
    for start in range(0, logits.shape[0], step):
        rows = slice(start, start + step)
        part = terms.rows(rows)
        y = logits[rows].to(dtype)
        y = (y if part.shift is None else y + part.shift[part.groups]).contiguous()
        out = gradient[rows] if gradient is not None else None
        sums += _chunk(y, labels[rows], part, out, column_sums)
    loss = torch.stack(sums).sum(dtype=column_sums.dtype).to(dtype)
    return loss, gradient, column_sums[0], column_sums[1]


def rows_per_chunk(logits: Tensor) -> int:
    """Choose how many rows go through the formula at once."""
    if logits.device.type == "cpu":
        least, most = CPU_CHUNK, CPU_CHUNK * torch.get_num_threads()
    else:
        least, most = GPU_CHUNK, GPU_CHUNK << 2
    return max(1, min(max(logits.numel() // CHUNKS, least), most) // logits.shape[1])


def _chunk(
    y: Tensor, labels: Tensor, terms: Terms, out: Tensor | None, column_sums: Tensor
) -> tuple[Tensor, Tensor]:
    """The sums over the negative and the positive entries; their gradient goes to `out`."""
    row = ((labels >= 0).to(y.dtype) / terms.normalizer).unsqueeze(1)
    if terms.row_weights is not None:
        row = row * terms.row_weights.unsqueeze(1)
    # One entry per row: the positive one, or any in a row without one. Going through all rows
    # instead of the foreground rows costs little and never waits for the device.
    index = (labels - 1).clamp(min=0).unsqueeze(1)
    positive = (labels > 0).unsqueeze(1)

    p, cost, power = _parts(y, terms.gamma)
    weight = terms.negative_weight
    scale = row if isinstance(weight, Tensor) else row * weight
    modulated = torch.empty_like(y).copy_(scale) if power is None else power.mul_(scale)
    if isinstance(weight, Tensor):
        modulated.mul_(weight[terms.groups] if weight.ndim == 2 else weight)
    # Weight 0 leaves an exact 0 at the positive entries; subtracting them later would cancel badly.
    modulated.scatter_(1, index, modulated.gather(1, index).masked_fill_(positive, 0.0))
    negatives = _weighted_sum(p, cost, modulated, terms.gamma, out)
    if out is not None:
        column_sums[1] += out.sum(dim=0)

    y = y.gather(1, index)
    gamma, weight = (
        v[index] if isinstance(v, Tensor) else v for v in (terms.gamma, terms.positive_weight)
    )
    weight = (row * weight).masked_fill_(~positive, 0.0)
    own = torch.empty_like(y) if out is not None else None
    if terms.quality is None:
        # A positive is a negative in the mirror: the same formula for -y.
        p, cost, power = _parts(y.neg_(), gamma)
        positives = _weighted_sum(p, cost, weight if power is None else power * weight, gamma, own)
        if own is not None:
            own.neg_()
    else:
        quality = terms.quality.to(y.dtype).unsqueeze(1).masked_fill(~positive, 0.0)
        positives = _quality_sum(y, quality, weight, gamma, own)
    if out is not None and own is not None:
        column_sums[0].index_add_(0, index.view(-1), own.abs().view(-1).to(column_sums.dtype))
        out.scatter_(1, index, torch.where(positive, own, out.gather(1, index)))
    return negatives, positives


def _parts(y: Tensor, gamma: Factor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute p = sigmoid(y), -log(1 - p) and p^gamma, None where it is 1; exact at both ends."""
    p = torch.sigmoid(y)
    if not isinstance(gamma, Tensor) and gamma in (0.0, 1.0, 2.0):
        cost = F.softplus(y, 1.0, SOFTPLUS_THRESHOLD)
        return p, cost, None if gamma == 0 else p * p if gamma == 2 else p.clone()
    # The logarithm of the larger of p and 1 - p. From it both logarithms come as sums of two
    # numbers of one sign; as a difference, softplus(y) - y loses its digits where p is near 1.
    larger = F.logsigmoid(y.abs())
    log_p = y.clamp(max=0).add_(larger)
    return p, y.clamp(min=0).sub_(larger), log_p.mul_(gamma * LOG2_E).exp2_()


def _weighted_sum(
    p: Tensor, cost: Tensor, modulated: Tensor, gamma: Factor, out: Tensor | None
) -> Tensor:
    """Sum of modulated * cost, its gradient to `out`; `p` and `cost` are overwritten."""
    # PyTorch's sum adds pairs of pairs; a dot product would lose small numbers beside a large one.
    loss = (modulated * cost).sum()
    if out is not None:
        if isinstance(gamma, Tensor) or gamma != 0:
            # modulated * (gamma * (1 - p) * cost + p), where modulated holds p^gamma
            torch.addcmul(cost, cost, p, value=-1.0, out=cost)
            p.add_(cost.mul_(gamma))
        torch.mul(p, modulated, out=out)
    return loss


def _quality_sum(
    y: Tensor, quality: Tensor, weight: Tensor, gamma: Factor, out: Tensor | None
) -> Tensor:
    """Sum of weight * |q - p|^gamma * BCE(p, q), its gradient to `out`."""
    p, rest = torch.sigmoid(y), torch.sigmoid(-y)
    # Both halves are sums of positive terms: nothing cancels where p is close to q = 0 or 1.
    cost = quality * F.softplus(-y, 1.0, SOFTPLUS_THRESHOLD)
    cost += (1.0 - quality) * F.softplus(y, 1.0, SOFTPLUS_THRESHOLD)
    difference = p * (1.0 - quality) - rest * quality
    distance = difference.abs()
    modulated = torch.pow(distance, gamma) * weight
    if out is not None:
        below = gamma - 1.0
        below = below.clamp(min=0) if isinstance(below, Tensor) else max(below, 0.0)
        slope = torch.pow(distance, below) * difference.sign() * (p * rest) * cost
        torch.add(modulated * difference, slope * weight * gamma, out=out)
    return (modulated * cost).sum()
