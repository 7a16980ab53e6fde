"""Losses in which the classes and background compete, and logits corrected for class frequencies.

Background keeps its share in all of it. A classifier that has learned from data with the
frequencies p(c) gives logits of p(x | c) p(c). To have it answer for other frequencies q(c), each
logit is lowered by log(p(c) / q(c)); added in training instead, the same numbers make the plain
logits those of q.

How often rows of a detector have the label background is decided by the head's sampler, not by the
classes. q is therefore chosen to change the frequencies among the foreground only: with
pi(c) = p(c | foreground) and a wanted q(c | foreground) proportional to pi(c) / a(c)::

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
from detbalance.data.checks import check_number
from detbalance.losses.class_counts import ClassCounts, ClassWeights, CountsLike, label_weights
from detbalance.losses.loss import ClassificationLoss, is_per_row, wide

TAU_ADVICE = "0 changes nothing, 1 is the full correction."


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
    For sigmoid scores there is `detbalance.calibration.rescore`.

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

    Source: Menon et al., Long-tail learning via logit adjustment, 2021, arXiv:2007.07314, eq. 9,
    with the 1e-12 of the authors' code. Differs: there is no background there. Their
    z(c) - log(pi(c)^tau + 1e-12) beside an unchanged background column would take objects to be
    sum_k pi(k)^(1 - tau) times as frequent as they were (K times at tau 1), and false positives
    would rise with them; here all classes are lowered by log sum_k pi(k) / (pi(k)^tau + 1e-12)
    more, which leaves background its share and the order of the classes as theirs.
    """
    check_number("adjust_logits()", "tau", tau, least=0, advice=TAU_ADVICE)
    counts = ClassCounts.of(class_counts).instance_counts
    if logits.ndim != 2 or logits.shape[1] != len(counts):
        raise ValueError(
            f"adjust_logits(): logits have the shape {tuple(logits.shape)}. Expected [rows,"
            f" {len(counts)}] for {len(counts)} classes with background. Pass the logits of a"
            " softmax head."
        )
    offsets = torch.from_numpy(adjusted_offsets(counts, tau))
    logits = wide(logits)
    return logits - offsets.to(device=logits.device, dtype=logits.dtype)


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
        self.check(logits, labels)
        logits = wide(logits)
        cost = F.cross_entropy(
            self.shifted(logits, labels),
            labels,
            weight=self.column_weights(logits),
            ignore_index=-1,
            # Its mean is NaN when every row is ignored.
            reduction="none" if is_per_row(normalizer) else "sum",
        )
        return self.divided(cost, labels, normalizer)

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
        return self.divided(cost, labels, normalizer)


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

    so that foreground stays as likely as the head's sampler made it: see the head of this file.
    Among foreground rows alone this is log n(c), as in the paper, since a number added to all
    columns does not change a softmax. Equal counts give plain cross-entropy.

    Args:
        class_counts: [K + 1] training boxes per class; index 0 is not used.
        class_weights, beta: see `ClassificationLoss`.

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


