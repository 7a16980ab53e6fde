"""Losses that judge every class by itself, for heads without a background column."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detbalance.data.arrays import Float64
from detbalance.data.checks import check_number
from detbalance.losses.class_counts import ClassWeights, CountsLike, PerClass
from detbalance.losses.kernel import SigmoidSums, sigmoid_loss_sum
from detbalance.losses.loss import ClassificationLoss, is_per_row, wide
from detbalance.losses.pytorch_kernel import Factor
from detbalance.losses.statistics import GradientGauge, outside_graphs


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
        groups: Tensor | None = None,
        **terms: Any,
    ) -> SigmoidSums:
        """Run the kernel with the rows' weights, the normalizer and further terms of its."""
        rows = None
        if self.label_weights is not None:
            rows = self.constant(self.label_weights, logits)[labels.clamp(min=0)]
        if normalizer is None:
            normalizer = self.own_normalizer(labels)
        if is_per_row(normalizer):
            rows = 1.0 / normalizer if rows is None else rows / normalizer
            normalizer = 1.0
        terms["row_weights"] = rows
        constants = {
            name: self.constant(value, logits) if isinstance(value, Tensor) else value
            for name, value in terms.items()
        }
        sums = sigmoid_loss_sum(
            logits, self.columns(labels), normalizer=normalizer, groups=groups, **constants
        )
        if self.updates_statistics(logits):
            # Of a loss with an output for background the gauge shows the classes only.
            classes = self.num_classes - 1
            self.gauge.add(sums.positive[-classes:], sums.negative[-classes:])
        return sums

    def columns(self, labels: Tensor) -> Tensor:
        """Say which column a row's label is: 1 is the first, 0 none, below 0 ignores the row."""
        if self.num_outputs < self.num_classes:
            return labels
        return labels.add(1).masked_fill(labels < 0, -1)


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

    def positive_weights(self) -> Float64:
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


