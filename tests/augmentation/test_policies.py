"""Policies per frequency group, their presets, and the pipeline that takes boxes along."""

from __future__ import annotations

import json
import logging
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from painted import assert_in_step, assert_labelled, bilevel_scene, mask_bounds, painted_scene
from scenes import training_file

from detbalance.augmentation import GroupPolicy
from detbalance.augmentation.pipeline import _STRAIGHT, BoxPipeline, import_albumentations
from detbalance.augmentation.policies import PRESETS, transforms_of
from detbalance.augmentation.transform import corners, settle, take_rows
from detbalance.data import Annotations

pytest.importorskip("albumentations")
SLOW_START = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
SEEDS = st.integers(0, 2**32)
NUMBERS = st.integers(0, 6)


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> Annotations:
    """Classes 1, 2, 3 are frequent, common, rare."""
    return training_file(tmp_path_factory.mktemp("train"), {"a": 2, "b": 5, "c": 9})


def geometry_of(preset: str, strength: float = 1.0) -> BoxPipeline:
    """A preset without the steps that change values."""
    albumentations, _ = import_albumentations()
    only = (albumentations.ImageOnlyTransform, albumentations.OneOf)
    steps = [step for step in PRESETS[preset](strength, 0.5) if not isinstance(step, only)]
    return BoxPipeline("test", steps, min_visibility=0.4)


@pytest.mark.parametrize("preset", PRESETS)
@given(seed=SEEDS, number=NUMBERS, dtype=st.sampled_from([np.uint8, np.uint16]))
@SLOW_START
def test_no_visible_object_becomes_unlabelled(preset, seed, number, dtype):
    generator = np.random.default_rng(seed)
    image, target = painted_scene(generator, number, dtype=dtype)
    new_image, new = geometry_of(preset)(image, target, generator)
    assert new_image.dtype == dtype
    assert sorted(new_image.shape) == sorted(image.shape)
    assert_in_step(new_image, new, target)
    assert_labelled(new_image, new, number)
    full = new["masks"].any(axis=(1, 2))
    assert full.all()
    assert np.abs(mask_bounds(new["masks"]) - new["boxes"]).max(initial=0) <= 1


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_keep_the_promises(preset, annotations):
    policy = GroupPolicy(annotations, preset=preset)
    copy = pickle.loads(pickle.dumps(policy))
    changed = 0
    for seed in range(12):
        generator = np.random.default_rng(seed)
        dtype = (np.uint8, np.uint16)[seed % 2]
        image, target = painted_scene(generator, seed % 7, dtype=dtype)
        kept = image.copy(), {name: values.copy() for name, values in target.items()}
        for array in (image, *target.values()):
            array.flags.writeable = False
        results = [p(image, target, np.random.default_rng(seed)) for p in (policy, policy, copy)]
        for new_image, new in results:
            assert new_image.dtype == dtype
            assert new_image.flags.c_contiguous
            assert_in_step(new_image, new, target)
            assert np.array_equal(new_image, results[0][0])
            assert all(np.array_equal(new[name], results[0][1][name]) for name in new)
        assert np.array_equal(image, kept[0])
        assert all(np.array_equal(target[name], kept[1][name]) for name in target)
        changed += not np.array_equal(results[0][0], image)
    assert changed > 8


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bilevel_images_keep_their_two_values(preset, dtype, annotations):
    policy = GroupPolicy(annotations, preset=preset)
    top = np.iinfo(dtype).max
    for seed in range(10):
        generator = np.random.default_rng(seed)
        image, target = bilevel_scene(generator, 1 + seed % 6, dtype)
        image = top - image if seed % 2 else image
        new_image, new = policy(image, target, generator)
        assert new_image.dtype == dtype
        assert set(np.unique(new_image)) <= {0, top}
        assert_in_step(new_image, new, target)


def test_recolouring_asked_for_by_name_changes_bilevel_images_too(annotations):
    pipelines = {name: [{"RandomBrightnessContrast": {"p": 1}}] for name in ("rare", "frequent")}
    policy = GroupPolicy(annotations, preset=None, pipelines=pipelines)
    image, target = bilevel_scene(np.random.default_rng(0), 3)
    target["labels"][:] = 3
    assert len(np.unique(policy(image, target, np.random.default_rng(1))[0])) > 2 or not (
        np.array_equal(policy(image, target, np.random.default_rng(1))[0], image)
    )