class LDAMLoss(SoftmaxLoss):
    """Cross-entropy of scaled cosines, the one of the true class lowered by a margin.

    With n(c) boxes, and x the cosines between a row's features and the classes' weights::

        margin(c) = max_margin * n(c)^(-1/4) / max_k n(k)^(-1/4)
        cross-entropy of scale * (x - margin(label) in the label's column)

    The rarest class has the margin `max_margin`, background none. The head's last layer has no bias
    with this loss, so what `initial_bias` gives is not used.

    The paper trains without weights first and with those of the effective number later
    (`deferred_after`), when the features are good.

    Args:
        class_counts: [K + 1] training boxes per class; index 0 is not used.
        max_margin: >= 0, in cosine; 0 for none.
        scale: > 0; cosines alone cannot make a softmax sure.
        deferred_after: optimizer steps until the deferred weights take the place of
            `class_weights`; None for never.
        deferred_beta: in [0, 1), of the deferred weights, which are
            `class_weights(class_counts, "effective_number", beta=deferred_beta)`.
        class_weights, beta: see `ClassificationLoss`.

    Attributes:
        margins: float64 [K + 1], index 0 is 0.
        steps: int64, buffer; optimizer steps so far, counted where `updates_statistics` allows it.

    Example:
        >>> loss = LDAMLoss([0, 1600, 100])
        >>> loss.margins.tolist()
        [0.0, 0.25, 0.5]
        >>> cosines = torch.tensor([[0.1, 0.2, 0.7]])
        >>> round(loss(cosines, torch.tensor([2])).item(), 2)
        0.72

    Source: Cao et al., Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss,
    2019, arXiv:1906.07413, sec. 3.2 and 3.3, alg. 1. Differs: background takes part, without a
    margin; a class without boxes has the margin of the rarest class with boxes, where the authors'
    code makes all margins 0 or NaN; the weighted sum is divided by the rows, not by the rows'
    weights; the schedule counts steps, not epochs.
    """

    last_layer: ClassVar[Literal["linear", "cosine"]] = "cosine"

    steps: Tensor
    pending: Tensor

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        max_margin: float = 0.5,
        scale: float = 30.0,
        deferred_after: int | None = None,
        deferred_beta: float = 0.9999,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(class_counts, class_weights=class_weights, beta=beta)
        check_number("LDAMLoss", "max_margin", max_margin, least=0, advice="Usual is 0.5.")
        check_number("LDAMLoss", "scale", scale, above=0, advice="Usual is 30.")
        if deferred_after is not None:
            advice = "A number of steps; leave it out to never weight."
            check_number(
                "LDAMLoss", "deferred_after", deferred_after, least=0, whole=True, advice=advice
            )
        advice = "Usual is 0.9999."
        check_number("LDAMLoss", "deferred_beta", deferred_beta, least=0, below=1, advice=advice)
        counts = self.counts.instance_counts
        self.scale = scale
        self.margins = torch.from_numpy(_margins(counts, max_margin))
        self.deferred_after = deferred_after
        self.deferred_weights = torch.as_tensor(
            label_weights(self.counts, "effective_number", beta=deferred_beta, where="LDAMLoss")
        )
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("pending", torch.zeros((), dtype=torch.int64), persistent=False)

    def positive_weights(self) -> Float64:
        """Give the weights that training ends with; see `ClassificationLoss`."""
        if self.deferred_after is None:
            return super().positive_weights()
        return np.array(self.deferred_weights.numpy(), dtype=np.float64)

    def scores(self, logits: Tensor) -> Tensor:
        return F.softmax(self.scale * wide(logits), dim=-1)

    def forward(
        self, logits: Tensor, labels: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        value = super().forward(logits, labels, normalizer=normalizer)
        if self.updates_statistics(logits):
            # Counted on the device: asking for the number would make every step wait.
            self.pending += 1
            full = self.pending >= self.accumulation
            self.steps += full
            self.pending *= ~full
        return value

    def shifted(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Scale the cosines, the one of the label lowered by its margin."""
        column = labels.clamp(min=0)[:, None]
        margin = self.constant(self.margins, logits)[column]
        return self.scale * logits.scatter_add(1, column, -margin)

    def column_weights(self, logits: Tensor) -> Tensor | None:
        """Give the weights of rows by their label in the present step, [K + 1]."""
        weights = super().column_weights(logits)
        if self.deferred_after is None:
            return weights
        deferred = self.constant(self.deferred_weights, logits)
        before = torch.ones_like(deferred) if weights is None else weights
        return torch.where(self.steps >= self.deferred_after, deferred, before)


def _margins(counts: Float64, max_margin: float) -> Float64:
    boxes = counts[1:]
    rarest = boxes[boxes > 0].min(initial=boxes.max() or 1.0)
    quarter = np.where(boxes > 0, boxes, rarest) ** -0.25
    return np.concatenate([[0.0], max_margin * quarter / quarter.max()])
