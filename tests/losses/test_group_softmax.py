"""Balanced Group Softmax: bins, columns, the drawn others, merged scores."""

from __future__ import annotations

import itertools
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

from detbalance.losses import (
    GroupSoftmaxLoss,
    SoftmaxCrossEntropyLoss,
    class_weights,
    group_softmax,
)

COUNTS = [0, 500, 40, 3, 0, 5]
FILES = ["basic", "ratio1", "allfg", "allbg", "extreme", "1203"]


def bins_twin(counts, limits=(10, 100, 1000)):
    """The classes of each bin, in the order of their columns."""
    lows, highs = (0, *limits), (*limits, math.inf)
    return [
        [c for c in range(1, len(counts)) if low <= counts[c] < high]
        for low, high in zip(lows, highs, strict=True)
    ]


def group_twin(logits, labels, bins, chosen=None):
    """Loss at rows / normalizer 1 and its gradient, bin by bin; `chosen` [B, A], None for all."""
    total, gradient = cross_entropy_twin(logits[:, :2], np.minimum(labels, 1))
    rows = max((labels >= 0).sum(), 1)
    total, slope = total.sum() / rows, np.zeros(logits.shape)
    slope[:, :2] = gradient / rows
    start = 2
    for number, classes in enumerate(bins, start=1):
        targets = np.array([classes.index(y) + 1 if y in classes else 0 for y in labels], int)
        used = labels >= 0 if chosen is None else chosen[number] > 0
        used = used & (targets > 0).any()
        end = start + 1 + len(classes)
        cost, part = cross_entropy_twin(logits[:, start:end], np.where(used, targets, -1))
        total += cost.sum() / max(used.sum(), 1)
        slope[:, start:end] = part / max(used.sum(), 1)
        start = end
    return total, slope


def all_others(loss):
    """The loss with every row in every bin that has a row of its classes."""
    loss.others_ratio = 1e6
    return loss


# ---- bins and columns ----------------------------------------------------------------------------


def test_bins_are_by_boxes_and_columns_by_bin_and_label():
    # QUIRKS 25: boxes, not images; the limit belongs to the upper bin; no boxes, the first bin.
    loss = GroupSoftmaxLoss([0, 5, 10, 1000, 99, 100, 9, 999, 0])
    assert loss.bins.tolist() == [0, 1, 2, 4, 2, 3, 1, 3, 1]
    assert loss.columns.tolist() == [0, 3, 7, 13, 8, 10, 4, 11, 5]
    assert loss.num_outputs == 8 + 2 + 4
    assert loss.initial_bias().shape == (14,)


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=12))
def test_every_column_has_one_owner(counts):
    loss = GroupSoftmaxLoss([0, *counts])
    others = 1 + np.cumsum([1, *loss.widths[1:-1]])
    owned = [0, 1, *others, *loss.columns[1:].tolist()]
    assert sorted(owned) == list(range(loss.num_outputs))
    for first, classes in zip(others, bins_twin([0, *counts]), strict=True):
        assert loss.columns[classes].tolist() == [first + 1 + k for k in range(len(classes))]


def test_limits_are_a_setting():
    assert GroupSoftmaxLoss(COUNTS, group_limits=[5.0]).bins.tolist() == [0, 2, 2, 1, 1, 2]
    assert GroupSoftmaxLoss(COUNTS, group_limits=[]).num_outputs == 5 + 2 + 1


# ---- the formula ---------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 30))
def test_loss_equals_its_numpy_twin(seed, rows):
    _, labels, counts = problem(seed, rows, classes=8)
    loss = all_others(GroupSoftmaxLoss(counts))
    logits = np.random.default_rng(seed).normal(0, 2, (rows, loss.num_outputs))
    expected, slope = group_twin(logits, labels, bins_twin(counts))
    value, gradient = run(loss, logits, labels)
    assert value == pytest.approx(expected, rel=1e-11)
    np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-14)


def test_loss_is_multiplied_by_rows_over_normalizer():
    _, labels, counts = problem(1, 20, classes=8)
    loss = all_others(GroupSoftmaxLoss(counts))
    logits = np.random.default_rng(1).normal(0, 2, (20, loss.num_outputs))
    expected, slope = group_twin(logits, labels, bins_twin(counts))
    rows = (labels >= 0).sum()
    assert run(loss, logits, labels, normalizer=float(rows))[0] == pytest.approx(expected)
    assert run(loss, logits, labels, normalizer=5.0)[0] == pytest.approx(expected * rows / 5)
    each = torch.linspace(1, 3, 20, dtype=torch.float64)
    _, gradient = run(loss, logits, labels, normalizer=each)
    np.testing.assert_allclose(
        gradient, slope * rows / each.numpy()[:, None], rtol=1e-9, atol=1e-14
    )