def test_a_class_without_training_boxes_is_changed_like_a_rare_one(tmp_path):
    """Its boxes may be pasted, and then they are fewer still."""
    annotations = training_file(tmp_path, {"a": 2, "b": 5, "c": 9, "d": 0})
    flip = [{"HorizontalFlip": {"p": 1}}]
    policy = GroupPolicy(annotations, preset=None, pipelines={"rare": flip})
    image, target = painted_scene(np.random.default_rng(0), 2)
    names = [policy.names[policy.groups[label]] for label in (1, 2, 3, 4)]  # d, c, b, a
    assert names == ["rare", "frequent", "common", "rare"]
    for label in (1, 2, 4):
        target["labels"][:] = label
        changed, _ = policy(image, target, np.random.default_rng(1))
        assert np.array_equal(changed, image[:, ::-1]) == (label != 2)


def test_industrial_binary_makes_no_value_that_was_not_there(annotations):
    policy = GroupPolicy(annotations, preset="industrial_binary", min_visibility=0)
    image = np.random.default_rng(0).choice([10, 70, 200], size=(40, 50, 1)).repeat(3, axis=2)
    target = painted_scene(np.random.default_rng(0), 2)[1]
    target = {**target, "masks": target["masks"][:, :40, :50]}
    values = np.unique(policy(image.astype(np.uint8), target, np.random.default_rng(3))[0])
    assert set(values) <= {10, 70, 200, 124, 116, 104}


@pytest.mark.parametrize("preset", PRESETS)
def test_strength_zero_changes_nothing_and_says_so(preset, annotations, caplog):
    off = dict.fromkeys(("rare", "common", "frequent"), 0.0)
    with caplog.at_level(logging.WARNING):
        policy = GroupPolicy(annotations, preset=preset, strength=off)
    assert "changes no image" in caplog.text
    image, target = painted_scene(np.random.default_rng(0), 4)
    new_image, new = policy(image, target, np.random.default_rng(0))
    assert np.array_equal(new_image, image)
    assert all(np.array_equal(new[name], target[name]) for name in target)


def test_transforms_that_are_not_drawn_change_nothing(annotations):
    steps = [{"HorizontalFlip": {"p": 0}}, {"Affine": {"rotate": 45, "p": 0}}, {"Blur": {"p": 0}}]
    policy = GroupPolicy(
        annotations, pipelines=dict.fromkeys(("rare", "common", "frequent"), steps)
    )
    for dtype in (np.uint8, np.uint16):
        image, target = painted_scene(np.random.default_rng(0), 4, dtype=dtype)
        image = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, image.shape, dtype)
        new_image, new = policy(image, target, np.random.default_rng(0))
        assert np.array_equal(new_image, image)
        assert all(np.array_equal(new[name], target[name]) for name in target)


def test_the_rarest_class_decides_and_crowds_do_not_count(annotations):
    mirror = [{"HorizontalFlip": {"p": 1}}]
    upside_down = [{"VerticalFlip": {"p": 1}}]
    policy = GroupPolicy(
        annotations, preset=None, pipelines={"rare": mirror, "common": upside_down}
    )
    image, target = painted_scene(np.random.default_rng(2), 3, crowd=False)
    expected = {1: image, 2: image[::-1], 3: image[:, ::-1]}  # by label: frequent, common, rare

    def result(labels, is_crowd=(False, False, False)):
        new = {**target, "labels": np.array(labels), "is_crowd": np.array(is_crowd)}
        return policy(image, new, np.random.default_rng(0))[0]

    for label, picture in expected.items():
        assert np.array_equal(result([1, label, 1]), picture)
    assert np.array_equal(result([3, 2, 1]), expected[3])
    assert np.array_equal(result([3, 2, 1], [True, False, False]), expected[2])
    empty = take_rows(target, np.zeros(3, bool))
    assert np.array_equal(policy(image, empty, np.random.default_rng(0))[0], image)


def test_stronger_groups_change_more(annotations):
    policy = GroupPolicy(annotations, horizontal_flip=0)
    image, target = painted_scene(np.random.default_rng(2), 1, crowd=False)
    change = {}
    for label in (1, 2, 3):
        new = {**target, "labels": np.array([label])}
        change[label] = np.mean(
            [
                np.abs(policy(image, new, np.random.default_rng(s))[0].astype(int) - image).mean()
                for s in range(20)
            ]
        )
    assert change[3] > 1.3 * change[2] > 1.3 * 1.3 * change[1] > 0


def test_no_mirroring_where_it_is_off():
    kinds = {type(step).__name__ for step in PRESETS["natural"](1.0, 0.0)}
    assert kinds.isdisjoint({"HorizontalFlip", "D4", "VerticalFlip", "Transpose"})


