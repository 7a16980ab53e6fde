"""Equalized focal losses: each class has the focusing strength that its imbalance asks for."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from detbalance.data.checks import check_number
from detbalance.losses.class_counts import ClassWeights, CountsLike
from detbalance.losses.sigmoid import SigmoidLoss, shares
from detbalance.losses.statistics import GradientSums


class EqualizedFocalLoss(SigmoidLoss):
    """Equalized focal loss: gamma grows where a class is mostly pushed down.

    With p = sigmoid(logit), a row of label c costs, times the weight of its label::

        class c:           alpha * (gamma[c] / gamma) * (1 - p)^gamma[c] * -log(p)
        every other class: (1 - alpha) * (gamma[k] / gamma) * p^gamma[k] * -log(1 - p)
        gamma[k] = gamma + scale * (1 - g[k])

    where g is the sum of the positive over the sum of the negative gradients of a class over all
    steps so far, limited to 0..1; 1 before the first step, so that the loss begins as focal loss.
    The factor gamma[k] / gamma gives back to the hard entries what the larger exponent takes.

    The gradients are those of the loss above. Those of a step are divided by its foreground rows,
    at least 1, over its calls and all processes; if `forward` is given one normalizer per row, they
    are divided by it and averaged over calls and processes.

    Args:
        class_counts: see `ClassificationLoss`; the loss reads no counts unless `class_weights` do.
        gamma: the focusing strength of a balanced class, > 0.
        scale: how much larger it is for a class without any positive gradient, >= 0; 0 is focal
            loss.
        alpha: weight of positives, in [0, 1]; -1 turns the weighting off (1 for both).
        prior: in (0, 1), the probability that each class starts from. With many classes the
            gradients of the first steps are mostly those of easy negatives, hence the low value.
        class_weights, beta: see `ClassificationLoss`; the weights count in the sums.

    Attributes:
        gradients: the sums [K], see `GradientSums`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import torch
        >>> loss = EqualizedFocalLoss([0, 900, 100])
        >>> loss.gammas().tolist()
        [2.0, 2.0]
        >>> value = loss(torch.zeros(1, 2, requires_grad=True), torch.tensor([0]))
        >>> loss.gammas().tolist()
        [10.0, 10.0]

    Source: Li et al., Equalized Focal Loss for Dense Long-Tailed Object Detection, 2022,
    arXiv:2201.02593, sec. 3. Differs: finite for every finite logit; the gradients come from the
    forward pass, not from hooks that count the levels of a pyramid, and rest in eval mode and under
    no_grad; they are divided by the foreground rows whatever the loss was divided by; without a
    normalizer that is the divisor of the loss too.
    """

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        gamma: float = 2.0,
        scale: float = 8.0,
        alpha: float = 0.25,
        prior: float = 0.001,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(class_counts, prior=prior, class_weights=class_weights, beta=beta)
        name = type(self).__name__
        self.gamma, self.scale, self.alpha = gamma, scale, alpha
        self.gradients = GradientSums(self.num_outputs, initial_ratio=1.0)
        check_number(name, "gamma", gamma, above=0, advice="Usual is 2.")
        check_number(name, "scale", scale, least=0, advice="Usual is 8; 0 is focal loss.")
        if alpha != -1.0:
            advice = "-1 is for no weighting, usual is 0.25."
            check_number(name, "alpha", alpha, least=0, most=1, advice=advice)

    def gammas(self) -> Tensor:
        """Give the focusing strength of each class now, float64 [K], `gamma` .. `gamma + scale`."""
        return self.gamma + self.scale * (1.0 - self.gradients.ratio().clamp(max=1.0))

    def positive_weights(self) -> npt.NDArray[np.float64]:
        """Tell how much a box of each class counts as what it is: `class_weights` times alpha."""
        weights = super().positive_weights()
        weights[1:] *= shares(self.alpha)[0]
        return weights

    def forward(
        self, logits: Tensor, labels: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        self.check(logits, labels)
        return self._equalized(logits, labels, normalizer, None)

    def _equalized(
        self,
        logits: Tensor,
        labels: Tensor,
        normalizer: Tensor | float | None,
        quality: Tensor | None,
    ) -> Tensor:
        gammas = self.gammas()
        positive, negative = (share * (gammas / self.gamma) for share in shares(self.alpha))
        sums = self.kernel_loss(
            logits,
            labels,
            normalizer,
            positive_weight=positive,
            negative_weight=negative,
            gamma=gammas,
            quality=quality,
        )
        if self.updates_statistics(logits):
            by_row = isinstance(normalizer, Tensor) and normalizer.ndim > 0
            self.gradients.add(
                sums.positive,
                sums.negative,
                # Not at least 1 yet: of several calls only the sum has to be.
                normalizer=1.0 if by_row else self.counted_rows(labels),
                accumulation=self.accumulation,
            )
        return sums.loss


class EqualizedQualityFocalLoss(EqualizedFocalLoss):
    """Equalized quality focal loss: the score is to say how well the predicted box fits.

    As `EqualizedFocalLoss` without alpha, but a foreground row with the quality q (the IoU of its
    predicted box with its object) costs, in place of the target 1::

        class c: (gamma[c] / gamma) * |q - p|^gamma[c] * (-q log(p) - (1 - q) log(1 - p))

    Whether a gradient is positive or negative is told by the label, whatever the quality.

    Args:
        class_counts: see `ClassificationLoss`; the loss reads no counts unless `class_weights` do.
        gamma: see `EqualizedFocalLoss`; at least 1, below it the gradient is infinite at p = q.
        scale: see `EqualizedFocalLoss`.
        prior: in (0, 1), the probability that each class starts from.
        class_weights, beta: see `ClassificationLoss`; the weights count in the sums.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> import torch
        >>> loss = EqualizedQualityFocalLoss([0, 900, 100])
        >>> logits, labels = torch.zeros(1, 2), torch.tensor([1])
        >>> round(loss(logits, labels, quality=torch.tensor([0.5])).item(), 4)
        0.1733

    Source: Li et al., Equalized Focal Loss for Dense Long-Tailed Object Detection, 2022,
    arXiv:2201.02593, as released with United-Perception; quality: Li et al., Generalized Focal
    Loss, 2020, arXiv:2006.04388, eq. 4. Differs: see `EqualizedFocalLoss`.
    """

    extra_inputs: ClassVar[frozenset[str]] = frozenset({"quality"})

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        gamma: float = 2.0,
        scale: float = 8.0,
        prior: float = 0.001,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(
            class_counts,
            gamma=gamma,
            scale=scale,
            alpha=-1.0,
            prior=prior,
            class_weights=class_weights,
            beta=beta,
        )
        check_number(type(self).__name__, "gamma", gamma, least=1, advice="Usual is 2.")

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        normalizer: Tensor | float | None = None,
        quality: Tensor | None = None,
    ) -> Tensor:
        self.check(logits, labels)
        if quality is not None:
            self._check_quality(quality, labels)
            quality = quality.detach()
        return self._equalized(logits, labels, normalizer, quality)

    def _check_quality(self, quality: Tensor, labels: Tensor) -> None:
        name = type(self).__name__
        if quality.shape != labels.shape:
            raise ValueError(
                f"{name}: quality has the shape {tuple(quality.shape)}. Expected"
                f" [{labels.shape[0]}], one per row of the logits. Pass the IoU of each row's box"
                " with its object, 0 for the others."
            )
        if quality.device.type == "cpu":
            read = quality[labels > 0]
            bad = read[~((read >= 0) & (read <= 1))]
            if len(bad):
                raise ValueError(
                    f"{name}: {len(bad)} qualities are out of range (first: {bad[0].item()})."
                    " Expected numbers in 0..1. Pass the IoU of each row's box with its object."
                )
