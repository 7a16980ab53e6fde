"""The Triton kernel in Triton's interpreter. `test_triton_kernel.py` runs this file in a process of
its own: TRITON_INTERPRET=1 must be set before anything imports Triton."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from focal import as_tensors, kernel_problems, kernel_twin
from hypothesis import given, settings
from hypothesis import strategies as st

from detbalance.losses import pytorch_kernel, triton_kernel

assert os.environ.get("TRITON_INTERPRET") == "1"


def terms(**options):
    names = ("row_weights", "groups", "shift", "quality")
    numbers = dict.fromkeys(("positive_weight", "negative_weight", "normalizer"), 1.0)
    return pytorch_kernel.Terms(**{**numbers, "gamma": 0.0, **dict.fromkeys(names), **options})


def assert_same(logits, labels, options, with_gradient=True):
    """Both forms give the same, in one precision."""
    arguments = logits, labels, terms(**options), with_gradient
    ours, expected = triton_kernel.run(*arguments), pytorch_kernel.run(*arguments)
    for value, other in zip(ours, expected, strict=True):
        if other is None:
            assert value is None
        else:
            assert value.dtype == other.dtype
            atol = 1e-30 + 1e-6 * (other.abs().max().item() if other.numel() else 0)
            torch.testing.assert_close(value, other, rtol=2e-5, atol=atol)


@settings(max_examples=60)
@given(kernel_problems(), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_triton_equals_the_twin_and_the_pytorch_form(problem, dtype):
    logits, labels, options = problem
    x, tensors = torch.tensor(logits).to(dtype), as_tensors(options, torch.float32)
    assert_same(x, torch.tensor(labels), tensors)
    rounded = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in tensors.items()}
    expected, slope, pushes = kernel_twin(x.double().numpy(), labels, rounded)
    slope, expected = slope / options["normalizer"], expected / options["normalizer"]
    pushes = pushes / options["normalizer"]
    loss, gradient, *sums = triton_kernel.run(x, torch.tensor(labels), terms(**tensors), True)
    atol = 1e-30 + 1e-6 * np.abs(slope).max(initial=0)
    np.testing.assert_allclose(loss.item(), expected.sum(), rtol=2e-5, atol=1e-30)
    np.testing.assert_allclose(gradient, slope, rtol=2e-5, atol=atol)
    np.testing.assert_allclose(np.stack(sums), pushes, rtol=2e-5, atol=atol)


@pytest.mark.parametrize("programs", [1, 3, 4096])
@pytest.mark.parametrize(
    ("rows", "columns"), [(0, 3), (1, 1), (300, 3), (50, 80), (9, 81), (7, 300), (33, 130)]
)
def test_triton_covers_every_row_and_column_once(monkeypatch, programs, rows, columns):
    monkeypatch.setattr(triton_kernel, "PROGRAMS", programs)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, columns, generator=generator)
    labels = torch.randint(-1, columns + 1, (rows,), generator=generator)
    options = {
        "gamma": torch.rand(columns, generator=generator),
        "negative_weight": torch.rand(2, columns, generator=generator),
        "groups": torch.randint(0, 2, (rows,), generator=generator),
    }
    assert_same(logits, labels, options)
    assert_same(logits, labels, {"gamma": 2.0}, with_gradient=False)


def test_triton_takes_any_strides_and_precisions():
    labels = torch.tensor([0, 5, 2, -1, 1, 0, 3])
    base = torch.randn(5, 7)
    options = {
        "row_weights": torch.rand(14, dtype=torch.float64)[::2],
        "gamma": torch.rand(5, dtype=torch.float64),
    }
    for logits in (base.t(), torch.randn(7, 10)[:, ::2], base[:, :1].t().expand(7, 5)):
        loss, gradient, *_ = triton_kernel.run(logits, labels, terms(**options), True)
        assert gradient.is_contiguous()
        expected = triton_kernel.run(logits.contiguous(), labels, terms(**options), True)
        assert loss == expected[0]
        assert (gradient == expected[1]).all()
        assert_same(logits, labels, options)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_triton_is_finite_for_every_finite_logit(gamma, dtype):
    info = torch.finfo(dtype)
    steps = [0.0, info.tiny, 1.0, 16.7, 36.9, 88.8, 104.0, 745.2, 1e4, min(info.max, 1e30)]
    logits = torch.tensor(steps + [-s for s in steps], dtype=dtype)
    labels = torch.arange(-1, len(logits) + 1)
    logits = logits.expand(len(labels), -1).contiguous()
    loss, gradient, *sums = triton_kernel.run(logits, labels, terms(gamma=gamma), True)
    assert all(value.isfinite().all() for value in (loss, gradient, *sums))
    if dtype == torch.float32:
        assert_same(logits.clamp(-1e4, 1e4), labels, {"gamma": gamma})
        assert_same(logits.clamp(-1e4, 1e4), labels, {"gamma": torch.full((len(steps) * 2,), 3.0)})


@pytest.mark.parametrize("programs", [1, 5])
def test_triton_scales_in_place(monkeypatch, programs):
    monkeypatch.setattr(triton_kernel, "PROGRAMS", programs)
    for size in (0, 1, 1024, 5000):
        values = torch.randn(size)
        before = values.clone()
        assert triton_kernel.scale(values, torch.tensor(1.0)) is values
        assert torch.equal(values, before)
        for factor in (torch.tensor(-0.5), torch.tensor(0.25, dtype=torch.float64)):
            triton_kernel.scale(values, factor)
        assert torch.equal(values, before * -0.125)


def test_triton_takes_zero_to_the_power_of_zero_as_one():
    logits, labels = torch.zeros(2, 2), torch.tensor([1, 2])
    options = {"gamma": torch.tensor([0.0, 2.0]), "quality": torch.tensor([0.5, 0.5])}
    assert triton_kernel.run(logits, labels, terms(**options), True)[0] > 0.69
    assert_same(logits, labels, options)


def test_triton_gives_equal_bits_for_equal_inputs(monkeypatch):
    monkeypatch.setattr(triton_kernel, "PROGRAMS", 7)
    logits, labels = torch.randn(400, 20), torch.randint(-1, 21, (400,))
    first, second = (triton_kernel.run(logits, labels, terms(gamma=2.0), True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_triton_logarithm_is_exact_to_the_last_digits():
    z = np.float32(np.r_[0.0, np.logspace(-38, 0, 200)])
    # -log(1 - p) of logits far below 0 is log1p(exp(y)), nothing else.
    logits = torch.tensor(np.log(z[1:].astype(np.float64))[None], dtype=torch.float32)
    for column in range(0, 200, 9):
        y = logits[:, column : column + 1].contiguous()
        loss, *_ = triton_kernel.run(y, torch.tensor([0]), terms(), False)
        assert loss.item() == pytest.approx(np.log1p(np.exp(y.double().item())), rel=5e-7)
