"""Margins that grow as classes get rarer, with class weights that come late."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detbalance.data.arrays import Float64
from detbalance.data.checks import check_number
from detbalance.losses.class_counts import ClassWeights, CountsLike, label_weights
from detbalance.losses.loss import wide
from detbalance.losses.softmax import SoftmaxLoss


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

    Raises:
        ValueError: if an argument is out of its range.

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
