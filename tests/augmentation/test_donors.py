"""Donors: which boxes are taken, how often they are drawn, and their pixels."""

from __future__ import annotations

import json
import logging
import pickle
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("cv2")

import cv2
from donor_sets import SIDE, pixels_of, write

from detbalance.augmentation import DonorBank, donors
from detbalance.augmentation.cutting import segmentation_mask
from detbalance.augmentation.donor_choice import choose_donors, seen_regions, typical_sizes
from detbalance.augmentation.donors import UnreadableDonor
from detbalance.data import load_annotations
from detbalance.data.images import read_image


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
    assert bank.crop(7).image.base is None  # it does not keep all of the image in memory
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


# The choice, against pairs of boxes one by one


def annotations_of(tmp_path, seed):
    """Random boxes in 5 images, one of them of unknown size."""
    generator = np.random.default_rng(seed)
    coco = {"images": [], "annotations": [], "categories": []}
    for image in range(5):
        coco["images"].append({"id": image, "file_name": f"{image}.png"})
        if image:
            coco["images"][-1] |= {"width": 90, "height": 60}
        for _ in range(generator.integers(0, 7)):
            x, y = generator.uniform(0, (70, 45))
            coco["annotations"].append(
                {"id": len(coco["annotations"]), "image_id": image, "area": 1,
                 "category_id": int(generator.integers(1, 4)),
                 "bbox": [x, y, *generator.uniform(1, 40, 2)],
                 "iscrowd": int(generator.random() < 0.15)}
            )  # fmt: skip
    coco["categories"] = [{"id": n, "name": str(n)} for n in range(1, 5)]
    path = tmp_path / "random.json"
    path.write_text(json.dumps(coco))
    return load_annotations(path)


@given(seed=st.integers(0, 2**32), few=st.booleans())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_choice_is_that_of_a_loop_over_pairs(tmp_path, seed, few):
    data = annotations_of(tmp_path, seed)
    with pytest.MonkeyPatch.context() as patch:
        if few:  # many parts of few pairs each
            patch.setattr("detbalance.augmentation.donor_choice._PAIRS", 3)
        choice = choose_donors(data, np.array([1, 3]), min_size=12, max_overlap=0.2)
    rows, small, overlapping = [], np.zeros(5, int), np.zeros(5, int)
    areas = (data.boxes[:, 2:] - data.boxes[:, :2]).astype(float).prod(axis=1)
    for n in range(data.num_annotations):
        if data.labels[n] not in (1, 3) or data.is_crowd[n]:
            continue
        if np.sqrt(areas[n]) < 12:
            small[data.labels[n]] += 1
            continue
        shares = [0.0]
        for m in range(data.num_annotations):
            if m != n and data.image_index[m] == data.image_index[n]:
                low = np.maximum(data.boxes[n, :2], data.boxes[m, :2])
                high = np.minimum(data.boxes[n, 2:], data.boxes[m, 2:])
                shared = np.clip(high - low, 0, None).astype(float).prod()
                shares.append(shared / min(areas[n], areas[m]))
        if max(shares) > 0.2:
            overlapping[data.labels[n]] += 1
        else:
            rows.append(n)
    assert choice.rows.tolist() == sorted(rows, key=lambda n: data.labels[n])
    assert choice.small.tolist() == small.tolist()
    assert choice.overlapping.tolist() == overlapping.tolist()
    own = ~data.is_crowd
    assert choice.boxes.tolist() == [
        int((data.labels[own] == c).sum()) * (c in (1, 3)) for c in range(5)
    ]
    sizes, regions = typical_sizes(data), seen_regions(data)
    assert sizes.shape == (5,)
    for label in range(5):
        mine = own & (data.labels == label)
        if not mine.any():
            assert np.isnan(sizes[label])
        else:
            assert np.isclose(sizes[label], np.median(np.sqrt(areas[mine])))
        mine &= data.image_index > 0
        if not mine.any():
            assert np.isnan(regions[label]).all()
            continue
        middles = (data.boxes[mine, :2] + data.boxes[mine, 2:]) / 2 / (90, 60)
        expected = [*(middles.min(axis=0) - 0.1), *(middles.max(axis=0) + 0.1)]
        assert np.allclose(regions[label], np.clip(expected, 0, 1), atol=1e-6)


# Masks and depth

TRIANGLE = [[12, 10, 30, 10, 12, 34]]
HOOK = [[50, 50, 70, 50, 70, 54, 50, 54], [50, 50, 54, 50, 54, 70, 50, 70]]


def ring(side=SIDE):
    """Run lengths of a frame around 20..40 x 45..60."""
    mask = np.zeros((side, side), bool)
    mask[45:60, 20:40] = True
    mask[48:57, 24:36] = False
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [side, side], "counts": np.diff([0, *changes, flat.size]).tolist()}


