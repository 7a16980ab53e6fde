"""The one kernel of all sigmoid losses: class-index labels, row chunks, the gradient on the way.

The usual form builds a one-hot target and about ten tensors of the size of the logits. Here a
chunk of rows that fits the processor's cache goes through the whole formula at once, every entry as
if it were a negative; the one positive entry of each foreground row is then put right. What stays
is one tensor of the size of the logits: the gradient, which the backward only has to scale. On CUDA
a Triton kernel does the same in one pass, where Triton is installed.

Letters: A rows, K columns of logits, G groups of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from detbalance.losses.compiling import outside_graphs
from detbalance.losses.statistics import precise

# Elements per chunk and CPU core: few enough for its cache, enough that calls cost little.
CPU_CHUNK = 1 << 18
GPU_CHUNK = 1 << 21
# More cores get larger chunks, but at least so many: a chunk needs four or five tensors of its
# size, and together they shall not be felt beside the gradient.
CHUNKS = 64
LOG2_E = 1.4426950408889634
# Above this softplus(y) is y to the last bit of float64; exp(40) is far from overflow in float32.
SOFTPLUS_THRESHOLD = 40.0

Factor = float | Tensor


class SigmoidSums(NamedTuple):
    """What one pass gives.

    Attributes:
        loss: scalar, float64 for float64 logits, else float32; can be differentiated once.
        positive: float64 [K], for each column the sum of |d loss / d logit| over the rows whose
            label it is, before the normalizer. Zeros where no gradient was asked for (no_grad, or
            constant logits).
        negative: float64 [K], the same over all other rows.
    """

    loss: Tensor
    positive: Tensor
    negative: Tensor


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


@outside_graphs
def sigmoid_loss_sum(
    logits: Tensor,
    labels: Tensor,
    *,
    positive_weight: Factor = 1.0,
    negative_weight: Factor = 1.0,
    gamma: Factor = 0.0,
    normalizer: Factor = 1.0,
    row_weights: Tensor | None = None,
    groups: Tensor | None = None,
    shift: Tensor | None = None,
    quality: Tensor | None = None,
) -> SigmoidSums:
    """Sum a focal-like sigmoid loss over all rows and columns.

    With p = sigmoid(logit), a row of label c costs, times its row weight::

        column c:           positive_weight[c] * (1 - p)^gamma[c] * -log(p)
        every other column: negative_weight[k] * p^gamma[k] * -log(1 - p)

    and with a quality q in place of the target 1, column c costs
    positive_weight[c] * |q - p|^gamma[c] * (-q log(p) - (1 - q) log(1 - p)).

    Half and bfloat16 logits are computed in float32. Loss and gradient are finite for every finite
    logit, also where p or 1 - p underflows and for gamma below 1, where the gradient by the chain
    rule is 0 * infinity. The constants take no gradient. Under `torch.compile` the call is a break
    in the graph of the model around it.

    Args:
        logits: float [A, K], before the sigmoid.
        labels: int64 [A], 0 no column is positive, 1..K, negative = ignored.
        positive_weight: one number or a float tensor [K].
        negative_weight: one number or a float tensor [K]; [G, K] with `groups`.
        gamma: one number or a float tensor [K], >= 0; with `quality` 0 or at least 1.
        normalizer: one number or a tensor without axes, > 0, that the loss is divided by. Dividing
            here and not afterwards saves a pass over the gradient.
        row_weights: float [A], the weight of each row; None for all ones.
        groups: int64 [A] in 0..G - 1, which row of `negative_weight` and `shift` is a row's.
        shift: float [G, K], added to the logits; with `groups`.
        quality: float [A] in 0..1, read for foreground rows only.

    Returns:
        The sums.

    Raises:
        ValueError: if something is given by group, but no groups.
        RuntimeError: in the backward, if it is run with `create_graph=True`.

    Source: Lin et al., Focal Loss for Dense Object Detection, 2017, arXiv:1708.02002, eq. 5; with
    quality: Li et al., Generalized Focal Loss, 2020, arXiv:2006.04388, eq. 4. Differs: gamma and
    the weights may vary by class; the gradient is the closed form
    p^gamma * (gamma * (1 - p) * softplus(y) + p) of one negative, and its mirror for a positive.
    """
    by_group = isinstance(negative_weight, Tensor) and negative_weight.ndim == 2
    if groups is None and (by_group or shift is not None):
        raise ValueError(
            f"sigmoid_loss_sum(): {'negative_weight' if by_group else 'shift'} is [G, K], groups is"
            " None. Expected the group of each row, int64 [A]. Pass groups."
        )
    # Inside the function `requires_grad` says nothing about torch.no_grad(), so it is asked here.
    with_gradient = logits.requires_grad and torch.is_grad_enabled()
    constants = (positive_weight, negative_weight, gamma, normalizer)
    terms = Terms(*constants, row_weights, groups, shift, quality)
    return SigmoidSums(*_SigmoidLossSum.apply(logits, labels, terms, with_gradient))


class _SigmoidLossSum(torch.autograd.Function):
    """Keeps the gradient instead of the intermediate results."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, terms: Terms, with_gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        loss, gradient, positive, negative = _run(logits, labels, terms, with_gradient)
        ctx.gradient = gradient
        ctx.terms = terms
        ctx.save_for_backward(logits, labels)
        positive, negative = positive * terms.normalizer, negative * terms.normalizer
        ctx.mark_non_differentiable(positive, negative)
        return loss, positive, negative

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        # Grad mode is on here only for create_graph=True. The result would look like a constant to
        # a gradient penalty, which would then silently do nothing.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "sigmoid_loss_sum(): a second derivative is asked for (create_graph=True). Expected"
                " one backward, the gradient is written without a graph. Leave create_graph out."
            )
        logits, labels = ctx.saved_tensors
        # The buffer is scaled in place and given away: a second copy would double the peak. Who
        # walks the graph a second time (retain_graph=True) pays for computing it again.
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            gradient = _run(logits, labels, ctx.terms, True)[1]
            assert gradient is not None
        return _scaled(gradient, outer[0]).to(logits.dtype), None, None, None


