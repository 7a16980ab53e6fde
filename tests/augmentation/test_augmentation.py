"""Promises of every augmentation, and what the standard one does to pixels and boxes."""

from __future__ import annotations

import inspect
import json
import logging
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from painted import assert_in_step, assert_labelled, bilevel_scene, mask_bounds, painted_scene
from scenes import training_file

from detbalance.augmentation import (
    AUGMENTATIONS,
    Augmentation,
    Compose,
    DonorBank,
    GroupPolicy,
    Mixup,
    Mosaic,
    RareCrop,
    RarePaste,
    StandardAugmentation,
    pipeline,
)
from detbalance.augmentation.transform import PER_IMAGE
from detbalance.data import load_annotations

pytest.importorskip("albumentations")
cv2 = pytest.importorskip("cv2")

OFF = {"horizontal_flip": 0.0, "scale": (1, 1), "color": 0.0}


def scene(generator, number=4, height=96, width=128, crowd=True):
    """A random image with `number` boxes; the last one is a crowd region."""
    image = generator.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    low = generator.uniform(0, 0.7, size=(number, 2)) * (width, height)
    size = generator.uniform(0.1, 0.3, size=(number, 2)) * (width, height)
    boxes = np.concatenate([low, low + size], axis=1).astype(np.float32)
    is_crowd = np.zeros(number, bool)
    is_crowd[number - 1 :] = crowd
    return image, {
        "boxes": boxes,
        "labels": generator.integers(1, 4, size=number),
        "areas": size.prod(axis=1) * 0.8,
        "is_crowd": is_crowd,
    }


def partner(index):
    return scene(np.random.default_rng(index))


@pytest.fixture(scope="module")
def paste(tmp_path_factory) -> RarePaste:
    folder = tmp_path_factory.mktemp("donors")
    image = np.random.default_rng(5).integers(0, 256, size=(64, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "a.png"), image)
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [20, 20, 15, 12], "area": 99}
        ],
        "categories": [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}, {"id": 3, "name": "x"}],
    }
    (folder / "a.json").write_text(json.dumps(coco))
    bank = DonorBank(load_annotations(folder / "a.json"), folder, classes=["bolt"])
    return RarePaste(bank, probability=0.9)


@pytest.fixture(scope="module")
def built(paste, tmp_path_factory) -> dict[str, Augmentation]:
    """Every augmentation, and some of them in a row."""
    counts = {"bolt": 2, "nut": 5, "x": 9}
    annotations = training_file(tmp_path_factory.mktemp("train"), counts)
    steps = {
        "mosaic": Mosaic(partner, np.ones(9), probability=0.9),
        "mixup": Mixup(partner, np.ones(9), probability=0.9),
        "crop": RareCrop(annotations, probability=0.9),
        "paste": paste,
        # Turns by 90 degrees swap the sides of an image, as other presets' tests take into account.
        "policy": GroupPolicy(annotations, preset="natural"),
        "standard": StandardAugmentation(vertical_flip=0.3),
    }
    assert list(steps) == list(AUGMENTATIONS)
    return {**steps, "compose": Compose(list(steps.values()))}


@pytest.fixture(params=[*AUGMENTATIONS, "compose"])
def augmentation(request, built):
    return built[request.param]


def test_arrays_stay_in_step_and_boxes_inside(augmentation):
    generator = np.random.default_rng(0)
    for number in (0, 1, 4, 9) * 8:
        image, target = scene(generator, number)
        new_image, new = augmentation(image, target, generator)
        assert new_image.shape == image.shape
        assert new_image.dtype == np.uint8
        assert new_image.flags.c_contiguous
        rows = {len(values) for name, values in new.items() if name not in PER_IMAGE}
        assert rows == {len(new["boxes"])}
        assert all(new[name].dtype == target[name].dtype for name in target)
        boxes = new["boxes"]
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= (128, 96)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_same_generator_state_gives_the_same_result(augmentation):
    image, target = scene(np.random.default_rng(1))
    results = []
    for seed in (7, 7, 8):
        random.seed(len(results))  # the global states must not matter
        generator = np.random.default_rng(seed)
        results.append([augmentation(image, target, generator) for _ in range(5)])
    for (image_a, target_a), (image_b, target_b) in zip(results[0], results[1], strict=True):
        assert np.array_equal(image_a, image_b)
        assert all(np.array_equal(target_a[name], target_b[name]) for name in target_a)
    pairs = zip(results[0], results[2], strict=True)
    assert not all(np.array_equal(a[0], b[0]) for a, b in pairs)


