"""Losses in which the classes and background compete, for heads with a background column."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from detbalance.losses.contract import ClassificationLoss


class SoftmaxCrossEntropyLoss(ClassificationLoss):
    """Cross-entropy over background and the classes, each row weighted by its label's class.

    Without weights it is `F.cross_entropy` to the last bit. With `class_weights` the weighted sum
    is still divided by the number of rows that are not ignored, so that a weight above 1 raises the
    loss of a class; background rows weigh 1.

    Args:
        class_counts: [K + 1] training boxes per class; index 0 is not used.
        class_weights: method of `detbalance.losses.class_weights`.
        beta: of the method `effective_number`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = SoftmaxCrossEntropyLoss([0, 900, 100])
        >>> round(loss(torch.zeros(4, 3), torch.tensor([0, 1, 2, -1])).item(), 4)
        1.0986

    Source: weights: Cui et al., 2019, arXiv:1901.05555, sec. 4.1. Differs: PyTorch's `weight=`
    divides by the sum of the targets' weights, which takes back much of what the weights do.
    """

    activation: ClassVar[Literal["sigmoid", "softmax"]] = "softmax"
    normalized_by: ClassVar[Literal["foreground", "rows"]] = "rows"

    def initial_bias(self) -> Tensor:
        """Give the bias at which all classes and background are equally likely.

        Returns:
            float32 [K + 1], zeros.
        """
        return torch.zeros(self.num_outputs)

    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits into probabilities that sum to 1 over background and the classes.

        Args:
            logits: float [A, K + 1].

        Returns:
            float [A, K + 1]; column 0 is background.
        """
        return F.softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)

    def forward(
        self, logits: Tensor, labels: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        """Compute the loss of all rows.

        Args:
            logits: float [A, K + 1].
            labels: int64 [A], -1..K.
            normalizer: what the sum is divided by, > 0; None for max(1, rows not ignored).

        Returns:
            Scalar, float64 for float64 logits, else float32.

        Raises:
            ValueError: if shapes do not fit or a label is out of range.
            TypeError: if the labels are not int64.
        """
        self.check(logits, labels)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        weight = self.label_weights
        if weight is not None:
            weight = weight.to(device=logits.device, dtype=logits.dtype)
        # Sum and divide: the mean of F.cross_entropy is NaN when every row is ignored.
        total = F.cross_entropy(logits, labels, weight=weight, ignore_index=-1, reduction="sum")
        return total / ((labels >= 0).sum().clamp(min=1) if normalizer is None else normalizer)
