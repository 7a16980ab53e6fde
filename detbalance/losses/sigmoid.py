"""Losses that judge every class by itself, for heads without a background column."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from detbalance.data.checks import check_number
from detbalance.losses.class_counts import ClassWeights, CountsLike, PerClass
from detbalance.losses.kernel import SigmoidSums, sigmoid_loss_sum
from detbalance.losses.loss import ClassificationLoss, wide
from detbalance.losses.pytorch_kernel import Factor
from detbalance.losses.statistics import GradientGauge


class SigmoidLoss(ClassificationLoss):
    """What the losses on the sigmoid kernel have in common."""

    activation: ClassVar[Literal["sigmoid", "softmax"]] = "sigmoid"
    normalized_by: ClassVar[Literal["foreground", "rows"]] = "foreground"

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        prior: float = 0.01,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(class_counts, class_weights=class_weights, beta=beta)
        self.prior = prior
        self.gauge = GradientGauge(self.num_classes)
        where = type(self).__name__
        check_number(where, "prior", prior, above=0, below=1, advice="Usual is 0.01.")

    def initial_bias(self) -> Tensor:
        """Give the bias at which every class has the probability `prior`."""
        return torch.full((self.num_outputs,), -math.log((1.0 - self.prior) / self.prior))

    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits into one independent probability per class."""
        return F.pad(torch.sigmoid(wide(logits)), [1, 0])

    def kernel_loss(
        self,
        logits: Tensor,
        labels: Tensor,
        normalizer: Tensor | float | None,
        *,
        positive_weight: Factor = 1.0,
        negative_weight: Factor = 1.0,
        gamma: Factor = 0.0,
        groups: Tensor | None = None,
        shift: Tensor | None = None,
        quality: Tensor | None = None,
    ) -> SigmoidSums:
        """Run the kernel with the rows' weights and the normalizer."""
        rows = None
        if self.label_weights is not None:
            rows = self.constant(self.label_weights, logits)[labels.clamp(min=0)]
        if normalizer is None:
            normalizer = self.own_normalizer(labels)
        if isinstance(normalizer, Tensor) and normalizer.ndim:
            rows = 1.0 / normalizer if rows is None else rows / normalizer
            normalizer = 1.0

        def cast(value: Factor) -> Factor:
            return self.constant(value, logits) if isinstance(value, Tensor) else value

        sums = sigmoid_loss_sum(
            logits,
            self.columns(labels),
            positive_weight=cast(positive_weight),
            negative_weight=cast(negative_weight),
            gamma=cast(gamma),
            normalizer=normalizer,
            row_weights=None if rows is None else self.constant(rows, logits),
            groups=groups,
            shift=None if shift is None else self.constant(shift, logits),
            quality=None if quality is None else self.constant(quality, logits),
        )
        if self.updates_statistics(logits):
            # Of a loss with an output for background the gauge shows the classes only.
            classes = self.num_classes - 1
            self.gauge.add(sums.positive[-classes:], sums.negative[-classes:])
        return sums

    def columns(self, labels: Tensor) -> Tensor:
        """Say which column a row's label is: 1 is the first, 0 none, below 0 ignores the row."""
        return (
            labels
            if self.num_outputs == self.num_classes - 1
            else labels.add(1).masked_fill(labels < 0, -1)
        )