def with_masks(folder, **options):
    boxes = [
        (0, 1, (12, 10, 18, 24), 0),
        (0, 2, (50, 50, 20, 20), 0),
        (0, 3, (20, 45, 20, 15), 0),
        (0, 1, (60, 5, 12, 12), 0),
        (0, 1, (40, 5, 12, 12), 0),
    ]
    full = [[60, 5, 72, 5, 72, 17, 60, 17]]
    return write(folder, boxes, segmentations=[TRIANGLE, HOOK, ring(), full, []], **options)


def test_masks_are_those_of_the_file_where_the_crop_is(tmp_path):
    data = with_masks(tmp_path)
    bank = DonorBank(data, tmp_path, classes=["a", "b", "c"])
    segmentations = dict(enumerate([TRIANGLE, HOOK, ring()]))
    found = 0
    for number, row in enumerate(bank._rows.tolist()):
        donor = bank.crop(number)
        if row not in segmentations:  # one fills its box, one has none
            assert donor.mask is None
            continue
        left, top = np.round(data.boxes[row, :2] - donor.box[:2]).astype(int)
        height, width = donor.image.shape[:2]
        whole = segmentation_mask(segmentations[row], SIDE, SIDE)
        assert np.array_equal(donor.mask, whole[top : top + height, left : left + width])
        assert donor.mask.sum() == whole.sum()
        found += 1
    assert found == 3
    plain = DonorBank(data, tmp_path, classes=["a", "b", "c"], masks=False)
    assert all(plain.crop(number).mask is None for number in range(5))


def test_sixteen_bits_are_kept(tmp_path):
    data = write(tmp_path, [(0, 1, (30, 30, 20, 16), 0)], depth=np.uint16)
    donor = DonorBank(data, tmp_path, classes=["a"], margin=0).crop(0)
    source = cv2.imread(str(tmp_path / "0.png"), cv2.IMREAD_UNCHANGED)
    assert donor.image.dtype == np.uint16
    assert np.array_equal(donor.image, source[30:46, 30:50, ::-1])


# Images that cannot be read


def test_an_unreadable_image_is_named_once_and_not_opened_again(tmp_path, caplog, monkeypatch):
    boxes = [(n, 1, (9 + 30 * k, 9, 20, 20), 0) for n in range(3) for k in range(2)]
    data = write(tmp_path, boxes)
    (tmp_path / "1.png").write_bytes(b"not an image")
    opened = []
    original = read_image
    monkeypatch.setattr(
        donors, "read_image", lambda path, **depth: opened.append(path) or original(path, **depth)
    )
    bank = DonorBank(data, tmp_path, classes=["a"])
    with caplog.at_level(logging.WARNING):
        for number in (2, 3, 2, 3):
            with pytest.raises(UnreadableDonor, match=r"1.png: the image cannot be read"):
                bank.crop(number)
    assert len(opened) == 1
    assert caplog.text.count("1.png") == 1
    bank.crop(0), bank.crop(5)
    # What is drawn does not depend on it.
    fresh = DonorBank(data, tmp_path, classes=["a"])
    draws = [[one.draw(np.random.default_rng(s)) for s in range(40)] for one in (bank, fresh)]
    assert draws[0] == draws[1]


def test_one_donor_outside_of_a_small_image_says_nothing_of_the_others(tmp_path):
    data = write(tmp_path, [(0, 1, (9, 9, 20, 20), 0), (0, 1, (60, 60, 15, 15), 0)], sizes=False)
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((40, 40, 3), np.uint8))
    bank = DonorBank(data, tmp_path, classes=["a"])
    for _ in range(2):
        with pytest.raises(UnreadableDonor, match="annotation 2 lies outside"):
            bank.crop(1)
    assert bank.crop(0).box.tolist() == [4, 4, 24, 24]


# Folders of PNG files


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