def test_images_that_come_back_can_be_written_to(augmentation):
    generator = np.random.default_rng(2)
    for number in (0, 1, 4) * 5:
        image, target = scene(generator, number)
        for array in (image, *target.values()):
            array.flags.writeable = False
        changed, _ = augmentation(image, target, generator)
        assert changed.flags.writeable


def test_a_target_without_crowd_flags_and_areas_has_no_crowd_and_boxes_as_areas(augmentation):
    for seed in range(6):
        image, target = scene(np.random.default_rng(seed), crowd=False)
        sides = target["boxes"][:, 2:].astype(np.float64) - target["boxes"][:, :2]
        target["areas"] = sides.prod(axis=1)
        bare = {name: target[name] for name in ("labels", "boxes")}
        image_a, full = augmentation(image, target, np.random.default_rng(seed))
        image_b, found = augmentation(image, bare, np.random.default_rng(seed))
        assert np.array_equal(image_a, image_b)
        assert found.keys() == full.keys()
        assert all(np.array_equal(found[name], full[name]) for name in full)
        assert bare.keys() == {"labels", "boxes"}


def test_a_target_of_other_keys_is_refused_in_words(augmentation):
    image, target = scene(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r'^\w+: the target has "iscrowd".*Rename it to is_crowd'):
        augmentation(
            image,
            {"iscrowd" if name == "is_crowd" else name: v for name, v in target.items()},
            np.random.default_rng(0),
        )
    for name in ("boxes", "labels"):
        with pytest.raises(ValueError, match=rf'^\w+: the target has no "{name}"\. Expected boxes'):
            augmentation(
                image, {k: v for k, v in target.items() if k != name}, np.random.default_rng(0)
            )


def numbers_of(kind):
    """The keyword arguments of a constructor that are numbers or ranges."""
    parameters = inspect.signature(kind).parameters.values()
    wanted = ("int", "float", "tuple[float, float]")
    return [(p.name, p.annotation) for p in parameters if p.annotation in wanted]


@pytest.mark.parametrize("kind", [*AUGMENTATIONS.values(), DonorBank])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 1e30, 10**30])
def test_numbers_out_of_range_are_refused_by_name(kind, value, paste, tmp_path):
    annotations = training_file(tmp_path, {"bolt": 2, "nut": 5})
    first = {
        "Mosaic": (partner, np.ones(9)),
        "Mixup": (partner, np.ones(9)),
        "RarePaste": (paste.donors,),
        "StandardAugmentation": (),
        "DonorBank": (annotations, tmp_path),
    }.get(kind.__name__, (annotations,))
    found = numbers_of(kind)
    assert found
    for name, annotation in found:
        given = (0.5, value) if annotation.startswith("tuple") else value
        with pytest.raises(ValueError, match=rf"^{kind.__name__}: {name} is "):
            kind(*first, **{name: given})


def test_inputs_may_be_read_only_and_are_not_modified(augmentation):
    generator = np.random.default_rng(2)
    for _ in range(5):
        image, target = scene(generator)
        copies = image.copy(), {name: values.copy() for name, values in target.items()}
        for array in (image, *target.values()):
            array.flags.writeable = False
        augmentation(image, target, generator)
        assert np.array_equal(image, copies[0])
        assert target.keys() == copies[1].keys()
        assert all(np.array_equal(target[name], copies[1][name]) for name in target)


def test_global_random_states_are_untouched(augmentation):
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002 - the subject
    augmentation(*scene(np.random.default_rng(3)), np.random.default_rng(4))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_a_pickled_copy_does_the_same(augmentation):
    image, target = scene(np.random.default_rng(5))
    augmentation(image, target, np.random.default_rng(0))  # also when it was used before
    copy = pickle.loads(pickle.dumps(augmentation))
    mine = augmentation(image, target, np.random.default_rng(6))
    other = copy(image, target, np.random.default_rng(6))
    assert np.array_equal(mine[0], other[0])
    assert np.array_equal(mine[1]["boxes"], other[1]["boxes"])


