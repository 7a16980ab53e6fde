"""Losses in which the classes and background compete, for heads with a background column."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from detbalance.data.checks import check_number
from detbalance.losses.class_counts import ClassWeights, CountsLike
from detbalance.losses.logit_adjustment import TAU_ADVICE, adjusted_offsets, balanced_offsets
from detbalance.losses.loss import ClassificationLoss, wide


class SoftmaxLoss(ClassificationLoss):
    """What the softmax losses have in common; as it stands, plain cross-entropy."""

    activation: ClassVar[Literal["sigmoid", "softmax"]] = "softmax"
    normalized_by: ClassVar[Literal["foreground", "rows"]] = "rows"
    offsets: Tensor | None = None

    def initial_bias(self) -> Tensor:
        """Give the bias at which all outputs are equally likely."""
        return torch.zeros(self.num_outputs)

    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits into probabilities that sum to 1 over background and the classes."""
        return F.softmax(wide(logits), dim=-1)

    def forward(
        self, logits: Tensor, labels: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        self.check(logits, labels)
        logits = wide(logits)
        weight = self.column_weights(logits)
        shifted = self.shifted(logits, labels)
        if isinstance(normalizer, Tensor) and normalizer.ndim:
            cost = F.cross_entropy(
                shifted, labels, weight=weight, ignore_index=-1, reduction="none"
            )
            return (cost / self.constant(normalizer, logits)).sum()
        # Sum and divide: the mean of F.cross_entropy is NaN when every row is ignored.
        total = F.cross_entropy(shifted, labels, weight=weight, ignore_index=-1, reduction="sum")
        return total / (self.own_normalizer(labels) if normalizer is None else normalizer)

    def shifted(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Give the logits that the cross-entropy is taken of."""
        return logits if self.offsets is None else logits + self.constant(self.offsets, logits)

    def column_weights(self, logits: Tensor) -> Tensor | None:
        """Give the weights of rows by their label."""
        return None if self.label_weights is None else self.constant(self.label_weights, logits)

    def averaged(self, cost: Tensor, labels: Tensor, normalizer: Tensor | float | None) -> Tensor:
        """Weigh what each row costs by its label, sum and divide."""
        weight = self.column_weights(cost)
        if weight is not None:
            cost = cost * weight[labels.clamp(min=0)]
        if isinstance(normalizer, Tensor) and normalizer.ndim:
            return (cost / self.constant(normalizer, cost)).sum()
        return cost.sum() / (self.own_normalizer(labels) if normalizer is None else normalizer)


class SoftmaxCrossEntropyLoss(SoftmaxLoss):
    """Cross-entropy over background and the classes, each row weighted by its label's class.

    Without weights it is `F.cross_entropy` to the last bit. With `class_weights` the weighted sum
    is still divided by the number of rows that are not ignored, so that a weight above 1 raises the
    loss of a class; background rows weigh 1.

    Args:
        class_counts: [K + 1] training boxes per class; index 0 is not used.
        posthoc_tau: >= 0, how far `scores` corrects for the class frequencies at inference, as
            `detbalance.losses.adjust_logits` does: 0 not at all, 1 fully. Training is not changed,
            so a trained model can be given another value.
        class_weights, beta: see `ClassificationLoss`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = SoftmaxCrossEntropyLoss([0, 900, 100])
        >>> round(loss(torch.zeros(4, 3), torch.tensor([0, 1, 2, -1])).item(), 4)
        1.0986

    Source: weights: Cui et al., 2019, arXiv:1901.05555, sec. 4.1; correction: Menon et al., 2021,
    arXiv:2007.07314, eq. 9. Differs: PyTorch's `weight=` divides by the sum of the targets'
    weights, which takes back much of what the weights do, TensorFlow by the rows whose weight is
    not 0; the correction leaves the share of background alone.
    """

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        posthoc_tau: float = 0.0,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(class_counts, class_weights=class_weights, beta=beta)
        where = type(self).__name__
        check_number(where, "posthoc_tau", posthoc_tau, least=0, advice=TAU_ADVICE)
        self.posthoc_tau = posthoc_tau
        self._posthoc_offsets = torch.from_numpy(
            adjusted_offsets(self.counts.instance_counts, posthoc_tau)
        )

    def scores(self, logits: Tensor) -> Tensor:
        logits = wide(logits)
        if self.posthoc_tau != 0:
            offsets = self._posthoc_offsets.to(logits.device, logits.dtype, non_blocking=True)
            logits = logits - offsets
        return F.softmax(logits, dim=-1)


class BalancedSoftmaxLoss(SoftmaxLoss):
    """Cross-entropy of logits that get the log of their class's frequency in training.

    The head then learns what its logits would be if all classes were equally frequent. With n(c)
    boxes of class c, n in all and K' classes with boxes, training sees::

        z(c) + log(n(c) * K' / n),    z(background)

    so that foreground stays as likely as the head's sampler made it: see the head of
    `losses/logit_adjustment.py`. Among foreground rows alone this is log n(c), as in the paper,
    since a number added to all columns does not change a softmax. Equal counts give plain
    cross-entropy.

    Args:
        class_counts: [K + 1] training boxes per class; index 0 is not used.
        class_weights, beta: see `ClassificationLoss`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = BalancedSoftmaxLoss([0, 900, 100])
        >>> rows = loss(torch.zeros(2, 3), torch.tensor([1, 2]), normalizer=torch.ones(2))
        >>> round(rows.item(), 2)
        3.22

    Source: Ren et al., Balanced Meta-Softmax, 2020, arXiv:2007.10740, theorem 1. Differs:
    background takes part; a class without boxes counts as one box, where log 0 makes the loss
    infinite.
    """

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(class_counts, class_weights=class_weights, beta=beta)
        self.offsets = torch.from_numpy(balanced_offsets(self.counts.instance_counts))


class LogitAdjustedLoss(SoftmaxLoss):
    """Cross-entropy of logits that get tau times the log of their class's frequency in training.

    With pi(c) the frequency of class c among the boxes, training sees::

        z(c) + log(pi(c)^tau + 1e-12) + log S,    S = sum_k pi(k) / (pi(k)^tau + 1e-12)

    and background as it is. S keeps foreground as likely as the head's sampler made it. tau 1 is
    `BalancedSoftmaxLoss`, save for a class without boxes, which counts as one box there and as
    next to nothing here; 0 is plain cross-entropy, and so are equal counts with any tau.

    To correct a model that was trained plainly, see `detbalance.losses.adjust_logits` and the
    option `posthoc_tau` of `SoftmaxCrossEntropyLoss`.

    Args:
        class_counts: [K + 1] training boxes per class; index 0 is not used.
        tau: >= 0, how much frequent classes are held back.
        class_weights, beta: see `ClassificationLoss`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> logits, labels = torch.zeros(2, 3), torch.tensor([1, 2])
        >>> round(LogitAdjustedLoss([0, 900, 100], tau=0.5)(logits, labels).item(), 2)
        1.32

    Source: Menon et al., Long-tail learning via logit adjustment, 2021, arXiv:2007.07314, eq. 10,
    with the 1e-12 of the authors' code. Differs: background takes part.
    """

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        tau: float = 1.0,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(class_counts, class_weights=class_weights, beta=beta)
        check_number(type(self).__name__, "tau", tau, least=0, advice=TAU_ADVICE)
        self.offsets = torch.from_numpy(adjusted_offsets(self.counts.instance_counts, tau))
