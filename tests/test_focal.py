"""The focal kernel: against a float64 twin and recorded values, extremes, precision, memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from focal import focal_twin, run
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from detbalance.losses import SigmoidFocalLoss, SoftmaxCrossEntropyLoss, focal_loss_sum, kernel

FOCAL_CASES = ["a25g0", "a25g05", "a25g2", "a25g5", "a50g2", "a75g1", "am1g2"]


def assert_recorded(loss, z, name, logits, labels, *, scale=1.0, gradient="grad", **options):
    """The recorded value and gradient in both precisions; NaN there must be finite here."""
    for dtype, suffix, rtol in ((torch.float64, "f64", 1e-10), (torch.float32, "f32", 2e-5)):
        if f"{name}__{gradient}_{suffix}" not in z:
            continue
        value, slope = run(loss, logits, labels, dtype, **options)
        expected = z[f"{name}__{gradient}_{suffix}"] * scale
        known = np.isfinite(expected)
        atol = (1e-6 if suffix == "f32" else 1e-15) * np.abs(expected[known]).max()
        np.testing.assert_allclose(slope[known], expected[known], rtol=rtol, atol=atol)
        assert np.isfinite(slope).all()
        if f"{name}__loss_{suffix}" in z:
            assert value == pytest.approx(z[f"{name}__loss_{suffix}"].sum() * scale, rel=rtol)


@st.composite
def problems(draw):
    rows, classes = draw(st.integers(0, 9)), draw(st.integers(1, 5))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    logits = generator.normal(0, draw(st.sampled_from([1.0, 5.0, 40.0])), (rows, classes))
    return logits, generator.integers(-1, classes + 1, rows), generator


# ---- the focal kernel ----------------------------------------------------------------------------


@given(problems(), st.booleans(), st.integers(1, 12))
def test_focal_equals_its_numpy_twin(problem, weighted, chunk):
    logits, labels, generator = problem
    classes = logits.shape[1]
    positive, negative, gamma = generator.uniform(0, 2, (3, classes))
    weights = generator.uniform(0, 2, classes + 1) if weighted else None
    expected, slope = focal_twin(
        logits, labels, positive=positive, negative=negative, gamma=gamma, weights=weights
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "CPU_CHUNK", chunk)
        value, gradient = run(
            focal_loss_sum,
            logits,
            labels,
            positive_weight=torch.tensor(positive),
            negative_weight=torch.tensor(negative),
            gamma=torch.tensor(gamma),
            label_weights=None if weights is None else torch.tensor(weights),
        )
    assert value == pytest.approx(expected.sum(), rel=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-11, atol=1e-300)


@given(problems(), st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0]))
def test_focal_with_numbers_equals_its_numpy_twin(problem, gamma):
    logits, labels, _ = problem
    expected, slope = focal_twin(logits, labels, gamma=gamma)
    options = {"positive_weight": 0.25, "negative_weight": 0.75, "gamma": gamma}
    value, gradient = run(focal_loss_sum, logits, labels, **options)
    assert value == pytest.approx(expected.sum(), rel=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-11, atol=1e-300)
    single, gradient = run(focal_loss_sum, logits, labels, torch.float32, **options)
    twin = focal_twin(logits.astype(np.float32), labels, gamma=gamma)
    assert single == pytest.approx(twin[0].sum(), rel=2e-5)
    np.testing.assert_allclose(
        gradient, twin[1], rtol=2e-5, atol=1e-30 + 1e-6 * np.abs(slope).max(initial=0)
    )


def test_focal_gradient_is_the_derivative():
    labels = torch.tensor([0, 1, 3, -1, 2])
    logits = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for gamma in (0.0, 0.7, 2.0, torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)):
        assert torch.autograd.gradcheck(
            lambda x, g=gamma: focal_loss_sum(x, labels, positive_weight=0.3, gamma=g),
            logits.requires_grad_(),
        )


def test_focal_without_damping_is_binary_cross_entropy():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(7, 4, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 4, 4, 0])
    targets = F.one_hot(labels, 5)[:, 1:].double()
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    (slope,) = torch.autograd.grad(expected, logits)
    value, gradient = run(SigmoidFocalLoss([1] * 5, alpha=-1, gamma=0), logits.detach(), labels)
    assert value == pytest.approx(expected.item() / 5, rel=1e-14)
    np.testing.assert_allclose(gradient, slope / 5, rtol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_is_finite_for_every_finite_logit(dtype, gamma):
    info = torch.finfo(dtype)
    steps = [0.0, info.tiny, 1.0, 16.7, 36.9, 88.8, 104.0, 745.2, min(info.max, 1e30)]
    logits = torch.tensor(steps + [-s for s in steps], dtype=dtype).repeat(3, 1)
    classes = logits.shape[1]
    labels = torch.arange(-1, classes + 1).repeat_interleave(3)
    logits = logits[:1].repeat(len(labels), 1)
    value, gradient = run(SigmoidFocalLoss([0] + [1] * classes, gamma=gamma), logits, labels, dtype)
    assert math.isfinite(value)
    assert np.isfinite(gradient).all()
    # At the very end of the range the sum may leave it, but is never NaN.
    x = torch.full((1, classes), info.max, dtype=dtype, requires_grad=True)
    loss = focal_loss_sum(x, torch.tensor([0]), gamma=gamma)
    loss.backward()
    assert not loss.isnan()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_focal_computes_half_logits_in_float32(dtype):
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(3)).to(dtype)
    labels = torch.tensor([0, 1, 2, 3, -1, 0])
    expected, slope = run(focal_loss_sum, x.float(), labels, torch.float32)
    for autocast in (False, True):
        half = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = focal_loss_sum(half, labels)
        # A loss scale as of torch.amp.GradScaler must not have been lost to underflow before.
        (value * 1024).backward()
        assert value.dtype == torch.float32
        assert value.item() == expected
        assert half.grad.dtype == dtype
        assert (half.grad == torch.tensor(slope * 1024, dtype=torch.float32).to(dtype)).all()


class Sizes(TorchDispatchMode):
    """The distinct storages that hold at least `elements` entries."""

    def __init__(self, elements):
        super().__init__()
        self.elements, self.seen = elements, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor) and value.numel() >= self.elements:
                self.seen[value.untyped_storage().data_ptr()] = value.shape
        return result


def test_focal_makes_one_tensor_of_the_size_of_the_logits(monkeypatch):
    monkeypatch.setattr(kernel, "CPU_CHUNK", 400 // torch.get_num_threads())
    logits = torch.randn(1000, 8, requires_grad=True)
    labels = torch.randint(-1, 9, (1000,))
    loss = SigmoidFocalLoss([0] + [5] * 8, alpha=[0.3] * 8)
    with Sizes(2000) as sizes:
        loss(logits, labels).backward()
    sizes.seen.pop(logits.untyped_storage().data_ptr(), None)
    assert list(sizes.seen.values()) == [logits.shape]
    for needs in (True, False):
        with torch.no_grad(), Sizes(2000) as sizes:
            loss(logits.detach().requires_grad_(needs), labels)
        assert set(sizes.seen) <= {logits.untyped_storage().data_ptr()}


def test_focal_backward_works_again_when_the_graph_is_kept():
    logits, labels = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, -1])
    value = focal_loss_sum(logits, labels)
    (first,) = torch.autograd.grad(value, logits, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(value * 3, logits, retain_graph=True)
    assert (first == kept).all()
    torch.testing.assert_close(second, 3 * kept)


def test_focal_refuses_a_second_derivative():
    logits = torch.randn(2, 3, requires_grad=True)
    value = focal_loss_sum(logits, torch.tensor([0, 1]))
    with pytest.raises(RuntimeError, match=r"create_graph=True.*Leave create_graph out"):
        torch.autograd.grad(value, logits, create_graph=True)


def test_focal_does_not_depend_on_memory_layout():
    logits, labels = torch.randn(6, 5), torch.tensor([0, 5, 2, -1, 1, 0])
    expected, slope = run(focal_loss_sum, logits, labels)
    base = logits.double().t().contiguous().requires_grad_()
    value = focal_loss_sum(base.t(), labels)
    value.backward()
    assert value.item() == expected
    assert (base.grad.t().numpy() == slope).all()
    row = torch.randn(1, 5, dtype=torch.float64)
    assert focal_loss_sum(row.expand(6, 5), labels) == focal_loss_sum(row.repeat(6, 1), labels)


# ---- recorded values -----------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["1203", "allbg", "basic", "extreme", "oneclass"])
def test_focal_equals_torchvision(shared, file):
    z = np.load(shared / f"golden/focal_tv_{file}.npz")
    targets = z["targets"]
    assert (targets.sum(1) <= 1).all()
    labels = np.where(targets.any(1), targets.argmax(1) + 1, 0)
    cases = [case for case in FOCAL_CASES if f"{case}__loss_none_f64" in z]
    assert cases
    for case in cases:
        alpha, gamma = (
            {"a25": 0.25, "a50": 0.5, "a75": 0.75, "am1": -1}[case[:3]],
            case.split("g")[1],
        )
        gamma = 0.5 if gamma == "05" else float(gamma)
        positive, negative = (1, 1) if alpha < 0 else (alpha, 1 - alpha)
        twin = focal_twin(z["logits"], labels, positive=positive, negative=negative, gamma=gamma)
        np.testing.assert_allclose(twin[0], z[f"{case}__loss_none_f64"], rtol=1e-10, atol=1e-15)
        loss = SigmoidFocalLoss(np.ones(targets.shape[1] + 1), alpha=alpha, gamma=gamma)
        assert_recorded(loss, z, case, z["logits"], labels, gradient="grad_sum", normalizer=1.0)
        value, _ = run(loss, z["logits"], labels, normalizer=float(targets.size))
        assert value == pytest.approx(z[f"{case}__loss_mean_f64"], rel=1e-10)


def test_focal_equals_mmdetection(shared):
    z = np.load(shared / "golden/focal_mmdet.npz")
    labels = np.where(z["labels"] == 7, 0, z["labels"] + 1)
    eps = float(np.finfo(np.float32).eps)  # added to its normaliser
    plain, other = SigmoidFocalLoss([1] * 8), SigmoidFocalLoss([1] * 8, alpha=0.4, gamma=1.5)
    for case, loss, normalizer in (
        ("plain", plain, 24 * 7),
        ("onehot", plain, 24 * 7),
        ("sum", plain, 1),
        ("none", plain, 1),
        ("avg", plain, 7 + eps),
        ("lw", other, (3 + eps) / 1.7),
    ):
        assert_recorded(loss, z, case, z["logits"], labels, normalizer=normalizer)


@pytest.mark.parametrize("case", ["extreme", "allbg", "oneclass", "c1203"])
def test_focal_equals_mmdetection_at_the_edges(shared, case):
    z = np.load(shared / "golden/focal_mmdet_edge.npz")
    logits, labels = z[f"{case}__logits"], z[f"{case}__labels"]
    classes = logits.shape[1]
    labels = np.where(labels == classes, 0, labels + 1)
    normalizer = max((labels > 0).sum(), 1) + float(np.finfo(np.float32).eps)
    loss = SigmoidFocalLoss([1] * (classes + 1))
    assert_recorded(loss, z, case, logits, labels, normalizer=normalizer)


@pytest.mark.parametrize(
    ("case", "beta", "gamma"),
    [
        ("focal", 0.9999, 2.0),
        ("focal_g0", 0.99, 0.0),
        ("focal_g05", 0.999, 0.5),
        ("extreme", 0.9999, 2.0),
        ("overflow", 0.9999, 2.0),
    ],
)
def test_class_balanced_focal_equals_the_recorded_one(shared, case, beta, gamma):
    z = np.load(shared / "golden/class_balanced.npz")
    loss = SigmoidFocalLoss(
        np.r_[0, z["counts"]], alpha=-1, gamma=gamma, class_weights="effective_number", beta=beta
    )
    logits = z[f"{case}__logits"] if f"{case}__logits" in z else z["logits"]
    assert_recorded(
        loss,
        {k: z[k] for k in z if "overflow__" not in k or "f64" in k},
        case,
        logits,
        z["labels"] + 1,
    )
    assert math.isfinite(run(loss, logits, z["labels"] + 1, torch.float32)[0])
    assert math.isfinite(run(loss, z["nopos__logits"], np.zeros(4, np.int64))[0])


def test_class_balanced_losses_equal_those_of_the_original_authors(shared):
    z = np.load(shared / "golden/class_balanced_tf.npz")
    options = {"class_weights": "effective_number", "beta": 0.9999}
    counts, labels = np.r_[0, z["counts"]], z["labels"] + 1
    for case, gamma in (("focal_g0", 0), ("focal_g05", 0.5), ("focal_g2", 2), ("sigmoid", 0)):
        loss = SigmoidFocalLoss(counts, alpha=-1, gamma=gamma, **options)
        assert_recorded(loss, z, case, z["logits"], labels)
    # There is no background there: a column that no softmax can see.
    logits = np.c_[np.full(len(labels), -1e4), z["logits"]]
    loss = SoftmaxCrossEntropyLoss(counts, **options)
    value, gradient = run(loss, logits, labels, torch.float32)
    expected = z["softmax__grad_f32"]
    assert value == pytest.approx(z["softmax__loss_f32"], rel=2e-5)
    np.testing.assert_allclose(
        gradient[:, 1:], expected, rtol=2e-5, atol=1e-6 * np.abs(expected).max()
    )