class SigmoidFocalLoss(SigmoidLoss):
    """Focal loss with alpha and gamma per class.

    With p = sigmoid(logit), a row of label c costs, times the weight of its label::

        class c:           alpha[c] * (1 - p)^gamma[c] * -log(p)
        every other class: (1 - alpha[k]) * p^gamma[k] * -log(1 - p)

    so a larger alpha pushes a class *up*. `class_weights` multiplies the whole row, positives and
    negatives alike, by the weight of the row's label; background rows weigh 1. The sum is divided
    by max(1, number of foreground rows), whatever their weights.

    Focal loss balances foreground against background. Scalar alpha and gamma do nothing for rare
    classes among the foreground: for those use alpha per class, `class_weights` or a sampler.

    Args:
        class_counts: [K + 1] training boxes per class; index 0 is not used.
        alpha: weight of positives, in [0, 1]: one for all, K values for the classes 1..K, or some
            classes by name (others 0.25); -1 turns the weighting off (1 for positives and
            negatives), as in torchvision.
        gamma: how much easy rows are damped, >= 0: one for all, K values, or some by name (others
            2); 0 is cross-entropy.
        prior: in (0, 1), the probability that each class starts from.
        class_weights, beta: see `ClassificationLoss`.

    Raises:
        ValueError: if an argument is out of its range or has not K values.

    Example:
        >>> loss = SigmoidFocalLoss([0, 900, 100], alpha=[0.25, 0.75])
        >>> loss.num_outputs
        2
        >>> logits = torch.zeros(3, 2)
        >>> round(loss(logits, torch.tensor([0, 2, -1])).item(), 4)
        0.4332

    Source: Lin et al., Focal Loss for Dense Object Detection, 2017, arXiv:1708.02002, eq. 5 and
    sec. 4.1; row weights: Cui et al., 2019, arXiv:1901.05555, sec. 4.3. Differs: alpha and
    gamma may vary by class; background rows exist and weigh 1.
    """

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        alpha: PerClass = 0.25,
        gamma: PerClass = 2.0,
        prior: float = 0.01,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(class_counts, prior=prior, class_weights=class_weights, beta=beta)
        name = type(self).__name__
        self.alpha = _constant(self.counts.per_class(alpha, name, "alpha", default=0.25))
        self.gamma = _constant(self.counts.per_class(gamma, name, "gamma", default=2.0))
        alphas, gammas = torch.as_tensor(self.alpha), torch.as_tensor(self.gamma)
        if not bool((((alphas >= 0) & (alphas <= 1)) | (alphas == -1)).all()):
            raise ValueError(
                f"{name}: alpha is {alpha}. Expected numbers in [0, 1], or -1 for no weighting. A"
                " larger alpha weighs the positives of a class more."
            )
        if not bool(((gammas >= 0) & gammas.isfinite()).all()):
            raise ValueError(f"{name}: gamma is {gamma}. Expected finite numbers >= 0. Usual is 2.")

    def forward(
        self, logits: Tensor, labels: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        self.check(logits, labels)
        positive, negative = shares(self.alpha)
        sums = self.kernel_loss(
            logits,
            labels,
            normalizer,
            positive_weight=positive,
            negative_weight=negative,
            gamma=self.gamma,
        )
        return sums.loss

    def positive_weights(self) -> npt.NDArray[np.float64]:
        """Tell how much a box of each class counts as what it is: `class_weights` times alpha."""
        weights = super().positive_weights()
        weights[1:] *= torch.as_tensor(shares(self.alpha)[0]).numpy()
        return weights


def shares(alpha: Factor) -> tuple[Factor, Factor]:
    """Split alpha into the weights of positives and negatives."""
    if isinstance(alpha, Tensor):
        return torch.where(alpha < 0, 1.0, alpha), torch.where(alpha < 0, 1.0, 1.0 - alpha)
    return (alpha, 1.0 - alpha) if alpha >= 0 else (1.0, 1.0)


def _constant(value: float | np.ndarray) -> float | Tensor:
    return value if isinstance(value, float) else torch.from_numpy(value)


class BalancedSigmoidLoss(SigmoidLoss):
    """Binary cross-entropy with the classes' prior odds taken out of the foreground rows.

    With pi[k] the fraction of training images that show class k, the logits of rows with an object
    are shifted before the cross-entropy::

        z[k] - log((1 - pi[k]) / pi[k])

    so the network must give a rare class the larger logit for its objects, and is punished less for
    a rare class that it sees in another's object. Rows of background keep their logits, and so does
    inference: the scores are the plain sigmoid. The sum is divided by the rows that are not
    ignored.

    Args:
        class_counts: a `Frequency`, or `ClassCounts` with `image_counts` and `num_images`; boxes
            per class alone are not enough.
        prior: in (0, 1), the probability that each class starts from.
        class_weights, beta: see `ClassificationLoss`.

    Raises:
        ValueError: if the images were not counted, or an argument is out of its range.

    Example:
        >>> from detbalance.losses import ClassCounts
        >>> loss = BalancedSigmoidLoss(ClassCounts([0, 90, 4], [0, 50, 1], num_images=100))
        >>> round(loss(torch.zeros(1, 2), torch.tensor([2])).item(), 4)  # log(2) + log(1 + 99)
        5.2983

    Source: Ren et al., Balanced Meta-Softmax for Long-Tailed Visual Recognition, 2020,
    arXiv:2007.10740, the authors' code for instance segmentation. Differs: a class in no image, or
    in all, counts as one in half an image, or in all but half an image, where the authors' shift is
    infinite; the logits given in are not changed.
    """

    normalized_by: ClassVar[Literal["foreground", "rows"]] = "rows"

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        prior: float = 0.01,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(class_counts, prior=prior, class_weights=class_weights, beta=beta)
        frequency = self.counts.image_frequency(type(self).__name__)[1:]
        half = 0.5 / (self.counts.num_images or 1)
        pi = frequency.clip(half, 1.0 - half)
        log_odds = np.log(pi) - np.log1p(-pi)
        self._shift = torch.from_numpy(np.stack([np.zeros_like(log_odds), log_odds]))

    def forward(
        self, logits: Tensor, labels: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        self.check(logits, labels)
        sums = self.kernel_loss(
            logits, labels, normalizer, groups=(labels > 0).long(), shift=self._shift
        )
        return sums.loss
