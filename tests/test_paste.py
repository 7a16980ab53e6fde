"""Donors and pasting: which boxes are taken, where they go, and what stays untouched."""

from __future__ import annotations

import json
import logging
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detbalance.annotations import load_annotations
from detbalance.augmentation import DonorBank, RarePaste, donors
from detbalance.augmentation.paste import _PATIENCE
from detbalance.images import read_image

cv2 = pytest.importorskip("cv2")

SIDE = 80


def write(folder, boxes, *, num_images=None, names=("a", "b", "c"), side=SIDE, sizes=True):
    """Write images of noise and a COCO file; boxes are (image, label, xywh, crowd)."""
    generator = np.random.default_rng(11)
    num_images = num_images or max(image for image, *_ in boxes) + 1
    images = []
    for index in range(num_images):
        pixels = generator.integers(0, 256, size=(side, side, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), pixels)
        images.append({"id": index, "file_name": f"{index}.png"})
        if sizes:
            images[-1] |= {"width": side, "height": side}
    annotations = [
        {"id": n + 1, "image_id": image, "category_id": label, "bbox": list(bbox),
         "area": 0.5 * bbox[2] * bbox[3], "iscrowd": int(crowd)}
        for n, (image, label, bbox, crowd) in enumerate(boxes)
    ]  # fmt: skip
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(names)]
    path = folder / "train.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return load_annotations(path)


def pixels_of(folder, index):
    return cv2.cvtColor(cv2.imread(str(folder / f"{index}.png")), cv2.COLOR_BGR2RGB)


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


def empty_target(number=0):
    return {
        "boxes": np.zeros((number, 4), np.float32),
        "labels": np.zeros(number, np.int64),
        "areas": np.zeros(number),
        "is_crowd": np.zeros(number, bool),
    }


# Donors


def test_donors_are_all_boxes_of_the_classes_but_no_crowd(annotations, folder, bank):
    assert np.bincount(bank.labels).tolist() == [0, 8, 4, 2]
    assert len(DonorBank(annotations, folder, classes=["c", "b"])) == 6


def test_by_default_rare_and_common_classes_are_donors(annotations, folder):
    assert set(DonorBank(annotations, folder).labels) == {2, 3}


@pytest.mark.parametrize("power", [0, 0.5, 1])
def test_classes_are_drawn_by_a_power_of_their_image_count(annotations, folder, power):
    bank = DonorBank(annotations, folder, classes=["a", "b", "c"], power=power)
    weights = np.array([8, 4, 2]) ** -float(power)
    expected = weights / weights.sum()
    assert np.allclose(bank.probabilities, [0, *expected])
    generator = np.random.default_rng(0)
    drawn = [bank.draw(generator) for _ in range(4000)]
    shares = np.bincount(bank.labels[drawn], minlength=4)[1:] / 4000
    assert np.allclose(shares, expected, atol=4 * np.sqrt(0.25 / 4000))
    assert set(drawn) == set(range(len(bank)))


def test_a_crop_has_the_pixels_of_its_source(annotations, folder, bank):
    seen = set()
    for number in range(len(bank)):
        donor = bank.crop(number)
        row = bank._rows[number]
        source = pixels_of(folder, annotations.image_index[row])
        box = annotations.boxes[row]
        left, top = np.round(box[:2] - donor.box[:2]).astype(int)
        height, width = donor.image.shape[:2]
        assert np.array_equal(donor.image, source[top : top + height, left : left + width])
        assert np.allclose(donor.box + np.array([left, top, left, top]), box)
        wide = 0.2 * (box[2] - box[0])  # the margin, but not beyond the image
        assert left == max(0, np.floor(box[0] - wide))
        assert left + width == min(SIDE, np.ceil(box[2] + wide))
        assert donor.label == annotations.labels[row]
        assert donor.area == annotations.areas[row]
        seen.add(row)
    assert len(seen) == len(bank)


def test_boxes_that_are_small_or_share_their_place_are_no_donors(tmp_path):
    boxes = [
        (0, 1, (5, 5, 20, 20), 0),
        (0, 2, (8, 8, 5, 5), 0),  # lies inside of the first
        (0, 1, (50, 50, 20, 20), 0),
        (0, 2, (68, 50, 10, 20), 0),  # a fifth of it lies in the one before
        (0, 3, (40, 5, 7, 9), 0),  # 7.9 px
        (0, 3, (40, 20, 7, 10), 0),  # 8.4 px
        (1, 1, (5, 5, 20, 20), 0),
        (1, 2, (5, 5, 20, 20), 1),  # a crowd region counts like any other box
    ]
    annotations = write(tmp_path, boxes)
    bank = DonorBank(annotations, tmp_path, classes=["a", "b", "c"], max_overlap=0.25)
    assert sorted(bank._rows) == [2, 3, 5]
    every = DonorBank(annotations, tmp_path, classes=["a"], max_overlap=1)
    assert len(every) == 3


