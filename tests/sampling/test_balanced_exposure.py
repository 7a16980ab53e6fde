"""Solved factors: against a linear program, against other methods, limits, targets, bad input."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detbalance.data import load_annotations
from detbalance.sampling import (
    ImageLabels,
    class_aware_factors,
    class_exposure,
    exposure_ratio,
    instance_aware_factors,
)
from detbalance.sampling.balanced_exposure import balanced_exposure_factors, project

SETS = ("bccd", "chess", "deeppcb_lt", "gtsdb_crops")
BENCHMARK = Path(__file__).parents[2] / "tools" / "benchmarks" / "exposure.py"


def ratio(data, factors, target=None):
    shown = class_exposure(data, factors)
    return exposure_ratio(shown if target is None else shown / target)


def lvis_like(*size):
    """The made set of the benchmark."""
    spec = importlib.util.spec_from_file_location("exposure_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.lvis_like(*size)


def linear_program(data, total, floor, cap):
    """Least max / min of all factors within the limits, and such factors (of images with boxes).

    With y = factors / least exposure the ratio of two linear functions is one: minimise the largest
    exposure of y while the smallest is 1.
    """
    optimize = pytest.importorskip("scipy.optimize")
    sparse = pytest.importorskip("scipy.sparse")
    held = ImageLabels(data)
    images, labels, boxes = held.pairs
    matrix = sparse.csr_array((boxes, (labels, images)), (held.num_classes, len(held)))
    matrix = matrix[held.instance_counts > 0][:, held.shows_boxes]
    rows, columns = matrix.shape
    one, limits = np.ones((rows, 1)), sparse.eye_array(columns)
    upper = [
        [matrix, None, -one],
        [-matrix, None, None],
        [limits, np.full((columns, 1), -cap), None],
        [-limits, np.full((columns, 1), floor), None],
    ]
    result = optimize.linprog(
        np.r_[np.zeros(columns + 1), 1.0],
        A_ub=sparse.block_array(upper, format="csr"),
        b_ub=np.r_[np.zeros(rows), -np.ones(rows), np.zeros(2 * columns)],
        A_eq=np.r_[np.ones(columns), -total, 0.0][None],
        b_eq=[0.0],
    )
    assert result.success
    return result.fun, result.x[:columns] / result.x[columns]


@st.composite
def problems(draw):
    """Images with long-tailed classes that occur together, and limits that can be kept."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    popularity = generator.random(draw(st.integers(1, 8))) ** draw(st.integers(1, 6))
    images = [
        np.repeat(np.arange(len(popularity)) + 1, generator.poisson(2 * popularity)).tolist()
        for _ in range(draw(st.integers(1, 40)))
    ]
    floor = draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
    cap = draw(st.sampled_from([1.0, 1.5, 3.0, 10.0, 100.0, 1e6]))
    length = len(images) * min(max(draw(st.sampled_from([0.7, 1.0, 1.5, 4.0])), floor), cap)
    return images, {"floor": floor, "cap": cap, "target_length": length}


@settings(max_examples=40)
@given(problems())
def test_solved_factors_come_within_two_percent_of_a_linear_program(problem):
    images, options = problem
    factors = balanced_exposure_factors(images, **options)
    shown = [bool(held) for held in images]
    if any(shown):
        best, _ = linear_program(images, factors[shown].sum(), options["floor"], options["cap"])
        assert best * (1 - 1e-6) <= ratio(images, factors) <= best * 1.02


@settings(max_examples=60)
@given(problems())
@example(([[]], {"floor": 0.1, "cap": 10.0, "target_length": 1.0}))
@example(([[1]], {"floor": 0.0, "cap": 1e6, "target_length": 1000.5}))
@example(([[1], [2, 2]], {"floor": 0.0, "cap": 1e6, "target_length": 0.25}))
@example(([[1], [2, 2]], {"floor": 2.0, "cap": 2.0, "target_length": 4.0}))
def test_solved_factors_keep_sum_and_limits_and_treat_equal_images_alike(problem):
    images, options = problem
    factors = balanced_exposure_factors(images, **options)
    assert factors.dtype == np.float64
    assert factors.shape == (len(images),)
    assert factors.sum() == pytest.approx(options["target_length"], rel=1e-9)
    shown = [bool(held) for held in images]
    assert (factors[shown] >= options["floor"]).all()
    assert (factors[shown] <= options["cap"]).all()
    by_boxes = {}
    for held, factor in zip(images, factors, strict=True):
        assert by_boxes.setdefault(tuple(sorted(held)), factor) == pytest.approx(factor, rel=1e-6)
    if any(shown):
        assert ratio(images, factors) <= ratio(images, None) * 1.01