class FederatedLoss(SigmoidLoss):
    """Binary cross-entropy over the classes of the batch and some drawn ones.

    Where each image is searched for a few of many classes only, an unlabelled object is no proof
    of absence, and a rare class gets a thousand negatives for each positive. So each call judges a
    set of classes. With p = sigmoid(logit), a row of label c costs, times the weight of its label::

        class c:                           -log(p)
        every other class k of the set:    -log(1 - p)
        every class outside the set:       nothing

    The set has all classes that are labels in this call. Until it has `classes_per_batch`, others
    are drawn, without replacement, with a probability proportional to images^power. A class without
    images is never drawn. More labelled classes than that all belong to the set, and none is drawn.
    Where at most `classes_per_batch` classes have images all of them always belong to it: binary
    cross-entropy.

    The lists of LVIS, where they are given, go before the set. A class that was verified to be
    absent from an image is a negative of all rows of that image; a class whose objects are not all
    annotated in an image is a negative of none of them. Positives always count.

    The draw takes one random number per class and call from torch's default generator of the CPU,
    which checkpoints keep. Every process draws for its own part of the batch.

    Args:
        class_counts: a `Frequency` or `ClassCounts` with the images per class; where only boxes per
            class [K + 1] are known, they take the place of the images.
        classes_per_batch: size of the set, >= 1.
        power: of the counts, >= 0; 0 draws all classes alike, 1 in proportion to their images.
        prior: in (0, 1), the probability that each class starts from.
        class_weights, beta: see `ClassificationLoss`.

    Example:
        >>> loss = FederatedLoss([0, 900, 100, 0], classes_per_batch=2)
        >>> loss.class_set(torch.tensor([2, 0, -1])).tolist()
        [False, True, True, False]

    Source: Zhou et al., Probabilistic Two-Stage Detection, 2021, arXiv:2103.07461, experiments on
    LVIS; the drawing: Efraimidis and Spirakis, Weighted Random Sampling with a Reservoir, 2006.
    Differs from the code of Detic, CenterNet2 and detectron2: background rows take none of the
    `classes_per_batch` places; classes without images are not drawn where too few others are left,
    nor with power 0; the lists of LVIS are honoured, because the set alone would teach an absence
    that nobody verified and throw away one that somebody did. There is no softmax form: there it
    masks the weight of the target only, and all targets are in the set, so it is cross-entropy.
    """

    normalized_by: ClassVar[Literal["foreground", "rows"]] = "rows"
    extra_inputs: ClassVar[frozenset[str]] = frozenset({"image_index", "image_labels"})

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        classes_per_batch: int = 50,
        power: float = 0.5,
        prior: float = 0.01,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(class_counts, prior=prior, class_weights=class_weights, beta=beta)
        name = type(self).__name__
        check_number(
            name, "classes_per_batch", classes_per_batch, least=1, whole=True, advice="Usual is 50."
        )
        check_number(name, "power", power, least=0, advice="Usual is 0.5.")
        self.classes_per_batch = classes_per_batch
        counts = self.counts.image_counts
        counts = (self.counts.instance_counts if counts is None else counts)[1:]
        log_weights = np.full(len(counts), -np.inf)
        log_weights[counts > 0] = power * np.log(counts[counts > 0])
        self._log_weights = torch.from_numpy(log_weights).float()

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        normalizer: Tensor | float | None = None,
        image_index: Tensor | None = None,
        image_labels: Tensor | None = None,
    ) -> Tensor:
        self.check(logits, labels)
        negative = self.class_set(labels)[1:]
        if image_index is not None or image_labels is not None:
            listed = self._lists(labels, image_index, image_labels)[:, 1:].to(logits.device)
            negative = torch.where(listed == 0, negative, listed > 0)
        groups = None if image_index is None else image_index.to(logits.device)
        sums = self.kernel_loss(logits, labels, normalizer, negative_weight=negative, groups=groups)
        return sums.loss

    @outside_graphs
    def class_set(self, labels: Tensor) -> Tensor:
        """Draw the classes that a call judges, bool [K + 1]; background is none of them."""
        # Every class starts an exponential clock that runs as fast as its weight; the first to ring
        # are a draw without replacement. The labelled classes have rung before the start. Unlike
        # torch.multinomial this need not know how many there are, so no device is waited for.
        clocks = torch.full((self.num_classes,), torch.inf)
        clocks[1:] = torch.empty(self.num_classes - 1).exponential_().log_() - self._log_weights
        rings = clocks.to(labels.device, non_blocking=True)
        labelled = torch.zeros_like(rings, dtype=torch.bool)
        labelled.index_fill_(0, labels.clamp(min=0), True)
        labelled[0] = False
        rings = rings.masked_fill(labelled, -torch.inf)
        places = min(self.classes_per_batch, self.num_classes)
        first = rings.topk(places, largest=False).indices
        drawn = torch.zeros_like(labelled).index_fill_(0, first, True) & (rings < torch.inf)
        return labelled | drawn

    def _lists(
        self, labels: Tensor, image_index: Tensor | None, image_labels: Tensor | None
    ) -> Tensor:
        """The lists, checked to belong to the rows."""
        name = type(self).__name__
        if image_index is None or image_labels is None:
            missing = "image_index" if image_index is None else "image_labels"
            raise ValueError(
                f"{name}: {missing} is missing. Expected image_index and image_labels, or neither."
                " Give both."
            )
        if image_index.shape != labels.shape:
            raise ValueError(
                f"{name}: image_index has the shape {tuple(image_index.shape)}. Expected"
                f" [{len(labels)}], one per row of the logits. Give the image of each row."
            )
        if image_labels.ndim != 2 or image_labels.shape[1] != self.num_classes:
            raise ValueError(
                f"{name}: image_labels have the shape {tuple(image_labels.shape)}. Expected"
                f" [images, {self.num_classes}], with a column for background. Leave column 0 at 0."
            )
        if image_index.device.type == "cpu" and image_index.numel():
            low, high = (int(v) for v in image_index.aminmax())
            if low < 0 or high >= len(image_labels):
                raise ValueError(
                    f"{name}: an image_index is {low if low < 0 else high}. Expected"
                    f" 0..{len(image_labels) - 1}, a row of image_labels. Number the images of the"
                    " batch from 0."
                )
        return image_labels
