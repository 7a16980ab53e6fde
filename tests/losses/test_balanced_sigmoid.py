"""The sigmoid form of balanced softmax: values, which rows are shifted, classes in no image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from focal import focal_twin, run
from hypothesis import given
from hypothesis import strategies as st

from detbalance.losses import LOSSES, BalancedSigmoidLoss, ClassCounts

IMAGES = 1000


def balanced(image_counts, num_images=IMAGES, **options):
    """The loss for classes that are in so many images."""
    counts = np.array([0, *image_counts])
    return BalancedSigmoidLoss(ClassCounts(counts, counts, num_images), **options)


def twin(logits, labels, pi, weights=None):
    """Loss [A, K] and gradient [A, K] by the definition, in float64 NumPy."""
    labels = np.asarray(labels)
    shift = np.where(labels[:, None] > 0, -np.log((1 - pi) / pi), 0)
    logits = np.asarray(logits, np.float64) + shift
    return focal_twin(logits, labels, positive=1.0, negative=1.0, gamma=0.0, weights=weights)


def test_balanced_sigmoid_equals_the_recorded_values(shared):
    z = np.load(shared / "golden/balanced_softmax.npz")
    labels = np.where(z["sigmoid__labels"] == 7, 0, z["sigmoid__labels"] + 1)
    frequency = z["sigmoid__freq"].astype(np.float64)
    loss = balanced(frequency * 1e6, num_images=10**6)
    for dtype, suffix, rtol in ((torch.float64, "f64", 1e-10), (torch.float32, "f32", 2e-5)):
        value, gradient = run(loss, z["logits"], labels, dtype)
        expected = z[f"sigmoid__grad_{suffix}"]
        assert value == pytest.approx(float(z[f"sigmoid__loss_{suffix}"]), rel=rtol)
        atol = (1e-6 if suffix == "f32" else 1e-15) * np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, rtol=rtol, atol=atol)


@st.composite
def problems(draw):
    rows, classes = draw(st.integers(0, 9)), draw(st.integers(1, 6))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    logits = generator.normal(0, draw(st.sampled_from([1.0, 5.0, 40.0])), (rows, classes))
    return logits, generator.integers(-1, classes + 1, rows), generator


@given(problems(), st.booleans())
def test_balanced_sigmoid_equals_its_numpy_twin(problem, weighted):
    logits, labels, generator = problem
    classes = logits.shape[1]
    images = generator.integers(1, IMAGES, classes)
    weights, options = None, {}
    if weighted:
        weights = np.array([1, *(1 / images)])
        weights[1:] *= classes / weights[1:].sum()
        options = {"class_weights": "inverse"}
    loss = balanced(images, **options)
    count = max(1, (labels >= 0).sum())
    for dtype, rtol in ((torch.float64, 1e-11), (torch.float32, 2e-5)):
        x = logits if dtype == torch.float64 else logits.astype(np.float32)
        expected, slope = twin(x, labels, images / IMAGES, weights)
        value, gradient = run(loss, x, labels, dtype)
        assert value == pytest.approx(expected.sum() / count, rel=rtol)
        atol = 1e-300 + (dtype == torch.float32) * 1e-6 * np.abs(slope).max(initial=0) / count
        np.testing.assert_allclose(gradient, slope / count, rtol=rtol, atol=atol)


@given(problems())
def test_classes_in_half_of_the_images_give_binary_cross_entropy(problem):
    logits, labels, _ = problem
    classes = logits.shape[1]
    x = torch.tensor(logits, requires_grad=True)
    kept = torch.tensor(labels) >= 0
    target = F.one_hot(torch.tensor(labels).clamp(min=0), classes + 1)[:, 1:].double()
    total = F.binary_cross_entropy_with_logits(x[kept], target[kept], reduction="sum")
    total = total / max(1, kept.sum())
    total.backward()
    value, gradient = run(balanced([IMAGES // 2] * classes), logits, labels)
    assert value == pytest.approx(total.item(), rel=1e-12)
    # PyTorch's gradient p - 1 cancels for sure positives.
    np.testing.assert_allclose(gradient, x.grad, rtol=1e-11, atol=1e-15)


def test_only_foreground_rows_are_shifted_and_the_logits_stay():
    # Quirk 28: the reference shifts the caller's logits, which another loss then reads.
    logits = torch.randn(3, 2, dtype=torch.float64)
    before = logits.clone()
    loss = balanced([900, 1])
    _, gradient = run(loss, logits, [0, 0, 0])
    np.testing.assert_allclose(gradient, torch.sigmoid(before) / 3, rtol=1e-12)
    loss(logits, torch.tensor([0, 1, 2]))
    assert torch.equal(logits, before)
    torch.testing.assert_close(loss.scores(logits)[:, 1:], torch.sigmoid(before))


def test_rare_classes_are_pushed_up_more_and_down_less_than_frequent_ones():
    _, gradient = run(balanced([900, 1, 500]), np.zeros((3, 3)), [1, 2, 3])
    frequent, rare = 0, 1
    assert -gradient[rare, rare] > -gradient[frequent, frequent]
    assert gradient[2, rare] < gradient[2, frequent]


@pytest.mark.parametrize("images", [0, IMAGES])
def test_classes_in_no_image_or_in_all_have_a_finite_shift(images):
    labels = [0, 1, 2, -1]
    logits = np.linspace(-3, 3, 8).reshape(4, 2)
    value, gradient = run(balanced([images, 50]), logits, labels)
    pi = np.array([abs(images - 0.5) / IMAGES, 0.05])
    expected, slope = twin(logits, labels, pi)
    assert value == pytest.approx(expected.sum() / 3, rel=1e-12)
    np.testing.assert_allclose(gradient, slope / 3, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_balanced_sigmoid_is_finite_for_extreme_logits(dtype):
    logits = torch.tensor([[1e4, -1e4, 1e4], [-1e4, 1e4, -1e4]]).repeat(5, 1)
    labels, images = np.repeat([-1, 0, 1, 2, 3], 2), np.array([1, 500, 999])
    value, gradient = run(balanced(images), logits, labels, dtype)
    expected, slope = twin(logits.to(dtype).double(), labels, images / IMAGES)
    assert value == pytest.approx(expected.sum() / 8, rel=1e-5)
    np.testing.assert_allclose(gradient, slope / 8, atol=1e-7)


def test_images_must_have_been_counted():
    with pytest.raises(ValueError, match="BalancedSigmoidLoss: needs the images per class, only"):
        BalancedSigmoidLoss([0, 5, 5])
    with pytest.raises(ValueError, match="BalancedSigmoidLoss: needs the images per class"):
        BalancedSigmoidLoss(ClassCounts([0, 5, 5], [0, 3, 3]))
    with pytest.raises(ValueError, match=r"class 2 is in 12 images of 10\. Expected at most all"):
        balanced([5, 12], num_images=10)


def test_balanced_sigmoid_is_known_by_its_name():
    assert LOSSES["balanced_sigmoid"] is BalancedSigmoidLoss
    loss = balanced([5, 12])
    assert (loss.activation, loss.normalized_by, loss.num_outputs) == ("sigmoid", "rows", 2)
