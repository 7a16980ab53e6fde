"""What training sees by some factors: against a plain loop, unusual data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_images import counts, label_lists

from detbalance.sampling import class_exposure, exposure_ratio


@given(label_lists(), st.data())
def test_exposure_equals_a_plain_loop(images, data):
    factors = data.draw(st.lists(st.floats(0, 9), min_size=len(images), max_size=len(images)))
    exposure = class_exposure(images, factors)
    _, boxes = counts(images)
    for label, shown in enumerate(exposure[1:], 1):
        if label not in boxes:
            assert np.isnan(shown)
            continue
        by_image = (f * held.count(label) for f, held in zip(factors, images, strict=True))
        assert shown == pytest.approx(sum(by_image))
    empty = (f for f, held in zip(factors, images, strict=True) if not held)
    assert exposure[0] == pytest.approx(sum(empty))


def test_exposure_ratio_of_unusual_data():
    assert np.isnan(exposure_ratio(class_exposure([[], []])))
    assert exposure_ratio(class_exposure([[1], [2]], [1, 0])) == np.inf
    assert exposure_ratio(class_exposure([[1, 1], [3], []])) == 2
    with pytest.raises(ValueError, match=r"shape \(2,\) for 1 images"):
        class_exposure([[1]], [1, 2])
