"""Focal loss: against recorded values of its references, and where it differs on purpose."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from focal import focal_twin, run

from detbalance.losses import SigmoidFocalLoss, SoftmaxCrossEntropyLoss, class_weights

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


# ---- what the loss adds to the kernel -----------------------------------------------------------


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


# ---- differences from the references, by their number in QUIRKS.md -------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_focal_gradient_is_finite_for_gamma_below_one(dtype):
    # 19: torchvision's is NaN where 1 - p underflows.
    logits = np.linspace(-400, 400, 81).reshape(-1, 3)
    labels = np.arange(len(logits)) % 4
    loss = SigmoidFocalLoss([1] * 4, gamma=0.5)
    _, gradient = run(loss, logits, labels, dtype, normalizer=1.0)
    slope = focal_twin(logits, labels, gamma=0.5)[1]
    np.testing.assert_allclose(gradient, slope, rtol=2e-5, atol=1e-40)
    # A gradient of exactly 0 is right only where it underflows.
    assert (gradient[np.abs(slope) > 1e-37] != 0).all()


def test_focal_gradient_is_finite_where_torchvisions_is_recorded_as_nan(shared):
    z = np.load(shared / "golden/focal_tv_extreme.npz")
    labels = np.where(z["targets"].any(1), z["targets"].argmax(1) + 1, 0)
    loss = SigmoidFocalLoss([1] * 8, gamma=0.5)
    for dtype, suffix, count in ((torch.float32, "f32", 59), (torch.float64, "f64", 22)):
        assert np.isnan(z[f"a25g05__grad_sum_{suffix}"]).sum() == count
        _, gradient = run(loss, z["logits"], labels, dtype, normalizer=1.0)
        slope = focal_twin(z["logits"], labels, gamma=0.5)[1]
        np.testing.assert_allclose(gradient, slope, rtol=2e-5, atol=1e-40)


def test_focal_ignores_label_minus_one_and_divides_by_the_objects():
    # 20: MMDetection raises for -1, torchvision's mean divides by all entries. 21: in mmcv's CUDA
    # kernel -1 is background. And no normaliser of 1e-7 where there is no object.
    logits = np.array([[2.0, -1.0], [0.5, 3.0], [1.0, 1.0], [-2.0, 0.0]])
    loss = SigmoidFocalLoss([1, 1, 1])
    costs = focal_twin(logits, [1, -1, 2, 0])[0]
    value, gradient = run(loss, logits, np.array([1, -1, 2, 0]))
    assert value == pytest.approx(costs[[0, 2, 3]].sum() / 2, rel=1e-12)
    assert (gradient[1] == 0).all()
    background = focal_twin(logits, [0, 0, 0, 0])[0].sum()
    assert run(loss, logits, np.zeros(4, np.int64))[0] == pytest.approx(background, rel=1e-12)


def test_class_balanced_weights_are_finite_for_classes_without_boxes(shared):
    # 22: infinite before, NaN and 0 after normalising.
    z = np.load(shared / "golden/class_balanced.npz")
    assert not np.isfinite(z["zero_count__w_raw"]).all()
    weights = class_weights(np.r_[0, z["zero_count__counts"]], "effective_number", beta=0.99)
    raw = z["zero_count__w_raw"][[0, 2]]
    assert weights[[1, 3]] == pytest.approx(raw / raw.mean())
    assert weights[2] == 1


def test_class_balanced_softmax_is_cross_entropy(shared):
    # 22: the reference's "softmax" is binary cross-entropy of softmax probabilities.
    z = np.load(shared / "golden/class_balanced.npz")
    counts, labels = np.r_[0, z["counts"]], z["labels"] + 1
    logits = torch.tensor(np.c_[np.full(len(labels), -1e4), z["logits"]], dtype=torch.float64)
    loss = SoftmaxCrossEntropyLoss(counts, class_weights="effective_number", beta=0.9999)
    weights = torch.tensor(class_weights(counts, "effective_number", beta=0.9999))
    rows = F.cross_entropy(logits, torch.tensor(labels), reduction="none")
    value, _ = run(loss, logits, labels)
    # 23: divided by the rows, as TensorFlow does, not by their weights, as PyTorch does.
    assert value == pytest.approx((rows * weights[labels]).mean().item(), rel=1e-12)
    by_weights = F.cross_entropy(logits, torch.tensor(labels), weight=weights).item()
    assert abs(value - by_weights) > 0.1 * value
    assert abs(value - z["softmax__loss_f64"]) > 0.1 * value


@pytest.mark.parametrize("alpha", [0.0, [0.0, 0.0], [0.0, 0.5]])
def test_positives_of_a_class_with_alpha_0_cost_nothing(alpha):
    loss = SigmoidFocalLoss([0, 5, 5], alpha=alpha)
    labels = np.array([1, 0])
    _, gradient = run(loss, np.array([[-2.0, -30.0], [0.5, -30.0]]), labels)
    assert gradient[0, 0] == 0
    assert gradient[1, 0] > 0
    assert loss.positive_weights()[1] == 0