_Result = tuple[Tensor, Tensor | None, Tensor, Tensor]


def _run(logits: Tensor, labels: Tensor, terms: Terms, with_gradient: bool) -> _Result:
    """The sum; when asked for, its gradient in the precision of the calculation; column sums.

    All of them divided by the normalizer.
    """
    if logits.dtype != torch.float64 and _has_triton(logits):
        from detbalance.losses import triton_kernel

        return triton_kernel.run(logits, labels, terms, with_gradient)
    return run_pytorch(logits, labels, terms, with_gradient)


def _scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """The gradient times a factor, in place; the usual factor 1 costs nothing."""
    if gradient.dtype == torch.float32 and _has_triton(gradient):
        from detbalance.losses import triton_kernel

        return triton_kernel.scale(gradient, factor)
    if gradient.device.type == "cpu" and factor == 1.0:
        return gradient
    return gradient.mul_(factor)


def _has_triton(tensor: Tensor) -> bool:
    if not tensor.is_cuda:
        return False
    from detbalance.losses import triton_kernel

    return triton_kernel.works(tensor.device)


def run_pytorch(logits: Tensor, labels: Tensor, terms: Terms, with_gradient: bool) -> _Result:
    """The kernel in plain PyTorch, for any device."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    columns = logits.shape[1]
    gradient = logits.new_empty(logits.shape, dtype=dtype) if with_gradient else None
    # Sums over hundreds of thousands of rows, in the precision that running statistics keep.
    pushes = logits.new_zeros(2, columns, dtype=precise(logits.device))
    step = rows_per_chunk(logits)
    sums = [logits.new_zeros((), dtype=dtype)]
    for start in range(0, logits.shape[0], step):
        rows = slice(start, start + step)
        part = terms.rows(rows)
        y = logits[rows].to(dtype)
        y = (y if part.shift is None else y + part.shift[part.groups]).contiguous()
        out = gradient[rows] if gradient is not None else None
        sums += _chunk(y, labels[rows], part, out, pushes)
    loss = torch.stack(sums).sum(dtype=pushes.dtype).to(dtype)
    return loss, gradient, pushes[0], pushes[1]


def rows_per_chunk(logits: Tensor) -> int:
    """Choose how many rows go through the formula at once.

    Args:
        logits: [A, K].

    Returns:
        At least 1.
    """
    if logits.device.type == "cpu":
        least, most = CPU_CHUNK, CPU_CHUNK * torch.get_num_threads()
    else:
        least, most = GPU_CHUNK, GPU_CHUNK << 2
    return max(1, min(max(logits.numel() // CHUNKS, least), most) // logits.shape[1])


def _chunk(
    y: Tensor, labels: Tensor, terms: Terms, out: Tensor | None, pushes: Tensor
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
        pushes[1] += out.sum(dim=0)

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
        pushes[0].index_add_(0, index.view(-1), own.abs().view(-1).to(pushes.dtype))
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
