"""How logits change with the class frequencies, where background keeps its share.

A classifier that has learned from data with the frequencies p(c) gives logits of
p(x | c) p(c). To have it answer for other frequencies q(c), each logit is lowered by
log(p(c) / q(c)); added in training instead, the same numbers make the plain logits those of q.

Rows of a detector also have the label background, and how often is decided by the head's sampler,
not by the classes. q is therefore chosen to leave the share of background alone and to change the
frequencies among the foreground only: with pi(c) = p(c | foreground) and a wanted q(c | foreground)
proportional to pi(c) / a(c)::

    offset(c) = log(p(c) / q(c)) = log a(c) + log sum_k pi(k) / a(k),    offset(background) = 0

The second term is the same for all classes, so without a background column it changes nothing and
log a(c) alone is what the papers add.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from detbalance.data.arrays import Float64
from detbalance.data.checks import check_number
from detbalance.losses.class_counts import ClassCounts, CountsLike
from detbalance.losses.loss import wide

TAU_ADVICE = "0 changes nothing, 1 is the full correction."


def balanced_offsets(class_counts: Float64) -> Float64:
    """Give the offsets that make all classes with boxes equally frequent."""
    frequency = _frequency(class_counts)
    one_box = 1.0 / max(class_counts[1:].sum(), 1.0)
    return _offsets(frequency, np.where(frequency > 0, frequency, one_box))


def adjusted_offsets(class_counts: Float64, tau: float) -> Float64:
    """Give the offsets that divide the frequencies by their power tau."""
    frequency = _frequency(class_counts)
    return _offsets(frequency, frequency**tau + 1e-12)


def adjust_logits(logits: Tensor, class_counts: CountsLike, *, tau: float = 1.0) -> Tensor:
    """Correct the logits of a plainly trained softmax classifier for the class frequencies.

    Frequent classes go down and rare ones up, so that over all rows background stays as frequent.
    For sigmoid scores there is `detbalance.calibration.rescore`.

    Args:
        logits: float [A, K + 1], background in column 0, of a model that was trained with plain
            cross-entropy.
        class_counts: [K + 1] training boxes per class, or what holds them.
        tau: >= 0; 0 changes nothing, 1 is the full correction.

    Returns:
        float [A, K + 1]; float64 for float64 logits, else float32.

    Raises:
        ValueError: if the shapes do not fit or tau is negative.

    Example:
        >>> adjust_logits(torch.zeros(1, 3), [0, 90, 10]).softmax(1).round(decimals=2)
        tensor([[0.1500, 0.0800, 0.7600]])

    Source: Menon et al., Long-tail learning via logit adjustment, 2021, arXiv:2007.07314, eq. 9,
    with the 1e-12 of the authors' code. Differs: there is no background there. Their
    z(c) - log(pi(c)^tau + 1e-12) beside an unchanged background column would take objects to be
    sum_k pi(k)^(1 - tau) times as frequent as they were (K times at tau 1), and false positives
    would rise with them; here all classes are lowered by log sum_k pi(k) / (pi(k)^tau + 1e-12)
    more, which leaves background its share and the order of the classes as theirs.
    """
    check_number("adjust_logits()", "tau", tau, least=0, advice=TAU_ADVICE)
    counts = ClassCounts.of(class_counts).instance_counts
    if logits.ndim != 2 or logits.shape[1] != len(counts):
        raise ValueError(
            f"adjust_logits(): logits have the shape {tuple(logits.shape)}. Expected [rows,"
            f" {len(counts)}] for {len(counts)} classes with background. Pass the logits of a"
            " softmax head."
        )
    offsets = torch.from_numpy(adjusted_offsets(counts, tau))
    logits = wide(logits)
    return logits - offsets.to(device=logits.device, dtype=logits.dtype)


def _frequency(class_counts: Float64) -> Float64:
    boxes = class_counts[1:]
    frequency: Float64 = boxes / max(boxes.sum(), np.finfo(np.float64).tiny)
    return frequency


def _offsets(frequency: Float64, divisor: Float64) -> Float64:
    if not frequency.any():
        return np.zeros(len(frequency) + 1)
    return np.concatenate([[0.0], np.log(divisor) + math.log((frequency / divisor).sum())])
