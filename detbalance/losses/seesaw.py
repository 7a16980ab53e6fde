"""Frequent classes push rare ones away less, by counts that grow in training."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from detbalance.data.checks import check_number
from detbalance.losses.class_counts import ClassWeights, CountsLike
from detbalance.losses.loss import wide
from detbalance.losses.softmax import SoftmaxLoss
from detbalance.losses.statistics import sum_over_ranks


class SeesawLoss(SoftmaxLoss):
    """Cross-entropy in which the push of class i's rows on class j depends on both.

    Columns are background, foreground, class 1, ..., class K. Every row costs the cross-entropy
    between background and foreground; a row of class i also costs the cross-entropy over the class
    columns, in which every other class j competes with z(j) + log(M(i, j) C(i, j))::

        M = min(1, N(j) / N(i))^p           j was seen less often than i: pushed away less
        C = max(1, s(j) / max(s(i), eps))^q   j is taken for i: pushed away more

    N(c) are the rows of class c in training so far, this batch included, 1 at least; s is the
    softmax of the class columns, a constant to the gradient. Both costs are divided by the rows.

    Args:
        class_counts: [K + 1] training boxes per class; only their number is used, the loss counts
            by itself.
        p: >= 0, strength of M (mitigation); 0 turns it off.
        q: >= 0, strength of C (compensation); 0 turns it off.
        eps: in (0, 1], what s(i) is at least taken for.
        class_weights, beta: see `ClassificationLoss`.

    Attributes:
        cumulative_counts: float64 [K + 1], buffer; rows of background and each class so far. It
            grows where `updates_statistics` says so, by the rows of all processes, before the loss
            is computed: of accumulated calls the first does not know the rows of the others, after
            the last the counts are those of one large batch.

    Example:
        >>> loss = SeesawLoss([0, 900, 100])
        >>> loss.num_outputs
        4
        >>> logits = torch.zeros(4, 4, requires_grad=True)
        >>> round(loss(logits, torch.tensor([0, 1, 2, -1])).item(), 3)
        1.155
        >>> loss.cumulative_counts.tolist()
        [1.0, 1.0, 1.0]

    Source: Wang et al., Seesaw Loss for Long-Tailed Instance Segmentation, 2021, arXiv:2008.10032,
    sec. 3, with the objectness branch of sec. 3.3. Differs from MMDetection's code: rows to ignore
    exist and are not counted; counts stay as they are in evaluation and without gradients, are
    float64 and summed over processes; both costs always have the same divisor, where there the
    classes are divided by the foreground rows unless a divisor is given.
    """

    cumulative_counts: Tensor

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        p: float = 0.8,
        q: float = 2.0,
        eps: float = 0.01,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(class_counts, class_weights=class_weights, beta=beta)
        check_number("SeesawLoss", "p", p, least=0, advice="Usual is 0.8; 0 turns this part off.")
        check_number("SeesawLoss", "q", q, least=0, advice="Usual is 2; 0 turns this part off.")
        check_number("SeesawLoss", "eps", eps, above=0, most=1, advice="Usual is 0.01.")
        self.p, self.q, self.eps = p, q, eps
        self.num_outputs = self.num_classes + 1
        counts = torch.zeros(self.num_classes, dtype=torch.float64)
        self.register_buffer("cumulative_counts", counts)

    def scores(self, logits: Tensor) -> Tensor:
        """Give a class the probability of foreground times its share in it."""
        logits = wide(logits)
        objectness, classes = logits[:, :2].softmax(dim=1), logits[:, 2:].softmax(dim=1)
        return torch.cat([objectness[:, :1], objectness[:, 1:] * classes], dim=1)

    def forward(
        self, logits: Tensor, labels: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        self.check(logits, labels)
        if self.updates_statistics(logits):
            self._count(labels)
        logits = wide(logits)
        cost = F.cross_entropy(
            logits[:, :2], labels.clamp(max=1), ignore_index=-1, reduction="none"
        )
        rows = torch.where(labels > 0)[0]
        classes = seesaw_cost(
            logits[rows, 2:],
            labels[rows] - 1,
            self.cumulative_counts[1:],
            p=self.p,
            q=self.q,
            eps=self.eps,
        )
        return self.averaged(cost.index_add(0, rows, classes), labels, normalizer)

    @torch.no_grad()
    def _count(self, labels: Tensor) -> None:
        counts = torch.zeros_like(self.cumulative_counts)
        counted = (labels >= 0).to(counts.dtype)
        self.cumulative_counts += sum_over_ranks(counts.index_add(0, labels.clamp(min=0), counted))


def seesaw_cost(
    logits: Tensor, targets: Tensor, counts: Tensor, *, p: float, q: float, eps: float
) -> Tensor:
    """Compute what foreground rows cost over the class columns, without objectness."""
    # Logarithms throughout: the ratios of scores are too large or small to be formed. For the true
    # class itself both terms are 0.
    log_counts = counts.clamp(min=1).log().to(logits.dtype)
    mitigation = p * (log_counts - log_counts[targets, None]).clamp(max=0)
    log_scores = logits.detach().log_softmax(dim=1)
    own = log_scores.gather(1, targets[:, None]).clamp(min=math.log(eps))
    compensation = q * (log_scores - own).clamp(min=0)
    return F.cross_entropy(logits + mitigation + compensation, targets, reduction="none")
