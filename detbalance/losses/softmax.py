"""Losses in which the classes and background compete, for heads with a background column."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from detbalance.losses.contract import ClassificationLoss, wide
from detbalance.losses.counts import CountsLike
from detbalance.losses.priors import adjusted_offsets, checked_tau
from detbalance.losses.weights import ClassWeights


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
        """Compute the loss of all rows."""
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
        class_weights: method of `detbalance.losses.class_weights`, or weights by class name.
        beta: of the method `effective_number`.

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
        self.posthoc_tau = checked_tau(posthoc_tau, type(self).__name__, "posthoc_tau")
        self._posthoc_offsets = torch.from_numpy(
            adjusted_offsets(self.counts.instance_counts, posthoc_tau)
        )

    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits into probabilities that sum to 1 over background and the classes.

        Args:
            logits: float [A, K + 1].

        Returns:
            float [A, K + 1]; column 0 is background.
        """
        logits = wide(logits)
        if self.posthoc_tau != 0:
            offsets = self._posthoc_offsets.to(logits.device, logits.dtype, non_blocking=True)
            logits = logits - offsets
        return F.softmax(logits, dim=-1)
