"""A slow and plain focal loss to compare with, and how losses are run for a comparison."""

from __future__ import annotations

import numpy as np
import torch


def focal_twin(logits, labels, *, positive=0.25, negative=0.75, gamma=2.0, weights=None):
    """Loss [A, K] and gradient [A, K] by the definition, in float64 NumPy."""
    x = np.asarray(logits, np.float64)
    labels = np.asarray(labels)
    is_positive = labels[:, None] == np.arange(1, x.shape[1] + 1)
    # The logit of the wrong answer: of the class for negatives, of "not the class" for positives.
    wrong = np.where(is_positive, -x, x)
    log_p, cost = -np.logaddexp(0, -wrong), np.logaddexp(0, wrong)
    weight = np.where(is_positive, positive, negative) * (labels >= 0)[:, None]
    if weights is not None:
        weight = weight * np.asarray(weights)[np.maximum(labels, 0)][:, None]
    modulated = weight * np.exp(gamma * log_p)
    slope = modulated * (gamma * np.exp(-cost) * cost + np.exp(log_p))
    return modulated * cost, np.where(is_positive, -slope, slope)


def run(loss, logits, labels, dtype=torch.float64, **options):
    """Value and gradient of a loss as NumPy."""
    x = torch.as_tensor(logits).detach().to(dtype, copy=True).requires_grad_()
    value = loss(x, torch.as_tensor(labels), **options)
    value.backward()
    return value.item(), x.grad.double().numpy()
