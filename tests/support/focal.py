"""Slow and plain sigmoid losses to compare with, and how losses are run for a comparison."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st

INTEGERS = {"groups", "normalizer"}


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


def kernel_twin(logits, labels, options):
    """The same for all that the kernel can do, with |gradient| by class: [2, K].

    Nothing is divided by the normalizer.
    """
    x, options = np.array(logits, np.float64), dict(options)
    rows, shift, quality = (options.get(name) for name in ("row_weights", "shift", "quality"))
    groups, negative = options.get("groups"), options.get("negative_weight", 1.0)
    negative = negative[groups] if np.ndim(negative) == 2 else negative
    positive, gamma = options.get("positive_weight", 1.0), options.get("gamma", 0.0)
    if shift is not None:
        x = x + shift[groups]
    loss, slope = focal_twin(x, labels, positive=positive, negative=negative, gamma=gamma)
    is_positive = np.asarray(labels)[:, None] == np.arange(1, x.shape[1] + 1)
    if quality is not None:
        q = quality[:, None]
        p, rest = np.exp(-np.logaddexp(0, -x)), np.exp(-np.logaddexp(0, x))
        difference = p * (1 - q) - rest * q
        entropy = q * np.logaddexp(0, -x) + (1 - q) * np.logaddexp(0, x)
        far = np.abs(difference)
        soft = positive * far**gamma
        below = np.where(gamma > 0, far ** np.maximum(np.subtract(gamma, 1.0), 0), 0)
        rise = positive * gamma * below * np.sign(difference) * p * rest
        loss = np.where(is_positive, soft * entropy, loss)
        slope = np.where(is_positive, rise * entropy + soft * difference, slope)
    if rows is not None:
        loss, slope = loss * rows[:, None], slope * rows[:, None]
    sizes = np.abs(slope)
    return loss, slope, np.stack([(sizes * is_positive).sum(0), (sizes * ~is_positive).sum(0)])


@st.composite
def kernel_problems(draw):
    """Logits, labels and options of the kernel, as NumPy arrays and numbers."""
    rows, classes, groups = draw(st.integers(0, 9)), draw(st.integers(1, 5)), 3
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    logits = generator.normal(0, draw(st.sampled_from([1.0, 5.0, 40.0])), (rows, classes))
    labels = generator.integers(-1, classes + 1, rows)
    options = {}
    by_class = generator.uniform(0, 2, (4, classes))
    options["positive_weight"] = draw(st.sampled_from([0.25, by_class[0]]))
    weights = [0.75, 0.0, by_class[1], generator.integers(0, 3, (groups, classes)) * 0.5]
    options["negative_weight"] = draw(st.sampled_from(weights))
    if draw(st.booleans()):
        options["quality"] = generator.choice([0.0, 0.3, 1.0, generator.uniform()], rows)
    exponents = [0.0, 1.0, 2.0, 2.5, 1 + by_class[2], np.r_[0.0, 1 + by_class[2]][:classes]]
    exponents += [] if "quality" in options else [0.5, by_class[3]]
    options["gamma"] = draw(st.sampled_from(exponents))
    if draw(st.booleans()):
        options["row_weights"] = generator.uniform(0, 2, rows)
    if draw(st.booleans()):
        options["shift"] = generator.normal(0, 2, (groups, classes))
    options["groups"] = generator.integers(0, groups, rows)
    options["normalizer"] = draw(st.sampled_from([1.0, 3.5, np.array(7)]))
    return logits, labels, options


def as_tensors(options, dtype=torch.float64):
    """The options of a problem for PyTorch."""
    return {
        name: value
        if isinstance(value, float)
        else torch.as_tensor(value).to(torch.int64 if name in INTEGERS else dtype)
        for name, value in options.items()
    }


def run(loss, logits, labels, dtype=torch.float64, **options):
    """Value and gradient of a loss as NumPy."""
    x = torch.as_tensor(logits).detach().to(dtype, copy=True).requires_grad_()
    value = loss(x, torch.as_tensor(labels), **options)
    value.backward()
    return value.item(), x.grad.double().numpy()
