"""Equalization losses: twins, identities, recorded values, and what the reference has wrong."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from equalized import EqualizationV2Twin
from focal import focal_twin, run
from hypothesis import given
from hypothesis import strategies as st

from detbalance.losses import ClassCounts, EqualizationLoss, EqualizationLossV2

V2_FILES = ["steps", "oneclass", "allbg_then_pos", "extreme", "hyper", "1203", "label_minus1"]
V2_DEFAULTS = {"gamma": 12.0, "mu": 0.8, "alpha": 4.0}


def with_frequencies(frequency):
    """Counts of a training set whose images show the classes 1..K so often."""
    images = np.r_[0.0, frequency]
    return ClassCounts(np.ones(len(images)), image_counts=images, num_images=1)


@st.composite
def problems(draw, background_column=False):
    rows, classes, steps = (draw(st.integers(*r)) for r in ((0, 9), (1, 5), (1, 4)))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    spread = draw(st.sampled_from([1.0, 5.0, 40.0, 1e4]))
    logits = generator.normal(0, spread, (steps, rows, classes + background_column))
    return logits, generator.integers(-1, classes + 1, (steps, rows)), generator


def assert_recorded(value, gradient, expected, expected_gradient, suffix):
    rtol = {"f64": 1e-10, "f32": 2e-5}[suffix]
    assert value == pytest.approx(expected, rel=rtol)
    atol = (1e-6 if suffix == "f32" else 1e-15) * np.abs(expected_gradient).max()
    np.testing.assert_allclose(gradient, expected_gradient, rtol=rtol, atol=atol)


# ---- the first version ---------------------------------------------------------------------------


@given(problems(), st.booleans())
def test_v1_equals_its_numpy_twin(problem, weighted):
    logits, labels, generator = problem
    frequency = generator.uniform(0, 1, logits.shape[2])
    threshold = frequency[0]  # a class exactly at the threshold is not rare
    method = "inverse_sqrt" if weighted else "none"
    loss = EqualizationLoss(
        with_frequencies(frequency), frequency_threshold=threshold, class_weights=method
    )
    kept = np.where((frequency < threshold) & (labels[0] > 0)[:, None], 0.0, 1.0)
    weights = None if loss.label_weights is None else loss.label_weights.numpy()
    expected, slope = focal_twin(
        logits[0], labels[0], positive=1.0, negative=kept, gamma=0.0, weights=weights
    )
    counted = max((labels[0] >= 0).sum(), 1)
    value, gradient = run(loss, logits[0], labels[0])
    assert value == pytest.approx(expected.sum() / counted, rel=1e-12)
    np.testing.assert_allclose(gradient, slope / counted, rtol=1e-11, atol=1e-300)
    np.testing.assert_allclose(
        run(loss, logits[0], labels[0], normalizer=3.0)[0], expected.sum() / 3, rtol=1e-12
    )


def test_v1_keeps_negatives_of_rare_classes_in_background_rows_only():
    loss = EqualizationLoss(with_frequencies([0.5, 0.001]))
    assert loss.is_rare.tolist() == [False, True]
    _, gradient = run(loss, np.zeros((4, 2)), [0, 1, 2, -1], normalizer=1.0)
    assert gradient.tolist() == [[0.5, 0.5], [-0.5, 0.0], [0.5, -0.5], [0.0, 0.0]]


def test_v1_without_a_rare_class_is_binary_cross_entropy_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        loss = EqualizationLoss(with_frequencies([0.5, 0.25]))
    assert "no class is rare: the smallest fraction of images is 0.25" in caplog.text
    assert "raise frequency_threshold" in caplog.text
    logits = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 2, 0, 1])
    expected = F.binary_cross_entropy_with_logits(
        logits, F.one_hot(labels, 3)[:, 1:].double(), reduction="sum"
    )
    (slope,) = torch.autograd.grad(expected / 6, logits)
    for threshold in (0.0, 0.25):
        loss = EqualizationLoss(
            with_frequencies([0.5, 0.25]), frequency_threshold=threshold, prior=0.3
        )
        value, gradient = run(loss, logits, labels)
        assert value == pytest.approx(expected.item() / 6, rel=1e-14)
        np.testing.assert_allclose(gradient, slope, rtol=1e-13)
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        EqualizationLoss(with_frequencies([0.5, 0.0]))
    assert not caplog.text


def test_v1_needs_images_per_class():
    with pytest.raises(ValueError, match=r"EqualizationLoss: needs the images per class, only"):
        EqualizationLoss([0, 500, 3])


@pytest.mark.parametrize("case", ["basic", "lam_big", "allbg", "nobg", "extreme", "c1203"])
@pytest.mark.parametrize(("dtype", "suffix"), [(torch.float64, "f64"), (torch.float32, "f32")])
def test_v1_equals_the_recorded_values(shared, case, dtype, suffix):
    z = np.load(shared / "golden/eqlv1.npz")
    frequency = z["c1203__freq"] if case == "c1203" else z["freq"]
    threshold = 0.05 if case == "lam_big" else 0.00177
    loss = EqualizationLoss(with_frequencies(frequency), frequency_threshold=threshold)
    labels = z[f"{case}__labels"]
    labels = np.where(labels == len(frequency), 0, labels + 1)
    value, gradient = run(loss, z[f"{case}__logits"], labels, dtype)
    expected = z[f"{case}__loss_{suffix}"], z[f"{case}__grad_{suffix}"]
    assert_recorded(value, gradient, *expected, suffix)


def test_v1_ignores_minus_one_where_the_reference_counts_it_as_foreground(shared):
    """QUIRKS 13: there, a row of no class in which rare classes have no negatives."""
    z = np.load(shared / "golden/eqlv1.npz")
    logits, labels = z["ignore__logits"], z["ignore__labels"]
    labels = np.where(labels < 0, -1, np.where(labels == 7, 0, labels + 1))
    rare = z["freq"] < 0.00177
    kept = np.where(rare & (labels != 0)[:, None], 0.0, 1.0)
    theirs, slope = focal_twin(logits, np.maximum(labels, 0), positive=1, negative=kept, gamma=0)
    assert theirs.sum() / len(labels) == pytest.approx(z["ignore__loss_f64"], rel=1e-10)

    loss, counted = EqualizationLoss(with_frequencies(z["freq"])), labels >= 0
    value, gradient = run(loss, logits, labels)
    assert value == pytest.approx(theirs[counted].sum() / counted.sum(), rel=1e-12)
    np.testing.assert_allclose(gradient[counted], slope[counted] / counted.sum(), rtol=1e-11)
    assert (gradient[~counted] == 0).all()


# ---- the second version --------------------------------------------------------------------------


@given(problems(background_column=True), st.floats(0.5, 20), st.floats(0, 2), st.floats(0, 9))
def test_v2_equals_its_numpy_twin_over_several_steps(problem, gamma, mu, alpha):
    logits, labels, _ = problem
    classes = logits.shape[2] - 1
    options = {"gamma": gamma, "mu": mu, "alpha": alpha}
    loss = EqualizationLossV2([1] * (classes + 1), **options)
    twin = EqualizationV2Twin(classes, **options)
    for x, y in zip(logits, labels, strict=True):
        expected, slope = twin.step(x, y)
        counted = max((y >= 0).sum(), 1)
        value, gradient = run(loss, x, y)
        assert value == pytest.approx(expected.sum() / counted, rel=1e-10)
        np.testing.assert_allclose(gradient, slope / counted, rtol=1e-10, atol=1e-300)
        np.testing.assert_allclose(loss.gradients.positive, twin.positive, rtol=1e-10, atol=1e-300)
        np.testing.assert_allclose(loss.gradients.negative, twin.negative, rtol=1e-10, atol=1e-300)
    assert loss.gradients.steps == twin.steps


def test_v2_in_the_first_step_is_binary_cross_entropy_with_a_background_column():
    logits = torch.randn(5, 4, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0])
    expected = F.binary_cross_entropy_with_logits(
        logits, F.one_hot(labels, 4).double(), reduction="sum"
    )
    value, gradient = run(EqualizationLossV2([1] * 4), logits, labels)
    assert value == pytest.approx(expected.item() / 5, rel=1e-14)
    np.testing.assert_allclose(
        gradient, (torch.sigmoid(logits) - F.one_hot(labels, 4)) / 5, rtol=1e-12, atol=1e-16
    )


def test_v2_strengthens_a_class_that_was_pushed_down():
    loss = EqualizationLossV2([0, 9, 9])
    logits = np.array([[0.0, 3.0, -3.0], [0.0, 3.0, -3.0]])
    run(loss, logits, [0, 1])  # class 1: mostly down; class 2 is never positive
    _, gradient = run(loss, np.zeros((3, 3)), [0, 1, 2], normalizer=1.0)
    (low, none), background = gradient[0, 1:], gradient[:, 0]
    assert background.tolist() == [-0.5, 0.5, 0.5]
    assert 0 < none < 1e-4
    assert low < 0.01
    assert gradient[2, 2] == pytest.approx(-0.5 * (1 + 4), rel=1e-3)
    assert gradient[1, 1] < -0.5 * 4.9


def test_v2_ratio_starts_at_100_and_is_zero_without_positives():
    """QUIRKS 14: what a class starts with is gone after one step."""
    loss = EqualizationLossV2([0, 9, 9])
    assert loss.gradients.ratio().tolist() == [100, 100]
    run(loss, np.zeros((2, 3)), [0, 1])
    assert loss.gradients.ratio().numpy() == pytest.approx([1.0, 0.0], rel=1e-9)


def test_v2_statistics_are_of_gradients_without_the_normalizer():
    """QUIRKS 14, and 12: unlike there the normalizer divides the loss."""
    plain, divided, by_row = (EqualizationLossV2([0, 9, 9, 9]) for _ in range(3))
    generator = np.random.default_rng(2)
    logits, labels = generator.normal(size=(8, 4)), generator.integers(-1, 4, 8)
    value, _ = run(plain, logits, labels, normalizer=1.0)
    assert run(divided, logits, labels, normalizer=50.0)[0] == pytest.approx(value / 50, rel=1e-12)
    for name in ("positive", "negative"):
        expected = getattr(plain.gradients, name)
        torch.testing.assert_close(getattr(divided.gradients, name), expected, rtol=1e-13, atol=0)
    rows = torch.full((8,), 50.0, dtype=torch.float64)
    assert run(by_row, logits, labels, normalizer=rows)[0] == pytest.approx(value / 50, rel=1e-12)
    torch.testing.assert_close(by_row.gradients.ratio(), plain.gradients.ratio(), rtol=1e-7, atol=0)


def test_v2_permuting_classes_permutes_gradients_and_statistics():
    generator = np.random.default_rng(3)
    order = np.array([2, 0, 3, 1])
    place = np.r_[0, np.argsort(order) + 1, -1]
    columns = np.r_[0, order + 1]
    loss, moved = EqualizationLossV2([1] * 5), EqualizationLossV2([1] * 5)
    for _ in range(3):
        logits, labels = generator.normal(size=(9, 5)), generator.integers(-1, 5, 9)
        value, gradient = run(loss, logits, labels)
        other, other_gradient = run(moved, logits[:, columns], place[labels])
        assert other == pytest.approx(value, rel=1e-13)
        np.testing.assert_allclose(other_gradient, gradient[:, columns], rtol=1e-12)
    torch.testing.assert_close(
        moved.gradients.ratio(), loss.gradients.ratio()[order], rtol=1e-12, atol=0
    )


def test_v2_starts_with_cheap_background_and_scores_objects():
    loss = EqualizationLossV2([0, 9, 9], prior=0.02)
    scores = loss.scores(loss.initial_bias()[None])[0]
    assert scores.numpy() == pytest.approx([0.98, 0.02 * 0.02, 0.02 * 0.02], rel=1e-5)
    logits = torch.tensor([[3.0, 2.0, -1.0], [-60.0, 60.0, 0.0]], dtype=torch.bfloat16)
    p = torch.sigmoid(logits.float())
    expected = torch.cat([p[:, :1], p[:, 1:] * (1 - p[:, :1])], dim=1)
    torch.testing.assert_close(loss.scores(logits), expected)


def test_v2_gradient_is_the_derivative():
    loss = EqualizationLossV2([1] * 4, class_weights="inverse_sqrt")
    logits, labels = np.random.default_rng(4).normal(size=(6, 4)), [0, 1, 2, 3, -1, 0]
    run(loss, logits, labels)
    x = torch.tensor(logits, requires_grad=True)
    assert torch.autograd.gradcheck(loss.eval(), (x, torch.tensor(labels)))


@pytest.mark.parametrize("file", V2_FILES)
@pytest.mark.parametrize(("dtype", "suffix"), [(torch.float64, "f64"), (torch.float32, "f32")])
def test_v2_equals_the_recorded_steps(shared, file, dtype, suffix):
    """QUIRKS 11: no process group is needed."""
    z = np.load(shared / f"golden/eqlv2_{file}.npz")
    options = {"gamma": 5.0, "mu": 0.5, "alpha": 2.0} if file == "hyper" else V2_DEFAULTS
    loss_weight = 0.5 if file == "hyper" else 1.0  # QUIRKS 14: not in the statistics
    columns = z["logits"].shape[2]
    loss = EqualizationLossV2([1] * columns, **options)
    rtol = {"f64": 1e-10, "f32": 2e-5}[suffix]
    state = None
    for t, (logits, labels) in enumerate(zip(z["logits"], z["labels"], strict=True)):
        # There the last column and label are background; the label -1 has become background too.
        labels = np.where((labels < 0) | (labels == columns - 1), 0, labels + 1)
        value, gradient = run(loss, np.roll(logits, 1, axis=1), labels, dtype)
        gradients = z.get(f"grad_{suffix}")
        expected = z[f"grad_last_{suffix}"] if gradients is None else gradients[t]
        if gradients is None and t < len(z["logits"]) - 1:
            continue
        assert_recorded(
            value * loss_weight,
            np.roll(gradient, -1, axis=1) * loss_weight,
            z[f"loss_{suffix}"][t],
            expected,
            suffix,
        )
        sums = loss.gradients
        state = np.stack([sums.positive, sums.negative, sums.ratio()])
        expected = z[f"state_last_{suffix}"] if gradients is None else z[f"state_{suffix}"][t + 1]
        np.testing.assert_allclose(state, expected, rtol=rtol, atol=rtol * 1e-3)
    assert state is not None
    if len(z["activation_obj_f64"]):
        scores = loss.scores(torch.tensor(np.roll(logits, 1, axis=1), dtype=dtype))
        expected = np.roll(z[f"activation_obj_{suffix}"], 1, axis=1)
        np.testing.assert_allclose(scores, expected, rtol=rtol, atol=rtol * 1e-2)


def test_v2_ignores_minus_one_where_the_reference_makes_it_background(shared):
    """QUIRKS 13."""
    z = np.load(shared / "golden/eqlv2_label_minus1.npz")
    kept, whole = EqualizationLossV2([1] * 8), EqualizationLossV2([1] * 8)
    for logits, labels in zip(np.roll(z["logits"], 1, axis=2), z["labels"], strict=True):
        ours = np.where(labels < 0, -1, np.where(labels == 7, 0, labels + 1))
        assert (ours < 0).any()
        value, gradient = run(whole, logits, ours)
        expected, slope = run(kept, logits[ours >= 0], ours[ours >= 0])
        assert value == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(gradient[ours >= 0], slope, rtol=1e-11)
        assert (gradient[ours < 0] == 0).all()
    torch.testing.assert_close(whole.gradients.ratio(), kept.gradients.ratio(), rtol=1e-12, atol=0)
    assert abs(value - z["loss_f64"][-1]) > 0.01


@pytest.mark.parametrize("kind", [EqualizationLoss, EqualizationLossV2])
def test_rows_that_do_not_belong_together_are_refused(kind):
    loss = kind(ClassCounts([0, 9, 3], [0, 5, 1], 10))
    logits = torch.zeros(3, loss.num_outputs)
    for wrong in ([0, 3, 1], [0, -2, 1]):
        with pytest.raises(ValueError, match=rf"{kind.__name__}: a label is {wrong[1]}. Expected"):
            loss(logits, torch.tensor(wrong))
    with pytest.raises(ValueError, match=rf"{kind.__name__}: labels have the shape \(2,\)"):
        loss(logits, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=rf"{kind.__name__}: logits have the shape"):
        loss(torch.zeros(3, 9), torch.tensor([0, 1, 2]))
