"""Balanced softmax and logit adjustment, in training and afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from focal import run
from hypothesis import given
from hypothesis import strategies as st
from softmax import (
    PRECISIONS,
    assert_derivative,
    assert_finite_at_the_extremes,
    assert_permutes,
    assert_recorded,
    cross_entropy_twin,
    hidden_background,
    problem,
)

from detbalance.losses import (
    BalancedSoftmaxLoss,
    LogitAdjustedLoss,
    SoftmaxCrossEntropyLoss,
    adjust_logits,
    class_weights,
)

COUNTS = [0, 500, 40, 3, 0]  # four classes, the last without boxes
MEMBERS = {
    "balanced_softmax": BalancedSoftmaxLoss,
    "logit_adjustment": LogitAdjustedLoss,
    "logit_adjustment_2": lambda counts, **options: LogitAdjustedLoss(counts, tau=2.0, **options),
}


def offsets_twin(counts, tau=None):
    """What is added to the logits; tau None is balanced softmax."""
    n = np.asarray(counts, np.float64)[1:]
    if tau is None:
        return np.r_[0, [np.log((k or 1) * (n > 0).sum() / n.sum()) for k in n]]
    pi = n / n.sum()
    a = pi**tau + 1e-12
    return np.r_[0, np.log(a) + np.log((pi / a).sum())]


@pytest.fixture(params=MEMBERS)
def make(request):
    return MEMBERS[request.param]


# ---- the formulas --------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.sampled_from([None, 0.0, 0.5, 1.0, 1.7]), st.booleans())
def test_loss_equals_its_numpy_twin(seed, tau, weighted):
    logits, labels, counts = problem(seed)
    counts[1 + seed % 5] = 0
    expected, slope = cross_entropy_twin(logits + offsets_twin(counts, tau), labels)
    method = "inverse_sqrt" if weighted else "none"
    weights = class_weights(counts, method)[np.maximum(labels, 0)]
    options = {} if tau is None else {"tau": tau}
    loss = (BalancedSoftmaxLoss if tau is None else LogitAdjustedLoss)(
        counts, class_weights=method, **options
    )
    rows = max((labels >= 0).sum(), 1)
    value, gradient = run(loss, logits, labels)
    assert value == pytest.approx((expected * weights).sum() / rows, rel=1e-12)
    np.testing.assert_allclose(gradient, slope * weights[:, None] / rows, rtol=1e-9, atol=1e-15)
    each = np.linspace(1, 4, len(labels))
    value, gradient = run(loss, logits, labels, normalizer=torch.tensor(each))
    assert value == pytest.approx((expected * weights / each).sum(), rel=1e-12)
    np.testing.assert_allclose(gradient, slope * (weights / each)[:, None], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("tau", [None, 0.0, 0.5, 1.0, 2.0])
def test_foreground_keeps_its_share_and_classes_change_theirs(tau):
    # A small world in which all is known: which of 7 things is seen, given the class.
    generator = np.random.default_rng(1)
    seen = generator.dirichlet(np.ones(7), 4)  # p(x | background and 3 classes)
    pi, foreground = np.array([0.9, 0.09, 0.01]), 0.3
    p = np.r_[1 - foreground, foreground * pi]
    wanted = np.ones(3) if tau is None else pi / (pi**tau + 1e-12)
    q = np.r_[1 - foreground, foreground * wanted / wanted.sum()]
    posterior = (seen * p[:, None]).T / (seen * p[:, None]).sum(0)[:, None]
    target = (seen * q[:, None]).T / (seen * q[:, None]).sum(0)[:, None]
    counts = np.r_[0, pi * 1000]
    if tau is None:
        loss = BalancedSoftmaxLoss(counts)
    else:
        loss = LogitAdjustedLoss(counts, tau=tau)
        # Afterwards: the logits of plain training are those of the posterior.
        plain = torch.tensor(np.log(posterior) + 3)
        corrected = adjust_logits(plain, counts, tau=tau)
        np.testing.assert_allclose(corrected.softmax(1), target, rtol=1e-9)
        head = SoftmaxCrossEntropyLoss(counts, posthoc_tau=tau)
        np.testing.assert_allclose(head.scores(plain), target, rtol=1e-9)
    # In training: at logits whose scores are the target, the expected gradient is 0.
    logits = np.log(target)
    total = 0.0
    for label in range(4):
        _, gradient = run(loss, logits, np.full(7, label), normalizer=1.0)
        total += gradient * posterior[:, [label]]
    np.testing.assert_allclose(total, 0, atol=1e-9)
    np.testing.assert_allclose(loss.scores(torch.tensor(logits)), target, rtol=1e-12)


@given(st.integers(0, 10**6), st.floats(0, 3), st.integers(1, 9))
def test_equal_counts_are_plain_cross_entropy(seed, tau, classes):
    logits, labels, _ = problem(seed, classes=classes)
    counts = [0] + [7] * classes
    expected, slope = run(SoftmaxCrossEntropyLoss(counts), logits, labels)
    for loss in (BalancedSoftmaxLoss(counts), LogitAdjustedLoss(counts, tau=tau)):
        value, gradient = run(loss, logits, labels)
        assert value == pytest.approx(expected, rel=1e-13)
        np.testing.assert_allclose(gradient, slope, rtol=1e-12, atol=1e-15)


def test_tau_0_is_plain_and_tau_1_is_balanced_softmax():
    logits, labels, counts = problem(2)
    for loss, other, rtol in (
        (LogitAdjustedLoss(counts, tau=0.0), SoftmaxCrossEntropyLoss(counts), 1e-12),
        (LogitAdjustedLoss(counts), BalancedSoftmaxLoss(counts), 1e-7),  # the 1e-12 beside 1e-4
    ):
        value, gradient = run(loss, logits, labels)
        expected, slope = run(other, logits, labels)
        assert value == pytest.approx(expected, rel=rtol)
        np.testing.assert_allclose(gradient, slope, rtol=rtol, atol=1e-12)


def test_renaming_classes_renames_gradients(make):
    logits, labels, counts = problem(4)
    counts[2] = 0
    assert_permutes(make, counts, logits, labels, lambda order: np.r_[0, order])


def test_gradient_is_the_derivative(make):
    assert_derivative(make(COUNTS, class_weights="inverse"))


def test_loss_is_finite_at_the_extremes(make):
    assert_finite_at_the_extremes(make(COUNTS))
    assert_finite_at_the_extremes(make([0, 0, 0]))
    assert_finite_at_the_extremes(make([0, 3]))


def test_post_hoc_correction_leaves_training_alone():
    logits, labels, counts = problem(5)
    plain = SoftmaxCrossEntropyLoss(counts)
    corrected = SoftmaxCrossEntropyLoss(counts, posthoc_tau=0.7)
    assert run(corrected, logits, labels)[0] == run(plain, logits, labels)[0]
    half = torch.tensor(logits).bfloat16()
    torch.testing.assert_close(
        corrected.scores(half), adjust_logits(half, counts, tau=0.7).softmax(1)
    )
    assert corrected.scores(half).dtype == torch.float32
    # A model that was trained plainly can be read with a correction.
    corrected.load_state_dict(plain.state_dict())


# ---- recorded values -----------------------------------------------------------------------------


def test_balanced_softmax_equals_the_recorded_one(shared):
    z = np.load(shared / "golden/balanced_softmax.npz")
    loss, labels = BalancedSoftmaxLoss(np.r_[0, z["counts"]]), z["labels"] + 1
    logits = hidden_background(z["logits"])
    assert_recorded(loss, z, "softmax_mean", logits, labels)
    assert_recorded(loss, z, "softmax_sum", logits, labels, normalizer=1.0)
    assert_recorded(loss, z, "softmax_none", logits, labels, normalizer=torch.ones(len(labels)))
    assert_recorded(loss, z, "extreme", hidden_background(z["extreme__logits"]), labels)
    loss = BalancedSoftmaxLoss(np.r_[0, z["c1203__counts"]])
    logits = hidden_background(z["c1203__logits"])
    assert_recorded(loss, z, "c1203", logits, z["c1203__labels"] + 1)


@pytest.mark.parametrize(
    ("case", "tau"),
    [
        ("tau1.0", 1.0),
        ("tau0.5", 0.5),
        ("tau2.0", 2.0),
        ("tau0.0", 0.0),
        ("extreme", 1.0),
        ("zeroprob", 1.0),
        ("c1203", 1.0),
    ],
)
def test_logit_adjustment_equals_the_recorded_one(shared, case, tau):
    z = np.load(shared / "golden/logit_adjustment.npz")
    own = {name: f"{case}__{name}" for name in ("logits", "labels", "base_probs")}
    logits, labels, probs = (z[key] if key in z else z[name] for name, key in own.items())
    counts, labels = np.r_[0, probs], labels + 1
    loss = LogitAdjustedLoss(counts, tau=tau)
    assert_recorded(loss, z, case, hidden_background(logits), labels)
    for dtype, suffix, rtol in PRECISIONS:
        hidden = torch.tensor(hidden_background(logits), dtype=dtype)
        adjusted = adjust_logits(hidden, counts, tau=tau)[:, 1:].double().numpy()
        # Theirs, and what leaves a background column its share: the same number for all classes.
        expected = z[f"{case}__posthoc_{suffix}"].astype(np.float64)
        common = np.log((probs / (probs**tau + 1e-12)).sum())
        np.testing.assert_allclose(
            adjusted + common, expected, rtol=rtol, atol=rtol * np.abs(expected).max()
        )


def test_without_adjustment_it_is_the_recorded_cross_entropy(shared):
    z = np.load(shared / "golden/logit_adjustment.npz")
    loss = SoftmaxCrossEntropyLoss(np.r_[0, z["base_probs"]])
    assert_recorded(loss, z, "off", hidden_background(z["logits"]), z["labels"] + 1)


# ---- a class without boxes (QUIRKS 27) -----------------------------------------------------------


def test_a_class_without_boxes_counts_as_one_box():
    # The reference adds log 0: its rows cost inf.
    logits, labels, _ = problem(6, rows=30, classes=4)
    value, gradient = run(BalancedSoftmaxLoss([0, 500, 40, 3, 0]), logits, labels)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    # The offsets of classes with boxes do not change by it.
    offsets = BalancedSoftmaxLoss([0, 500, 40, 3, 0]).offsets
    np.testing.assert_allclose(offsets[:4], BalancedSoftmaxLoss([0, 500, 40, 3]).offsets)
    assert offsets[4] == pytest.approx(np.log(1 * 3 / 543))


def test_recorded_infinite_rows_are_finite(shared):
    z = np.load(shared / "golden/balanced_softmax.npz")
    recorded, labels = z["zero__loss_none_f64"], z["zero__labels"] + 1
    assert np.isinf(recorded).any()
    loss = BalancedSoftmaxLoss(np.r_[0, z["zero__counts"]])
    each = [
        run(loss, hidden_background(z["logits"][[i]]), labels[[i]])[0] for i in range(len(labels))
    ]
    assert np.isfinite(each).all()
    # The other rows see one more competitor, worth one box.
    known = np.isfinite(recorded)
    assert (np.asarray(each)[known] >= recorded[known]).all()
    expected, _ = cross_entropy_twin(
        hidden_background(z["logits"]) + offsets_twin(np.r_[0, z["zero__counts"]]), labels
    )
    np.testing.assert_allclose(each, expected, rtol=1e-10)


def test_no_boxes_at_all_are_plain_cross_entropy(make):
    logits, labels, _ = problem(7)
    value, _ = run(make([0] * 6), logits, labels)
    assert value == run(SoftmaxCrossEntropyLoss([0] * 6), logits, labels)[0]


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [-0.1, float("nan"), float("inf")])
def test_bad_tau_is_refused(tau):
    message = rf"tau is {tau}. Expected a number >= 0. 0 changes nothing"
    with pytest.raises(ValueError, match=rf"adjust_logits\(\): {message}"):
        adjust_logits(torch.zeros(2, 5), COUNTS, tau=tau)


def test_logits_of_another_number_of_classes_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 4\). Expected \[rows, 5\] for 5 classes"):
        adjust_logits(torch.zeros(2, 4), COUNTS)


# ---- NorCal, the same correction made of scores (QUIRKS 29) --------------------------------------


@pytest.mark.parametrize(
    ("case", "tau"), [("exps_g05_renorm", 0.5), ("exps_g1_renorm", 1.0), ("probs_g05_renorm", 0.5)]
)
def test_the_classes_share_the_foreground_as_in_norcal(shared, case, tau):
    # There the score of background is left as it is, here its frequency; the floor of 1e-12 under
    # the class frequencies is logit adjustment's.
    z = np.load(shared / "golden/norcal.npz")
    own = "logits" if f"{case}__logits" not in z else f"{case}__logits"
    background_first = np.roll(z[own].astype(np.float64), 1, axis=1)
    counts = np.r_[0, z["image_counts"]]
    adjusted = adjust_logits(torch.tensor(background_first), counts, tau=tau).softmax(1)[:, 1:]
    recorded = z[f"{case}__scores_f64"][:, :-1]
    np.testing.assert_allclose(
        adjusted / adjusted.sum(1, keepdim=True),
        recorded / recorded.sum(1, keepdims=True),
        rtol=1e-7,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_large_logits_are_corrected_without_overflow_and_left_alone(dtype):
    logits = torch.full((2, 5), 100.0, dtype=dtype)
    logits[1] = -100.0
    before = logits.clone()
    scores = SoftmaxCrossEntropyLoss(COUNTS, posthoc_tau=0.5).scores(logits)
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.sum(1), torch.ones_like(scores[:, 0]))
    assert torch.equal(logits, before)
