"""Seesaw: its formula, objectness, and the counts that it gathers."""

from __future__ import annotations

import copy
import math

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
    assert_gradient,
    assert_permutes,
    cross_entropy_twin,
    problem,
)

from detbalance.losses import ClassCounts, SeesawLoss
from detbalance.losses.seesaw import seesaw_cost

COUNTS = [0, 500, 40, 3, 0]
EPS = float(np.finfo(np.float32).eps)  # added to its divisor by the reference
FILES = ["steps", "extreme", "allbg", "oneclass", "p0", "q0", "sum", "none", "1203"]


def seesaw_twin(logits, targets, counts, p=0.8, q=2.0, eps=0.01):
    """What foreground rows cost over the classes [F], and the gradient [F, K], pair by pair."""
    x = np.array(logits, np.float64)
    shifted = x.copy()
    for row, i in enumerate(targets):
        s = np.exp(x[row] - x[row].max())
        s /= s.sum()
        for j in range(x.shape[1]):
            if j != i:
                mitigation = min(1.0, max(counts[j], 1) / max(counts[i], 1)) ** p
                compensation = max(1.0, s[j] / max(s[i], eps)) ** q
                shifted[row, j] += np.log(mitigation * compensation)
    return cross_entropy_twin(shifted, targets)


def loss_twin(logits, labels, counts, **options):
    """What all rows cost [A], and the gradient [A, K + 2]; `counts` [K + 1] with this batch."""
    gradient, fg = np.zeros(logits.shape), labels > 0
    cost, gradient[:, :2] = cross_entropy_twin(logits[:, :2], np.minimum(labels, 1))
    classes, slope = seesaw_twin(logits[fg][:, 2:], labels[fg] - 1, counts[1:], **options)
    cost[fg] += classes
    gradient[fg, 2:] = slope
    return cost, gradient


def count(labels, classes):
    return np.bincount(labels[labels >= 0], minlength=classes + 1).astype(np.float64)


# ---- the formula ---------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.floats(0, 2), st.floats(0, 3), st.floats(0.001, 1))
def test_loss_equals_its_numpy_twin(seed, p, q, eps):
    logits, labels, _ = problem(seed, columns=7)
    loss = SeesawLoss([0] * 6, p=p, q=q, eps=eps, class_weights="inverse")
    before = np.random.default_rng(seed).integers(0, 4, 6).astype(np.float64) * 9
    loss.cumulative_counts.copy_(torch.tensor(before))
    after = before + count(labels, 5)
    expected, slope = loss_twin(logits, labels, after, p=p, q=q, eps=eps)
    rows = max((labels >= 0).sum(), 1)
    value, gradient = run(loss, logits, labels)
    assert loss.cumulative_counts.tolist() == after.tolist()
    assert value == pytest.approx(expected.sum() / rows, rel=1e-11)
    np.testing.assert_allclose(gradient, slope / rows, rtol=1e-9, atol=1e-14)


def test_rows_are_weighted_and_divided_one_by_one():
    logits, labels, _ = problem(1, columns=7)
    names = [f"class {c}" for c in range(1, 6)]
    counts = ClassCounts(np.arange(6), class_names=names)
    loss = SeesawLoss(counts, class_weights={"class 2": 3.0}).eval()
    expected, slope = loss_twin(logits, labels, np.zeros(6))
    factor = np.where(labels == 2, 3, 1) / np.linspace(1, 2, 12)
    each = torch.linspace(1, 2, 12, dtype=torch.float64)
    value, gradient = run(loss, logits, labels, normalizer=each)
    assert value == pytest.approx((expected * factor).sum(), rel=1e-11)
    np.testing.assert_allclose(gradient, slope * factor[:, None], rtol=1e-9, atol=1e-14)


