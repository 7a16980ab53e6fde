"""Sigmoid focal loss on class-index labels, in row chunks, the gradient written on the way.

The usual form builds a one-hot target and about ten tensors of the size of the logits. Here a
chunk of rows that fits the processor's cache goes through the whole formula at once, every entry as
if it were a negative; the one positive entry of each foreground row is then put right. What stays
is one tensor of the size of the logits: the gradient, which the backward only has to scale.

Letters: A anchors, K foreground classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements per chunk: few enough for the L2 cache of a CPU core, enough to keep a GPU busy.
CPU_CHUNK = 1 << 17
GPU_CHUNK = 1 << 23
# Above this softplus(y) is y to the last bit of float64; exp(40) is far from overflow in float32.
SOFTPLUS_THRESHOLD = 40.0

Factor = float | Tensor


def focal_loss_sum(
    logits: Tensor,
    labels: Tensor,
    *,
    positive_weight: Factor = 1.0,
    negative_weight: Factor = 1.0,
    gamma: Factor = 2.0,
    label_weights: Tensor | None = None,
) -> Tensor:
    """Sum the sigmoid focal loss of all anchors and classes.

    With p = sigmoid(logit), an anchor of label c costs, times `label_weights[c]`::

        class c:           positive_weight[c] * (1 - p)^gamma[c] * -log(p)
        every other class: negative_weight[k] * p^gamma[k] * -log(1 - p)

    Half and bfloat16 logits are computed in float32. Loss and gradient are finite for every finite
    logit, also where p or 1 - p underflows and for gamma below 1, where the gradient by the chain
    rule is 0 * infinity.

    Args:
        logits: float [A, K], before the sigmoid.
        labels: int64 [A], 0 background, 1..K, negative = ignored.
        positive_weight: one number or a float tensor [K].
        negative_weight: one number or a float tensor [K].
        gamma: one number or a float tensor [K], >= 0.
        label_weights: float [K + 1], the weight of a whole row by its label; None for all ones.

    Returns:
        Scalar, float64 for float64 logits, else float32. It can be differentiated once.

    Raises:
        RuntimeError: in the backward, if it is run with `create_graph=True`.

    Source: Lin et al., Focal Loss for Dense Object Detection, 2017, arXiv:1708.02002, eq. 5.
    Differs: gamma and the weights may vary by class; the gradient is the closed form
    p^gamma * (gamma * (1 - p) * softplus(y) + p) of one negative, and its mirror for a positive.
    """
    # Inside the function `requires_grad` says nothing about torch.no_grad(), so it is asked here.
    with_gradient = logits.requires_grad and torch.is_grad_enabled()
    parts = (positive_weight, negative_weight, gamma, label_weights)
    loss: Tensor = _FocalLossSum.apply(logits, labels, parts, with_gradient)
    return loss


_Parts = tuple[Factor, Factor, Factor, Tensor | None]


class _FocalLossSum(torch.autograd.Function):
    """Keeps the gradient instead of the intermediate results."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, parts: _Parts, with_gradient: bool
    ) -> Tensor:
        loss, gradient = _loss_and_gradient(logits, labels, parts, with_gradient)
        ctx.gradient = gradient
        ctx.parts = parts
        ctx.save_for_backward(logits, labels)
        return loss

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        # Grad mode is on here only for create_graph=True. The result would look like a constant to
        # a gradient penalty, which would then silently do nothing.
        if torch.is_grad_enabled():
            raise RuntimeError(
                "focal_loss_sum(): a second derivative is asked for (create_graph=True). Expected "
                "one backward, the gradient is written without a graph. Leave create_graph out."
            )
        logits, labels = ctx.saved_tensors
        # The buffer is scaled in place and given away: a second copy would double the peak. Who
        # walks the graph a second time (retain_graph=True) pays for computing it again.
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            _, gradient = _loss_and_gradient(logits, labels, ctx.parts, True)
        return gradient.mul_(outer).to(logits.dtype), None, None, None


def _loss_and_gradient(
    logits: Tensor, labels: Tensor, parts: _Parts, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """The sum and, when asked for, its gradient in the precision of the calculation."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    gradient = logits.new_empty(logits.shape, dtype=dtype) if with_gradient else None
    on_cpu = logits.device.type == "cpu"
    step = max(1, (CPU_CHUNK * torch.get_num_threads() if on_cpu else GPU_CHUNK) // logits.shape[1])
    sums = [logits.new_zeros((), dtype=dtype)]
    for start in range(0, logits.shape[0], step):
        rows = slice(start, start + step)
        out = gradient[rows] if gradient is not None else None
        sums += _chunk(logits[rows].to(dtype).contiguous(), labels[rows], parts, out)
    return torch.stack(sums).sum(), gradient


def _chunk(y: Tensor, labels: Tensor, parts: _Parts, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sums over the negative and the positive entries; their gradient goes to `out`."""
    positive_weight, negative_weight, gamma, label_weights = parts
    if label_weights is None:
        row = (labels >= 0).to(y.dtype).unsqueeze(1)
    else:
        row = (label_weights[labels.clamp(min=0)] * (labels >= 0)).unsqueeze(1)
    # One entry per row: the positive one, or any in a row without one. Going through all rows
    # instead of the foreground rows costs little and never waits for the device.
    index = (labels - 1).clamp(min=0).unsqueeze(1)
    positive = (labels > 0).unsqueeze(1)

    p = torch.sigmoid(y)
    modulated = _power(p, gamma)
    if isinstance(negative_weight, Tensor):
        modulated.mul_(negative_weight).mul_(row)
    else:
        modulated.mul_(row * negative_weight)
    # Weight 0 leaves an exact 0 at the positive entries; subtracting them later would cancel badly.
    modulated.scatter_(1, index, modulated.gather(1, index).masked_fill_(positive, 0.0))
    negatives = _weighted_sum(y, p, modulated, gamma, out)

    # A positive is a negative in the mirror: the same formula for -y.
    y = -y.gather(1, index)
    p = torch.sigmoid(y)
    gamma, weight = (v[index] if isinstance(v, Tensor) else v for v in (gamma, positive_weight))
    modulated = _power(p, gamma).mul_(row * weight).masked_fill_(~positive, 0.0)
    own = torch.empty_like(y) if out is not None else None
    positives = _weighted_sum(y, p, modulated, gamma, own)
    if out is not None and own is not None:
        out.scatter_(1, index, torch.where(positive, own.neg_(), out.gather(1, index)))
    return negatives, positives


def _power(p: Tensor, gamma: Factor) -> Tensor:
    """p^gamma in a new tensor; a product for the everyday exponent, ten times faster."""
    is_square = not isinstance(gamma, Tensor) and gamma == 2
    return p * p if is_square else torch.pow(p, gamma)


def _weighted_sum(
    y: Tensor, p: Tensor, modulated: Tensor, gamma: Factor, out: Tensor | None
) -> Tensor:
    """Sum of modulated * softplus(y), its gradient to `out`; `p` is overwritten."""
    cost = F.softplus(y, 1.0, SOFTPLUS_THRESHOLD)
    loss = torch.dot(modulated.view(-1), cost.view(-1))
    if out is not None:
        # modulated * (gamma * (1 - p) * cost + p), where modulated holds p^gamma
        torch.addcmul(cost, cost, p, value=-1.0, out=cost)
        torch.mul(p.add_(cost.mul_(gamma)), modulated, out=out)
    return loss