STRAIGHT = {
    "Affine": {"scale": [0.8, 1.4], "rotate": [-40, 40], "shear": [-10, 10], "p": 1},
    "CenterCrop": {"height": 40, "width": 60},
    "Crop": {"x_min": 5, "y_min": 7, "x_max": 70, "y_max": 55},
    "CropAndPad": {"percent": [-0.2, 0.2], "keep_size": False, "p": 1},
    "D4": {},
    "HorizontalFlip": {"p": 1},
    "LongestMaxSize": {"max_size": 110},
    "NoOp": {"p": 1},
    "Pad": {"padding": 6, "p": 1},
    "PadIfNeeded": {"min_height": 90, "min_width": 100},
    "Perspective": {"scale": [0.05, 0.15], "p": 1},
    "RandomCrop": {"height": 40, "width": 60},
    "RandomCropFromBorders": {"p": 1},
    "RandomResizedCrop": {"size": [60, 80], "p": 1},
    "RandomRotate90": {"p": 1},
    "RandomScale": {"scale_limit": [-0.4, 0.6], "p": 1},
    "RandomSizedCrop": {"min_max_height": [30, 60], "size": [60, 80], "p": 1},
    "Resize": {"height": 75, "width": 90},
    "Rotate": {"limit": 40, "p": 1},
    "SafeRotate": {"limit": 40, "p": 1},
    "ShiftScaleRotate": {"p": 1},
    "SmallestMaxSize": {"max_size": 90},
    "SquareSymmetry": {},
    "Transpose": {"p": 1},
    "VerticalFlip": {"p": 1},
}


@pytest.mark.filterwarnings("ignore:ShiftScaleRotate")
@pytest.mark.parametrize("name", STRAIGHT)
def test_boxes_follow_the_pixels_of_every_transform_that_keeps_lines_straight(name):
    assert set(STRAIGHT) == _STRAIGHT
    pipeline = BoxPipeline("t", transforms_of([{name: STRAIGHT[name]}], "t"), min_visibility=0)
    seen = 0
    for seed in range(15):
        generator = np.random.default_rng(seed)
        image, target = painted_scene(generator, 1, largest=0.9, crowd=False)
        new_image, new = pipeline(image, target, generator)
        assert_in_step(new_image, new, target)
        assert_labelled(new_image, new, 1)
        if not len(new["boxes"]):
            continue
        bright = np.abs(new_image - np.array([255.0, 0, 0])).max(axis=2) < 90
        if bright.sum() < 30:  # corners of small slanted boxes fade
            continue
        seen += 1
        assert np.abs(mask_bounds(bright[None]) - new["boxes"]).max() < 1.6
        shown = new["masks"].sum()
        edge = 2 * (new["boxes"][0, 2:] - new["boxes"][0, :2]).sum()
        assert new["areas"][0] == pytest.approx(shown, abs=0.6 * float(edge))
    assert seen > 3