@given(st.integers(0, 10**6), st.sampled_from(["p and q are 0", "equal counts"]))
def test_without_imbalance_it_is_plain_cross_entropy(seed, why):
    logits, labels, _ = problem(seed, columns=7)
    loss = SeesawLoss([0] * 6, p=0.0, q=0.0) if "0" in why else SeesawLoss([0] * 6, q=0.0).eval()
    loss.cumulative_counts.fill_(9)
    cost, slope = cross_entropy_twin(logits[:, 2:], np.where(labels > 0, labels - 1, -1))
    objectness, other = cross_entropy_twin(logits[:, :2], np.minimum(labels, 1))
    value, gradient = run(loss, logits, labels, normalizer=1.0)
    assert value == pytest.approx((cost + objectness).sum(), rel=1e-12)
    np.testing.assert_allclose(gradient, np.c_[other, slope], rtol=1e-10, atol=1e-15)


def test_frequent_classes_push_rare_ones_less():
    loss = SeesawLoss([0] * 3, q=0.0).eval()
    loss.cumulative_counts.copy_(torch.tensor([0.0, 1000.0, 10.0]))
    _, push = run(loss, np.zeros((2, 4)), np.array([1, 2]), normalizer=1.0)
    less = 0.01**0.8
    of_frequent = less / (1 + less)  # of equal logits, the rare one competes with `less`
    np.testing.assert_allclose(push[:, 2:], [[-of_frequent, of_frequent], [0.5, -0.5]])


def test_renaming_classes_renames_gradients():
    logits, labels, counts = problem(4, columns=7)

    def make(counts):
        loss = SeesawLoss(counts).eval()
        loss.cumulative_counts.copy_(torch.tensor(counts))
        return loss

    assert_permutes(make, counts, logits, labels, lambda order: np.r_[0, 1, order + 1])


def test_gradient_is_the_derivative():
    # The softmax in the compensation is a constant to the gradient, so it is off here; the twin
    # above has it.
    assert_derivative(SeesawLoss(COUNTS, q=0.0, class_weights="inverse").eval())


def test_compensation_is_a_constant_to_the_gradient():
    logits, labels, _ = problem(5, columns=7)
    loss, at = SeesawLoss([0] * 6).eval(), torch.tensor(logits)
    rows = torch.tensor(labels > 0)
    targets = torch.tensor(labels)[rows] - 1

    def frozen(x):
        own = at[rows][:, 2:].softmax(1)
        ratio = own / own.gather(1, targets[:, None]).clamp(min=0.01)
        return torch.nn.functional.cross_entropy(
            x[rows][:, 2:] + 2 * ratio.clamp(min=1).log(), targets, reduction="sum"
        )

    x = at.clone().requires_grad_()
    assert torch.autograd.gradcheck(frozen, x)
    frozen(x).backward()
    _, gradient = run(loss, logits, labels, normalizer=1.0)
    np.testing.assert_allclose(gradient[:, 2:], x.grad[:, 2:], rtol=1e-10, atol=1e-15)


def test_loss_is_finite_at_the_extremes():
    assert_finite_at_the_extremes(SeesawLoss(COUNTS))
    assert_finite_at_the_extremes(SeesawLoss([0, 3]))


def test_scores_are_foreground_times_the_class_and_sum_to_one():
    loss = SeesawLoss(COUNTS)
    assert loss.num_outputs == 6
    assert loss.initial_bias().shape == (6,)
    scores = loss.scores(torch.tensor([[0.0, math.log(3), 0.0, 0.0, 0.0, math.log(2)]]))
    np.testing.assert_allclose(scores, [[0.25, 0.15, 0.15, 0.15, 0.3]], rtol=1e-6)
    assert loss.scores(torch.zeros(2, 6).half()).dtype == torch.float32


# ---- recorded values -----------------------------------------------------------------------------
# There: columns are classes, foreground, background; the label and count of background come last.


def ours(z, name="logits"):
    logits = z[name]
    classes = logits.shape[-1] - 2
    return logits[..., [classes + 1, classes, *range(classes)]]


def our_labels(z):
    classes = z["logits"].shape[-1] - 2
    return np.where(z["labels"] == classes, 0, z["labels"] + 1)


