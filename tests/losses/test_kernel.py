"""The sigmoid kernel: against a float64 twin, extremes, precision, memory, autograd, compile."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from focal import as_tensors, kernel_problems, kernel_twin, run
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from detbalance.losses import pytorch_kernel, sigmoid_loss_sum

LABELS = torch.tensor([0, 1, 3, -1, 2])
EVERYTHING = {
    "positive_weight": torch.tensor([0.2, 0.5, 1.5]),
    "negative_weight": torch.tensor([[1.0, 0.0, 0.3], [0.5, 2.0, 1.0]]),
    "gamma": torch.tensor([1.5, 2.0, 4.0]),
    "row_weights": torch.tensor([0.5, 2.0, 1.0, 1.0, 0.0]),
    "groups": torch.tensor([0, 1, 1, 0, 1]),
    "shift": torch.tensor([[0.0, 0.0, 0.0], [-1.0, 2.0, 0.5]]),
}
QUALITY = {"quality": torch.tensor([0.0, 0.7, 1.0, 0.0, 0.2])}


def loss_sum(*arguments, **options):
    return sigmoid_loss_sum(*arguments, **options).loss


def some_logits(rows=5, columns=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, columns, dtype=dtype, generator=generator).requires_grad_()


# ---- values --------------------------------------------------------------------------------------


@given(kernel_problems(), st.integers(1, 12))
def test_kernel_equals_its_numpy_twin(problem, chunk):
    logits, labels, options = problem
    expected, slope, pushes = kernel_twin(logits, labels, options)
    x = torch.tensor(logits, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytorch_kernel, "CPU_CHUNK", chunk)
        sums = sigmoid_loss_sum(x, torch.tensor(labels), **as_tensors(options))
    sums.loss.backward()
    normalizer = options["normalizer"]
    assert sums.loss.item() == pytest.approx(expected.sum() / normalizer, rel=1e-12)
    np.testing.assert_allclose(x.grad, slope / normalizer, rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(sums.positive, pushes[0], rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(sums.negative, pushes[1], rtol=1e-11, atol=1e-300)


@given(kernel_problems(), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_kernel_equals_its_numpy_twin_in_single_precision(problem, dtype):
    logits, labels, options = problem
    x = torch.tensor(logits).to(dtype).requires_grad_()
    tensors = as_tensors(options, torch.float32)
    rounded = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in tensors.items()}
    expected, slope, pushes = kernel_twin(x.detach().double().numpy(), labels, rounded)
    sums = sigmoid_loss_sum(x, torch.tensor(labels), **tensors)
    sums.loss.backward()
    assert sums.loss.dtype == torch.float32
    expected, slope = expected / options["normalizer"], slope / options["normalizer"]
    assert sums.loss.item() == pytest.approx(expected.sum(), rel=2e-5, abs=1e-30)
    atol = 1e-30 + 1e-6 * np.abs(pushes).max(initial=0)
    for ours, twin in ((sums.positive, pushes[0]), (sums.negative, pushes[1])):
        assert ours.dtype == torch.float64
        np.testing.assert_allclose(ours, twin, rtol=2e-5, atol=atol)
    atol = 1e-30 + 1e-6 * np.abs(slope).max(initial=0)
    digits = {torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    smallest = 6e-8 if dtype == torch.float16 else 0.0
    np.testing.assert_allclose(x.grad.double(), slope, rtol=digits, atol=atol + smallest)


def test_kernel_by_hand():
    logits = torch.tensor([[0.0, 2.0], [0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    sums = sigmoid_loss_sum(logits, torch.tensor([1, 0]), positive_weight=3.0, gamma=1.0)
    p = 1 / (1 + np.exp([0.0, -2.0, 0.0, 1.0]))
    costs = -3 * 0.5 * np.log(0.5), *(-p[1:] * np.log(1 - p[1:]))
    assert sums.loss.item() == pytest.approx(sum(costs))
    assert sums.positive.tolist() == pytest.approx([3 * 0.5 * (0.5 * np.log(2) + 0.5), 0])


@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0, 2.0, EVERYTHING["gamma"]], ids=str)
@pytest.mark.parametrize("extra", [{}, QUALITY], ids=["one-hot", "quality"])
def test_kernel_gradient_is_the_derivative(gamma, extra):
    if extra and isinstance(gamma, float) and gamma == 0.7:
        pytest.skip("with a quality, gamma is 0 or at least 1")
    options = as_tensors({**EVERYTHING, **extra, "gamma": gamma})
    assert torch.autograd.gradcheck(lambda x: loss_sum(x, LABELS, **options), some_logits())
    assert torch.autograd.gradcheck(
        lambda x: loss_sum(x, LABELS, gamma=options["gamma"], positive_weight=0.3), some_logits()
    )


@given(st.integers(0, 20), st.integers(1, 6), st.integers(0, 10**6))
def test_kernel_without_options_is_binary_cross_entropy(rows, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(rows, classes, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, classes + 1, (rows,), generator=generator)
    x = logits.clone().requires_grad_()
    targets = F.one_hot(labels, classes + 1)[:, 1:].double()
    expected = F.binary_cross_entropy_with_logits(x, targets, reduction="sum")
    (slope,) = torch.autograd.grad(expected, x)
    value, gradient = run(loss_sum, logits, labels)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-11, atol=1e-15)


@given(kernel_problems(), st.randoms())
def test_kernel_permutes_with_the_classes(problem, random):
    logits, labels, options = problem
    order = list(range(logits.shape[1]))
    random.shuffle(order)
    place = torch.tensor([-1, *(order.index(c) for c in range(len(order)))]) + 1
    options = as_tensors(options)
    by_class = ("positive_weight", "negative_weight", "gamma", "shift")
    permuted = {
        name: value[..., order] if name in by_class and isinstance(value, torch.Tensor) else value
        for name, value in options.items()
    }
    labels = torch.tensor(labels)
    moved = torch.where(labels > 0, place[labels.clamp(min=0)], labels)
    value, gradient = run(loss_sum, logits, labels, **options)
    other, other_gradient = run(loss_sum, logits[:, order], moved, **permuted)
    assert other == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(other_gradient, gradient[:, order], rtol=1e-12)


def test_kernel_reads_the_quality_of_foreground_rows_only():
    logits = some_logits().detach()
    expected = run(loss_sum, logits, LABELS, **as_tensors(QUALITY))
    anything = QUALITY["quality"].masked_fill(LABELS < 1, torch.nan)
    value, gradient = run(loss_sum, logits, LABELS, quality=anything.double())
    assert value == expected[0]
    assert (gradient == expected[1]).all()


def test_kernel_refuses_values_by_group_without_groups():
    weights, logits = torch.ones(2, 3), torch.zeros(1, 3)
    for options in ({"negative_weight": weights}, {"shift": weights}):
        with pytest.raises(ValueError, match=r" is \[G, K\], groups is None\..*Pass groups"):
            sigmoid_loss_sum(logits, torch.tensor([1]), **options)


# ---- extremes and precision ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0, "by class"])
@pytest.mark.parametrize("with_quality", [False, True])
def test_kernel_is_finite_for_every_finite_logit(dtype, gamma, with_quality):
    info = torch.finfo(dtype)
    steps = [0.0, info.tiny, 1.0, 16.7, 36.9, 88.8, 104.0, 745.2, 1e4, min(info.max, 1e30)]
    logits = torch.tensor(steps + [-s for s in steps], dtype=dtype)
    classes = len(logits)
    labels = torch.arange(-1, classes + 1).repeat_interleave(3)
    accumulation_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    options = {"gamma": gamma}
    if gamma == "by class":
        options["gamma"] = torch.arange(classes).to(accumulation_dtype)
    if with_quality:
        if gamma == 0.5:
            pytest.skip("with a quality, gamma is 0 or at least 1")
        options["quality"] = torch.tensor([0.0, 0.5, 1.0], dtype=accumulation_dtype).repeat(
            classes + 2
        )
    value, gradient = run(loss_sum, logits.expand(len(labels), -1), labels, dtype, **options)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    # At the very end of the range the sum may leave it, but is never NaN.
    x = torch.full((1, classes), info.max, dtype=dtype, requires_grad=True)
    loss = loss_sum(x, torch.tensor([0]), gamma=options["gamma"])
    loss.backward()
    assert not loss.isnan()
    assert x.grad.isfinite().all()


def test_kernel_costs_what_a_hard_entry_should():
    # QUIRKS 21: mmcv's CUDA kernel clamps the logarithm, so this would be 87.3.
    x = torch.tensor([[50.0], [1e4]], requires_grad=True)
    assert loss_sum(x[:1], torch.tensor([0])).item() == 50.0
    assert loss_sum(x, torch.tensor([0, 0]), gamma=2.0).item() == 1e4 + 50.0
    assert loss_sum(-x, torch.tensor([1, 1]), gamma=2.0).item() == 1e4 + 50.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernel_computes_half_logits_in_float32(dtype):
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(3)).to(dtype)
    labels = torch.tensor([0, 1, 2, 3, -1, 0])
    expected, slope = run(loss_sum, x.float(), labels, torch.float32)
    for autocast in (False, True):
        half = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = loss_sum(half, labels)
        # A loss scale as of torch.amp.GradScaler must not have been lost to underflow before.
        (value * 1024).backward()
        assert value.dtype == torch.float32
        assert value.item() == expected
        assert half.grad.dtype == dtype
        assert (half.grad == torch.tensor(slope * 1024, dtype=torch.float32).to(dtype)).all()


def test_kernel_sums_many_rows_without_losing_small_ones():
    logits = torch.full((300_000, 2), -9.0, requires_grad=True)
    logits.data[0] = 1e4
    sums = sigmoid_loss_sum(logits, torch.zeros(300_000, dtype=torch.int64))
    easy = np.log1p(np.exp(-9.0)) * 299_999 * 2
    assert sums.loss.item() == pytest.approx(2e4 + easy, rel=1e-6)
    assert sums.negative.tolist() == pytest.approx([1 + 299_999 / (1 + np.exp(9.0))] * 2, rel=1e-6)


# ---- memory --------------------------------------------------------------------------------------


class Sizes(TorchDispatchMode):
    """The distinct storages that hold at least `elements` entries."""

    def __init__(self, elements):
        super().__init__()
        self.elements, self.seen = elements, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor) and value.numel() >= self.elements:
                self.seen[value.untyped_storage().data_ptr()] = (value.shape, value.dtype)
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("case", ["plain", "by class", "by group", "quality"])
def test_kernel_makes_one_tensor_of_the_size_of_the_logits(monkeypatch, dtype, case):
    monkeypatch.setattr(pytorch_kernel, "CPU_CHUNK", 400 // torch.get_num_threads())
    logits = torch.randn(1000, 8).to(dtype).requires_grad_()
    labels = torch.randint(-1, 9, (1000,))
    rows = torch.rand(1000)
    options = {
        "plain": {},
        "by class": {"gamma": torch.rand(8), "negative_weight": torch.rand(8)},
        "by group": {
            "gamma": 2.0,
            "groups": torch.randint(0, 4, (1000,)),
            "negative_weight": torch.rand(4, 8),
            "shift": torch.rand(4, 8),
        },
        "quality": {"gamma": 1.5, "quality": rows, "row_weights": rows},
    }[case]
    with Sizes(2000) as sizes:
        loss_sum(logits, labels, **options).backward()
    sizes.seen.pop(logits.untyped_storage().data_ptr(), None)
    seen = list(sizes.seen.values())
    assert seen.pop(0) == (logits.shape, torch.float32)
    # For half logits the calculation's gradient is in float32, and then rounded.
    assert seen == ([] if dtype == torch.float32 else [(logits.shape, dtype)])
    for needs in (True, False):
        with torch.no_grad(), Sizes(2000) as sizes:
            loss_sum(logits.detach().requires_grad_(needs), labels, **options)
        assert set(sizes.seen) <= {logits.untyped_storage().data_ptr()}


def test_kernel_chunks_stay_small_beside_the_logits_with_many_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    logits = torch.empty(1, 1).expand(400_000, 80)
    assert pytorch_kernel.rows_per_chunk(logits) == 400_000 // 64
    assert pytorch_kernel.rows_per_chunk(logits[:30_000]) == pytorch_kernel.CPU_CHUNK // 80
    assert pytorch_kernel.rows_per_chunk(torch.empty(1, pytorch_kernel.CPU_CHUNK + 1)) == 1


# ---- autograd and compilation --------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_kernel_divides_by_the_normalizer_and_multiplies_in_the_backward(factor):
    logits, options = some_logits(), as_tensors(EVERYTHING)
    value, slope = run(loss_sum, logits, LABELS, **options)
    sums = sigmoid_loss_sum(logits, LABELS, normalizer=torch.tensor(4), **options)
    (factor * sums.loss).backward()
    assert sums.loss.item() == pytest.approx(value / 4, rel=1e-14)
    np.testing.assert_allclose(logits.grad, slope * factor / 4, rtol=1e-14)
    plain = sigmoid_loss_sum(logits, LABELS, **options)
    torch.testing.assert_close(sums.positive, plain.positive, rtol=1e-14, atol=0)
    torch.testing.assert_close(sums.negative, plain.negative, rtol=1e-14, atol=0)


def test_kernel_sums_gradients_only_where_there_is_one():
    logits = some_logits()
    expected = sigmoid_loss_sum(logits, LABELS)
    assert (expected.positive > 0).all()
    assert not expected.positive.requires_grad
    for constant in (logits.detach(), logits):
        with torch.set_grad_enabled(constant is not logits):
            sums = sigmoid_loss_sum(constant, LABELS)
        assert sums.loss == expected.loss
        assert not sums.loss.requires_grad
        assert sums.positive.tolist() == sums.negative.tolist() == [0, 0, 0]


def test_kernel_gradients_accumulate():
    logits, other = some_logits(), some_logits(4)
    options = as_tensors(EVERYTHING)
    _, slope = run(loss_sum, logits, LABELS, **options)
    for factor in (1.0, 0.5):
        (factor * loss_sum(logits, LABELS, **options)).backward()
    loss_sum(other, LABELS[:4]).backward()
    np.testing.assert_allclose(logits.grad, 1.5 * slope, rtol=1e-12)


def test_kernel_backward_works_again_when_the_graph_is_kept():
    logits, options = some_logits(), as_tensors({**EVERYTHING, **QUALITY})
    value = loss_sum(logits, LABELS, **options)
    (first,) = torch.autograd.grad(value, logits, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(value * 3, logits, retain_graph=True)
    assert (first == kept).all()
    torch.testing.assert_close(second, 3 * kept)


def test_kernel_refuses_a_second_backward():
    value = loss_sum(some_logits(), LABELS)
    value.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        value.backward()


def test_kernel_refuses_a_second_derivative():
    logits = some_logits()
    value = loss_sum(logits, LABELS)
    with pytest.raises(RuntimeError, match=r"create_graph=True.*Leave create_graph out"):
        torch.autograd.grad(value, logits, create_graph=True)


def test_kernel_does_not_depend_on_memory_layout():
    logits, labels = torch.randn(6, 5), torch.tensor([0, 5, 2, -1, 1, 0])
    expected, slope = run(loss_sum, logits, labels)
    base = logits.double().t().contiguous().requires_grad_()
    value = loss_sum(base.t(), labels)
    value.backward()
    assert value.item() == expected
    assert (base.grad.t().numpy() == slope).all()
    row = torch.randn(1, 5, dtype=torch.float64)
    assert loss_sum(row.expand(6, 5), labels) == loss_sum(row.repeat(6, 1), labels)


class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x):
        logits = self.layer(x.relu())
        sums = sigmoid_loss_sum(logits, LABELS, gamma=EVERYTHING["gamma"], positive_weight=0.25)
        return sums.loss / 5 + logits.square().mean(), sums.negative


# Of the compiler itself, at every break in a graph.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    "backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
def test_kernel_works_in_a_compiled_model(backend, monkeypatch):
    traced, real = [], pytorch_kernel.run

    def spy(*arguments):
        traced.append(torch.compiler.is_compiling())
        return real(*arguments)

    monkeypatch.setattr(pytorch_kernel, "run", spy)
    torch.compiler.reset()
    torch.manual_seed(0)
    model, x = Head(), torch.randn(5, 4)
    value, pushes = model(x)
    value.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    compiled = torch.compile(model, backend=backend)
    for _ in range(2):
        model.zero_grad()
        again, pushed = compiled(x)
        again.backward()
        torch.testing.assert_close(again, value)
        torch.testing.assert_close(pushed, pushes)
        torch.testing.assert_close([p.grad for p in model.parameters()], expected)
    assert traced == [False] * 3


def test_importing_the_losses_loads_no_compiler():
    script = "import sys, detbalance.losses; print({'triton', 'torch._dynamo'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
