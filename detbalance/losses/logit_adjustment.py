"""Cross-entropy in which a frequent class must win by more, by an amount that frequency fixes."""

from __future__ import annotations

import torch

from detbalance.losses.class_counts import ClassWeights, CountsLike
from detbalance.losses.softmax import SoftmaxLoss, adjusted_offsets, balanced_offsets, checked_tau


class BalancedSoftmaxLoss(SoftmaxLoss):
    """Cross-entropy of logits that get the log of their class's frequency in training.

    The head then learns what its logits would be if all classes were equally frequent. With n(c)
    boxes of class c, n in all and K' classes with boxes, training sees::

        z(c) + log(n(c) * K' / n),    z(background)

    Why so: training rows teach a softmax the logits of p(x | c) p(c). Inference should answer for
    q with q(c) = p(foreground) / K' and q(background) = p(background), so that foreground stays as
    likely as the head's sampler made it. The logits of p are those of q plus log(p(c) / q(c)),
    which is log(n(c) / n * K') for classes and 0 for background. Among foreground rows alone this
    is log n(c), as in the paper, since a number added to all columns does not change a softmax.
    Equal counts give plain cross-entropy.

    Args:
        class_counts: [K + 1] training boxes per class; index 0 is not used.
        class_weights: method of `detbalance.losses.class_weights`, or weights by class name.
        beta: of the method `effective_number`.

    Raises:
        ValueError: if an argument is out of its range.

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

    and background as it is. S is what keeps foreground as likely as the head's sampler made it, by
    the same argument as in `BalancedSoftmaxLoss`, which is the case tau = 1; it does not change
    rows without background. 0 is plain cross-entropy, and so are equal counts with any tau.

    To correct a model that was trained plainly, see `detbalance.losses.adjust_logits` and the
    option `posthoc_tau` of `SoftmaxCrossEntropyLoss`.

    Args:
        class_counts: [K + 1] training boxes per class; index 0 is not used.
        tau: >= 0, how much frequent classes are held back.
        class_weights: method of `detbalance.losses.class_weights`, or weights by class name.
        beta: of the method `effective_number`.

    Raises:
        ValueError: if an argument is out of its range.

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
        checked_tau(tau, type(self).__name__, "tau")
        self.offsets = torch.from_numpy(adjusted_offsets(self.counts.instance_counts, tau))