def test_compose_applies_in_order_with_one_generator():
    def step(image, target, generator):
        return image + 1, {**target, "draws": [*target["draws"], generator.random()]}

    image, target = Compose([step, step])(0, {"draws": []}, np.random.default_rng(0))
    assert image == 2
    assert target["draws"] == np.random.default_rng(0).random(2).tolist()


@given(seed=st.integers(0, 2**32), vertical=st.booleans())
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_flips_agree_with_numpy(seed, vertical):
    image, target = scene(np.random.default_rng(seed % 17), number=seed % 4)
    chosen = {**OFF, "vertical_flip" if vertical else "horizontal_flip": 1.0}
    new_image, new = StandardAugmentation(**chosen)(image, target, np.random.default_rng(seed))
    assert np.array_equal(new_image, image[::-1] if vertical else image[:, ::-1])
    expected = target["boxes"].copy()
    axes = [1, 3] if vertical else [0, 2]
    expected[:, axes] = image.shape[0 if vertical else 1] - expected[:, axes[::-1]]
    assert np.allclose(new["boxes"], expected, atol=1e-3)
    for name in ("labels", "areas", "is_crowd"):
        assert np.allclose(new[name], target[name])


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
def test_scaled_boxes_follow_the_pixels(factor):
    image = np.zeros((128, 160, 3), np.uint8)
    image[50:70, 70:100] = 255
    target = {
        "boxes": np.array([[70, 50, 100, 70]], np.float32),
        "labels": np.array([2]),
        "areas": np.array([500.0]),
        "is_crowd": np.array([False]),
    }
    augmentation = StandardAugmentation(**{**OFF, "scale": (factor, factor)})
    new_image, new = augmentation(image, target, np.random.default_rng(0))
    bright = new_image.min(axis=2) > 190
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert np.allclose(new["boxes"][0], seen, atol=1)
    assert np.allclose(new["areas"], 500 * factor**2, rtol=1e-4)


def test_boxes_with_too_little_left_are_dropped_but_crowd_regions_stay():
    # Twofold enlargement shows columns 32..96: boxes reach in by 3/4, 1/4 and 1/4 of their width.
    boxes = np.array([[28, 40, 44, 50], [20, 40, 36, 50], [20, 52, 36, 60]], np.float32)
    target = {
        "boxes": boxes,
        "labels": np.array([1, 2, 3]),
        "areas": np.array([160.0, 160.0, 128.0]),
        "is_crowd": np.array([False, False, True]),
        "pasted": np.array([True, False, False]),
        "origin": np.array([[1, 1], [2, 2], [3, 3]]),
    }
    image = np.zeros((128, 128, 3), np.uint8)
    zoom = StandardAugmentation(**{**OFF, "scale": (2, 2)}, min_visibility=0.5)
    _, new = zoom(image, target, np.random.default_rng(0))
    assert new["labels"].tolist() == [1, 3]
    assert new["pasted"].tolist() == [True, False]
    assert new["origin"].tolist() == [[1, 1], [3, 3]]
    assert np.allclose(new["boxes"], [[0, 16, 24, 36], [0, 40, 8, 56]], atol=1e-3)
    assert np.allclose(new["areas"], [160 * 4 * 0.75, 128 * 4 * 0.25], rtol=1e-3)


def test_scale_factors_cover_their_range():
    image = np.zeros((64, 64, 3), np.uint8)
    target = scene(np.random.default_rng(0), 1, crowd=False)[1]
    target["boxes"][:] = [24, 24, 40, 40]
    augmentation = StandardAugmentation(**{**OFF, "scale": (0.5, 1.5)})
    generator = np.random.default_rng(0)
    widths = [np.ptp(augmentation(image, target, generator)[1]["boxes"][0, [0, 2]])
              for _ in range(200)]  # fmt: skip
    assert 8 <= min(widths) < 9.5
    assert 22.5 < max(widths) <= 24


def test_color_changes_pixels_but_no_boxes():
    image, target = scene(np.random.default_rng(0))
    new_image, new = StandardAugmentation(**{**OFF, "color": 0.5})(
        image, target, np.random.default_rng(0)
    )
    assert not np.array_equal(new_image, image)
    assert all(np.array_equal(new[name], target[name]) for name in target)


