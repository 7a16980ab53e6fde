"""Equalization losses: rare classes are not pushed down by the objects of all the others."""

from __future__ import annotations

import logging
from typing import ClassVar, Literal

import torch
from torch import Tensor

from detbalance.data.checks import check_number
from detbalance.losses.class_counts import ClassWeights, CountsLike
from detbalance.losses.loss import wide
from detbalance.losses.sigmoid import SigmoidLoss
from detbalance.losses.statistics import GradientSums

logger = logging.getLogger(__name__)


class EqualizationLoss(SigmoidLoss):
    """Equalization loss: binary cross-entropy in which objects do not push rare classes down.

    With p = sigmoid(logit), a row of label c costs, times the weight of its label::

        class c:           -log(p)
        every other class: -log(1 - p), or nothing in a foreground row where k is rare

    A class is rare that fewer than `frequency_threshold` of the training images show. Background
    rows push every class down. Where no class is rare this is plain binary cross-entropy, and a
    line in the log says so.

    Args:
        class_counts: boxes and images per class: a `Frequency`, or `ClassCounts` with
            `image_counts` and `num_images`.
        frequency_threshold: fraction of the training images, in 0..1. The default is the authors'
            for LVIS v0.5; for LVIS v1 they take 0.0011. It suits thousands of images: on a smaller
            set choose it so that the tail of *your* classes lies below.
        prior: in (0, 1), the probability that each class starts from.
        class_weights, beta: see `ClassificationLoss`.

    Attributes:
        is_rare: bool [K], the classes 1..K that lie below the threshold.

    Raises:
        ValueError: if an argument is out of its range, or the images per class are not known.

    Example:
        >>> from detbalance.losses import ClassCounts
        >>> counts = ClassCounts([0, 900, 3], image_counts=[0, 700, 2], num_images=1000)
        >>> EqualizationLoss(counts, frequency_threshold=0.01).is_rare.tolist()
        [False, True]

    Source: Tan et al., Equalization Loss for Long-Tailed Object Recognition, 2020,
    arXiv:2003.05176, sec. 3. Differs: rows labelled -1 are ignored; in the reference they are rows
    of no class that count as foreground.
    """

    normalized_by: ClassVar[Literal["foreground", "rows"]] = "rows"

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        frequency_threshold: float = 0.00177,
        prior: float = 0.01,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(class_counts, prior=prior, class_weights=class_weights, beta=beta)
        name = type(self).__name__
        advice = "A fraction of the images: classes that fewer images show are protected."
        check_number(
            name, "frequency_threshold", frequency_threshold, least=0, most=1, advice=advice
        )
        frequency = torch.from_numpy(self.counts.image_frequency(name)[1:])
        self.frequency_threshold = frequency_threshold
        self.is_rare = frequency < frequency_threshold
        if not self.is_rare.any():
            logger.warning(
                "%s: no class is rare: the smallest fraction of images is %.3g, the threshold is"
                " %.3g. The loss is plain binary cross-entropy; raise frequency_threshold.",
                name,
                frequency.min().item(),
                frequency_threshold,
            )

    def forward(
        self, logits: Tensor, labels: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        self.check(logits, labels)
        kept = (~self.is_rare).double()
        sums = self.kernel_loss(
            logits,
            labels,
            normalizer,
            negative_weight=torch.stack([torch.ones_like(kept), kept]),
            groups=(labels > 0).long(),
        )
        return sums.loss


class EqualizationLossV2(SigmoidLoss):
    """Equalization loss v2: each class is weighted by how it has been pushed so far.

    There is one output more than classes: column 0 is background, the others are the classes. With
    p = sigmoid(logit), a row of label c (0 for background) costs, times the weight of its label::

        column c:           (1 + alpha * (1 - f[c])) * -log(p)
        every other column: f[k] * -log(1 - p)
        f[k] = sigmoid(gamma * (g[k] - mu)), and 1 for the background column

    where g is the sum of the positive gradients |p - 1| of a class over the sum of its negative
    ones |p|, both weighted as above, over all steps so far; 100 before the first. A class that is
    mostly pushed down (g near 0) has its negatives weakened and its positives strengthened. With g
    = 100 everywhere the loss is binary cross-entropy.

    The sums are of gradients without the normalizer, summed over processes. If `forward` is given
    one normalizer per row, they are of the gradients divided by it, averaged over the calls of a
    step and the processes: only proportions between rows can be told from such a normalizer.

    Args:
        class_counts: see `ClassificationLoss`; the loss reads no counts unless `class_weights` do.
        gamma: steepness of f, > 0.
        mu: the ratio g at which f is 1/2.
        alpha: how much more the positives of a class without any positive gradient count, >= 0.
        prior: in (0, 1), the probability that each class starts from; background starts from
            1 - prior.
        class_weights, beta: see `ClassificationLoss`; the weights count in the sums.

    Attributes:
        gradients: the sums [K], see `GradientSums`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> loss = EqualizationLossV2([0, 900, 100])
        >>> loss.num_outputs
        3
        >>> logits = torch.zeros(2, 3, requires_grad=True)
        >>> value = loss(logits, torch.tensor([1, 0]))
        >>> [round(g, 6) for g in loss.gradients.ratio().tolist()]
        [1.0, 0.0]

    Source: Tan et al., Equalization Loss v2, 2021, arXiv:2012.08548, sec. 4. Differs: rows labelled
    -1 are ignored (background in the reference); the statistics rest in eval mode and under
    no_grad; they need no process group, and are summed wherever there is one; weights, per-row
    weights and the normalizer are honoured.
    """

    normalized_by: ClassVar[Literal["foreground", "rows"]] = "rows"

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        gamma: float = 12.0,
        mu: float = 0.8,
        alpha: float = 4.0,
        prior: float = 0.01,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(class_counts, prior=prior, class_weights=class_weights, beta=beta)
        name = type(self).__name__
        self.num_outputs = self.num_classes
        self.gamma, self.mu, self.alpha = gamma, mu, alpha
        self.gradients = GradientSums(self.num_classes - 1, initial_ratio=100.0)
        check_number(name, "gamma", gamma, above=0, advice="Usual is 12.")
        check_number(name, "mu", mu, advice="Usual is 0.8.")
        advice = "Usual is 4; 0 leaves the positives as they are."
        check_number(name, "alpha", alpha, least=0, advice=advice)

    def initial_bias(self) -> Tensor:
        """Give the bias of the probabilities `prior` and, of background, 1 - `prior`."""
        # Nearly all rows of a dense head are background: this makes them cheap from the start.
        bias = super().initial_bias()
        bias[0] = -bias[0]
        return bias

    def scores(self, logits: Tensor) -> Tensor:
        """Give sigmoid(class) * (1 - sigmoid(background)); a row need not sum to 1."""
        logits = wide(logits)
        background, classes = logits[:, :1], logits[:, 1:]
        return torch.cat(
            [torch.sigmoid(background), torch.sigmoid(classes) * torch.sigmoid(-background)], dim=1
        )

    def forward(
        self, logits: Tensor, labels: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        self.check(logits, labels)
        positive, negative = self._weights()
        sums = self.kernel_loss(
            logits, labels, normalizer, positive_weight=positive, negative_weight=negative
        )
        if self.updates_statistics(logits):
            by_row = isinstance(normalizer, Tensor) and normalizer.ndim > 0
            self.gradients.add(
                sums.positive[1:],
                sums.negative[1:],
                normalizer=1.0 if by_row else None,
                accumulation=self.accumulation,
            )
        return sums.loss

    def _weights(self) -> tuple[Tensor, Tensor]:
        """Weights of the positives and of the negatives, float64 [K + 1], 1 for background."""
        strength = torch.sigmoid(self.gamma * (self.gradients.ratio() - self.mu))
        negative = torch.cat([strength.new_ones(1), strength])
        return 1.0 + self.alpha * (1.0 - negative), negative
