"""Repeat factors: by hand, against a plain loop, against recorded values, bad input."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detbalance.sampling import repeat_factors, threshold_for_target_length

ARRAYS = {"image_index": [0, 0, 1, 3], "labels": [1, 2, 1, 1], "num_images": 5}


def factors_by_loop(image_index, labels, num_images, threshold):
    """The definition, box by box."""
    classes = [set() for _ in range(num_images)]
    for image, label in zip(image_index, labels, strict=True):
        classes[image].add(label)
    seen = [label for held in classes for label in held]
    factors = {c: max(1.0, math.sqrt(threshold / (seen.count(c) / num_images))) for c in set(seen)}
    return [max((factors[c] for c in held), default=1.0) for held in classes]


@st.composite
def box_arrays(draw):
    num_images = draw(st.integers(1, 12))
    boxes = draw(
        st.lists(
            st.tuples(
                st.integers(0, num_images - 1),
                st.sampled_from([1, 2, 3, 5, 900, 65535, 65536, 70000]),
            ),
            max_size=40,
        )
    )
    images, labels = zip(*boxes, strict=True) if boxes else ((), ())
    return {"image_index": images, "labels": labels, "num_images": num_images}


def test_repeat_factors_by_hand():
    # class 1 in 3 of 5 images, class 2 in 1 of 5
    expected = [math.sqrt(0.9 / 0.2), math.sqrt(0.9 / 0.6), 1, math.sqrt(0.9 / 0.6), 1]
    assert repeat_factors(**ARRAYS, threshold=0.9) == pytest.approx(expected, rel=1e-15)


@given(box_arrays(), st.floats(1e-3, 1.0))
def test_repeat_factors_equal_a_plain_loop(arrays, threshold):
    factors = repeat_factors(**arrays, threshold=threshold)
    assert factors.dtype == np.float64
    assert factors.tolist() == factors_by_loop(*arrays.values(), threshold)


@given(box_arrays(), st.randoms(use_true_random=False))
def test_repeat_factors_do_not_depend_on_the_order_of_boxes(arrays, random):
    boxes = list(zip(arrays["image_index"], arrays["labels"], strict=True))
    random.shuffle(boxes)
    images, labels = zip(*boxes, strict=True) if boxes else ((), ())
    shuffled = repeat_factors(
        image_index=images, labels=labels, num_images=arrays["num_images"], threshold=0.7
    )
    assert (shuffled == repeat_factors(**arrays, threshold=0.7)).all()


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.3, 0.5])
def test_repeat_factors_equal_the_recorded_ones_of_detectron2(shared, threshold):
    images = json.loads((shared / "golden/repeat_factor_images.json").read_text())["images"]
    recorded = np.load(shared / "golden/repeat_factors.npz")[f"d2_rfs_t{threshold}_f32"]
    factors = repeat_factors(
        image_index=np.repeat(np.arange(len(images)), [len(held) for held in images]),
        labels=np.array([c + 1 for held in images for c in held]),
        num_images=len(images),
        threshold=threshold,
    )
    assert (factors.astype(np.float32) == recorded).all()


def test_repeat_factors_do_not_count_crowd_boxes():
    crowd = repeat_factors(
        image_index=[0, 1, 1, 2, 3],
        labels=[2, 1, 2, 2, 1],
        is_crowd=[False, False, True, True, False],
        num_images=4,
        threshold=1.0,
    )
    # Class 2 counts in image 0 only; image 2 holds nothing but a crowd.
    assert crowd == pytest.approx([2.0, math.sqrt(2), 1.0, math.sqrt(2)])


def test_repeat_factors_of_images_without_boxes_are_one():
    none = {"image_index": [], "labels": [], "num_images": 3}
    assert repeat_factors(**none, threshold=0.5).tolist() == [1, 1, 1]
    assert repeat_factors(**none, target_length=3).tolist() == [1, 1, 1]
    assert repeat_factors(**ARRAYS, threshold=1.0)[[2, 4]].tolist() == [1, 1]
    only_crowd = {"image_index": [0], "labels": [1], "is_crowd": [True], "num_images": 2}
    assert repeat_factors(**only_crowd, threshold=1.0).tolist() == [1, 1]


def test_repeat_factors_of_annotations_are_those_of_its_arrays():
    annotations = SimpleNamespace(
        image_index=np.array([0, 0, 1, 3, 4]),
        labels=np.array([1, 2, 1, 1, 2]),
        is_crowd=np.array([False, False, False, False, True]),
        num_images=5,
    )
    assert (
        repeat_factors(annotations, threshold=0.9) == repeat_factors(**ARRAYS, threshold=0.9)
    ).all()


def test_repeat_factors_do_not_change_their_input():
    arrays = {"image_index": np.array([1, 0]), "labels": np.array([1, 70000]), "num_images": 2}
    for array in (arrays["image_index"], arrays["labels"]):
        array.flags.writeable = False
    assert repeat_factors(**arrays, threshold=1.0) == pytest.approx([math.sqrt(2)] * 2)


@given(box_arrays(), st.floats(0, 1))
def test_target_length_is_met_by_the_factors(arrays, portion):
    longest = repeat_factors(**arrays, threshold=1.0).sum()
    length = arrays["num_images"] + portion * (longest - arrays["num_images"])
    factors = repeat_factors(**arrays, target_length=length)
    assert factors.sum() == pytest.approx(length, rel=1e-9)
    threshold = threshold_for_target_length(**arrays, target_length=length)
    assert 0 < threshold <= 1
    assert (factors == repeat_factors(**arrays, threshold=threshold)).all()


def test_target_length_of_all_images_repeats_nothing():
    assert repeat_factors(**ARRAYS, target_length=5).tolist() == [1] * 5
    assert threshold_for_target_length(**ARRAYS, target_length=5) == pytest.approx(0.2)
    # A length that is short of M by a rounding error is M.
    rounded = threshold_for_target_length(**ARRAYS, target_length=5 * (1 - 1e-12))
    assert rounded == pytest.approx(0.2)


@pytest.mark.parametrize("length", [4.9, 9.0, math.nan, math.inf])
def test_target_length_out_of_reach_is_refused(length):
    with pytest.raises(ValueError, match=r"Expected 5\.0 .* to 7\.4 \(threshold 1\)"):
        repeat_factors(**ARRAYS | {"labels": [1, 1, 1, 2]}, target_length=length)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": [1, 0, 1, -1]}, ValueError, r"2 entries of labels .*labels\[1\] is 0"),
        ({"image_index": [0, 5, 1, 3]}, ValueError, r"image_index\[1\] is 5\). Expected 0\.\.4"),
        ({"image_index": [0, -1, 1, 3]}, ValueError, r"image_index\[1\] is -1"),
        ({"labels": [1, 2]}, ValueError, "image_index has 4 entries, labels 2"),
        ({"is_crowd": [True]}, ValueError, "is_crowd 1. Expected one of each per box"),
        ({"labels": [[1, 2, 1, 1]]}, ValueError, r"labels has the shape \(1, 4\)"),
        ({"labels": [1.0, 2.0, 1.0, 1.0]}, TypeError, "labels is float64. Expected integers"),
        ({"num_images": 0}, ValueError, "num_images is 0. Expected a whole number >= 1"),
        ({"num_images": None}, ValueError, "num_images is missing. Expected annotations"),
        ({"labels": None}, ValueError, "labels or num_images is missing"),
        ({"data": [[1]]}, ValueError, "data and plain arrays given"),
        ({"threshold": 0.0}, ValueError, r"threshold is 0\.0.*Try 0\.001"),
        ({"threshold": 1.5}, ValueError, r"threshold is 1\.5"),
        ({"threshold": math.nan}, ValueError, "threshold is nan"),
        ({"threshold": None}, ValueError, "neither of threshold and target_length"),
        ({"target_length": 6}, ValueError, "both of threshold and target_length"),
    ],
)
def test_repeat_factors_refuse_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        repeat_factors(**ARRAYS | {"threshold": 0.5} | change)
