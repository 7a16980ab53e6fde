"""Slow and plain softmax costs to compare with, and what the tests of softmax losses share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from focal import run

PRECISIONS = ((torch.float64, "f64", 1e-10), (torch.float32, "f32", 2e-5))


def cross_entropy_twin(logits, targets):
    """Cost [A] and gradient [A, D] by the definition, in float64 NumPy; a target of -1 is free."""
    x, targets = np.asarray(logits, np.float64), np.asarray(targets)
    x = x - x.max(1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    counted, rows = targets >= 0, np.arange(len(x))
    gradient = np.exp(log_p)
    gradient[rows, np.maximum(targets, 0)] -= 1
    return -log_p[rows, np.maximum(targets, 0)] * counted, gradient * counted[:, None]


def problem(seed, rows=12, classes=5, columns=None, spread=2.0):
    """Logits with background, labels -1..K, and counts."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, spread, (rows, columns or classes + 1))
    counts = np.r_[0, generator.integers(1, 2000, classes)]
    return logits, generator.integers(-1, classes + 1, rows), counts


def hidden_background(logits):
    """Put a column in front that no softmax can see: the papers have no background."""
    return np.c_[np.full(len(logits), -1e4), logits]


def assert_recorded(loss, z, name, logits, labels, *, columns=slice(1, None), **options):
    """The recorded value and gradient, in both precisions."""
    for dtype, suffix, rtol in PRECISIONS:
        value, gradient = run(loss, logits, labels, dtype, **options)
        assert value == pytest.approx(z[f"{name}__loss_{suffix}"].sum(), rel=rtol)
        assert_gradient(gradient[:, columns], z[f"{name}__grad_{suffix}"], suffix)


def assert_gradient(gradient, expected, suffix):
    rtol, atol = (2e-5, 1e-6) if suffix == "f32" else (1e-10, 1e-14)
    largest = np.abs(expected).max(initial=0)
    np.testing.assert_allclose(gradient, expected, rtol=rtol, atol=atol * largest)


def assert_finite_at_the_extremes(loss):
    """Finite for finite logits, whatever the label."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        steps = torch.tensor([0.0, -1e4, 1e4, 50.0, -50.0, 1e-8], dtype=dtype)
        labels = torch.arange(-1, loss.num_classes).repeat_interleave(len(steps))
        for shift in range(loss.num_outputs):
            row = torch.arange(loss.num_outputs) + shift
            logits = steps[(row + torch.arange(len(labels))[:, None]) % len(steps)]
            logits.requires_grad_()
            value = loss(logits, labels)
            value.backward()
            assert value.isfinite()
            assert logits.grad.isfinite().all()
            assert loss.scores(logits).isfinite().all()


def assert_derivative(loss, classes=4):
    """The gradient is that of the value, also where labels are ignored."""
    logits = torch.tensor(problem(3, 9, classes, loss.num_outputs)[0], requires_grad=True)
    labels = torch.tensor([0, 1, 2, classes, -1, 0, 1, 3, 0])
    for normalizer in (None, torch.linspace(1, 3, 9, dtype=torch.float64)):
        assert torch.autograd.gradcheck(
            lambda x, n=normalizer: loss(x, labels, normalizer=n), logits
        )


def assert_permutes(make, counts, logits, labels, columns, **options):
    """Renaming classes renames gradients: `columns(order)` says where the columns of a class go."""
    value, gradient = run(make(counts), logits, labels, **options)
    order = np.random.default_rng(0).permutation(len(counts) - 1) + 1  # new label of each class
    renamed = np.r_[0, order, -1][labels]
    moved_counts, moved = np.zeros(len(counts)), np.empty_like(logits)
    moved_counts[order] = counts[1:]
    to = columns(order)
    moved[:, to] = logits
    other, other_gradient = run(make(moved_counts), moved, renamed, **options)
    assert other == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(other_gradient[:, to], gradient, rtol=1e-10, atol=1e-14)