def test_cutouts_are_kept_within_the_budget(annotations, folder, monkeypatch):
    opened = []
    original = read_image
    monkeypatch.setattr(
        donors, "read_image", lambda path, **depth: opened.append(path) or original(path, **depth)
    )
    bank = DonorBank(annotations, folder, classes=["a"], cache_megabytes=3000 / 2**20)
    assert opened == []  # nothing is read before it is used
    size = bank.crop(7).image.nbytes
    assert 1000 < size < 1500  # two fit, three do not
    for number in (0, 0, 1, 1, 0, 2, 0, 1):
        bank.crop(number)
    assert [int(path.stem) for path in opened] == [7, 0, 1, 2, 1]
    assert bank._cached_bytes == sum(c.image.nbytes for c in bank._cache.values()) <= 3000
    assert not pickle.loads(pickle.dumps(bank))._cache
    none = DonorBank(annotations, folder, classes=["a"], cache_megabytes=0)
    none.crop(0)
    assert not none._cache


def test_no_donors_is_an_error_with_the_classes_and_the_limits(annotations, folder):
    with pytest.raises(
        ValueError, match=r"train.json: no box can be pasted.*\(b, c\).*6 are smaller"
    ):
        DonorBank(annotations, folder, classes=["b", "c"], min_size=40)


def test_equal_counts_name_no_class_to_paste(tmp_path):
    annotations = write(tmp_path, [(0, c, (20 * c, 5, 12, 12), 0) for c in (1, 2, 3)])
    with pytest.raises(ValueError, match=r"no class is rare or common.*Name the classes"):
        DonorBank(annotations, tmp_path)


def test_an_unknown_class_is_refused(annotations, folder):
    with pytest.raises(ValueError, match='"bb"'):
        DonorBank(annotations, folder, classes=["a", "bb"])


def test_one_string_is_no_list_of_classes(annotations, folder):
    with pytest.raises(TypeError, match=r'classes is "ab".*\["ab"\]'):
        DonorBank(annotations, folder, classes="ab")


def test_a_class_without_donors_is_named_in_the_log(annotations, folder, caplog):
    with caplog.at_level(logging.WARNING):
        DonorBank(annotations, folder, classes=["b", "c"], min_size=14.5)
    assert "1 of the 2 classes to paste have no box that can be pasted (c)" in caplog.text


@pytest.mark.parametrize("name", ["power", "margin", "min_size", "max_overlap", "cache_megabytes"])
def test_values_out_of_range_are_refused(annotations, folder, name):
    with pytest.raises(ValueError, match=rf"DonorBank: {name} is -1"):
        DonorBank(annotations, folder, **{name: -1})


def test_missing_and_broken_images_are_named(tmp_path):
    annotations = write(tmp_path, [(n, 1, (9, 9, 30, 30), 0) for n in range(4)], sizes=False)
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(b"not an image")
    (tmp_path / "2.png").write_bytes(b"")
    cv2.imwrite(str(tmp_path / "3.png"), np.zeros((8, 8, 3), np.uint8))
    bank = DonorBank(annotations, tmp_path, classes=["a"], margin=0)
    for number, problem in enumerate(
        (r"0.png: the image cannot be read", r"1.png: .* cannot be read",
         r"2.png: .* cannot be read", r"3.png: annotation 4 lies outside .* 8 x 8 pixels")
    ):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            bank.crop(number)


def test_a_box_beyond_an_image_of_unknown_size_is_cut(tmp_path):
    annotations = write(tmp_path, [(0, 1, (60, 60, 40, 40), 0)], sizes=False)
    donor = DonorBank(annotations, tmp_path, classes=["a"]).crop(0)
    height, width = donor.image.shape[:2]
    assert donor.box.tolist() == [width - 20, height - 20, width, height]


def test_classes_without_boxes_are_not_missed_by_default(tmp_path, caplog):
    boxes = [(n, 1, (5, 5, 20, 20), 0) for n in range(6)] + [(0, 2, (40, 5, 20, 20), 0)]
    annotations = write(tmp_path, boxes)
    with caplog.at_level(logging.WARNING):
        bank = DonorBank(annotations, tmp_path)
    assert set(bank.labels) == {2}
    assert caplog.text == ""


# Pasting


@given(seed=st.integers(0, 2**32), number=st.integers(0, 6), flip=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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


@pytest.mark.parametrize("name", ["probability", "max_pastes", "feather", "tries"])
def test_paste_values_out_of_range_are_refused(bank, name):
    with pytest.raises(ValueError, match=rf"RarePaste: {name} is -1\. Expected"):
        RarePaste(bank, **{name: -1})
    with pytest.raises(ValueError, match="RarePaste: scale is"):
        RarePaste(bank, scale=(2, 1))
