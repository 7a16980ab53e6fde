"""LDAM: margins, scaled cosines, weights that come late, and how weighted sums are divided."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from focal import run
from hypothesis import given
from hypothesis import strategies as st
from softmax import (
    PRECISIONS,
    assert_derivative,
    assert_finite_at_the_extremes,
    assert_gradient,
    assert_permutes,
    assert_recorded,
    cross_entropy_twin,
    hidden_background,
    problem,
)

from detbalance.losses import LDAMLoss, SoftmaxCrossEntropyLoss, class_weights

COUNTS = [0, 500, 40, 3, 0]  # four classes, the last without boxes


def margins_twin(counts, max_margin=0.5):
    n = np.asarray(counts, np.float64)[1:]
    quarter = np.where(n > 0, n, n[n > 0].min()) ** -0.25
    return np.r_[0, max_margin * quarter / quarter.max()]


def ldam_twin(logits, labels, counts, max_margin=0.5, scale=30.0):
    """Cost [A] and gradient [A, K + 1]."""
    lowered = np.array(logits)
    for row, label in enumerate(labels):
        if label > 0:
            lowered[row, label] -= margins_twin(counts, max_margin)[label]
    cost, slope = cross_entropy_twin(scale * lowered, labels)
    return cost, scale * slope


def cosines(seed, rows=12, classes=5):
    logits, labels, counts = problem(seed, rows, classes)
    return np.tanh(logits), labels, counts


# ---- the formula ---------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0.1, 40))
def test_loss_equals_its_numpy_twin(seed, max_margin, scale):
    logits, labels, counts = cosines(seed)
    loss = LDAMLoss(counts, max_margin=max_margin, scale=scale)
    expected, slope = ldam_twin(logits, labels, counts, max_margin, scale)
    rows = max((labels >= 0).sum(), 1)
    value, gradient = run(loss, logits, labels)
    assert value == pytest.approx(expected.sum() / rows, rel=1e-11, abs=1e-14)
    np.testing.assert_allclose(gradient, slope / rows, rtol=1e-9, atol=1e-13)


def test_margins_grow_as_classes_get_rarer():
    loss = LDAMLoss([0, 10_000, 16, 1])
    np.testing.assert_allclose(loss.margins, [0, 0.05, 0.25, 0.5], rtol=1e-12)


@given(st.integers(0, 10**6))
def test_without_margin_and_scale_it_is_plain_cross_entropy(seed):
    logits, labels, counts = problem(seed)
    value, gradient = run(LDAMLoss(counts, max_margin=0.0, scale=1.0), logits, labels)
    expected, slope = run(SoftmaxCrossEntropyLoss(counts), logits, labels)
    assert value == expected
    np.testing.assert_array_equal(gradient, slope)


def test_equal_counts_have_the_same_margin_for_all():
    assert LDAMLoss([0, 7, 7, 7]).margins.tolist() == [0, 0.5, 0.5, 0.5]
    assert LDAMLoss([0, 0, 0]).margins.tolist() == [0, 0.5, 0.5]


def test_renaming_classes_renames_gradients():
    logits, labels, counts = cosines(4)
    assert_permutes(LDAMLoss, counts, logits, labels, lambda order: np.r_[0, order])


def test_gradient_is_the_derivative():
    assert_derivative(LDAMLoss(COUNTS, scale=3.0, class_weights="inverse"))
    assert_derivative(LDAMLoss(COUNTS, scale=3.0, deferred_after=0))


def test_loss_is_finite_at_the_extremes():
    assert_finite_at_the_extremes(LDAMLoss(COUNTS))
    assert_finite_at_the_extremes(LDAMLoss([0, 3], deferred_after=0))


def test_head_is_asked_for_cosines_and_scores_are_scaled():
    loss = LDAMLoss(COUNTS, scale=7.0)
    assert loss.last_layer == "cosine"
    x = torch.tensor(cosines(1, classes=4)[0])
    torch.testing.assert_close(loss.scores(x), F.softmax(7 * x, 1))
    assert loss.scores(x.half()).dtype == torch.float32
    assert loss.initial_bias().tolist() == [0] * 5


# ---- recorded values -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("default", {}),
        ("s10", {"max_margin": 0.3, "scale": 10.0}),
        ("drw0", {"deferred_after": 0, "deferred_beta": 0.0}),
        ("extreme", {}),
    ],
)
def test_ldam_equals_the_recorded_one(shared, case, options):
    z = np.load(shared / "golden/ldam.npz")
    logits = z[f"{case}__logits"] if f"{case}__logits" in z else z["cos_logits"]
    loss = LDAMLoss(np.r_[0, z["counts"]], **options)
    if case != "extreme":
        np.testing.assert_allclose(loss.margins[1:], z[f"{case}__margins_f64"], rtol=1e-12)
    assert_recorded(loss, z, case, hidden_background(logits), z["labels"] + 1)


# ---- weights that come late ----------------------------------------------------------------------


def test_deferred_weights_equal_the_recorded_ones(shared):
    z = np.load(shared / "golden/ldam.npz")
    loss = LDAMLoss(np.r_[0, z["counts"]], deferred_after=0)
    weights = z["drw9999__weights"]
    np.testing.assert_allclose(loss.deferred_weights[1:], weights, rtol=1e-10)
    # The reference divides by the weights of the rows (QUIRKS 23).
    logits, labels = hidden_background(z["cos_logits"]), z["labels"] + 1
    total = weights[z["labels"]].sum()
    assert_recorded(loss, z, "drw9999", logits, labels, normalizer=total)
    for dtype, suffix, rtol in PRECISIONS:
        value, gradient = run(loss, logits, labels, dtype)
        ratio = total / len(labels)
        assert value == pytest.approx(z[f"drw9999__loss_{suffix}"] * ratio, rel=rtol)
        assert_gradient(gradient[:, 1:], z[f"drw9999__grad_{suffix}"] * ratio, suffix)


def test_a_weighted_sum_is_divided_by_the_rows():
    # QUIRKS 23: PyTorch divides by the weights of the rows, TensorFlow by the rows with a weight
    # that is not 0.
    logits, labels, counts = problem(8)
    weights = torch.tensor(class_weights(counts, "inverse"))
    for loss, x in (
        (SoftmaxCrossEntropyLoss(counts, class_weights="inverse"), logits),
        (LDAMLoss(counts, max_margin=0, scale=1.0, class_weights="inverse"), logits),
    ):
        value, _ = run(loss, x, labels)
        target = torch.tensor(labels)
        stock = F.cross_entropy(torch.tensor(x), target, weight=weights, ignore_index=-1)
        rows = target >= 0
        share = weights[target[rows]].sum() / rows.sum()
        assert value == pytest.approx((stock * share).item(), rel=1e-12)


def test_weighted_cross_entropy_is_that_of_the_original_authors(shared):
    # QUIRKS 22: the copy that is often cited takes binary cross-entropy of the softmax instead.
    z = np.load(shared / "golden/class_balanced_tf.npz")
    options = {"class_weights": "effective_number", "beta": 0.9999}
    loss = SoftmaxCrossEntropyLoss(np.r_[0, z["counts"]], **options)
    logits, labels = hidden_background(z["logits"]), z["labels"] + 1
    value, gradient = run(loss, logits, labels, torch.float32)
    assert value == pytest.approx(z["softmax__loss_f32"], rel=2e-5)
    assert_gradient(gradient[:, 1:], z["softmax__grad_f32"], "f32")
    z = np.load(shared / "golden/class_balanced.npz")
    loss = SoftmaxCrossEntropyLoss(np.r_[0, z["counts"]], **options)
    logits, labels = z["logits"].astype(np.float64), z["labels"]
    value, _ = run(loss, hidden_background(logits), labels + 1)
    p = torch.tensor(logits).softmax(1)
    target = F.one_hot(torch.tensor(labels), 7).double()
    weights = loss.label_weights[1:][labels][:, None].expand_as(p)
    theirs = F.binary_cross_entropy(p, target, weight=weights)
    assert z["softmax__loss_f64"] == pytest.approx(theirs.item(), rel=1e-6)
    cost, _ = cross_entropy_twin(logits, labels)
    assert value == pytest.approx((cost * weights[:, 0].numpy()).mean(), rel=1e-10)
    assert value > 2 * theirs


def steps_of(loss, calls, logits, labels):
    return [run(loss, logits, labels)[0] for _ in range(calls)]


def test_weights_change_after_so_many_steps():
    logits, labels, counts = cosines(9)
    options = {"class_weights": "inverse_sqrt"}
    first = run(LDAMLoss(counts, **options), logits, labels)[0]
    then = run(LDAMLoss(counts, deferred_after=0, **options), logits, labels)[0]
    loss = LDAMLoss(counts, deferred_after=2, **options)
    assert steps_of(loss, 4, logits, labels) == pytest.approx([first, first, then, then])
    assert loss.steps == 4
    twin = ldam_twin(logits, labels, counts)[0]
    weights = class_weights(counts, "effective_number", beta=0.9999)[np.maximum(labels, 0)]
    assert then == pytest.approx((twin * weights).sum() / (labels >= 0).sum(), rel=1e-11)
    assert first != pytest.approx(then)


def test_accumulated_calls_are_one_step():
    logits, labels, counts = cosines(10)
    loss = LDAMLoss(counts, deferred_after=1)
    loss.accumulation = 3
    values = steps_of(loss, 6, logits, labels)
    assert values[:3] == [values[0]] * 3
    assert values[3:] == [values[3]] * 3
    assert values[0] != values[3]
    assert loss.steps == 2


def test_steps_stand_still_in_evaluation_and_without_gradients():
    logits, labels, counts = cosines(11)
    loss = LDAMLoss(counts, deferred_after=1)
    with torch.no_grad():
        loss(torch.tensor(logits), torch.tensor(labels))
    loss(torch.tensor(logits), torch.tensor(labels))
    run(loss.eval(), logits, labels)
    assert loss.steps == 0
    run(loss.train(), logits, labels)
    assert loss.steps == 1


def test_steps_are_saved_and_survive_casts():
    logits, labels, counts = cosines(12)
    loss = LDAMLoss(counts, deferred_after=2)
    steps_of(loss, 2, logits, labels)
    restored = LDAMLoss(counts, deferred_after=2)
    restored.load_state_dict(loss.state_dict())
    copies = (restored, copy.deepcopy(loss), copy.deepcopy(loss).half())
    expected = run(loss, logits, labels)
    for other in copies:
        value, gradient = run(other, logits, labels)
        assert value == expected[0]
        np.testing.assert_array_equal(gradient, expected[1])
        assert other.steps == 3
        assert other.steps.dtype == torch.int64


def test_the_guard_sees_the_weights_that_training_ends_with():
    assert LDAMLoss(COUNTS).positive_weights().tolist() == [1] * 5
    weights = LDAMLoss(COUNTS, deferred_after=9, deferred_beta=0.9).positive_weights()
    np.testing.assert_array_equal(weights, class_weights(COUNTS, "effective_number", beta=0.9))


# ---- a class without boxes (QUIRKS 30) -----------------------------------------------------------


def test_a_class_without_boxes_has_the_margin_of_the_rarest(shared):
    z = np.load(shared / "golden/ldam.npz")
    assert np.isnan(z["zerocount__margins_f64"]).any()
    loss = LDAMLoss(np.r_[0, z["zerocount__counts"]])  # 4, 0 and 16 boxes
    np.testing.assert_allclose(loss.margins, [0, 0.5, 0.5, 0.5 / math.sqrt(2)])


def test_rows_of_a_class_without_boxes_cost_a_finite_number():
    margins = LDAMLoss(COUNTS).margins
    assert margins.isfinite().all()
    assert margins[4] == margins[3] == 0.5
    value, gradient = run(LDAMLoss(COUNTS), np.zeros((1, 5)), [4])
    assert value == pytest.approx(math.log(1 + 4 * math.exp(15)), rel=1e-12)
    assert np.isfinite(gradient).all()
