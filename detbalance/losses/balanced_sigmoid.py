"""The sigmoid form of balanced softmax: rare classes must be surer of their objects."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from detbalance.losses.counts import CountsLike
from detbalance.losses.sigmoid import SigmoidLoss
from detbalance.losses.weights import ClassWeights


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
        class_weights: method of `detbalance.losses.class_weights`, or weights by class name.
        beta: of the method `effective_number`.

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
        """Compute the loss of all rows.

        Args:
            logits: float [A, K].
            labels: int64 [A], -1..K.
            normalizer: what the rows' parts are divided by, > 0: one number or one per row [A];
                None for max(1, rows that are not ignored).

        Returns:
            Scalar, float64 for float64 logits, else float32. It can be differentiated once.

        Raises:
            ValueError: if shapes do not fit or a label is out of range.
            TypeError: if the labels are not int64.
        """
        self.check(logits, labels)
        sums = self.summed(
            logits, labels, normalizer, groups=(labels > 0).long(), shift=self._shift
        )
        return sums.loss