@given(seed=SEEDS)
@SLOW_START
def test_what_is_visible_of_a_slanted_box_agrees_with_its_pixels(seed):
    """A twin by counting: sub-pixels inside the quadrilateral and inside the image."""
    generator = np.random.default_rng(seed)
    angle, size = generator.uniform(0.2, 1.3), generator.uniform(5, 60, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * size / 2
    middle = generator.uniform(-20, 60, 2)
    after = (half @ turn.T + middle)[None]
    target = {
        "boxes": np.array([[0, 0, 10, 10]], np.float32),
        "labels": np.array([1]),
        "areas": np.array([100.0]),
        "is_crowd": np.array([True]),
    }
    image = np.zeros((40, 40, 3), np.uint8)
    before = corners(target["boxes"], 40, 40)
    _, new = settle(
        image, target, before, after, masks=None, min_visibility=0, fill=np.zeros(3, int)
    )
    steps = (np.arange(400) + 0.5) / 10
    points = np.stack(np.meshgrid(steps, steps), axis=-1)
    inside = (np.abs((points - middle) @ turn) <= size / 2).all(axis=-1)
    if not inside.any():
        assert new["areas"].sum() < 0.5
        return
    assert new["areas"][0] == pytest.approx(inside.sum() / 100, rel=0.02, abs=0.5)
    bounds = mask_bounds(inside[None])[0] / 10
    assert np.abs(bounds - new["boxes"][0]).max() < 0.6


def test_a_dropped_object_is_painted_over_but_not_where_another_is_kept():
    image = np.full((20, 40, 3), 200, np.uint8)
    image[5:15, 0:10] = (255, 0, 0)
    image[8:12, 6:16] = (0, 255, 0)
    target = {
        "boxes": np.array([[0, 5, 10, 15], [6, 8, 16, 12]], np.float32),
        "labels": np.array([1, 2]),
        "areas": np.array([100.0, 40.0]),
        "is_crowd": np.array([False, False]),
    }
    steps = transforms_of([{"Affine": {"translate_px": {"x": -6, "y": 0}, "p": 1}}], "t")
    shift = BoxPipeline("t", steps, min_visibility=0.5)
    new_image, new = shift(image, target, np.random.default_rng(0))
    assert new["boxes"].tolist() == [[0, 8, 10, 12]]
    expected = np.full((20, 40, 3), 200, np.uint8)
    expected[:, 34:] = 0  # albumentations' own fill
    expected[5:15, 0:4] = (124, 116, 104)
    expected[8:12, 0:10] = (0, 255, 0)
    assert np.array_equal(new_image, expected)
    target["is_crowd"][0] = True
    assert len(shift(image, target, np.random.default_rng(0))[1]["boxes"]) == 2


def test_an_object_whose_mask_is_out_of_the_image_goes():
    image, target = painted_scene(np.random.default_rng(0), 1, crowd=False)
    target["boxes"][:] = [0, 0, 40, 40]
    target["masks"][:] = False
    target["masks"][0, 0:40, 0:10] = True
    steps = transforms_of([{"Affine": {"translate_px": {"x": -8, "y": 0}, "p": 1}}], "t")
    pipeline = BoxPipeline("t", steps, min_visibility=0)
    _, new = pipeline(image, target, np.random.default_rng(0))
    assert new["areas"][0] == pytest.approx(target["areas"][0] * 2 / 10)
    target["masks"][0, :, 8:] = False
    assert not len(pipeline(image, target, np.random.default_rng(0))[1]["boxes"])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"Rotat": {}}], r'rare\[0\]: "Rotat" is no transform .* Did you mean "Rotate"\?'),
        ([{"Qqq": {}}], r'"Qqq" is no transform of albumentations\. Correct the name\.'),
        ([{"NoOp": {}}, {"Rotate": {"limits": 5}}], r'rare\[1\]: .*"limits".*mean "limit"\?'),
        ([{"Rotate": {"limit": "a lot"}}], r"Rotate does not take .*limit"),
        (["Rotate"], r"rare\[0\]: is 'Rotate'\. Expected one name"),
        ([{"Rotate": {}, "NoOp": {}}], "Expected one name"),
        ([{"GridDistortion": {}}], "GridDistortion is a transform that boxes cannot follow"),
        ([{"RandomSizedBBoxSafeCrop": {"height": 9, "width": 9}}], "RandomSizedBBoxSafeCrop is"),
        ([{"CoarseDropout": {}}], "CoarseDropout is"),
        ([{"OneOf": {"transforms": [{"ElasticTransform": {}}]}}], "ElasticTransform is"),
        ([{"OneOf": {"transforms": [{"Blurr": {}}]}}], r'rare\[0\]\.OneOf\[0\]: "Blurr"'),
        ([{"Normalize": {}}], "Normalize changes the type"),
        ([{"FDA": {}}], "FDA needs fda_metadata beside the image"),
        ([{"Rotate": {"border_mode": 4}}], "border_mode 4, which mirrors objects"),
    ],
)
def test_impossible_pipelines_are_refused(steps, message, annotations):
    with pytest.raises(ValueError, match=message):
        GroupPolicy(annotations, pipelines={"rare": steps})


def test_impossible_values_are_refused(annotations):
    for arguments, message in (
        ({"preset": "natrual"}, r'"natrual"\. Known: aerial.*Did you mean "natural"\?'),
        ({"strength": {"rar": 1}}, r'strength has the group "rar".*Did you mean "rare"\?'),
        ({"strength": {"rare": 2}}, r"strength\.rare is 2"),
        ({"pipelines": {"freqent": []}}, r'"freqent".*Did you mean "frequent"\?'),
        ({"horizontal_flip": -1}, "horizontal_flip is -1"),
        ({"min_visibility": 2}, "min_visibility is 2"),
    ):
        with pytest.raises(ValueError, match=message):
            GroupPolicy(annotations, **arguments)


def test_a_configuration_may_come_from_a_file(annotations):
    text = '{"rare": [{"OneOf": {"transforms": [{"Blur": {"p": 1}}], "p": 1}}], "frequent": []}'
    policy = GroupPolicy(annotations, pipelines=json.loads(text))
    image, target = painted_scene(np.random.default_rng(0), 1, crowd=False)
    frequent = {**target, "labels": np.array([1])}
    assert policy(image, frequent, np.random.default_rng(0))[0] is image
    rare = {**target, "labels": np.array([3])}
    assert not np.array_equal(policy(image, rare, np.random.default_rng(0))[0], image)
