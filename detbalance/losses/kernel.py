"""The one kernel of all sigmoid losses: class-index labels, the gradient written on the way.

The usual form builds a one-hot target and about ten tensors of the size of the logits. Here stays
one: the gradient, written with the loss, which the backward only has to scale. `pytorch_kernel`
does the work on any device, `triton_kernel` on CUDA where Triton is installed.

Letters: A rows, K columns of logits, G groups of rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from detbalance.losses import pytorch_kernel
from detbalance.losses.pytorch_kernel import Factor, Terms
from detbalance.losses.statistics import outside_graphs


class SigmoidSums(NamedTuple):
    """What one pass gives."""

    loss: Tensor
    positive: Tensor
    negative: Tensor


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
    """The sum; when asked for, its gradient in the precision of the calculation; column sums."""
    triton_kernel = None if logits.dtype == torch.float64 else _triton_kernel(logits)
    result: _Result = (triton_kernel or pytorch_kernel).run(logits, labels, terms, with_gradient)
    return result


def _scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """The gradient times a factor, in place; the usual factor 1 costs nothing."""
    triton_kernel = _triton_kernel(gradient) if gradient.dtype == torch.float32 else None
    if triton_kernel is not None:
        scaled: Tensor = triton_kernel.scale(gradient, factor)
        return scaled
    if gradient.device.type == "cpu" and factor == 1.0:
        return gradient
    return gradient.mul_(factor)


def _triton_kernel(tensor: Tensor) -> Any:
    """The module, imported for the first tensor on CUDA; None where it does not run."""
    if not tensor.is_cuda:
        return None
    from detbalance.losses import triton_kernel

    return triton_kernel if triton_kernel.works(tensor.device) else None