def test_a_row_has_its_weight_in_all_bins():
    _, labels, counts = problem(2, 20, classes=8)
    options = {"class_weights": "inverse_sqrt"}
    loss, plain = GroupSoftmaxLoss(counts, **options), GroupSoftmaxLoss(counts)
    logits = np.random.default_rng(2).normal(0, 2, (20, loss.num_outputs))
    _, slope = run(all_others(plain), logits, labels)
    _, gradient = run(all_others(loss), logits, labels)
    weights = class_weights(counts, "inverse_sqrt")[np.maximum(labels, 0)]
    np.testing.assert_allclose(gradient, slope * weights[:, None], rtol=1e-9, atol=1e-14)


def test_bins_of_one_class_are_binary_decisions():
    # One class: foreground against background, and its bin says the same about all other rows.
    loss = all_others(GroupSoftmaxLoss([0, 50], group_limits=[]))
    logits, labels, _ = problem(3, columns=2, classes=1)
    labels[:2] = [1, 0]
    plain, slope = run(SoftmaxCrossEntropyLoss([0, 50]), logits, labels)
    value, gradient = run(loss, np.c_[logits, logits], labels)
    assert value == pytest.approx(2 * plain, rel=1e-12)
    np.testing.assert_allclose(gradient, np.c_[slope, slope], rtol=1e-11, atol=1e-15)


def test_renaming_classes_renames_gradients():
    _, labels, counts = problem(4, 20, classes=8)
    here = GroupSoftmaxLoss(counts)
    logits = np.random.default_rng(4).normal(0, 2, (20, here.num_outputs))

    def columns(order):
        renamed = np.zeros(9)
        renamed[order] = counts[1:]
        to = np.arange(here.num_outputs)
        to[here.columns[1:]] = GroupSoftmaxLoss(renamed).columns[order]
        return to

    assert_permutes(
        lambda counts: all_others(GroupSoftmaxLoss(counts)), counts, logits, labels, columns
    )


def test_gradient_is_the_derivative():
    assert_derivative(all_others(GroupSoftmaxLoss(COUNTS, class_weights="inverse")), classes=5)


def test_loss_is_finite_at_the_extremes():
    assert_finite_at_the_extremes(GroupSoftmaxLoss(COUNTS))
    assert_finite_at_the_extremes(GroupSoftmaxLoss([0, 3]))


# ---- recorded values -----------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
def test_group_softmax_equals_the_recorded_one(shared, file, monkeypatch):
    z = np.load(shared / f"golden/bags_{file}.npz")
    counts, labels = np.r_[0, z["instance_counts"]], z["labels"]
    loss = GroupSoftmaxLoss(counts, others_ratio=1.0 if file == "ratio1" else 8.0)
    assert loss.widths == z["pred_slice"][:, 1].tolist()
    drawn = iter(())
    # Which others were drawn is recorded; how many must follow from the rows.

    def recorded(candidates, number):
        mask = torch.tensor(next(drawn)) > 0
        assert (mask & candidates).sum() == min(int(number), int(candidates.sum()))
        return mask & candidates

    monkeypatch.setattr(loss, "choose_others", recorded)
    for dtype, suffix, rtol in PRECISIONS:
        drawn = iter(z["bin_masks"][1:])
        value, gradient = run(loss, z["logits"], labels, dtype)
        assert value == pytest.approx(z[f"loss_bins_{suffix}"].sum(), rel=rtol)
        assert_gradient(gradient, z[f"grad_{suffix}"], suffix)
        # QUIRKS 24: the one merge of scores that runs there.
        scores = loss.scores(torch.tensor(z["logits"], dtype=dtype))
        np.testing.assert_allclose(scores, z[f"merged_{suffix}"], rtol=rtol, atol=rtol * 1e-3)
    twin, slope = group_twin(z["logits"], labels, bins_twin(counts), z["bin_masks"])
    assert twin == pytest.approx(z["loss_bins_f64"].sum(), rel=1e-10)
    assert_gradient(slope, z["grad_f64"], "f64")


# ---- scores --------------------------------------------------------------------------------------


def test_scores_are_foreground_times_the_share_in_the_bin():
    # QUIRKS 24: rows need not sum to 1.
    loss = GroupSoftmaxLoss([0, 500, 3, 7], group_limits=[10.0])
    log = np.log([1, 3, 1, 2, 1, 1, 4])  # background, foreground, others, 2, 3, others, 1
    scores = loss.scores(torch.tensor(log)[None])
    np.testing.assert_allclose(scores, [[0.25, 0.75 * 0.8, 0.75 * 0.5, 0.75 * 0.25]], rtol=1e-12)
    assert scores.sum() > 1
    assert loss.scores(torch.zeros(2, 7).half()).dtype == torch.float32


# ---- the drawn others ----------------------------------------------------------------------------


def used_in_bin(loss, labels, column):
    """The rows whose gradient reaches a column."""
    _, gradient = run(loss, np.zeros((len(labels), loss.num_outputs)), labels)
    return gradient[:, column] != 0


