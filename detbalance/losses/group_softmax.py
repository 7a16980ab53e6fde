"""Softmax within groups of classes that are about equally frequent."""

from __future__ import annotations

import zlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detbalance.data.checks import check_number
from detbalance.losses.class_counts import ClassWeights, CountsLike
from detbalance.losses.loss import wide
from detbalance.losses.softmax import SoftmaxLoss
from detbalance.losses.statistics import accumulation_dtype, by_rank

USUAL_LIMITS = (10.0, 100.0, 1000.0)


class GroupSoftmaxLoss(SoftmaxLoss):
    """Balanced Group Softmax: classes compete only with those of their own group.

    Classes are put into bins by their training boxes, [0, 10), [10, 100), [100, 1000) and
    [1000, inf) by default. A bin has one column for each of its classes and one in front, "others",
    for the rows of all other classes and of background. A further bin tells background from
    foreground. Columns::

        background, foreground, others of bin 1, classes of bin 1, others of bin 2, ...

    with the classes of a bin in the order of their labels; a bin may have no class. The cost of a
    bin is the mean cross-entropy over the rows that it uses: all rows for the first; for the others
    the rows of their classes and, drawn at random, at most `others_ratio` times as many of the
    remaining rows. A bin without a row of its classes costs nothing. The loss is the sum over bins
    times rows / normalizer, so that each row's part is divided by what the head asks for.

    Args:
        class_counts: [K + 1] training boxes per class; index 0 is not used.
        group_limits: ascending and > 0, the boxes from which the second, third, ... bin begins;
            None for 10, 100, 1000.
        others_ratio: >= 0.
        class_weights, beta: see `ClassificationLoss`; a row has its weight in all bins.

    Attributes:
        bins: int64 [K + 1], the bin 1, 2, ... of each class; index 0 is 0.
        columns: int64 [K + 1], the column of each class; index 0 is 0.

    Example:
        >>> loss = GroupSoftmaxLoss([0, 5000, 3, 7], group_limits=[10.0])
        >>> loss.num_outputs
        7
        >>> loss.columns.tolist()
        [0, 6, 3, 4]
        >>> round(loss(torch.zeros(2, 7), torch.tensor([0, 2])).item(), 3)
        1.792

    Source: Li et al., Overcoming Classifier Imbalance for Long-tail Object Detection with Balanced
    Group Softmax, 2020, arXiv:2006.10408, sec. 4. Differs from the authors' code: rows to ignore
    exist; rows are counted over all processes, and each draws its share of a bin's others, so that
    processes that share a batch give the loss of the batch; others come from torch's generator. As
    there, the scores of a row do not sum to 1.
    """

    def __init__(
        self,
        class_counts: CountsLike,
        *,
        group_limits: list[float] | None = None,
        others_ratio: float = 8.0,
        class_weights: ClassWeights = "none",
        beta: float = 0.999,
    ) -> None:
        super().__init__(class_counts, class_weights=class_weights, beta=beta)
        limits = np.asarray(USUAL_LIMITS if group_limits is None else group_limits, np.float64)
        if not (np.isfinite(limits).all() and (np.diff(limits, prepend=0.0) > 0).all()):
            raise ValueError(
                f"GroupSoftmaxLoss: group_limits is {group_limits}. Expected finite numbers > 0,"
                " ascending. Usual is [10, 100, 1000]."
            )
        check_number(
            "GroupSoftmaxLoss", "others_ratio", others_ratio, least=0, advice="Usual is 8."
        )
        self.others_ratio = others_ratio
        group = 1 + np.searchsorted(limits, self.counts.instance_counts[1:], side="right")
        self.bins = torch.from_numpy(np.concatenate([[0], group]))
        # In front of a class: the classes of lower bins and lower labels, the two columns of the
        # first bin, and the others of each bin up to its own.
        place = np.argsort(np.argsort(group, kind="stable"), kind="stable")
        self.columns = torch.from_numpy(np.concatenate([[0], place + 2 + group]))
        self.widths = [2, *(1 + np.bincount(group, minlength=len(limits) + 2)[1:]).tolist()]
        self.num_outputs = sum(self.widths)
        starts = np.cumsum(self.widths[:-1])
        self._places = self.columns - torch.from_numpy(np.concatenate([[0], starts[group - 1]]))

    def identity(self) -> str:
        """Name the loss and the groups that its columns stand for."""
        groups = zlib.crc32(repr(self.bins.tolist()).encode())
        return f"{type(self).__name__} with the groups {groups:08x}"

    def scores(self, logits: Tensor) -> Tensor:
        """Give a class the probability of foreground times its share in its bin."""
        # Rows need not sum to 1: bins do not know of each other.
        parts = [part.softmax(dim=1) for part in torch.split(wide(logits), self.widths, dim=1)]
        classes = torch.cat(parts, dim=1)[:, self.columns[1:].to(logits.device)]
        return torch.cat([parts[0][:, :1], parts[0][:, 1:] * classes], dim=1)

    def forward(
        self, logits: Tensor, labels: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        self.check(logits, labels)
        logits = wide(logits)
        targets, chosen, counts = self._assign(labels, shared=self.updates_statistics(logits))
        # Means instead of sums; `averaged` divides by the rows, which are those of the first bin.
        factors = (counts[0] / counts.clamp(min=1)).to(logits.dtype)
        used = chosen * factors[:, None]
        parts = torch.split(logits, self.widths, dim=1)
        cost = torch.stack(
            [
                F.cross_entropy(part, target, reduction="none")
                for part, target in zip(parts, targets, strict=True)
            ]
        )
        return self.averaged((cost * used).sum(0), labels, normalizer)

    def choose_others(self, candidates: Tensor, number: Tensor) -> Tensor:
        """Choose `number` of the candidates, bool [A], at random; all where there are fewer."""
        # Ranks instead of indices: how many there are need not be known on the CPU.
        keys = torch.rand(len(candidates), device=candidates.device)
        order = keys.masked_fill(~candidates, 2.0).argsort()
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)).to(order))
        return candidates & (rank < number)

    def _assign(self, labels: Tensor, *, shared: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The column within each bin that a row should have [B, A], and the rows of a bin."""
        rows = labels.clamp(min=0)
        place, group = self._places.to(labels.device)[rows], self.bins.to(labels.device)[rows]
        bins = torch.arange(1, len(self.widths), device=labels.device)[:, None]
        member, kept = group == bins, labels >= 0
        counts = torch.cat([kept.sum()[None], member.sum(1)]).to(accumulation_dtype(labels.device))
        ranks, own = by_rank(counts) if shared else (counts[None], 0)
        total, free = ranks.sum(0), (ranks[:, :1] - ranks[:, 1:]).cumsum(0)
        # As many others as the members of all processes ask for; each process draws in proportion
        # to what it can draw from, rounded so that the parts add up.
        drawn = torch.minimum((total[1:] * self.others_ratio).floor(), free[-1])
        upto = F.pad((drawn * free / free[-1].clamp(min=1)).floor(), [0, 0, 1, 0])
        others = [
            self.choose_others(kept & ~of_bin, number)
            for of_bin, number in zip(member, upto[own + 1] - upto[own], strict=True)
        ]
        targets = torch.cat([(labels > 0).long()[None], place * member])
        used = torch.cat([kept[None], member | torch.stack(others)])
        return targets, used, torch.cat([total[:1], total[1:] + drawn])