@pytest.fixture
def made(tmp_path):
    """Two files of class b, one of c with an alpha channel, in sub-folders."""
    generator = np.random.default_rng(3)
    folder = tmp_path / "made"
    save(folder / "b/1.png", generator.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    save(folder / "b/2.PNG", generator.integers(0, 65536, (16, 16), dtype=np.uint16))
    pixels = generator.integers(0, 256, (24, 24, 4), dtype=np.uint8)
    pixels[..., 3] = 127
    pixels[6:16, 4:20, 3] = 128
    pixels[6:10, 4:8, 3] = 0
    save(folder / "c/1.png", pixels)
    (folder / "c/notes.txt").write_text("no image")
    (folder / "empty").mkdir()
    return folder


def test_files_of_sub_folders_are_donors_of_the_usual_size(annotations, folder, made):
    bank = DonorBank(annotations, folder, classes=["a", "b", "c"], folders=[made])
    assert np.bincount(bank.labels).tolist() == [0, 8, 6, 3]
    first, second, third = (bank.crop(number) for number in (14, 15, 16))
    rgb = cv2.imread(str(made / "b/1.png"))[..., ::-1]
    assert np.array_equal(first.image, rgb)
    assert first.box.tolist() == [0, 0, 30, 20]
    assert first.mask is None
    usual = np.sqrt(12.5 * 18.25)
    assert np.isclose(first.resize * np.sqrt(600), usual)
    assert second.image.dtype == np.uint16
    grey = cv2.imread(str(made / "b/2.PNG"), cv2.IMREAD_UNCHANGED)
    assert all(np.array_equal(second.image[..., c], grey) for c in range(3))
    alpha = cv2.imread(str(made / "c/1.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(third.mask, alpha[..., 3] >= 128)
    assert third.box.tolist() == [4, 6, 20, 16]
    assert third.area == third.mask.sum() == 144
    visible = third.mask
    assert np.array_equal(third.image[visible], alpha[..., 2::-1][visible])
    beside = third.image[5, 8:20].astype(float)  # the mean of what is visible near it
    assert (np.abs(beside - 127) < 60).all()
    assert {bank.crop(n).label for n in range(len(bank))} == {1, 2, 3}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_the_folders_is_kept_where_a_class_has_both(annotations, folder, made, share):
    bank = DonorBank(
        annotations, folder, classes=["a", "b"], power=0, folders=[made], folder_share=share
    )
    generator = np.random.default_rng(0)
    drawn = np.array([bank.draw(generator) for _ in range(3000)])
    assert abs((bank.labels[drawn] == 2).mean() - 0.5) < 0.04
    of_b = drawn[bank.labels[drawn] == 2]
    assert abs((of_b >= 12).mean() - share) < 0.05
    assert set(drawn[bank.labels[drawn] == 1]) == set(range(8))
    if share == 0.3:
        assert set(of_b) == {8, 9, 10, 11, 12, 13}


def test_a_class_without_boxes_may_come_from_a_folder(tmp_path, made):
    images = tmp_path / "images"
    images.mkdir()
    data = write(images, [(n, 1, (5, 5, 20, 20), 0) for n in range(4)])
    bank = DonorBank(data, images, folders=[made])  # by default what is rare or common
    assert set(bank.labels) == {2, 3}
    assert bank.probabilities.tolist() == [0, 0, 0.5, 0.5]
    assert bank.crop(0).resize == pytest.approx(20 / np.sqrt(600))  # the usual size of all boxes
    assert set(DonorBank(data, images, classes=["c"], folders=[made]).labels) == {3}
    with pytest.raises(ValueError, match="no class is rare or common"):
        DonorBank(data, images)


def test_a_folder_with_a_list_has_the_classes_and_boxes_of_it(annotations, folder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for name in ("x/1.png", "x/2.png", "x/3.png"):
        save(tmp_path / "made" / name, pixels)
    index = {"format": "detbalance.donors/1", "provenance": {"by": "hand"}, "crops": [
        {"file": "x/2.png", "class": "c", "box": [5, 4, 25, 16]},
        {"file": "x/1.png", "class": "a"},
    ]}  # fmt: skip
    (tmp_path / "made/donors.json").write_text(json.dumps(index))
    bank = DonorBank(annotations, folder, classes=["a", "c"], folders=[tmp_path / "made"])
    assert bank.labels.tolist() == [1] * 8 + [3] * 2 + [1, 3]
    assert bank.crop(10).box.tolist() == [0, 0, 30, 20]
    listed = bank.crop(11)
    assert listed.box.tolist() == [5, 4, 25, 16]
    assert listed.image.shape == (20, 30, 3)
    assert listed.resize == pytest.approx(np.sqrt(200) / np.sqrt(240))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other/1"}, r"\"format\" is 'other/1'. Expected \"detbalance.donors/1\""),
        ({"crops": None}, r'"crops" is no list'),
        ({"crops": [{"file": "1.png"}]}, r'crop 0 has no "file" or "class"'),
        ({"crops": [{"file": "../1.png", "class": "a"}]}, r'"file" is "../1.png"'),
        ({"crops": [{"file": "1.png", "class": "a", "box": [5, 0, 5, 9]}]}, r"crop 0: \"box\" is"),
        ({"crops": [{"file": "1.png", "class": "a", "box": [0, 0, 31, 9]}]}, r"has 30 x 20 pixels"),
        ({"crops": [{"file": "1.png", "class": "aa"}]}, r'"aa" \(nearest: "a"\)'),
        ({"crops": []}, r"holds no donor"),
    ],
)
def test_a_list_that_is_wrong_is_refused(annotations, folder, tmp_path, change, message):
    save(tmp_path / "1.png", np.zeros((20, 30, 3), np.uint8))
    index = {"format": "detbalance.donors/1", "crops": [{"file": "1.png", "class": "a"}]}
    (tmp_path / "donors.json").write_text(json.dumps(index | change))
    with pytest.raises(ValueError, match=message):
        DonorBank(annotations, folder, classes=["a"], folders=[tmp_path])


def test_folders_that_are_missing_or_unknown_are_refused(annotations, folder, made, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: is no folder"):
        DonorBank(annotations, folder, folders=[tmp_path / "nowhere"])
    (made / "b").rename(made / "bb")
    (made / "c").rename(made / "zinc")
    with pytest.raises(ValueError, match=r'2 classes .*: "bb" \(nearest: "b"\), "zinc"'):
        DonorBank(annotations, folder, folders=[made])


def test_files_that_are_no_images_are_left_out_and_counted(annotations, folder, made, caplog):
    (made / "b/1.png").write_bytes(b"no image")
    (made / "b/3.png").write_bytes(b"")
    broken = (made / "b/2.PNG").read_bytes()
    (made / "b/4.png").write_bytes(broken[: len(broken) // 2])  # its header is sound
    with caplog.at_level(logging.WARNING):
        bank = DonorBank(annotations, folder, classes=["b"], folders=[made])
    assert "2 of 5 donors are no readable PNG files and left out (first: " in caplog.text
    assert "b/1.png" in caplog.text
    assert len(bank) == 6
    bank.crop(4)
    with pytest.raises(UnreadableDonor, match=r"4.png: the donor cannot be read \(it is truncated"):
        bank.crop(5)


def test_bad_pictures_in_a_donor_folder_are_said_in_words(annotations, folder, tmp_path, caplog):
    made = tmp_path / "made"
    save(made / "b/1.png", np.full((9, 9, 3), 90, np.uint8))
    data = bytearray((made / "b/1.png").read_bytes())
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (made / "b/huge.png").write_bytes(data)
    save(made / "b/wide.png", np.zeros((2, 900, 3), np.uint8))
    (made / "b" / "caf\udce9.png").write_bytes((made / "b/1.png").read_bytes())  # not UTF-8
    assert cv2.imwrite(str(made / "b/photo.jpg"), np.zeros((9, 9, 3), np.uint8))
    (made / "b/photo.jpg").rename(made / "b/photo.png")
    bank = DonorBank(annotations, folder, classes=["b"], folders=[made])
    assert "3 of 5 donors are no readable PNG files" in caplog.text
    for number in range(len(bank) - 2, len(bank)):
        assert (bank.crop(number).image == 90).all()


@pytest.mark.parametrize("box", [[0, 0, 10**400, 5], [0, 0, True, 5], [0, 0, float("nan"), 5]])
def test_boxes_of_a_listed_donor_that_are_none_are_refused(annotations, folder, tmp_path, box):
    save(tmp_path / "b/1.png", np.full((9, 9, 3), 90, np.uint8))
    crop = {"file": "b/1.png", "class": "b", "box": box}
    content = {"format": "detbalance.donors/1", "crops": [crop]}
    (tmp_path / "donors.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r'donors.json: crop 0: "box" is '):
        DonorBank(annotations, folder, classes=["b"], folders=[tmp_path])


def test_names_of_listed_donors_that_no_system_takes_are_left_out(annotations, folder, tmp_path):
    save(tmp_path / "b/1.png", np.full((9, 9, 3), 90, np.uint8))
    names = ("b/1.png", "b/\0.png", "b/\ud800.png", "b", "x" * 5000)
    crops = [{"file": name, "class": "b"} for name in names]
    content = {"format": "detbalance.donors/1", "crops": crops}
    (tmp_path / "donors.json").write_text(json.dumps(content))
    bank = DonorBank(annotations, folder, classes=["b"], folders=[tmp_path])
    assert len(bank) == 5


def test_a_transparent_file_shows_nothing(annotations, folder, tmp_path):
    save(tmp_path / "b/1.png", np.zeros((9, 9, 4), np.uint8))
    bank = DonorBank(annotations, folder, classes=["b"], folders=[tmp_path])
    with pytest.raises(UnreadableDonor, match="transparent"):
        bank.crop(4)


def test_folders_of_other_classes_are_said_to_be_of_no_use(annotations, folder, made, caplog):
    with caplog.at_level(logging.WARNING):
        bank = DonorBank(annotations, folder, classes=["a"], folders=[made])
    assert "donors of b, c, none of which is among the classes to paste (a)" in caplog.text
    assert len(bank) == 8