@pytest.mark.parametrize("file", FILES)
def test_seesaw_equals_the_recorded_one_over_the_steps(shared, file):
    z = np.load(shared / f"golden/seesaw_{file}.npz")
    options = {"p0": {"p": 0.0}, "q0": {"p": 1.2, "q": 0.0}, "sum": {"q": 1.0, "eps": 0.1}}
    logits, all_labels = ours(z), our_labels(z)
    for dtype, suffix, rtol in PRECISIONS:
        loss = SeesawLoss([0] * (logits.shape[-1] - 1), **options.get(file, {}))
        counts = np.roll(z[f"cum_samples_{suffix}"], 1, axis=1)
        for step, labels in enumerate(all_labels):
            value, gradient = run(loss, logits[step], labels, dtype, normalizer=1.0)
            # There the classes are divided by the foreground rows, objectness by all (QUIRKS 10).
            divisors = (
                (1, 1) if file in ("sum", "none") else (max((labels > 0).sum(), 1), len(labels))
            )
            parts = z[f"loss_classes_objectness_{suffix}"][step] * divisors
            assert value == pytest.approx(parts.sum(), rel=rtol)
            last = step == len(all_labels) - 1
            if file != "1203":
                assert loss.cumulative_counts.tolist() == counts[step + 1].tolist()
                slopes = [
                    ours(z, f"grad_{part}_{suffix}")[step] for part in ("classes", "objectness")
                ]
            elif last:
                assert loss.cumulative_counts.tolist() == counts[0].tolist()
                slopes = [
                    ours(z, f"grad_{part}_last_{suffix}") for part in ("classes", "objectness")
                ]
            if file != "1203" or last:
                expected = sum(s * d for s, d in zip(slopes, divisors, strict=True))
                assert_gradient(gradient, expected, suffix)
        if file != "1203":
            scores = loss.scores(torch.tensor(logits[-1], dtype=dtype))
            expected = np.roll(z[f"activation_last_{suffix}"], 1, axis=1)
            np.testing.assert_allclose(scores, expected, rtol=rtol, atol=rtol * 1e-6)


def test_both_parts_have_one_divisor(shared):
    # QUIRKS 10: as there with avg_factor. A row's weight is expressed by its divisor, weight 0 by
    # an infinite one.
    z = np.load(shared / "golden/seesaw_weights_avg.npz")
    logits, all_labels = ours(z), our_labels(z)
    for dtype, suffix, rtol in PRECISIONS:
        loss = SeesawLoss([0] * 8)
        for step, labels in enumerate(all_labels):
            with np.errstate(divide="ignore"):
                each = (24 + EPS) / (1.5 * z["label_weights"][step].astype(np.float64))
            each = torch.tensor(each)
            value, gradient = run(loss, logits[step], labels, dtype, normalizer=each)
            assert value == pytest.approx(z[f"total_{suffix}"][step], rel=rtol)
            expected = sum(
                ours(z, f"grad_{part}_{suffix}")[step] for part in ("classes", "objectness")
            )
            assert_gradient(gradient, expected, suffix)
            counts = np.roll(z[f"cum_samples_{suffix}"][step + 1], 1)
            assert loss.cumulative_counts.tolist() == counts.tolist()


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("a", {"p": 0.8, "q": 2.0, "eps": 0.01}),
        ("b", {"p": 0.8, "q": 2.0, "eps": 0.01}),
        ("c", {"p": 0.5, "q": 1.0, "eps": 0.001}),
    ],
)
def test_class_cost_equals_the_recorded_one(shared, case, options):
    z = np.load(shared / "golden/seesaw_no_objectness.npz")
    factor = {"a": 1 / 9, "b": 1.0, "c": z["label_weights"] / np.float64(13 + EPS)}[case]
    counted = z["cum_samples"].astype(np.float64)
    twin, _ = seesaw_twin(z["logits"], z["labels"], counted, **options)
    for dtype, suffix, rtol in PRECISIONS:
        logits = torch.tensor(z["logits"], dtype=dtype, requires_grad=True)
        counts = torch.tensor(counted)
        cost = seesaw_cost(logits, torch.tensor(z["labels"]), counts, **options)
        scaled = cost * torch.as_tensor(factor, dtype=dtype)
        scaled.sum().backward()
        expected = z[f"{case}__loss_{suffix}"]
        value = scaled if expected.ndim else scaled.sum()
        np.testing.assert_allclose(value.detach(), expected, rtol=rtol)
        assert_gradient(logits.grad.double().numpy(), z[f"{case}__grad_{suffix}"], suffix)
        np.testing.assert_allclose(cost.detach(), twin, rtol=rtol)