@settings(max_examples=15)
@given(problems(), st.randoms(use_true_random=False))
def test_solved_factors_are_the_same_again_and_reach_the_same_in_any_order(problem, random):
    images, options = problem
    factors = balanced_exposure_factors(images, **options)
    assert (factors == balanced_exposure_factors(images, **options)).all()
    shuffled = random.sample(images, len(images))
    if any(images):
        reached = ratio(shuffled, balanced_exposure_factors(shuffled, **options))
        assert reached == pytest.approx(ratio(images, factors), rel=0.01)


def test_solved_factors_by_hand():
    # Classes alone in their images: 6, 2 and 1 boxes; equal exposure is 3 boxes each.
    images = [[1], [1], [1], [1], [1], [1], [2], [2], [3]]
    assert balanced_exposure_factors(images) == pytest.approx(
        [0.5] * 6 + [1.5] * 2 + [3.0], rel=1e-3
    )
    # The cap holds class 3 at 2; the other seven draws are for the other two alike.
    capped = balanced_exposure_factors(images, cap=2.0)
    assert capped == pytest.approx([3.5 / 6] * 6 + [1.75] * 2 + [2.0], rel=0.02)
    # Repeating only: with the length of plain training nothing can move.
    assert balanced_exposure_factors(images, floor=1.0) == pytest.approx(np.ones(9))


def test_solved_factors_see_the_head_boxes_beside_a_rare_one():
    images = [[1] * 20 + [2], *([[1]] * 30), *([[2]] * 2)]
    # Class by class nothing is wrong with drawing the crowded image often.
    assert ratio(images, class_aware_factors(images)) > 3
    factors = balanced_exposure_factors(images, cap=20.0)
    assert ratio(images, factors) == pytest.approx(1.0, abs=0.01)
    assert factors[0] < 1.0 < factors[-1]


def test_a_class_that_the_cap_holds_down_does_not_set_the_others_free():
    # Class 1 is everywhere, class 2 in one image. Between them are six classes that can be equal.
    images = [[1, 1, 1, 2]]
    for label, count in zip(range(3, 9), (4, 4, 8, 8, 16, 32), strict=True):
        images += [[1, 1, 1, 1, label] for _ in range(count)] + [[1] * 6] * count
    best, vertex = linear_program(images, len(images), 0.1, 10.0)
    factors = balanced_exposure_factors(images)
    assert ratio(images, factors) <= best * 1.02

    def between(factors):
        shown = class_exposure(images, factors)[3:]
        return shown.max() / shown.min()

    # A linear program has no reason to care.
    assert between(vertex) > 1.5
    assert between(factors) < 1.05


def test_classes_in_between_are_lifted_where_the_ends_pay_little():
    # Class 1 shows most and class 2, held by the cap, least. Each draw of the others adds to class
    # 1 a thirtieth of a percent, so max / min alone leaves them as low as class 2.
    images = [[1]] * 3000 + [[1, 1, 2]]
    images += [[1, 1, label] for label in (3, 4, 5) for _ in range(20)]
    best, _ = linear_program(images, len(images), 0.1, 10.0)
    factors = balanced_exposure_factors(images)
    assert ratio(images, factors) <= best * 1.02
    shown = class_exposure(images, factors)
    assert shown[2] == pytest.approx(10.0)
    assert (shown[3:] > 20.0).all()


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("floor", [1.0, 0.1])
def test_solved_factors_beat_instance_aware_ones_on_shared_sets(shared, name, floor):
    held = ImageLabels(load_annotations(shared / "data" / name / "train.json"))
    beat_instance_aware(held, floor)


@pytest.mark.parametrize("floor", [1.0, 0.1])
def test_solved_factors_beat_instance_aware_ones_on_a_long_tail(floor):
    beat_instance_aware(lvis_like(3000, 150, 30_000), floor)


