"""The sampling section of a configuration: every method, and methods that multiply."""

from __future__ import annotations

import numpy as np
import pytest
from labelled_images import METHOD_OPTIONS
from pydantic import TypeAdapter

from detbalance.sampling import FACTORS, ImageLabels, background_factors, repeat_factors
from detbalance.training.config import SamplingSection
from detbalance.training.setup import image_factors

SECTION = TypeAdapter(SamplingSection)
LABELS = [[1], [1], [1, 1, 2], [1], [], [2, 3], [1], []]


def factors_of(section):
    return image_factors(SECTION.validate_python(section), LABELS)


def test_no_sampling_draws_each_image_once():
    assert factors_of({"method": "none"}).tolist() == [1] * 8


@pytest.mark.parametrize("method", FACTORS)
def test_a_method_is_its_function_with_its_keys(method):
    options = METHOD_OPTIONS.get(method, {})
    expected = FACTORS[method](LABELS, **options)
    assert (factors_of({"method": method, **options}) == expected).all()


def test_methods_multiply():
    section = {
        "method": "repeat_factor",
        "threshold": 0.5,
        "also": [{"method": "undersampling", "threshold": 0.3}],
    }
    expected = repeat_factors(LABELS, threshold=0.5)
    expected = expected * FACTORS["undersampling"](LABELS, threshold=0.3)
    assert (factors_of(section) == expected).all()


@pytest.mark.parametrize("first", ["background", "repeat_factor"])
def test_backgrounds_have_their_share_of_the_draws_whatever_else_there_is(first):
    methods = [
        {"method": "repeat_factor", "threshold": 0.5, "power": 1.0},
        {"method": "background", "share": 0.4},
    ]
    if first == "background":
        methods.reverse()
    factors = factors_of({**methods[0], "also": methods[1:]})
    empty = ~ImageLabels(LABELS).shows_boxes
    assert factors[empty].sum() / factors.sum() == pytest.approx(0.4)
    alone = repeat_factors(LABELS, threshold=0.5, power=1.0)
    naive = alone * background_factors(LABELS, share=0.4)
    assert naive[empty].sum() / naive.sum() < 0.3
    np.testing.assert_allclose(factors[~empty], alone[~empty])
