"""Crops around objects of rare classes."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from painted import assert_in_step, assert_labelled, bilevel_scene, mask_bounds, painted_scene
from scenes import training_file

from detbalance.augmentation import RareCrop
from detbalance.augmentation.transform import take_rows
from detbalance.data import Annotations

pytest.importorskip("cv2")
SLOW_START = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
SEEDS = st.integers(0, 2**32)
NUMBERS = st.integers(0, 6)


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> Annotations:
    """Classes 1, 2, 3 are frequent, common, rare."""
    return training_file(tmp_path_factory.mktemp("train"), {"a": 2, "b": 5, "c": 9})


def test_weights_are_one_over_the_images_of_a_class(annotations):
    assert RareCrop(annotations).weights.tolist() == [0, 0, 1 / 5, 1 / 2]
    assert RareCrop(annotations, classes=["c"]).weights.tolist() == [0, 1 / 9, 0, 0]


@given(
    seed=SEEDS,
    number=NUMBERS,
    dtype=st.sampled_from([np.uint8, np.uint16]),
    largest=st.sampled_from([0.3, 0.6, 1.0]),
)
@SLOW_START
def test_no_visible_object_becomes_unlabelled_and_one_rare_object_stays_whole(
    annotations, seed, number, dtype, largest
):
    generator = np.random.default_rng(seed)
    crop = RareCrop(annotations, probability=1, zoom=(1.2, 3), tries=5)
    image, target = painted_scene(generator, number, dtype=dtype, largest=largest)
    kept = image.copy(), {name: values.copy() for name, values in target.items()}
    for array in (image, *target.values()):
        array.flags.writeable = False
    new_image, new = crop(image, target, np.random.default_rng(seed))
    assert np.array_equal(image, kept[0])
    assert all(np.array_equal(target[name], kept[1][name]) for name in target)
    assert new_image.shape == image.shape
    assert new_image.dtype == dtype
    assert_in_step(new_image, new, target)
    assert_labelled(new_image, new, number)
    assert np.abs(mask_bounds(new["masks"]) - new["boxes"]).max(initial=0) <= 1
    again = crop(image, target, np.random.default_rng(seed))
    assert np.array_equal(again[0], new_image)
    assert all(np.array_equal(again[1][name], new[name]) for name in new)
    asked = (crop.weights[target["labels"]] > 0) & ~target["is_crowd"]
    if not asked.any():
        assert np.array_equal(new_image, image)
        return
    # The whole object has grown by the same factors as the image.
    factors = np.sqrt(new["areas"] / target["areas"][new["origin"]])
    assert (factors[asked[new["origin"]]].max() >= 1 - 1e-6) & (factors.max() <= 3.3)


@given(seed=SEEDS)
@SLOW_START
def test_the_window_holds_all_of_the_box_and_lies_in_the_image(annotations, seed):
    """Any box, of fractions of pixels too: windows in whole pixels, context where there is room."""
    generator = np.random.default_rng(seed)
    crop = RareCrop(annotations, zoom=(1, 4), tries=20)
    width, height = (int(side) for side in generator.integers(1, 90, 2))
    ends = np.sort(generator.uniform(0, 1, (2, 2)), axis=0) * (width, height)
    ends[1] = np.maximum(ends[1], np.minimum(ends[0] + 0.1, (width, height)))
    windows = crop._windows(ends.ravel(), height, width, generator)
    assert (windows[:, :2] >= 0).all()
    assert (windows[:, 2:] <= (width, height)).all()
    assert (windows[:, :2] <= ends[0]).all()
    assert (windows[:, 2:] >= ends[1]).all()
    assert (windows[:, 2:] - windows[:, :2] >= np.array([width, height]) / 4 - 0.5).all()
    shares = (windows[:, 2:] - windows[:, :2]) / np.array([width, height])
    assert (np.abs(shares[:, 0] - shares[:, 1]) <= 0.5 / width + 0.5 / height + 1e-9).all()
    room = windows[:, 2:] - windows[:, :2] >= 1.5 * (ends[1] - ends[0]) + 3
    context = 0.2 * (ends[1] - ends[0])
    left = (ends[0] - windows[:, :2] >= context - 1) | (windows[:, :2] == 0)
    right = (windows[:, 2:] - ends[1] >= context - 1) | (windows[:, 2:] == (width, height))
    assert (left & right | ~room).all()


def test_the_chosen_object_is_never_cut(annotations):
    """One object of the classes and many others, of all sizes: it keeps its whole area."""
    crop = RareCrop(annotations, classes=["a"], probability=1, zoom=(1, 4), tries=3)
    cropped = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        image, target = painted_scene(generator, 6, largest=1.0, crowd=False)
        target["labels"][:] = [1, 2, 1, 2, 1, 3]
        new_image, new = crop(image, target, generator)
        (row,) = np.flatnonzero(new["labels"] == 3)
        box, old = new["boxes"][row].astype(float), target["boxes"][5].astype(float)
        factors = (box[2:] - box[:2]) / (old[2:] - old[:2])
        assert (factors >= 1 - 1e-5).all()
        assert new["areas"][row] == pytest.approx(target["areas"][5] * factors.prod(), rel=1e-4)
        if (old[2:] - old[:2]).min() > 2:  # thinner ones fade
            seen = np.abs(new_image - np.array([0.0, 255, 255])).max(axis=2) < 64
            assert np.abs(mask_bounds(seen[None])[0] - box).max() <= 1.5
        cropped += factors[0] > 1.05
    assert cropped > 25


def test_windows_that_cut_others_are_drawn_again(annotations):
    image = np.full((60, 80, 3), 90, np.uint8)
    target = {
        "boxes": np.array([[10, 20, 20, 30], [26, 15, 34, 35]], np.float32),
        "labels": np.array([3, 3]),
        "areas": np.array([100.0, 160.0]),
        "is_crowd": np.array([False, False]),
    }

    def number_of_cuts(tries, **changes):
        crop = RareCrop(annotations, classes=["a"], probability=1, zoom=(2, 2), tries=tries)
        cuts = 0
        for seed in range(40):
            _, new = crop(image, {**target, **changes}, np.random.default_rng(seed))
            whole = np.where(new["labels"] == 3, 400, 640) if changes else [400, 640]
            cuts += len(new["areas"]) == 2 and bool((new["areas"] < whole).any())
        return cuts

    assert number_of_cuts(1) > 3
    assert number_of_cuts(30) == 0
    # A frequent object may be cut as long as enough of it is left.
    assert number_of_cuts(30, labels=np.array([3, 1])) > 3


def test_rarer_classes_are_chosen_more_often(annotations):
    crop = RareCrop(annotations, probability=1, zoom=(4, 4))
    image = np.zeros((64, 64, 3), np.uint8)
    target = {
        "boxes": np.array([[0, 0, 8, 8], [56, 56, 64, 64]], np.float32),
        "labels": np.array([2, 3]),
        "areas": np.array([64.0, 64.0]),
        "is_crowd": np.array([False, False]),
    }
    labels = [
        int(crop(image, target, np.random.default_rng(seed))[1]["labels"][0]) for seed in range(200)
    ]
    assert labels.count(3) / 200 == pytest.approx(5 / 7, abs=0.1)  # 1/2 : 1/5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bilevel_images_keep_their_two_values(annotations, dtype):
    crop = RareCrop(annotations, probability=1, zoom=(1.3, 3), tries=2, min_visibility=0.9)
    top = np.iinfo(dtype).max
    for seed in range(20):
        image, target = bilevel_scene(np.random.default_rng(seed), 5, dtype)
        new_image, _ = crop(image, target, np.random.default_rng(seed))
        assert new_image.dtype == dtype
        assert set(np.unique(new_image)) <= {0, top}


def test_images_without_such_objects_and_probability_zero_change_nothing(annotations, caplog):
    image, target = painted_scene(np.random.default_rng(0), 4)
    with caplog.at_level(logging.WARNING):
        off = RareCrop(annotations, probability=0)
        assert "no image is ever cropped" in caplog.text
    frequent = {**target, "labels": np.full(4, 1)}
    crowd = {**target, "is_crowd": np.ones(4, bool)}
    empty = take_rows(target, np.zeros(4, bool))
    on = RareCrop(annotations, probability=1, zoom=(2, 2))
    for crop, given_target in ((off, target), (on, frequent), (on, crowd), (on, empty)):
        new_image, new = crop(image, given_target, np.random.default_rng(0))
        assert new_image is image
        assert new is given_target


def test_an_object_as_large_as_the_image_leaves_it_as_it_is(annotations):
    image, target = painted_scene(np.random.default_rng(0), 1, crowd=False)
    target = {**target, "boxes": np.array([[0, 0, 80, 60]], np.float32), "labels": np.array([3])}
    crop = RareCrop(annotations, probability=1, zoom=(2, 2))
    assert crop(image, target, np.random.default_rng(0))[0] is image


def test_impossible_values_are_refused(annotations):
    for arguments, message in (
        ({"probability": 1.5}, "probability is 1.5"),
        ({"zoom": (0.5, 2)}, r"zoom is \(0\.5, 2\)\. Expected two factors"),
        ({"zoom": (2, 1.5)}, "1 <= smallest <= largest"),
        ({"min_visibility": -1}, "min_visibility is -1"),
        ({"tries": 0}, "tries is 0"),
        ({"classes": ["aa"]}, '"?aa"?'),
    ):
        with pytest.raises(ValueError, match=message):
            RareCrop(annotations, **arguments)
    with pytest.raises(TypeError, match=r'Write \["a"\]'):
        RareCrop(annotations, classes="a")
