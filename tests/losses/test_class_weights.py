"""Class weights: formulas, normalisation, classes without boxes, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from focal import focal_twin, run
from hypothesis import given
from hypothesis import strategies as st

from detbalance.losses import ClassCounts, SigmoidFocalLoss, class_weights

METHODS = ["none", "inverse", "inverse_sqrt", "effective_number"]
some_counts = st.lists(st.integers(0, 10**6), min_size=2, max_size=20)


@pytest.mark.parametrize("method", METHODS)
@given(some_counts, st.floats(0, 1, exclude_max=True))
def test_class_weights_are_finite_and_average_one_over_the_classes_with_boxes(method, counts, beta):
    weights = class_weights(counts, method, beta=beta)
    assert weights.shape == (len(counts),)
    assert weights.dtype == np.float64
    assert np.isfinite(weights).all()
    assert (weights > 0).all()
    assert weights[0] == 1
    present = np.array(counts) > 0
    assert (weights[~present] == 1).all()
    if present[1:].any():
        assert weights[1:][present[1:]].mean() == pytest.approx(1.0)


@pytest.mark.parametrize("method", METHODS)
@given(some_counts)
def test_class_weights_never_rank_a_frequent_class_above_a_rarer_one(method, counts):
    weights = class_weights(counts, method)
    present = [c for c in range(1, len(counts)) if counts[c]]
    for c in present:
        assert all(weights[c] >= weights[d] for d in present if counts[c] <= counts[d])


def test_class_weights_by_hand():
    assert class_weights([7, 4, 1], "none").tolist() == [1, 1, 1]
    assert class_weights([7, 4, 1], "inverse") == pytest.approx([1, 0.4, 1.6])
    assert class_weights([7, 4, 1], "inverse_sqrt") == pytest.approx([1, 2 / 3, 4 / 3])
    # effective numbers 1 + 0.5 + 0.25 + 0.125 = 1.875 and 1
    expected = np.array([1 / 1.875, 1])
    assert class_weights([7, 4, 1], "effective_number", beta=0.5)[1:] == pytest.approx(
        expected / expected.mean()
    )


def test_class_weights_of_the_effective_number_lie_between_equal_and_inverse():
    counts = [0, 5000, 300, 2]
    equal = class_weights(counts, "effective_number", beta=0.0)
    assert equal.tolist() == [1, 1, 1, 1]
    nearly_inverse = class_weights(counts, "effective_number", beta=1 - 1e-12)
    assert nearly_inverse == pytest.approx(class_weights(counts, "inverse"), rel=1e-6)
    weights = class_weights(counts, "effective_number", beta=0.99)
    assert weights.max() / weights[1:].min() < 100


def test_class_weights_do_not_use_the_background_count():
    assert (class_weights([0, 3, 5], "inverse") == class_weights([9, 3, 5], "inverse")).all()


def test_class_weights_take_tensors():
    counts = torch.tensor([0, 3, 5])
    assert (class_weights(counts, "inverse") == class_weights([0, 3, 5], "inverse")).all()


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.99, 0.999, 0.9999, 0.99999])
def test_class_weights_equal_the_recorded_ones(shared, beta):
    z = np.load(shared / "golden/class_balanced.npz")
    weights = class_weights(np.r_[0, z["counts"]], "effective_number", beta=beta)
    assert weights[1:] == pytest.approx(z[f"w_norm_b{beta}"], rel=1e-10)
    if beta == 0.999:
        many = class_weights(np.r_[0, z["counts1203"]], "effective_number")
        assert many[1:] == pytest.approx(z["w_norm1203_b0.999"], rel=1e-10)


def test_class_weights_equal_those_of_the_original_authors(shared):
    z = np.load(shared / "golden/class_balanced_tf.npz")
    weights = class_weights(np.r_[0, z["counts"]], "effective_number", beta=0.9999)
    assert weights[1:] == pytest.approx(z["weights"], rel=1e-10)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([5], r"the shape is \(1,\). Expected one number per class"),
        ([[1, 2]], r"the shape is \(1, 2\)"),
        ([0, -3, 4, math.nan], r"2 entries are not counts \(first: index 1 is -3"),
        ([0, math.inf], "index 1 is inf"),
    ],
)
def test_class_weights_refuse_bad_counts(counts, message):
    with pytest.raises(ValueError, match=message):
        class_weights(counts, "inverse")


def test_class_weights_refuse_bad_options():
    with pytest.raises(ValueError, match=r"method is 'inverted'\. Known: none, inverse, inv"):
        class_weights([0, 1], "inverted")
    for beta in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"beta is .*Expected a number >= 0 and < 1"):
            class_weights([0, 1], "effective_number", beta=beta)


# ---- by class name -------------------------------------------------------------------------------

COUNTS = ClassCounts([0, 900, 30, 5], class_names=["bolt", "crack", "dent"])


def test_class_weights_by_name_are_used_as_they_are():
    loss = SigmoidFocalLoss(COUNTS, class_weights={"dent": 4.0, "bolt": 0.0})
    assert loss.label_weights.tolist() == [1, 0, 1, 4]
    assert SigmoidFocalLoss(COUNTS, class_weights={}).label_weights.tolist() == [1, 1, 1, 1]
    assert SigmoidFocalLoss(COUNTS).label_weights is None


def test_class_weights_by_name_multiply_the_rows_of_a_class():
    logits = np.random.default_rng(0).normal(size=(4, 3))
    labels = np.array([3, 1, 0, 2])
    weights = np.array([4.0, 0.5, 1.0, 1.0])
    value, gradient = run(
        SigmoidFocalLoss(COUNTS, class_weights={"dent": 4.0, "bolt": 0.5}), logits, labels
    )
    expected, slope = focal_twin(logits, labels)
    assert value == pytest.approx((expected.sum(1) * weights).sum() / 3, rel=1e-12)
    np.testing.assert_allclose(gradient, slope * weights[:, None] / 3, rtol=1e-11)


def test_alpha_and_gamma_by_name_leave_the_others_at_their_defaults():
    loss = SigmoidFocalLoss(COUNTS, alpha={"dent": 0.9, "bolt": -1}, gamma={"crack": 0.5})
    assert loss.alpha.tolist() == [-1, 0.25, 0.9]
    assert loss.gamma.tolist() == [2, 0.5, 2]
    logits, labels = np.random.default_rng(0).normal(size=(4, 3)), np.array([3, 1, 0, 2])
    expected, slope = focal_twin(
        logits, labels, positive=[1, 0.25, 0.9], negative=[1, 0.75, 0.1], gamma=[2, 0.5, 2]
    )
    value, gradient = run(loss, logits, labels)
    assert value == pytest.approx(expected.sum() / 3, rel=1e-12)
    np.testing.assert_allclose(gradient, slope / 3, rtol=1e-11)


@pytest.mark.parametrize("option", ["alpha", "gamma", "class_weights"])
def test_unknown_names_are_refused_with_the_nearest_known_one(option):
    with pytest.raises(
        ValueError,
        match=rf'SigmoidFocalLoss: {option} names the class "crak". Known: bolt, crack, dent\. '
        r'Use the names of the annotation file\. Did you mean "crack"\?',
    ):
        SigmoidFocalLoss(COUNTS, **{option: {"crak": 0.5}})
    with pytest.raises(ValueError, match=r'"zzz"[^?]*$'):
        SigmoidFocalLoss(COUNTS, **{option: {"zzz": 0.5}})
    with pytest.raises(ValueError, match=rf'{option} names the class "bolt", but .*without names'):
        SigmoidFocalLoss([0, 900, 30, 5], **{option: {"bolt": 0.5}})


def test_bad_values_by_name_are_refused():
    for weight in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"class_weights is .*Expected finite weights >= 0"):
            SigmoidFocalLoss(COUNTS, class_weights={"dent": weight})
    with pytest.raises(ValueError, match=r"alpha is \{'dent': 1.5\}"):
        SigmoidFocalLoss(COUNTS, alpha={"dent": 1.5})
    with pytest.raises(ValueError, match=r"gamma is \{'dent': -1\}"):
        SigmoidFocalLoss(COUNTS, gamma={"dent": -1})


@pytest.mark.parametrize("beta", [0.9, 0.999])
def test_effective_number_weights_equal_their_numpy_twin(beta):
    n = np.array([50085.0, 82, 79, 1, 60, 14, 1])
    raw = (1 - beta) / (1 - beta**n)
    weights = class_weights(np.r_[0, n], "effective_number", beta=beta)
    assert weights[1:] == pytest.approx(raw / raw.mean(), rel=1e-10)
