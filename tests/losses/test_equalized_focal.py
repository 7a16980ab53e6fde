"""Equalized focal losses: twins, identities, recorded values, and what the reference has wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from equalized import EqualizedFocalTwin, EqualizedQualityFocalTwin
from focal import run
from hypothesis import given
from hypothesis import strategies as st

from detbalance.losses import (
    ClassCounts,
    EqualizedFocalLoss,
    EqualizedQualityFocalLoss,
    SigmoidFocalLoss,
)

FILES = {
    "efl_steps": {},
    "efl_1203": {},
    "efl_anchors2": {"alpha": 0.5, "scale": 4.0},
    "efl_noalpha": {"alpha": -1.0},
    "efl_nopos": {},
    "efl_oneclass": {},
    "efl_extreme10": {},
    "eqfl_steps": {},
}


@st.composite
def problems(draw):
    rows, classes, steps = (draw(st.integers(*r)) for r in ((0, 9), (1, 5), (1, 4)))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    spread = draw(st.sampled_from([1.0, 5.0, 40.0, 1e4]))
    logits = generator.normal(0, spread, (steps, rows, classes))
    quality = generator.uniform(0, 1, (steps, rows)).round(draw(st.sampled_from([0, 1, 9])))
    return logits, generator.integers(-1, classes + 1, (steps, rows)), quality


def recorded_rows(z, name, step, classes):
    """Rows [A, K] of level tensors [step, B, anchors * K, H, W]: by image, level, y, x, anchor."""
    levels, number = [], 0
    while f"level{number}_{name}" in z:
        values = z[f"level{number}_{name}"]
        # Of the gradients with 1203 classes only the last is kept, without the axis of the steps.
        values = values[step] if values.ndim == 5 else values
        images, channels, height, width = values.shape
        values = values.reshape(images, channels // classes, classes, height, width)
        levels.append(values.transpose(0, 3, 4, 1, 2).reshape(images, -1, classes))
        number += 1
    return np.concatenate(levels, axis=1).reshape(-1, classes)


def state_of(loss):
    sums = loss.gradients
    return np.stack([sums.positive, sums.negative, sums.ratio().clamp(max=1)])


def assert_equals_twin(loss, twin, logits, labels, quality=None):
    for t, (x, y) in enumerate(zip(logits, labels, strict=True)):
        given_quality = () if quality is None else (quality[t],)
        options = {} if quality is None else {"quality": torch.tensor(quality[t])}
        expected, slope = twin.step(x, y, *given_quality)
        found = max((y > 0).sum(), 1)
        value, gradient = run(loss, x, y, **options)
        assert value == pytest.approx(expected.sum() / found, rel=1e-10)
        np.testing.assert_allclose(gradient, slope / found, rtol=1e-9, atol=1e-290)
        np.testing.assert_allclose(loss.gradients.positive, twin.positive, rtol=1e-10, atol=1e-290)
        np.testing.assert_allclose(loss.gradients.negative, twin.negative, rtol=1e-10, atol=1e-290)
    assert loss.gradients.steps == twin.steps


# ---- the formulas --------------------------------------------------------------------------------


@given(problems(), st.floats(0.3, 4), st.floats(0, 9), st.sampled_from([-1.0, 0.0, 0.25, 1.0]))
def test_efl_equals_its_numpy_twin_over_several_steps(problem, gamma, scale, alpha):
    logits, labels, _ = problem
    options = {"gamma": gamma, "scale": scale, "alpha": alpha}
    classes = logits.shape[2]
    loss = EqualizedFocalLoss([1] * (classes + 1), **options)
    assert_equals_twin(loss, EqualizedFocalTwin(classes, **options), logits, labels)


@given(problems(), st.floats(1, 4), st.floats(0, 9))
def test_eqfl_equals_its_numpy_twin_over_several_steps(problem, gamma, scale):
    logits, labels, quality = problem
    classes = logits.shape[2]
    loss = EqualizedQualityFocalLoss([1] * (classes + 1), gamma=gamma, scale=scale)
    twin = EqualizedQualityFocalTwin(classes, gamma=gamma, scale=scale)
    assert_equals_twin(loss, twin, logits, labels, quality)


@pytest.mark.parametrize("alpha", [0.25, -1.0])
def test_efl_in_the_first_step_is_focal_loss(alpha):
    generator = np.random.default_rng(1)
    logits, labels = generator.normal(size=(8, 4)), generator.integers(-1, 5, 8)
    value, gradient = run(EqualizedFocalLoss([1] * 5, alpha=alpha), logits, labels)
    expected, slope = run(SigmoidFocalLoss([1] * 5, alpha=alpha), logits, labels)
    assert value == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(gradient, slope, rtol=1e-13)


def test_efl_without_scale_stays_focal_loss():
    generator = np.random.default_rng(2)
    loss = EqualizedFocalLoss([1] * 5, scale=0.0)
    for _ in range(3):
        logits, labels = generator.normal(size=(8, 4)), generator.integers(-1, 5, 8)
        expected = run(SigmoidFocalLoss([1] * 5), logits, labels)[0]
        assert run(loss, logits, labels)[0] == pytest.approx(expected, rel=1e-14)


def test_eqfl_with_perfect_or_without_quality_is_efl_without_alpha():
    generator = np.random.default_rng(3)
    losses = [EqualizedFocalLoss([1] * 5, alpha=-1.0)]
    losses += [EqualizedQualityFocalLoss([1] * 5) for _ in range(2)]
    for _ in range(3):
        logits, labels = generator.normal(size=(8, 4)), generator.integers(-1, 5, 8)
        ones = torch.ones(8)
        expected, slope = run(losses[0], logits, labels)
        for loss, options in ((losses[1], {}), (losses[2], {"quality": ones})):
            value, gradient = run(loss, logits, labels, **options)
            assert value == pytest.approx(expected, rel=1e-12)
            np.testing.assert_allclose(gradient, slope, rtol=1e-10)


def test_eqfl_is_lowest_where_the_score_is_the_quality():
    loss = EqualizedQualityFocalLoss([1, 1])
    logits, quality = np.full((1, 1), math.log(0.7 / 0.3)), torch.tensor([0.7], dtype=torch.float64)
    value, gradient = run(loss, logits, [1], quality=quality)
    assert value == pytest.approx(0, abs=1e-30)
    assert gradient[0, 0] == pytest.approx(0, abs=1e-15)
    higher, push = run(loss, logits + 0.5, [1], quality=quality)
    assert higher > 0
    assert push > 0
    # A positive gradient stays one of the class's positives: the label tells, not the sign.
    assert loss.gradients.positive > 0
    assert loss.gradients.negative == 0


def test_efl_gamma_grows_for_classes_that_are_pushed_down():
    loss = EqualizedFocalLoss([1] * 4)
    assert loss.gammas().tolist() == [2, 2, 2]
    run(loss, [[0.0, 1.0, 1.0], [-4.0, 1.0, 0.0]], [0, 1])
    first, second, third = loss.gammas().tolist()
    assert first == 2  # its ratio is above 1
    assert second == third == 10  # QUIRKS 17: without positives from 1 to 0 in a step
    run(loss, [[-3.0, -1.0, -3.0]], [2])
    assert 2 < loss.gammas()[1] < 10


@pytest.mark.parametrize("kind", [EqualizedFocalLoss, EqualizedQualityFocalLoss])
def test_permuting_classes_permutes_gradients_and_statistics(kind):
    generator = np.random.default_rng(4)
    order = np.array([2, 0, 3, 1])
    place = np.r_[0, np.argsort(order) + 1, -1]
    loss, moved = kind([1] * 5), kind([1] * 5)
    for _ in range(3):
        logits, labels = generator.normal(size=(9, 4)), generator.integers(-1, 5, 9)
        value, gradient = run(loss, logits, labels)
        other, other_gradient = run(moved, logits[:, order], place[labels])
        assert other == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(other_gradient, gradient[:, order], rtol=1e-10)
    torch.testing.assert_close(moved.gammas(), loss.gammas()[order], rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", [EqualizedFocalLoss, EqualizedQualityFocalLoss])
def test_gradient_is_the_derivative(kind):
    loss = kind([1, 40, 9, 3], class_weights="inverse_sqrt")
    labels, generator = [0, 1, 2, 3, -1, 0], np.random.default_rng(5)
    logits = generator.normal(size=(6, 3))
    run(loss, logits, labels)
    assert (loss.gammas() > 2).any()
    options = {"quality": torch.tensor(generator.uniform(0, 1, 6))} if loss.extra_inputs else {}
    loss.eval()
    assert torch.autograd.gradcheck(
        lambda x: loss(x, torch.tensor(labels), **options), torch.tensor(logits, requires_grad=True)
    )


@pytest.mark.parametrize("kind", [EqualizedFocalLoss, EqualizedQualityFocalLoss])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_is_finite_for_every_finite_logit(kind, dtype):
    steps = [0.0, 16.7, 36.9, 88.8, 104.0, 745.2, 1e4]
    logits = torch.tensor(steps + [-s for s in steps], dtype=dtype)
    labels = torch.arange(-1, len(logits) + 1)
    loss = kind([0] + [1] * len(logits))
    for _ in range(3):
        value, gradient = run(loss, logits.expand(len(labels), -1), labels, dtype)
        assert math.isfinite(value)
        assert np.isfinite(gradient).all()
        assert np.isfinite(state_of(loss)).all()


def test_eqfl_refuses_bad_qualities():
    loss, logits, labels = (
        EqualizedQualityFocalLoss([0, 1]),
        torch.zeros(3, 1),
        torch.tensor([0, 1, -1]),
    )
    assert loss.extra_inputs == {"quality"}
    with pytest.raises(ValueError, match=r"quality has the shape \(2,\). Expected \[3\]"):
        loss(logits, labels, quality=torch.ones(2))
    for wrong in (1.5, -0.5, math.nan):
        with pytest.raises(ValueError, match=rf"1 qualities are out of range \(first: {wrong}\)"):
            loss(logits, labels, quality=torch.tensor([0.0, wrong, 0.0]))
    loss(logits, labels, quality=torch.tensor([math.nan, 0.5, 7.0]))  # not read


def test_positive_weights_count_alpha_and_class_weights():
    counts = ClassCounts([0, 9, 9], class_names=["a", "b"])
    loss = EqualizedFocalLoss(counts, class_weights={"b": 3.0})
    assert loss.positive_weights().tolist() == [1, 0.25, 0.75]
    assert EqualizedFocalLoss([0, 9, 9]).positive_weights().tolist() == [1, 0.25, 0.25]
    assert EqualizedQualityFocalLoss([0, 9, 9]).positive_weights().tolist() == [1, 1, 1]


# ---- recorded values -----------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("dtype", "suffix"), [(torch.float64, "f64"), (torch.float32, "f32")])
def test_equals_the_recorded_steps(shared, file, dtype, suffix):
    z = np.load(shared / f"golden/{file}.npz")
    classes = z[f"state_{suffix}"].shape[2]
    kind = EqualizedQualityFocalLoss if file == "eqfl_steps" else EqualizedFocalLoss
    loss = kind([1] * (classes + 1), **FILES[file])
    rtol = {"f64": 1e-10, "f32": 2e-5}[suffix]
    last = len(z["labels"]) - 1
    for t, labels in enumerate(z["labels"]):
        labels, logits = labels.ravel(), recorded_rows(z, "logits", t, classes)
        options = {"quality": torch.tensor(z["quality"][t].ravel())} if "quality" in z else {}
        if file == "efl_anchors2":  # its loss weight 2 is in the statistics, too
            found = torch.tensor(max((labels > 0).sum(), 1) / 2.0, dtype=torch.float64)
            options["normalizer"] = found.repeat(len(labels))
        value, gradient = run(loss, logits, labels, dtype, **options)
        assert value == pytest.approx(z[f"loss_{suffix}"][t], rel=rtol)
        if file == "efl_1203" and t < last:
            continue
        expected = recorded_rows(z, f"grad_{suffix}", t, classes)
        atol = (1e-6 if suffix == "f32" else 1e-14) * np.abs(expected).max()
        np.testing.assert_allclose(gradient, expected, rtol=rtol, atol=atol)
        expected = z[f"state_{suffix}"][-1 if file == "efl_1203" else t + 1]
        np.testing.assert_allclose(state_of(loss), expected, rtol=rtol, atol=rtol * 1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_efl_is_finite_where_the_reference_poisons_its_state(shared, dtype):
    """QUIRKS 15: there a negative with a large logit costs infinity, then all is NaN."""
    z = np.load(shared / "golden/efl_extreme.npz")
    assert not np.isfinite(z["state_f64"][-1]).all()
    loss, twin = EqualizedFocalLoss([1] * 4), EqualizedFocalTwin(3)
    for t, labels in enumerate(z["labels"]):
        logits, labels = recorded_rows(z, "logits", t, 3), labels.ravel()
        expected, slope = twin.step(logits, labels)
        value, gradient = run(loss, logits, labels, dtype)
        rtol, found = {torch.float64: 1e-10, torch.float32: 2e-5}[dtype], max((labels > 0).sum(), 1)
        assert value == pytest.approx(expected.sum() / found, rel=rtol)
        atol = np.abs(slope).max() * rtol * 0.05
        np.testing.assert_allclose(gradient, slope / found, rtol=rtol, atol=atol)
        assert np.isfinite(state_of(loss)).all()


def test_efl_divides_by_foreground_rows_unless_told():
    """QUIRKS 16: there no normalizer means the sum, and 0.0 the mean over all entries."""
    generator = np.random.default_rng(6)
    logits, labels = generator.normal(size=(6, 2)), [0, 1, 2, -1, 2, 0]
    total, _ = run(EqualizedFocalLoss([1] * 3), logits, labels, normalizer=1.0)
    assert run(EqualizedFocalLoss([1] * 3), logits, labels)[0] == pytest.approx(total / 3)
    loss = EqualizedFocalLoss([1] * 3)
    background, _ = run(loss, logits, [0] * 6)
    again, _ = run(EqualizedFocalLoss([1] * 3), logits, [0] * 6, normalizer=1.0)
    assert background == again


def test_efl_statistics_are_per_foreground_row_whatever_the_normalizer():
    """QUIRKS 17: as there, where the loss is divided by its foreground rows."""
    generator = np.random.default_rng(7)
    logits, labels = generator.normal(size=(8, 3)), np.array([0, 1, 2, 3, 3, 0, -1, 1])
    own, given_one, by_row = (EqualizedFocalLoss([1] * 4) for _ in range(3))
    run(own, logits, labels)
    run(given_one, logits, labels, normalizer=123.0)
    run(by_row, logits, labels, normalizer=torch.full((8,), 5.0, dtype=torch.float64))
    np.testing.assert_allclose(state_of(given_one), state_of(own), rtol=1e-13)
    np.testing.assert_allclose(state_of(by_row), state_of(own), rtol=1e-10)


def test_efl_reads_neither_backward_nor_the_order_of_rows():
    """QUIRKS 18: there a level without a backward leaves the buffer half full."""
    generator = np.random.default_rng(8)
    logits, labels = torch.tensor(generator.normal(size=(9, 3))), generator.integers(-1, 4, 9)
    loss, other = EqualizedFocalLoss([1] * 4), EqualizedFocalLoss([1] * 4)
    order = generator.permutation(9)
    for _ in range(3):
        run(loss, logits, labels)
        other(logits[order].requires_grad_(), torch.tensor(labels[order]))
    np.testing.assert_allclose(state_of(other), state_of(loss), rtol=1e-12)


def test_positives_cost_nothing_with_alpha_0():
    loss = EqualizedFocalLoss([1] * 3, alpha=0.0)
    _, gradient = run(loss, np.array([[-2.0, 0.5], [0.5, -1.0]]), np.array([1, 0]))
    assert gradient[0, 0] == 0
    assert (gradient.ravel()[1:] > 0).all()
    assert loss.positive_weights().tolist() == [1, 0, 0]