def beat_instance_aware(held, floor):
    irfs = instance_aware_factors(held, target_length=1.5 * len(held))
    # Theirs keep the limits of ours where the floor is 1.
    factors = balanced_exposure_factors(
        held, target_length=1.5 * len(held), floor=floor, cap=float(irfs.max())
    )
    assert factors.sum() == pytest.approx(irfs.sum(), rel=1e-6)
    assert ratio(held, factors) < 0.99 * ratio(held, irfs)


def test_solved_factors_at_the_scale_of_lvis_take_seconds():
    held = lvis_like()
    assert len(held) == 100_000
    assert len(held.labels) == 1_270_000
    assert np.count_nonzero(held.instance_counts) == 1203
    start = time.process_time()
    factors = balanced_exposure_factors(held)
    # Time of this process, whatever else the machine does.
    assert time.process_time() - start < 10.0
    assert ratio(held, factors) < 0.02 * ratio(held, None)


def test_strength_goes_from_the_data_to_the_target():
    images = [[1]] * 64 + [[2]] * 4 + [[1, 1, 3]]
    assert balanced_exposure_factors(images, strength=0.0) == pytest.approx(np.ones(69))
    half = class_exposure(
        images, balanced_exposure_factors(images, strength=0.5, floor=0.01, cap=100.0)
    )
    assert half[1] / half[2] == pytest.approx((66 / 4) ** 0.5, rel=0.01)
    assert half[2] / half[3] == pytest.approx((4 / 1) ** 0.5, rel=0.01)
    towards = balanced_exposure_factors(
        images, strength=0.5, target=[0, 1, 4, 1], floor=0.01, cap=100.0
    )
    reached = class_exposure(images, towards)
    assert reached[2] / reached[3] == pytest.approx((4 / 1 * 4) ** 0.5, rel=0.01)


@settings(max_examples=15)
@given(problems(), st.lists(st.floats(0.1, 10.0), min_size=9, max_size=9), st.floats(1e-3, 1e3))
def test_only_the_proportions_of_a_target_count(problem, target, scale):
    images, options = problem
    if not any(images):
        return
    held = ImageLabels(images)
    target = np.array(target[: held.num_classes])
    factors = balanced_exposure_factors(held, target=list(target), **options)
    scaled = balanced_exposure_factors(held, target=list(scale * target), **options)
    assert ratio(held, scaled, target) == pytest.approx(ratio(held, factors, target), rel=0.01)
    assert ratio(held, factors, target) <= ratio(held, None, target) * 1.01


def test_target_of_background_and_of_absent_classes_is_not_read():
    images = [[1], [1], [3]]
    expected = balanced_exposure_factors(images, target=[0.0, 1.0, 1.0, 2.0])
    assert (balanced_exposure_factors(images, target=[np.nan, 1.0, -1.0, 2.0]) == expected).all()
    assert expected == pytest.approx([0.5, 0.5, 2.0], rel=1e-3)


def test_images_without_boxes_keep_a_share_of_the_draws():
    images = [[1], [1], [1], [2], [], []]
    factors = balanced_exposure_factors(images)
    assert factors == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0, 1.0, 1.0], rel=1e-3)
    half = balanced_exposure_factors(images, background=0.5, target_length=12)
    assert half == pytest.approx([1.0, 1.0, 1.0, 3.0, 3.0, 3.0], rel=1e-3)
    assert balanced_exposure_factors(images, background=0.0)[4:].tolist() == [0.0, 0.0]
    # Their factor is what the share makes it: the cap is for images that are learnt by heart.
    assert balanced_exposure_factors(images, background=0.9, floor=0.0)[
        4:
    ].tolist() == pytest.approx([2.7] * 2)


def test_edges_of_the_data():
    none = {"image_index": [], "labels": [], "num_images": 4}
    assert balanced_exposure_factors(**none).tolist() == [1.0] * 4
    assert balanced_exposure_factors(**none, target_length=6.0).tolist() == [1.5] * 4
    assert balanced_exposure_factors([[1, 1]], target_length=2.5).tolist() == [2.5]
    one_class = balanced_exposure_factors([[1], [1, 1], []])
    assert one_class == pytest.approx([1.0, 1.0, 1.0])
    crowd = balanced_exposure_factors(
        image_index=[0, 1, 2], labels=[1, 2, 2], num_images=3, is_crowd=[False, False, True]
    )
    assert crowd == pytest.approx([1.0, 1.0, 1.0])