@given(
    seed=st.integers(0, 2**32),
    number=st.integers(0, 6),
    dtype=st.sampled_from([np.uint8, np.uint16]),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_no_visible_object_becomes_unlabelled(seed, number, dtype):
    generator = np.random.default_rng(seed)
    image, target = painted_scene(generator, number, dtype=dtype)
    augmentation = StandardAugmentation(scale=(0.5, 1.9), color=0, min_visibility=0.6)
    new_image, new = augmentation(image, target, generator)
    assert new_image.dtype == dtype
    assert_in_step(new_image, new, target)
    assert_labelled(new_image, new, number)
    assert np.abs(mask_bounds(new["masks"]) - new["boxes"]).max(initial=0) <= 1


def test_colours_of_16_bits_change_as_those_of_8_bits():
    image, target = scene(np.random.default_rng(0))
    augmentation = StandardAugmentation(vertical_flip=0.5)
    for seed in range(4):
        small = augmentation(image, target, np.random.default_rng(seed))
        deep = augmentation(image.astype(np.uint16) * 257, target, np.random.default_rng(seed))
        assert deep[0].dtype == np.uint16
        assert np.abs(deep[0] / 257 - small[0]).mean() < 2
        assert all(np.array_equal(deep[1][name], small[1][name]) for name in target)
        assert len(np.unique(deep[0])) > 256
    shrink = StandardAugmentation(**{**OFF, "scale": (0.5, 0.5)})
    shrunk, _ = shrink(image.astype(np.uint16) * 257, target, np.random.default_rng(0))
    assert np.abs(shrunk[0] - np.array([124, 116, 104]) * 257.0).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bilevel_images_keep_their_two_values(dtype):
    top = np.iinfo(dtype).max
    for seed in range(10):
        image, target = bilevel_scene(np.random.default_rng(seed), 5, dtype)
        image = top - image if seed % 2 else image
        augmentation = StandardAugmentation(min_visibility=0.95)
        new_image, _ = augmentation(image, target, np.random.default_rng(seed))
        assert new_image.dtype == dtype
        assert set(np.unique(new_image)) == {0, top}
        shrink = StandardAugmentation(scale=(0.5, 0.5))
        shrunk, _ = shrink(image, target, np.random.default_rng(seed))
        assert (shrunk[:10] == (top if image.mean() > top / 2 else 0)).all()


def test_all_off_changes_nothing_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        augmentation = StandardAugmentation(**OFF)
    assert "changes no image" in caplog.text
    image, target = scene(np.random.default_rng(0))
    new_image, new = augmentation(image, target, np.random.default_rng(0))
    assert np.array_equal(new_image, image)
    assert np.array_equal(new["boxes"], target["boxes"])


@pytest.mark.parametrize("name", ["horizontal_flip", "vertical_flip", "color", "min_visibility"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"{name} is {value}\. Expected a number in 0\.\.1"):
        StandardAugmentation(**{name: value})


@pytest.mark.parametrize("scale", [(0, 1), (1.2, 0.8), (1, float("inf")), (float("nan"), 1)])
def test_an_impossible_scale_is_refused(scale):
    with pytest.raises(ValueError, match="0 < smallest <= largest"):
        StandardAugmentation(scale=scale)


def test_the_import_asks_no_network_and_leaves_the_environment(monkeypatch):
    seen = []

    class Spy:
        def find_spec(self, name, *rest):
            if name == "albumentations":
                seen.append(os.environ.get("NO_ALBUMENTATIONS_UPDATE"))
                raise ImportError("no such module")

    monkeypatch.setattr(sys, "meta_path", [Spy(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "albumentations")
    for value in (None, "0"):
        if value is None:
            monkeypatch.delenv("NO_ALBUMENTATIONS_UPDATE", raising=False)
        else:
            monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", value)
        with pytest.raises(ImportError, match=r"pip install .*\[train\]"):
            pipeline.import_albumentations()
        assert os.environ.get("NO_ALBUMENTATIONS_UPDATE") == value
    assert seen == ["1", "1"]


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys, detbalance.augmentation\n"
        "print([m for m in ('albumentations', 'cv2', 'torch') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
    assert result.stderr == ""