def test_so_many_others_are_drawn_per_row_of_the_bin():
    loss = GroupSoftmaxLoss([0, 3, 500], others_ratio=2.5)
    labels = np.r_[np.zeros(40, int), 1, 1, 1, np.full(30, 2), np.full(9, -1)]
    others = 2
    used = used_in_bin(loss, labels, others)
    assert used[labels == 1].all()
    assert used.sum() == 3 + int(2.5 * 3)
    assert not used[labels == -1].any()
    # Too few others are all used.
    assert used_in_bin(loss, labels[38:46], others).sum() == 8


def test_others_are_drawn_evenly_and_from_torchs_generator():
    loss = GroupSoftmaxLoss([0, 3], others_ratio=5.0)
    candidates = torch.tensor([False, True, True, True, False, True])
    torch.manual_seed(0)
    draws = torch.stack([loss.choose_others(candidates, torch.tensor(2.0)) for _ in range(600)])
    assert (draws.sum(1) == 2).all()
    assert not draws[:, ~candidates].any()
    shares = draws[:, candidates].double().mean(0)
    np.testing.assert_allclose(shares, 0.5, atol=0.1)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch.manual_seed(0)
    again = torch.stack([loss.choose_others(candidates, torch.tensor(2.0)) for _ in range(600)])
    assert torch.equal(draws, again)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_a_bin_without_a_row_of_its_classes_costs_nothing():
    # QUIRKS 26.
    loss = GroupSoftmaxLoss(COUNTS)
    labels = np.array([0, 0, 2, 2])  # the second bin only
    _, gradient = run(loss, np.zeros((4, loss.num_outputs)), labels)
    used = np.abs(gradient).sum(0) > 0
    starts = np.cumsum([0, *loss.widths])
    inside = [used[a:b] for a, b in itertools.pairwise(starts)]
    assert [bool(part.any()) for part in inside] == [True, False, True, False, False]


def shared_among(monkeypatch, loss, calls):
    """What each process gives for its part of a batch, as (value, gradient)."""
    counted = []
    with monkeypatch.context() as patch:
        patch.setattr(group_softmax, "by_rank", lambda v: counted.append(v) or (v[None], 0))
        for call in calls:
            run(loss, *call)
    results = []
    for rank, call in enumerate(calls):
        with monkeypatch.context() as patch:
            patch.setattr(group_softmax, "by_rank", lambda v, r=rank: (torch.stack(counted), r))
            results.append(run(loss, *call, normalizer=sum((c[1] >= 0).sum() for c in calls)))
    return results


@pytest.mark.parametrize("cut", [0, 2, 7, 20])
def test_processes_that_share_a_batch_give_the_loss_of_the_batch(monkeypatch, cut):
    # A rare class in one of eight processes would otherwise count an eighth, and have its others
    # in that one alone.
    _, labels, counts = problem(5, 20, classes=8)
    loss = all_others(GroupSoftmaxLoss(counts))
    logits = np.random.default_rng(5).normal(0, 2, (20, loss.num_outputs))
    calls = [(logits[part], labels[part]) for part in (slice(cut), slice(cut, None))]
    values, slopes = zip(*shared_among(monkeypatch, loss, calls), strict=True)
    expected, slope = group_twin(logits, labels, bins_twin(counts))
    assert sum(values) == pytest.approx(expected, rel=1e-11)
    np.testing.assert_allclose(np.concatenate(slopes), slope, rtol=1e-9, atol=1e-14)


@given(st.lists(st.lists(st.integers(-1, 2), max_size=12), min_size=1, max_size=4), st.floats(0, 4))
def test_processes_draw_together_as_many_others_as_one_would(parts, ratio):
    loss = GroupSoftmaxLoss([0, 2000, 3], others_ratio=ratio)
    ranks = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_softmax, "by_rank", lambda v: ranks.append(v) or (v[None], 0))
        for part in parts:
            loss._assign(torch.tensor(part, dtype=torch.long), shared=True)
        used, counts = 0, None
        for rank, part in enumerate(parts):
            patch.setattr(group_softmax, "by_rank", lambda v, r=rank: (torch.stack(ranks), r))
            _, chosen, counts = loss._assign(torch.tensor(part, dtype=torch.long), shared=True)
            used = used + chosen.sum(1)
    whole = torch.tensor([label for part in parts for label in part], dtype=torch.long)
    _, alone, expected = loss._assign(whole, shared=True)
    assert used.tolist() == counts.tolist() == expected.tolist() == alone.sum(1).tolist()


def test_rows_are_counted_over_processes_only_in_training(monkeypatch):
    loss, labels = GroupSoftmaxLoss(COUNTS), torch.tensor([0, 1, 2])
    monkeypatch.setattr(group_softmax, "by_rank", lambda v: pytest.fail("called"))
    loss(torch.zeros(3, loss.num_outputs), labels)
    run(loss.eval(), np.zeros((3, loss.num_outputs)), labels)
