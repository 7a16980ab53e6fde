"""Pasting: where donors go, and what stays untouched."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("cv2")

import cv2
from donor_sets import SIDE, empty_target, write

from detbalance.augmentation import DonorBank, RarePaste
from detbalance.augmentation.paste import _PATIENCE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def annotations(folder):
    """Class a in 8 images, b in 4, c in 2; each image also has a crowd region."""
    boxes = []
    for image in range(8):
        boxes += [(image, 1, (5, 6, 16, 12), 0), (image, 3, (50, 50, 25, 25), 1)]
        if image < 4:
            boxes.append((image, 2, (30, 10, 12.5, 18.25), 0))
        if image < 2:
            boxes.append((image, 3, (10, 50, 20, 10), 0))
    return write(folder, boxes)


@pytest.fixture(scope="module")
def bank(annotations, folder):
    return DonorBank(annotations, folder, classes=["a", "b", "c"])


@given(seed=st.integers(0, 2**32), number=st.integers(0, 6), flip=st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_pasted_boxes_are_inside_apart_and_in_step(bank, seed, number, flip):
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, size=(90, 140, 3), dtype=np.uint8)
    target = empty_target(number)
    low = generator.uniform(0, 60, size=(number, 2))
    target["boxes"][:] = np.concatenate([low, low + generator.uniform(2, 30, (number, 2))], axis=1)
    target["is_crowd"][:] = generator.random(number) < 0.5
    target["extra"] = np.ones((number, 2), np.float32)
    paste = RarePaste(bank, probability=1, max_pastes=4, flip=flip)
    new_image, new = paste(image, target, generator)
    added = len(new["boxes"]) - number
    assert 0 <= added <= 4
    for name, values in target.items():
        assert np.array_equal(new[name][:number], values)
        assert new[name].dtype == values.dtype
        assert len(new[name]) == number + added
    assert new["pasted"].tolist() == [False] * number + [True] * added
    assert not new["is_crowd"][number:].any()
    assert (new["labels"][number:] >= 1).all()
    boxes = new["boxes"]
    assert (boxes[number:, :2] >= 0).all()
    assert (boxes[number:, 2:] <= (140, 90)).all()
    for n in range(number, number + added):
        others = np.delete(boxes, n, axis=0)
        shared = np.minimum(boxes[n, 2:], others[:, 2:]) - np.maximum(boxes[n, :2], others[:, :2])
        assert (shared.min(axis=1) <= 0).all()
    # Pixels change only around pasted boxes, and never in a box that was there before.
    changed = (new_image != image).any(axis=2)
    allowed = np.zeros_like(changed)
    for left, top, right, bottom in boxes[number:]:
        wide, high = 0.2 * (right - left) + 2, 0.2 * (bottom - top) + 2
        rows = slice(max(0, int(top - high)), int(bottom + high) + 1)
        allowed[rows, max(0, int(left - wide)) : int(right + wide) + 1] = True
    for left, top, right, bottom in boxes[:number]:
        allowed[int(np.ceil(top)) : int(bottom), int(np.ceil(left)) : int(right)] = False
    assert not (changed & ~allowed).any()
    assert changed.any() == (added > 0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("feather", [0.0, 1.0])
def test_in_the_box_the_pixels_are_those_of_the_donor(annotations, folder, flip, feather):
    bank = DonorBank(annotations, folder, classes=["b"])
    paste = RarePaste(bank, probability=1, max_pastes=1, scale=(1, 1), flip=flip, feather=feather)
    generator = np.random.default_rng(0)
    mirrored = 0
    for _ in range(20):
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        state = generator.bit_generator.state
        new_image, new = paste(image, empty_target(), generator)
        replay = np.random.default_rng()
        replay.bit_generator.state = state
        replay.random(), replay.integers(1, 2)
        donor = bank.crop(bank.draw(replay))
        pixels = donor.image
        left, top, right, bottom = new["boxes"][0]
        expected_size = donor.box[2:] - donor.box[:2]
        assert np.allclose([right - left, bottom - top], expected_size, atol=1e-4)
        inner = new_image[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]
        x0, y0, x1, y1 = donor.box
        source = pixels[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]
        if not np.array_equal(inner, source):
            x0, x1 = pixels.shape[1] - x1, pixels.shape[1] - x0
            source = pixels[:, ::-1][int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]
            assert np.array_equal(inner, source)
            mirrored += 1
        assert np.allclose(new["areas"], donor.area)
    assert (mirrored > 0) == flip


def test_the_edge_fades_out_monotonically(tmp_path):
    annotations = write(tmp_path, [(0, 1, (30, 30, 20, 20), 0)])
    cv2.imwrite(str(tmp_path / "0.png"), np.full((SIDE, SIDE, 3), 200, np.uint8))
    bank = DonorBank(annotations, tmp_path, classes=["a"], margin=0.5)
    profiles = {}
    for feather in (0.0, 0.5, 1.0):
        paste = RarePaste(bank, probability=1, max_pastes=1, scale=(1, 1), feather=feather)
        image, new = paste(
            np.zeros((120, 120, 3), np.uint8), empty_target(), np.random.default_rng(0)
        )
        left, top = new["boxes"][0, :2].astype(int)
        profiles[feather] = image[top + 10, left - 11 : left + 1, 0].astype(int)
    assert profiles[0.0].tolist() == [0] + [200] * 11
    assert profiles[1.0].tolist() == [0, *range(10, 200, 20), 200]
    assert profiles[0.5].tolist() == [0, *range(20, 200, 40), *[200] * 6]


def test_margins_leave_out_other_annotated_boxes(tmp_path):
    annotations = write(tmp_path, [(0, 1, (30, 30, 20, 20), 0), (0, 2, (52, 20, 20, 40), 0)])
    cv2.imwrite(str(tmp_path / "0.png"), np.full((SIDE, SIDE, 3), 200, np.uint8))
    bank = DonorBank(annotations, tmp_path, classes=["a"], margin=0.5)
    paste = RarePaste(bank, probability=1, max_pastes=1, scale=(1, 1), feather=0)
    image, new = paste(np.zeros((120, 120, 3), np.uint8), empty_target(), np.random.default_rng(0))
    left, top = new["boxes"][0, :2].astype(int)
    row = image[top + 10, left - 10 : left + 30, 0]
    assert row.tolist() == [200] * 32 + [0] * 8


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_scaled_donors_have_scaled_boxes_and_areas(tmp_path, factor):
    annotations = write(tmp_path, [(0, 1, (30, 30, 20, 16), 0)])
    bright = np.zeros((SIDE, SIDE, 3), np.uint8)
    bright[30:46, 30:50] = 255
    cv2.imwrite(str(tmp_path / "0.png"), bright)
    bank = DonorBank(annotations, tmp_path, classes=["a"])
    paste = RarePaste(bank, probability=1, max_pastes=1, scale=(factor, factor))
    image, new = paste(np.zeros((99, 99, 3), np.uint8), empty_target(), np.random.default_rng(1))
    seen = image[..., 0] > 127
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert np.allclose(new["boxes"][0], expected, atol=1)
    ratio = np.prod(new["boxes"][0, 2:] - new["boxes"][0, :2]) / (20 * 16)
    assert np.isclose(new["areas"][0], annotations.areas[0] * ratio, rtol=1e-4)
    assert np.isclose(ratio, factor**2, rtol=0.1)


def test_scale_factors_are_even_on_a_log_scale(tmp_path):
    annotations = write(tmp_path, [(0, 1, (10, 10, 50, 50), 0)])
    bank = DonorBank(annotations, tmp_path, classes=["a"], margin=0)
    paste = RarePaste(bank, probability=1, max_pastes=1, scale=(0.5, 2))
    image, generator = np.zeros((100, 100, 3), np.uint8), np.random.default_rng(0)
    made = [paste(image, empty_target(), generator)[1]["boxes"][0] for _ in range(500)]
    logs = np.sort(np.log2([(box[2] - box[0]) / 50 for box in made]))
    assert np.allclose(logs, np.linspace(-1, 1, 500), atol=0.13)


def test_donors_find_room_beside_a_full_strip(bank):
    target = empty_target(2)
    target["boxes"][:] = [[0, 40, 90, 50], [40, 0, 50, 90]]
    paste = RarePaste(bank, probability=1, max_pastes=1, tries=200)
    image, generator = np.zeros((90, 90, 3), np.uint8), np.random.default_rng(0)
    corners = set()
    for _ in range(60):
        _, new = paste(image, target, generator)
        corners |= {(bool(x > 45), bool(y > 45)) for x, y in new["boxes"][2:, :2]}
    assert len(corners) == 4


def test_probability_and_number_of_pastes(bank):
    paste = RarePaste(bank, probability=0.3, max_pastes=3)
    generator = np.random.default_rng(0)
    image = np.zeros((300, 300, 3), np.uint8)
    counts = [len(paste(image, empty_target(), generator)[1]["boxes"]) for _ in range(3000)]
    shares = np.bincount(counts, minlength=4) / 3000
    assert len(shares) == 4
    assert np.allclose(shares, [0.7, 0.1, 0.1, 0.1], atol=0.035)


def test_pasted_marks_are_kept_and_always_there(bank):
    image = np.zeros((90, 90, 3), np.uint8)
    never = RarePaste(bank, probability=1e-12)
    new_image, new = never(image, empty_target(2), np.random.default_rng(0))
    assert new_image is image
    assert new["pasted"].tolist() == [False, False]
    marked = {**empty_target(1), "pasted": np.array([True])}
    assert never(image, marked, np.random.default_rng(0))[1]["pasted"].tolist() == [True]
    once = RarePaste(bank, probability=1, max_pastes=1)
    assert once(image, marked, np.random.default_rng(0))[1]["pasted"].tolist() == [True, True]


def test_a_full_image_gets_nothing_and_the_log_says_so_once(bank, caplog):
    paste = RarePaste(bank, probability=1, max_pastes=1)
    image = np.zeros((90, 90, 3), np.uint8)
    target = empty_target(1)
    target["boxes"][:] = [0, 0, 90, 90]
    generator = np.random.default_rng(0)
    with caplog.at_level(logging.WARNING):
        for _ in range(_PATIENCE - 1):
            new_image, new = paste(image, target, generator)
            assert new_image is image
            assert len(new["boxes"]) == 1
        assert caplog.text == ""
        for _ in range(_PATIENCE):
            paste(image, target, generator)
    assert caplog.text.count("found no place") == 1


def test_a_donor_larger_than_the_image_shrinks_within_the_scale_or_stays_out(tmp_path):
    annotations = write(tmp_path, [(0, 1, (10, 10, 60, 40), 0)])
    bank = DonorBank(annotations, tmp_path, classes=["a"], margin=0)
    image = np.zeros((40, 40, 3), np.uint8)
    fits = RarePaste(bank, probability=1, max_pastes=1, scale=(0.5, 2))
    generator = np.random.default_rng(0)
    assert all(len(fits(image, empty_target(), generator)[1]["boxes"]) == 1 for _ in range(9))
    never = RarePaste(bank, probability=1, max_pastes=1, scale=(0.8, 2))
    assert all(len(never(image, empty_target(), generator)[1]["boxes"]) == 0 for _ in range(9))


@pytest.mark.parametrize("nothing", [{"probability": 0}, {"max_pastes": 0}])
def test_a_paste_that_can_do_nothing_says_so(bank, caplog, nothing):
    with caplog.at_level(logging.WARNING):
        paste = RarePaste(bank, **nothing)
    assert "nothing is ever pasted" in caplog.text
    image = np.zeros((90, 90, 3), np.uint8)
    assert paste(image, empty_target(), np.random.default_rng(0))[0] is image


@pytest.mark.parametrize(
    "name", ["probability", "max_pastes", "feather", "tries", "context_places"]
)
def test_paste_values_out_of_range_are_refused(bank, name):
    with pytest.raises(ValueError, match=rf"RarePaste: {name} is -1\. Expected"):
        RarePaste(bank, **{name: -1})
    with pytest.raises(ValueError, match="RarePaste: scale is"):
        RarePaste(bank, scale=(2, 1))
