"""Losses in which the classes and background compete, for heads with a background column.

A classifier that has learned from data with the frequencies p(c) gives logits of
p(x | c) p(c). To have it answer for other frequencies q(c), each logit is lowered by
log(p(c) / q(c)); added in training instead, the same numbers make the plain logits those of q.

Rows of a detector also have the label background, and how often is decided by the head's sampler,
not by the classes. q is therefore chosen to leave the share of background alone and to change the
frequencies among the foreground only: with pi(c) = p(c | foreground) and a wanted q(c | foreground)
proportional to pi(c) / a(c)::

    offset(c) = log(p(c) / q(c)) = log a(c) + log sum_k pi(k) / a(k),    offset(background) = 0

The second term is the same for all classes, so without a background column it changes nothing and
log a(c) alone is what the papers add.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detbalance.data.arrays import Float64
from detbalance.losses.class_counts import ClassCounts, ClassWeights, CountsLike
from detbalance.losses.loss import ClassificationLoss, wide


def balanced_offsets(class_counts: Float64) -> Float64:
    """Give the offsets that make all classes with boxes equally frequent."""
    frequency = _frequency(class_counts)
    one_box = 1.0 / max(class_counts[1:].sum(), 1.0)
    return _offsets(frequency, np.where(frequency > 0, frequency, one_box))


def adjusted_offsets(class_counts: Float64, tau: float) -> Float64:
    """Give the offsets that divide the frequencies by their power tau."""
    frequency = _frequency(class_counts)
    return _offsets(frequency, frequency**tau + 1e-12)


def adjust_logits(logits: Tensor, class_counts: CountsLike, *, tau: float = 1.0) -> Tensor:
    """Correct the logits of a plainly trained softmax classifier for the class frequencies.

    Frequent classes go down and rare ones up, so that over all rows background stays as frequent.
    This is the one for softmax heads with a background column, whose scores are held against one
    threshold; `calibration.adjusted_logits` gives the same order of classes in a row, but takes
    objects to be more frequent than they were. For sigmoid scores there is
    `detbalance.calibration.rescore`.

    Args:
        logits: float [A, K + 1], background in column 0, of a model that was trained with plain
            cross-entropy.
        class_counts: [K + 1] training boxes per class, or what holds them.
        tau: >= 0; 0 changes nothing, 1 is the full correction.

    Returns:
        float [A, K + 1]; float64 for float64 logits, else float32.

    Raises:
        ValueError: if the shapes do not fit or tau is negative.

    Example:
        >>> adjust_logits(torch.zeros(1, 3), [0, 90, 10]).softmax(1).round(decimals=2)
        tensor([[0.1500, 0.0800, 0.7600]])

    Source: Menon et al., Long-tail learning via logit adjustment, 2021, arXiv:2007.07314, eq. 9.
    Differs: there is no background there; see the head of this file.
    """
    checked_tau(tau, "adjust_logits()", "tau")
    counts = ClassCounts.of(class_counts).instance_counts
    if logits.ndim != 2 or logits.shape[1] != len(counts):
        raise ValueError(
            f"adjust_logits(): logits have the shape {tuple(logits.shape)}. Expected [rows, "
            f"{len(counts)}] for {len(counts)} classes with background. Pass the logits of a"
            " softmax head."
        )
    offsets = torch.from_numpy(adjusted_offsets(counts, tau))
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits - offsets.to(device=logits.device, dtype=logits.dtype)


def checked_tau(tau: float, where: str, name: str) -> float:
    """Check a strength of logit adjustment."""
    if not (math.isfinite(tau) and tau >= 0):
        raise ValueError(
            f"{where}: {name} is {tau}. Expected a finite number >= 0. 0 changes nothing, 1 is the"
            " full correction."
        )
    return tau


def _frequency(class_counts: Float64) -> Float64:
    boxes = class_counts[1:]
    frequency: Float64 = boxes / max(boxes.sum(), np.finfo(np.float64).tiny)
    return frequency


def _offsets(frequency: Float64, divisor: Float64) -> Float64:
    if not frequency.any():
        return np.zeros(len(frequency) + 1)
    return np.concatenate([[0.0], np.log(divisor) + math.log((frequency / divisor).sum())])


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
