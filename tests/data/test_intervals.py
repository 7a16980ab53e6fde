"""Wilson intervals: published figures, the definition solved by brute force, coverage."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detbalance.data.intervals import boxes_for_half_width, wilson_half_width, wilson_interval

SIZES = st.integers(1, 10_000)
CONFIDENCE = st.floats(0.5, 0.999)


@st.composite
def counts(draw):
    n = draw(SIZES)
    return draw(st.integers(0, n)), n


def test_half_widths_at_recall_one_half_are_the_published_ones():
    half = wilson_half_width([5, 10, 20, 50, 100])
    assert half.round(2).tolist() == [0.33, 0.26, 0.2, 0.13, 0.1]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_those_of_newcombe(successes, n, low, high):
    assert np.round(wilson_interval(successes, n), 4).tolist() == [low, high]


@given(counts(), CONFIDENCE)
def test_ends_solve_the_score_test(count, confidence):
    """The ends are where the observed share is exactly z standard errors of p away from p."""
    successes, n = count
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    for p in wilson_interval(successes, n, confidence=confidence):
        distance = abs(successes / n - p)
        assert distance == pytest.approx(z * math.sqrt(p * (1 - p) / n), abs=1e-6)


@given(counts(), CONFIDENCE)
def test_interval_holds_the_share_and_is_symmetric_under_exchange(count, confidence):
    successes, n = count
    low, high = wilson_interval(successes, n, confidence=confidence)
    assert 0 <= low <= successes / n <= high <= 1
    assert low < high
    other = wilson_interval(n - successes, n, confidence=confidence)
    assert (1 - other[1], 1 - other[0]) == pytest.approx((low, high), abs=1e-12)


def test_all_or_none_found_have_a_width_and_an_exact_end():
    n = np.arange(1, 500)
    low, high = wilson_interval(0 * n, n)
    assert not low.any()
    assert (wilson_interval(n, n)[1] == 1).all()
    # The interval of the normal approximation has no width here.
    assert (high > 1 / (n + 1)).all()


@pytest.mark.parametrize("n", [5, 20, 100])
def test_mean_coverage_is_the_confidence(n):
    """Exact, over all outcomes and a grid of true shares; the naive interval falls far short."""
    p = np.linspace(0.01, 0.99, 197)
    k = np.arange(n + 1)
    log_choose = [math.log(math.comb(n, i)) for i in k]
    outcome = np.exp(log_choose + k * np.log(p)[:, None] + (n - k) * np.log1p(-p)[:, None])
    low, high = wilson_interval(k, n)

    def coverage(low, high):
        return (outcome * ((low <= p[:, None]) & (p[:, None] <= high))).sum(1).mean()

    assert coverage(low, high) == pytest.approx(0.95, abs=0.012)
    naive = 1.96 * np.sqrt(k / n * (1 - k / n) / n)
    assert coverage(k / n - naive, k / n + naive) < 0.937


@given(SIZES, st.floats(0, 1), CONFIDENCE)
def test_half_width_falls_with_boxes_and_is_that_of_the_interval(n, rate, confidence):
    half = wilson_half_width(n, rate=rate, confidence=confidence)
    assert 0 < wilson_half_width(n + 1, rate=rate, confidence=confidence) < half < 0.5
    low, high = wilson_interval(rate * n, n, confidence=confidence)
    assert half == pytest.approx((high - low) / 2, abs=1e-12)
    assert half <= wilson_half_width(n, confidence=confidence)


@given(st.floats(0.004, 2), st.floats(0, 1), CONFIDENCE)
def test_boxes_for_half_width_is_the_smallest_number(half_width, rate, confidence):
    n = boxes_for_half_width(half_width, rate=rate, confidence=confidence)
    assert wilson_half_width(n, rate=rate, confidence=confidence) <= half_width
    assert n == 1 or wilson_half_width(n - 1, rate=rate, confidence=confidence) > half_width


@pytest.mark.parametrize("rate", [0, 0.3, 0.5, 1])
def test_boxes_for_the_half_width_of_n_boxes_are_n(rate):
    """Exactly, though the solution is a whole number that rounding moves to either side."""
    sizes = list(range(1, 1500))
    widths = wilson_half_width(sizes, rate=rate).tolist()
    assert [boxes_for_half_width(width, rate=rate) for width in widths] == sizes


def test_without_boxes_nothing_is_known():
    low, high = wilson_interval(0, 0)
    assert math.isnan(low)
    assert math.isnan(high)
    assert np.isnan(wilson_half_width([0, 3])).tolist() == [True, False]


def test_shapes_follow_the_arguments():
    assert isinstance(wilson_half_width(5), float)
    assert isinstance(wilson_interval(1, 5)[0], float)
    low, high = wilson_interval(np.arange(4), 5)
    assert low.shape == high.shape == (4,)
    assert wilson_half_width(np.full((2, 3), 4)).shape == (2, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: wilson_interval([1, 6], 5), r"successes is 6 of n = 5 \(1 such values\)"),
        (lambda: wilson_interval(-1, 5), "successes is -1 of n = 5"),
        (lambda: wilson_interval(math.nan, 5), "successes is nan"),
        (lambda: wilson_interval(0, -2), r"wilson_interval\(\): n is -2"),
        (lambda: wilson_half_width(math.inf), r"wilson_half_width\(\): n is inf"),
        (lambda: wilson_half_width(5, rate=1.2), "rate is 1.2"),
        (lambda: wilson_half_width(5, confidence=95), "confidence is 95.*0.95"),
        (lambda: boxes_for_half_width(0), "half_width is 0"),
        (lambda: boxes_for_half_width(0.1, rate=math.nan), "rate is nan"),
    ],
)
def test_wrong_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
