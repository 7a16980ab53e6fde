"""Class-aware, over- and under-sampling, shares of backgrounds and data sets: by definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from labelled_images import counts, label_lists, largest_of_classes

from detbalance.sampling import (
    ImageLabels,
    background_factors,
    class_aware_factors,
    class_exposure,
    dataset_factors,
    oversampling_factors,
    repeat_factors,
    undersampling_factors,
)

shares = st.floats(0, 0.99)


def class_aware_by_loop(images, draws):
    """The definition: a class, then one of its images. Images without boxes are never reached."""
    by_image, _ = counts(images)
    expected = np.zeros(len(images))
    for label, n in by_image.items():
        for i, held in enumerate(images):
            if label in held:
                expected[i] += draws / len(by_image) / n
    return expected


@given(label_lists(), st.floats(0.1, 100), st.none() | shares)
def test_class_aware_factors_equal_a_plain_loop(images, length, background):
    empty = np.array([not held for held in images])
    assume(background is None or (empty.any() and not empty.all()))
    share = empty.mean() if background is None else background
    factors = class_aware_factors(images, target_length=length, background=background)
    assert factors.sum() == pytest.approx(length)
    assert factors[empty].sum() == pytest.approx(share * length)
    assert len(set(factors[empty])) <= 1
    expected = class_aware_by_loop(images, length * (1 - share))
    assert factors[~empty] == pytest.approx(expected[~empty])


@given(label_lists())
def test_class_aware_factors_draw_as_many_images_as_there_are(images):
    assert class_aware_factors(images).sum() == pytest.approx(len(images))


@given(st.lists(st.lists(st.sampled_from([1, 2, 3]), max_size=1), min_size=1, max_size=20))
def test_class_aware_factors_show_classes_equally_often_where_none_share_an_image(images):
    shown = class_exposure(images, class_aware_factors(images))[1:]
    shown = shown[~np.isnan(shown)]
    assert shown == pytest.approx(np.full(len(shown), shown.mean() if len(shown) else 0))


def test_class_aware_sampling_does_not_skip_empty_images():
    # Trap T9: the loop over classes never visits them, however long it runs.
    images = [[1], [1, 2], [], [2, 2], []]
    assert class_aware_by_loop(images, 5)[[2, 4]].tolist() == [0, 0]
    assert class_aware_factors(images)[[2, 4]] == pytest.approx([1, 1])
    assert class_aware_factors(images, background=0.1)[[2, 4]] == pytest.approx([0.25, 0.25])
    dropped = class_aware_factors(images, background=0.0)
    assert dropped == pytest.approx(class_aware_by_loop(images, 5))


@given(label_lists(), st.floats(0.01, 1.0), st.none() | st.floats(1, 5))
def test_oversampling_factors_bring_every_class_to_the_ratio(images, ratio, cap):
    factors = oversampling_factors(images, ratio=ratio, cap=cap)
    by_image, _ = counts(images)
    largest = max(by_image.values(), default=0)
    by_class = {
        c: min(max(1.0, ratio * largest / n), math.inf if cap is None else cap)
        for c, n in by_image.items()
    }
    assert factors == pytest.approx(largest_of_classes(images, by_class), rel=1e-12)
    if cap is None:
        for label in by_image:
            drawn = sum(f for f, held in zip(factors, images, strict=True) if label in held)
            assert drawn >= ratio * largest * (1 - 1e-9)


@given(label_lists(), st.floats(0.01, 1), st.floats(0.1, 9) | st.just(math.inf), st.floats(0.01, 1))
def test_undersampling_factors_equal_a_plain_loop(images, threshold, power, floor):
    factors = undersampling_factors(images, threshold=threshold, power=power, floor=floor)
    by_image, _ = counts(images)
    share = {c: n / len(images) for c, n in by_image.items()}
    by_class = {c: max(min(1.0, (threshold / f) ** power), floor) for c, f in share.items()}
    assert factors == pytest.approx(largest_of_classes(images, by_class), rel=1e-12)
    for factor, held in zip(factors, images, strict=True):
        assert floor <= factor <= 1
        if not held or any(share[c] <= threshold for c in held):
            assert factor == 1


def test_undersampling_drops_images_of_frequent_classes_only():
    # Class 1 in 4 of 5, class 2 exactly at the threshold, class 3 rare.
    images = [[1], [1, 1], [1, 2], [1, 3], [2]]
    dropped = undersampling_factors(images, threshold=0.4, power=math.inf)
    assert dropped.tolist() == [0, 0, 1, 1, 1]
    assert undersampling_factors(images, threshold=0.4).tolist() == [0.5, 0.5, 1, 1, 1]
    assert undersampling_factors(images, target_length=4.5)[0] == pytest.approx(0.75)
    # Weighing every image by its most frequent class would take from the rare ones too.
    share = {1: 4 / 5, 2: 2 / 5, 3: 1 / 5}
    naive = [min(min(1, 0.4 / share[c]) for c in held) for held in images]
    assert naive[3] == 0.5


@given(label_lists(), shares, st.data())
def test_background_factors_give_the_share_after_multiplying(images, share, data):
    empty = np.array([not held for held in images])
    assume(empty.any() and not empty.all())
    others = np.array(
        data.draw(st.lists(st.floats(0.01, 9), min_size=len(images), max_size=len(images)))
    )
    factors = background_factors(images, share=share, factors=others)
    drawn = factors * others
    assert drawn[empty].sum() == pytest.approx(share * drawn.sum())
    assert set(factors[~empty]) == {1.0}
    assert len(set(factors[empty])) == 1
    alone = background_factors(images, share=share)
    assert alone[empty].sum() == pytest.approx(share * alone.sum())


def test_background_share_of_other_factors_is_lost_without_them():
    images = [[1]] * 9 + [[2]] + [[]] * 5
    rare = oversampling_factors(images)
    assert rare.tolist() == [1] * 9 + [9] + [1] * 5
    naive = rare * background_factors(images, share=0.25)
    assert naive[-5:].sum() / naive.sum() == pytest.approx((10 / 3) / (18 + 10 / 3))
    right = rare * background_factors(images, share=0.25, factors=rare)
    assert right[-5:].sum() / right.sum() == pytest.approx(0.25)


def test_background_of_sets_without_any():
    assert background_factors([[1], [2]], share=0.0).tolist() == [1, 1]
    crowd = {"image_index": [0, 1], "labels": [1, 1], "num_images": 2, "is_crowd": [True, False]}
    assert background_factors(**crowd, share=0.75).tolist() == [3, 1]


sets = st.lists(st.lists(st.floats(0.01, 9), min_size=1, max_size=5), min_size=1, max_size=4)


@given(sets, st.data())
def test_dataset_factors_have_the_shares(factors, data):
    weights = data.draw(
        st.lists(
            st.floats(0.01, 9) | st.just(0.0), min_size=len(factors), max_size=len(factors)
        ).filter(any)
    )
    length = data.draw(st.none() | st.floats(0.1, 99))
    lengths = list(map(len, factors))
    drawn = dataset_factors(lengths, weights, factors=factors, target_length=length)
    total = sum(map(sum, factors)) if length is None else length
    assert drawn.sum() == pytest.approx(total)
    for part, before, weight in zip(
        np.split(drawn, np.cumsum(lengths)[:-1]), factors, weights, strict=True
    ):
        assert part.sum() == pytest.approx(total * weight / sum(weights))
        assert part == pytest.approx(np.array(before) * (part.sum() / sum(before)))
    plain = dataset_factors(lengths, weights)
    assert plain.sum() == pytest.approx(sum(lengths))


def test_classes_are_balanced_over_all_data_sets_and_the_sets_keep_their_shares():
    first, second = [[1], [1], [1, 2], [1]], [[2], [2, 2]]
    union = repeat_factors(ImageLabels.concatenate([first, second]), threshold=0.9)
    assert (union == repeat_factors(first + second, threshold=0.9)).all()
    # Trap T11: set by set, the class of the second would count as frequent, and in the first as
    # rarer than it is.
    alone = np.concatenate([repeat_factors(part, threshold=0.9) for part in (first, second)])
    assert alone[2] > union[2]
    assert alone[4] < union[4]
    drawn = dataset_factors([4, 2], [0.5, 0.5], factors=[union[:4], union[4:]], target_length=8)
    assert (drawn[:4].sum(), drawn[4:].sum()) == pytest.approx((4, 4))


def test_a_data_set_may_be_left_out_or_empty():
    assert dataset_factors([2, 0, 1], [1, 0, 1]).tolist() == [0.75, 0.75, 1.5]
    assert dataset_factors([2, 2], [1, 0], target_length=2).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (class_aware_factors, {"target_length": 0}, "target_length is 0. Expected a number > 0"),
        (
            class_aware_factors,
            {"background": 1.0},
            r"background is 1\.0. Expected a number >= 0 and < 1",
        ),
        (class_aware_factors, {"background": -0.1}, r"background is -0\.1"),
        (class_aware_factors, {"background": math.nan}, "background is nan"),
        (oversampling_factors, {"ratio": 0}, "ratio is 0. Expected a number > 0 and <= 1"),
        (oversampling_factors, {"ratio": 1.1}, r"ratio is 1\.1"),
        (oversampling_factors, {"cap": 0.5}, r"cap is 0\.5"),
        (undersampling_factors, {}, "neither of threshold and target_length"),
        (undersampling_factors, {"threshold": 2}, "threshold is 2"),
        (
            undersampling_factors,
            {"threshold": 0.1, "power": 0},
            "power is 0. Expected a number > 0",
        ),
        (
            undersampling_factors,
            {"threshold": 0.1, "floor": -1},
            "floor is -1. Expected a number >= 0",
        ),
        (undersampling_factors, {"threshold": 0.1, "floor": 2}, "floor is 2"),
        (
            undersampling_factors,
            {"target_length": 3, "power": math.inf},
            "target_length is 3, but an infinite power has no lengths in between",
        ),
        (undersampling_factors, {"target_length": 0.5}, r"target_length is 0\.5. Expected 1\.0 "),
        (undersampling_factors, {"target_length": 3.5}, r"3\.5.* to 3\.0 \(threshold 1\)"),
        (background_factors, {"share": 1.0}, r"share is 1\.0. Expected a number >= 0 and < 1"),
        (background_factors, {"share": -1}, "share is -1"),
        (background_factors, {"share": 0.5, "factors": [1]}, r"factors has the shape \(1,\) for 3"),
        (background_factors, {"share": 0.5, "factors": [1, 1, -1]}, r"factors go from -1\.0 to 1"),
        (background_factors, {"share": 0.5, "factors": [1, 1, math.nan]}, "Expected finite"),
        (background_factors, {"share": 0.5, "factors": [1, 1, 0]}, "no image without boxes can"),
        (background_factors, {"share": 0.5, "factors": [0, 0, 1]}, "no image with boxes can"),
    ],
)
def test_bad_options_are_refused(function, options, message):
    with pytest.raises(ValueError, match=rf"^{function.__name__}\(\): .*{message}"):
        function([[1], [1, 2], []], **options)


def test_shares_that_cannot_be_had_are_refused():
    for function, name in ((class_aware_factors, "background"), (background_factors, "share")):
        with pytest.raises(ValueError, match=rf"{name} is 0\.1, but no image without boxes"):
            function([[1]], **{name: 0.1})
        with pytest.raises(ValueError, match=rf"{name} is 0\.1, but no image with boxes"):
            function([[], []], **{name: 0.1})
    with pytest.raises(ValueError, match=r"all images hold only classes above the threshold 0\.5"):
        undersampling_factors([[1], [1]], threshold=0.5, power=math.inf)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([1, 2], [1]), {}, "2 lengths, 1 shares. Expected one of each per data set"),
        (([1, 2], [1, 1]), {"factors": [[1]]}, "2 lengths, 2 shares, 1 factors"),
        (([1, 2], [0, 0]), {}, r"shares are \[0\.0, 0\.0\]. Expected numbers >= 0, one of them"),
        (([1, 2], [-1, 2]), {}, r"shares are \[-1"),
        (([1, 2], [math.inf, 2]), {}, r"shares are \[inf"),
        (([1, 0], [1, 1]), {}, r"data set 1 has the share 1\.0 but no image to draw"),
        (([1, 1], [1, 1]), {"factors": [[1], [0]]}, "data set 1 has the share"),
        (([1, 2], [1, 1]), {"factors": [[1], [1]]}, r"factors\[1\] has the shape \(1,\) for 2"),
        (([1, 2], [1, 1]), {"target_length": -1}, "target_length is -1"),
    ],
)
def test_bad_data_sets_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=rf"^dataset_factors\(\): {message}"):
        dataset_factors(*arguments, **options)
