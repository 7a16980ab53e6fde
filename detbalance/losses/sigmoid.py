"""Losses that judge every class by itself, for heads without a background column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy.typing as npt
import torch
from torch import Tensor

from detbalance.losses.contract import ClassificationLoss
from detbalance.losses.kernel import Factor, focal_loss_sum
from detbalance.losses.weights import WeightMethod


class SigmoidFocalLoss(ClassificationLoss):
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
        alpha: weight of positives, in [0, 1], one for all or K values for the classes 1..K; -1
            turns the weighting off (1 for positives and negatives), as in torchvision.
        gamma: how much easy rows are damped, >= 0, one for all or K values; 0 is cross-entropy.
        prior: in (0, 1), the probability that each class starts from.
        class_weights: method of `detbalance.losses.class_weights`.
        beta: of the method `effective_number`.

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

    activation: ClassVar[Literal["sigmoid", "softmax"]] = "sigmoid"

    def __init__(
        self,
        class_counts: npt.ArrayLike | Tensor,
        *,
        alpha: float | Sequence[float] = 0.25,
        gamma: float | Sequence[float] = 2.0,
        prior: float = 0.01,
        class_weights: WeightMethod = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(class_counts, class_weights=class_weights, beta=beta)
        self.alpha = self._per_class("alpha", alpha)
        self.gamma = self._per_class("gamma", gamma)
        self.prior = prior
        alphas, gammas = torch.as_tensor(self.alpha), torch.as_tensor(self.gamma)
        if not bool((((alphas >= 0) & (alphas <= 1)) | (alphas == -1)).all()):
            raise ValueError(
                f"SigmoidFocalLoss: alpha is {alpha}. Expected numbers in [0, 1], or -1 for no "
                "weighting. A larger alpha weighs the positives of a class more."
            )
        if not bool(((gammas >= 0) & gammas.isfinite()).all()):
            raise ValueError(
                f"SigmoidFocalLoss: gamma is {gamma}. Expected finite numbers >= 0. Usual is 2."
            )
        if not 0.0 < prior < 1.0:
            raise ValueError(
                f"SigmoidFocalLoss: prior is {prior}. Expected a number in (0, 1). Usual is 0.01."
            )

    def initial_bias(self) -> Tensor:
        """Give the bias at which every class has the probability `prior`.

        Returns:
            float32 [K], -log((1 - prior) / prior).
        """
        return torch.full((self.num_outputs,), -math.log((1.0 - self.prior) / self.prior))

    def scores(self, logits: Tensor) -> Tensor:
        """Turn logits into one independent probability per class.

        Args:
            logits: float [A, K].

        Returns:
            float [A, K + 1]; column 0 (background) is 0, as no output speaks for it.
        """
        p = torch.sigmoid(logits if logits.dtype == torch.float64 else logits.float())
        return torch.cat([p.new_zeros(len(p), 1), p], dim=1)

    def forward(
        self, logits: Tensor, labels: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        """Compute the loss of all rows.

        Args:
            logits: float [A, K].
            labels: int64 [A], -1..K.
            normalizer: what the sum is divided by, > 0; None for max(1, foreground rows).

        Returns:
            Scalar, float64 for float64 logits, else float32. It can be differentiated once.

        Raises:
            ValueError: if shapes do not fit or a label is out of range.
            TypeError: if the labels are not int64.
        """
        self.check(logits, labels)
        alpha, gamma = self._like(logits, self.alpha), self._like(logits, self.gamma)
        if isinstance(alpha, Tensor):
            positive: Factor = torch.where(alpha < 0, 1.0, alpha)
            negative: Factor = torch.where(alpha < 0, 1.0, 1.0 - alpha)
        else:
            positive, negative = (alpha, 1.0 - alpha) if alpha >= 0 else (1.0, 1.0)
        weights = self.label_weights
        total = focal_loss_sum(
            logits,
            labels,
            positive_weight=positive,
            negative_weight=negative,
            gamma=gamma,
            label_weights=None if weights is None else _cast(weights, logits),
        )
        return total / ((labels > 0).sum().clamp(min=1) if normalizer is None else normalizer)

    def _like(self, logits: Tensor, value: float | Tensor) -> Factor:
        """A number as it is; values per class on the device and in the precision of the call."""
        return _cast(value, logits) if isinstance(value, Tensor) else value

    def _per_class(self, name: str, value: float | Sequence[float]) -> float | Tensor:
        if isinstance(value, (int, float)):
            return float(value)
        values = torch.as_tensor(value, dtype=torch.float64)
        if values.shape != (self.num_outputs,):
            raise ValueError(
                f"SigmoidFocalLoss: {name} has {values.numel()} values. Expected one number, or "
                f"{self.num_outputs} for the classes 1..{self.num_outputs}. Leave background out."
            )
        return values


def _cast(values: Tensor, logits: Tensor) -> Tensor:
    """Constants on the device of the logits, in the precision the kernel computes in."""
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return values.to(device=logits.device, dtype=dtype)