# ---- the counts ----------------------------------------------------------------------------------


def test_rows_to_ignore_are_not_counted():
    # QUIRKS 8: there the label -1 raises, after it was counted as background.
    loss = SeesawLoss(COUNTS)
    run(loss, np.zeros((6, 6)), np.array([0, 3, -1, 3, -1, 1]))
    assert loss.cumulative_counts.tolist() == [1, 1, 0, 2, 0]
    with pytest.raises(ValueError, match="a label is -2"):
        run(loss, np.zeros((2, 6)), np.array([1, -2]))
    assert loss.cumulative_counts.tolist() == [1, 1, 0, 2, 0]


def test_rows_of_each_part_have_their_own_cost():
    # QUIRKS 7: there, unreduced costs of foreground rows and of all rows do not fit together.
    logits, labels, _ = problem(6, columns=7)
    loss = SeesawLoss([0] * 6).eval()
    each = [run(loss, logits[[i]], labels[[i]], normalizer=1.0)[0] for i in range(len(labels))]
    expected, _ = loss_twin(logits, labels, np.zeros(6))
    np.testing.assert_allclose(each, expected, rtol=1e-11)


def test_counts_stand_still_in_evaluation_and_without_gradients():
    # QUIRKS 9.
    logits, labels, _ = problem(7, columns=6, classes=4)
    loss = SeesawLoss(COUNTS)
    with torch.no_grad():
        loss(torch.tensor(logits), torch.tensor(labels))
    loss(torch.tensor(logits), torch.tensor(labels))
    run(loss.eval(), logits, labels)
    assert loss.cumulative_counts.tolist() == [0] * 5
    run(loss.train(), logits, labels)
    assert loss.cumulative_counts.sum() == (labels >= 0).sum()


def test_large_counts_still_grow_by_one():
    # QUIRKS 9: a float32 counter stands still from 2^24 on.
    loss = SeesawLoss(COUNTS).half()
    loss.cumulative_counts.fill_(2.0**24)
    run(loss, np.zeros((1, 6)), np.array([2]))
    assert loss.cumulative_counts[2] == 2**24 + 1


def test_accumulated_calls_leave_the_counts_of_one_batch():
    logits, labels, _ = problem(8, columns=7)
    whole, parts = SeesawLoss([0] * 6), SeesawLoss([0] * 6)
    parts.accumulation = 2
    run(whole, logits, labels)
    run(parts, logits[:5], labels[:5])
    run(parts, logits[5:], labels[5:])
    assert torch.equal(parts.cumulative_counts, whole.cumulative_counts)


def test_counts_are_saved():
    logits, labels, _ = problem(9, columns=7)
    loss, restored = SeesawLoss([0] * 6), SeesawLoss([0] * 6)
    run(loss, logits, labels)
    restored.load_state_dict(loss.state_dict())
    expected, slope = run(copy.deepcopy(loss), logits, labels)
    value, gradient = run(restored, logits, labels)
    assert value == expected
    np.testing.assert_array_equal(gradient, slope)


def test_counts_do_not_depend_on_the_gradients_scale():
    logits, labels, _ = problem(10, columns=7)
    loss, scaled = SeesawLoss([0] * 6), SeesawLoss([0] * 6)
    x = torch.tensor(logits, requires_grad=True)
    loss(x, torch.tensor(labels)).backward()
    (scaled(x, torch.tensor(labels)) * 65536).backward()
    assert torch.equal(loss.cumulative_counts, scaled.cumulative_counts)
