"""Equalization losses: rare classes are not pushed down by the objects of all the others."""

from __future__ import annotations

import logging
from typing import ClassVar, Literal

import torch
from torch import Tensor

from detbalance.data.arrays import Float64
from detbalance.data.checks import check_number
from detbalance.losses.class_counts import ClassWeights, CountsLike
from detbalance.losses.loss import is_per_row, wide
from detbalance.losses.sigmoid import SigmoidLoss, shares
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
            self.gradients.add(
                sums.positive[1:],
                sums.negative[1:],
                normalizer=1.0 if is_per_row(normalizer) else None,
                accumulation=self.accumulation,
            )
        return sums.loss

    def _weights(self) -> tuple[Tensor, Tensor]:
        """Weights of the positives and of the negatives, float64 [K + 1], 1 for background."""
        strength = torch.sigmoid(self.gamma * (self.gradients.ratio() - self.mu))
        negative = torch.cat([strength.new_ones(1), strength])
        return 1.0 + self.alpha * (1.0 - negative), negative


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

    def positive_weights(self) -> Float64:
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
            self.gradients.add(
                sums.positive,
                sums.negative,
                # Not at least 1 yet: of several calls only the sum has to be.
                normalizer=1.0 if is_per_row(normalizer) else self.counted_rows(labels),
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
