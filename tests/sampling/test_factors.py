"""All factor functions: promises, definitions by plain loops, recorded values, traps."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from labelled_images import as_arrays, counts, in_all_forms, label_lists, largest_of_classes

from detbalance.sampling import (
    FACTORS,
    background_factors,
    class_aware_factors,
    exponential_factors,
    instance_aware_factors,
    oversampling_factors,
    repeat_factors,
    threshold_for_target_length,
    undersampling_factors,
)

FAMILY = [
    (repeat_factors, {"threshold": 0.7}),
    (repeat_factors, {"threshold": 0.7, "power": 1.3, "cap": 1.5}),
    (instance_aware_factors, {"threshold": 0.5}),
    (instance_aware_factors, {"threshold": 0.5, "mean": "harmonic"}),
    (exponential_factors, {"threshold": 0.01}),
    (class_aware_factors, {}),
    (oversampling_factors, {"ratio": 0.8}),
    (undersampling_factors, {"threshold": 0.3, "floor": 0.1}),
    (background_factors, {"share": 0.0}),
    (background_factors, {"share": 0.3}),
]
# The options of each method that has a threshold, and the means of both shares.
BY_THRESHOLD = [
    (repeat_factors, {}),
    (repeat_factors, {"power": 1.0, "cap": 2.0}),
    (instance_aware_factors, {}),
    (exponential_factors, {"alpha": 0.5}),
    (exponential_factors, {"cap": 3.0}),
    (undersampling_factors, {}),
    (undersampling_factors, {"power": 0.5, "floor": 0.4}),
]
MEANS = {
    "geometric": lambda a, b: math.sqrt(a * b),
    "harmonic": lambda a, b: 2 * a * b / (a + b),
    "arithmetic": lambda a, b: (a + b) / 2,
    "quadratic": lambda a, b: math.sqrt((a * a + b * b) / 2),
}
NOTHING = [[], [], []]
ARRAYS = {"image_index": [0, 0, 1, 3], "labels": [1, 2, 1, 1], "num_images": 5}


def mean_shares(images, mean):
    by_image, by_box = counts(images)
    boxes = sum(by_box.values())
    return {c: MEANS[mean](n / len(images), by_box[c] / boxes) for c, n in by_image.items()}


@pytest.mark.parametrize(("function", "options"), FAMILY)
@given(images=label_lists(), random=st.randoms(use_true_random=False))
def test_factors_of_every_form_of_the_data_are_the_same(function, options, images, random):
    if function is background_factors:
        assume(any(images) and not all(images))
    factors = [function(**form, **options) for form in in_all_forms(images, random)]
    assert factors[0].dtype == np.float64
    assert factors[0].shape == (len(images),)
    assert np.isfinite(factors[0]).all()
    assert (factors[0] >= 0).all()
    for other in factors[1:]:
        assert other == pytest.approx(factors[0], rel=1e-12)


@pytest.mark.parametrize(("function", "options"), FAMILY[:-2])
@pytest.mark.parametrize("nothing", [{"data": NOTHING}, {"data": [[]]}, "crowd"])
def test_images_without_boxes_alone_are_drawn_once_each(function, options, nothing):
    if nothing == "crowd":
        nothing = {"image_index": [0, 0], "labels": [1, 2], "num_images": 2, "is_crowd": [1, 1]}
    assert set(function(**nothing, **options)) == {1.0}


@pytest.mark.parametrize(("function", "options"), FAMILY[:-2])
def test_one_image_with_boxes_keeps_its_draw(function, options):
    highest = {"threshold": 1.0} if "threshold" in options else {}
    factor = function([[1, 1, 2]], **options | highest)
    assert factor.shape == (1,)
    assert factor[0] >= 1.0


@pytest.mark.parametrize("name", FACTORS)
def test_methods_know_what_they_are_called_in_their_errors(name):
    function = FACTORS[name]
    with pytest.raises(ValueError, match=rf"^{function.__name__}\(\): num_images is 0"):
        function([], **{"share": 0.1} if name == "background" else {})


def test_repeat_factors_by_hand():
    # class 1 in 3 of 5 images, class 2 in 1 of 5
    expected = [math.sqrt(0.9 / 0.2), math.sqrt(0.9 / 0.6), 1, math.sqrt(0.9 / 0.6), 1]
    assert repeat_factors(**ARRAYS, threshold=0.9) == pytest.approx(expected, rel=1e-15)


@given(label_lists((1, 2, 3, 5, 900, 65535, 65536, 70000)), st.floats(1e-3, 1.0))
def test_repeat_factors_equal_a_plain_loop_to_the_last_bit(images, threshold):
    by_image, _ = counts(images)
    by_class = {c: max(1.0, math.sqrt(threshold / (n / len(images)))) for c, n in by_image.items()}
    factors = repeat_factors(images, threshold=threshold)
    assert factors.tolist() == list(largest_of_classes(images, by_class))
    arrays, order = as_arrays(images), slice(None, None, -1)
    boxes = {name: arrays[name][order] for name in ("image_index", "labels")}
    assert (repeat_factors(**arrays | boxes, threshold=threshold) == factors).all()


def test_crowd_boxes_do_not_count():
    crowd = repeat_factors(
        image_index=[0, 1, 1, 2, 3],
        labels=[2, 1, 2, 2, 1],
        is_crowd=[False, False, True, True, False],
        num_images=4,
        threshold=1.0,
    )
    # Class 2 counts in image 0 only; image 2 holds nothing but a crowd.
    assert crowd == pytest.approx([2.0, math.sqrt(2), 1.0, math.sqrt(2)])


def test_input_is_not_changed():
    arrays = {"image_index": np.array([1, 0]), "labels": np.array([1, 70000]), "num_images": 2}
    for array in (arrays["image_index"], arrays["labels"]):
        array.flags.writeable = False
    assert repeat_factors(**arrays, threshold=1.0) == pytest.approx([math.sqrt(2)] * 2)


@pytest.mark.parametrize("mean", MEANS)
@given(images=label_lists(), threshold=st.floats(1e-3, 1.0), power=st.floats(0.1, 3.0))
def test_instance_aware_factors_equal_a_plain_loop(mean, images, threshold, power):
    factors = instance_aware_factors(images, threshold=threshold, mean=mean, power=power, cap=9.0)
    shares = mean_shares(images, mean)
    by_class = {c: min(max(1.0, (threshold / f) ** power), 9.0) for c, f in shares.items()}
    assert factors == pytest.approx(largest_of_classes(images, by_class), rel=1e-12)


@given(label_lists(), st.floats(1e-4, 0.5), st.floats(0.1, 4.0))
def test_exponential_factors_equal_a_plain_loop(images, threshold, alpha):
    shares = mean_shares(images, "geometric")
    by_class = {c: math.exp(alpha * math.sqrt(threshold / f)) for c, f in shares.items()}
    expected = largest_of_classes(images, by_class)
    factors = exponential_factors(images, threshold=threshold, alpha=alpha)
    assert factors == pytest.approx(expected, rel=1e-12)
    assert (factors[[bool(held) for held in images]] > 1).all()


@pytest.fixture(scope="module")
def recorded(shared):
    """Images of the recorded values, labels from 1, and the values."""
    images = json.loads((shared / "golden/repeat_factor_images.json").read_text())["images"]
    values = np.load(shared / "golden/repeat_factors.npz")
    return [[c + 1 for c in held] for held in images], values


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.3, 0.5])
@pytest.mark.parametrize(("power", "key"), [(0.5, "d2_rfs"), (1.0, "d2_rfs_nosqrt")])
def test_repeat_factors_equal_the_recorded_ones_of_detectron2(recorded, threshold, power, key):
    images, values = recorded
    factors = repeat_factors(images, threshold=threshold, power=power)
    assert (factors.astype(np.float32) == values[f"{key}_t{threshold}_f32"]).all()


@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("mean", MEANS)
def test_instance_aware_factors_equal_the_recorded_ones(recorded, threshold, mean):
    images, values = recorded
    factors = instance_aware_factors(images, threshold=threshold, mean=mean)
    assert factors == pytest.approx(values[f"irfs_{mean}_image_t{threshold}"], rel=1e-14)
    if mean == "geometric":
        default = instance_aware_factors(images, threshold=threshold)
        assert default == pytest.approx(values[f"irfs_image_t{threshold}"], rel=1e-14)


@pytest.mark.parametrize(("alpha", "threshold"), [(1.0, 0.01), (2.0, 0.0001), (2.0, 0.1)])
def test_exponential_factors_equal_the_recorded_ones_of_the_paper(recorded, alpha, threshold):
    images, values = recorded
    case = f"a{alpha}_t{threshold}__image_w"
    factors = exponential_factors(images, threshold=threshold, alpha=alpha)
    assert factors == pytest.approx(values[f"eirfspaper_{case}"], rel=1e-14)
    # The published code is not the paper.
    assert factors != pytest.approx(values[f"eirfs_{case}"], rel=1e-4)


@pytest.mark.parametrize(("function", "options"), BY_THRESHOLD)
@given(images=label_lists(), portion=st.floats(0, 1))
def test_target_lengths_are_met(function, options, images, portion):
    ends = [function(images, threshold=t, **options).sum() for t in (1e-300, 1.0)]
    length = ends[0] + portion * (ends[1] - ends[0])
    factors = function(images, target_length=length, **options)
    assert factors.sum() == pytest.approx(length, rel=1e-9)
    assert factors[[not held for held in images]] == pytest.approx(1.0)


@pytest.mark.parametrize(("function", "options"), BY_THRESHOLD)
@given(images=label_lists(), thresholds=st.tuples(st.floats(1e-6, 1), st.floats(1e-6, 1)))
def test_factors_grow_with_the_threshold(function, options, images, thresholds):
    low, high = (function(images, threshold=t, **options) for t in sorted(thresholds))
    assert (low <= high * (1 + 1e-12)).all()


@given(label_lists(), st.floats(0, 1), st.floats(0.2, 2.0), st.floats(1.0, 5.0))
def test_threshold_of_a_length_gives_its_factors(images, portion, power, cap):
    options = {"power": power, "cap": cap}
    longest = repeat_factors(images, threshold=1.0, **options).sum()
    length = len(images) + portion * (longest - len(images))
    threshold = threshold_for_target_length(images, target_length=length, **options)
    assert 0 < threshold <= 1
    by_threshold = repeat_factors(images, threshold=threshold, **options)
    assert (by_threshold == repeat_factors(images, target_length=length, **options)).all()
    # It is the largest: a bit more is too long.
    if threshold < 0.999:
        longer = repeat_factors(images, threshold=threshold * 1.001, **options).sum()
        assert longer > length or longer == longest


def test_target_length_of_all_images_repeats_nothing():
    assert repeat_factors(**ARRAYS, target_length=5).tolist() == [1] * 5
    assert repeat_factors(NOTHING, target_length=3).tolist() == [1] * 3
    assert threshold_for_target_length(**ARRAYS, target_length=5) == pytest.approx(0.2)
    # A length that is short of M by a rounding error is M.
    rounded = threshold_for_target_length(**ARRAYS, target_length=5 * (1 - 1e-12))
    assert rounded == pytest.approx(0.2)


@pytest.mark.parametrize("length", [4.9, 9.0, math.nan, math.inf])
def test_target_length_out_of_reach_is_refused(length):
    with pytest.raises(ValueError, match=r"Expected 5\.0 .* to 7\.4 \(threshold 1\)"):
        repeat_factors(**ARRAYS | {"labels": [1, 1, 1, 2]}, target_length=length)


def test_factors_are_those_of_the_tables_in_the_docstrings():
    # Classes in 1/1, 1/2, 1/4, 1/16 and 1/100 of 400 images, none together.
    images = [[2]] * 200 + [[3]] * 100 + [[4]] * 25 + [[5]] * 4 + [[]] * 71
    shown = [0, 200, 300, 325]
    for power, row in ((0.5, [1.41, 2, 4, 10]), (1.0, [2, 4, 16, 100])):
        factors = repeat_factors(images, threshold=1.0, power=power)
        assert factors[shown] == pytest.approx(row, abs=0.005)
    # A sixteenth of the images and of the boxes.
    images = [[1]] * 15 + [[2]]
    for often, factor in ((100, 1.22), (4, 2.72), (1, 7.39), (1 / 4, 54.6), (1 / 16, 2981)):
        drawn = exponential_factors(images, threshold=1 / 16 / often)[-1]
        assert drawn == pytest.approx(factor, rel=2e-3)


@given(label_lists(), st.floats(1.0, 4.0))
def test_cap_cuts_the_factors_and_nothing_else(images, cap):
    for function, options in ((repeat_factors, {"power": 2.0}), (exponential_factors, {})):
        free = function(images, threshold=0.9, **options)
        assert (function(images, threshold=0.9, cap=cap, **options) == np.minimum(free, cap)).all()


def long_tail(num_images=4000, num_classes=200, seed=0):
    """Images with one to five boxes of long-tailed classes; one in ten has none."""
    generator = np.random.default_rng(seed)
    share = 1 / np.arange(1, num_classes + 1) ** 1.1
    boxes = generator.integers(1, 6, num_images) * (generator.random(num_images) < 0.9)
    labels = generator.choice(num_classes, boxes.sum(), p=share / share.sum()) + 1
    return {
        "image_index": np.repeat(np.arange(num_images), boxes),
        "labels": labels,
        "num_images": num_images,
    }


def test_factors_are_not_rounded_up():
    # Trap T1: rounding once makes every image with 1.01 two, and the epoch longer than asked for.
    data = long_tail()
    factors = repeat_factors(**data, target_length=1.3 * data["num_images"])
    assert factors.sum() == pytest.approx(1.3 * data["num_images"])
    assert np.ceil(factors).sum() > 1.05 * factors.sum()


def test_the_share_is_of_all_images_those_without_boxes_included():
    # Trap T10: the same threshold means less on a set that was filtered.
    images = [[1], [1], [1, 2], []] * 5 + [[]] * 5
    filtered = [held for held in images if held]
    rare = images.index([1, 2])
    every, without = (repeat_factors(data, threshold=0.5)[rare] for data in (images, filtered))
    assert every == pytest.approx(math.sqrt(0.5 / (5 / 25)))
    assert without == pytest.approx(math.sqrt(0.5 / (5 / 15)))
    factors = repeat_factors(images, threshold=0.5)
    same = repeat_factors(filtered, threshold=0.5 * 25 / 15)
    assert factors[[bool(held) for held in images]] == pytest.approx(same)
    # A denominator of images with boxes only would not see the difference.
    naive = math.sqrt(0.5 / (5 / sum(map(bool, images))))
    assert naive == pytest.approx(without)
    assert naive != pytest.approx(every)
    # The share of images of the other method is that of all images too.
    shares = mean_shares(images, "geometric")
    assert shares[2] == pytest.approx(math.sqrt(5 / 25 * 5 / 20))
    aware = instance_aware_factors(images, threshold=0.9)[rare]
    assert aware == pytest.approx(math.sqrt(0.9 / shares[2]))


def test_many_images_and_a_single_rare_one():
    arrays = as_arrays([[1]] * 20_000 + [[2]])
    factors = repeat_factors(**arrays, threshold=1.0)
    assert factors[-1] == pytest.approx(math.sqrt(20_001))
    assert factors[0] == pytest.approx(math.sqrt(20_001 / 20_000))


@pytest.mark.parametrize("function", [repeat_factors, instance_aware_factors, exponential_factors])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither of threshold and target_length"),
        ({"threshold": 0.5, "target_length": 4}, "both of threshold and target_length"),
        ({"threshold": 0.0}, r"threshold is 0\.0. Expected a number > 0 and <= 1.*Try 0\.001"),
        ({"threshold": 1.5}, r"threshold is 1\.5"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"threshold": 0.5, "cap": 0.9}, r"cap is 0\.9. Expected a number >= 1\..*None"),
        ({"threshold": 0.5, "cap": math.nan}, "cap is nan"),
        ({"target_length": 1.5}, r"target_length is 1\.5. Expected 2\.0 \(threshold near 0\) to"),
        ({"target_length": math.nan}, "target_length is nan"),
    ],
)
def test_bad_options_are_refused(function, options, message):
    with pytest.raises(ValueError, match=rf"^{function.__name__}\(\): {message}"):
        function([[1, 1], [1, 2]], **options)


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (repeat_factors, {"power": 0.0}, r"power is 0\.0. Expected a number > 0"),
        (repeat_factors, {"power": math.inf}, "power is inf"),
        (repeat_factors, {"power": 5000.0}, r"1 factors are too large .*Pass cap=10"),
        (instance_aware_factors, {"power": -1.0}, r"power is -1\.0"),
        (instance_aware_factors, {"mean": "median"}, 'mean is "median". Expected geometric'),
        (exponential_factors, {"alpha": 0.0}, r"alpha is 0\.0"),
        (exponential_factors, {"alpha": 2000.0}, "2 factors are too large for a number"),
    ],
)
def test_bad_options_of_one_method_are_refused(function, options, message):
    with pytest.raises(ValueError, match=rf"^{function.__name__}\(\): {message}"):
        function([[1], [1, 2], []], threshold=0.5, **options)


def test_overflow_is_cut_by_a_cap():
    assert exponential_factors([[1], []], threshold=1.0, alpha=2000.0, cap=8.0).tolist() == [8, 1]
    factors = exponential_factors([[1], [2, 2], []], target_length=1e6, alpha=2000.0)
    assert factors.sum() == pytest.approx(1e6)


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
    ],
)
def test_bad_arrays_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        repeat_factors(**ARRAYS | {"threshold": 0.5} | change)