def test_floor_zero_comes_down_to_nearly_nothing():
    images = [[1] * 9] * 50 + [[1, 2]] * 5
    factors = balanced_exposure_factors(images, floor=0.0, cap=1e6)
    assert ratio(images, factors) < 1.02
    # The class with too many boxes: not 0, which no update could raise again.
    unwanted = balanced_exposure_factors(
        [[1, 1], [1], [1, 2], [2]], floor=0.0, target=[0.0, 1e-6, 1.0]
    )
    assert unwanted[:3] == pytest.approx([1e-4] * 3)


@given(
    st.lists(st.floats(-25.0, 25.0), min_size=1, max_size=30),
    st.floats(0.0, 1.0),
    st.sampled_from([(1e-6, 1e6), (0.1, 10.0), (0.9, 1.0), (1.0, 1.0)]),
)
def test_projection_keeps_sum_limits_and_proportions(logs, share, limits):
    weights = np.exp(logs)
    floor, cap = limits
    total = len(weights) * (floor + share * (cap - floor))
    factors = project(weights, total, floor, cap)
    assert factors.sum() == pytest.approx(total, rel=1e-9)
    assert factors.min() >= floor
    assert factors.max() <= cap
    free = (factors > floor) & (factors < cap)
    if free.any():
        scale = (factors / weights)[free]
        assert scale == pytest.approx(np.full(len(scale), scale[0]), rel=1e-9)
        assert (weights[factors == floor] * scale[0] <= floor * (1 + 1e-9)).all()
        assert (weights[factors == cap] * scale[0] >= cap * (1 - 1e-9)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cap": 0.0}, r"cap is 0\.0\. Expected a number > 0"),
        ({"cap": np.inf}, "cap is inf"),
        ({"cap": np.nan}, "cap is nan"),
        ({"floor": -0.1}, r"floor is -0\.1\. Expected a number >= 0 and <= 10"),
        ({"floor": 11.0}, r"floor is 11\.0\. Expected a number >= 0 and <= 10"),
        ({"floor": np.nan}, "floor is nan"),
        ({"strength": 1.5}, r"strength is 1\.5\. Expected a number >= 0 and <= 1\. 0 leaves"),
        ({"target_length": 0.0}, r"target_length is 0\.0\. Expected a number > 0"),
        ({"target_length": np.nan}, "target_length is nan"),
        (
            {"target_length": 41.0},
            r"target_length is 41\. Expected 0\.4 to 40: 3 images with boxes, each drawn 0\.1 ",
        ),
        ({"target_length": 0.2}, r"target_length is 0\.2\. Expected 0\.4 to 40"),
        ({"cap": 0.5}, r"target_length is 4\. Expected 0\.4 to 2"),
        ({"floor": 2.0}, r"target_length is 4\. Expected 8 to 40"),
        ({"background": 0.5, "floor": 1.0}, r"target_length is 4\. Expected 6 to 60"),
        ({"background": 1.0}, r"background is 1\.0\. Expected a number >= 0 and < 1"),
        ({"target": [1.0, 1.0]}, r"target has the shape \(2,\)\. Expected 3 numbers"),
        ({"target": [1.0, 1.0, 0.0]}, r"target of 1 classes .*first: target\[2\] is 0\.0"),
        ({"target": [1.0, np.inf, np.nan]}, r"target of 2 classes .*first: target\[1\] is inf"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=r"balanced_exposure_factors\(\): " + message):
        balanced_exposure_factors([[1], [2, 1], [1], []], **options)


def test_background_without_such_images_is_refused():
    with pytest.raises(ValueError, match=r"background is 0\.5, but no image without boxes"):
        balanced_exposure_factors([[1], [2]], background=0.5)
    with pytest.raises(ValueError, match=r"background is 0\.5, but no image with boxes"):
        balanced_exposure_factors([[], []], background=0.5)
