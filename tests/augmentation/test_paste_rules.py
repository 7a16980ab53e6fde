"""The rules of pasting, each looked at from outside: image and target before and after."""

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
from detbalance.augmentation.cutting import mask_box, segmentation_mask
from detbalance.augmentation.paste import _PATIENCE, OUTCOMES

CODE = {name: code for code, name in enumerate(OUTCOMES)}
TRIANGLE = [[12, 10, 30, 10, 12, 34]]
# Where the middles of the classes are, as parts of the image: a left, b right, c in the middle.
BOXES = {1: (12, 10, 18, 24), 2: (60, 40, 10, 14), 3: (30, 50, 22, 8)}
SIZES = {label: np.sqrt(w * h) for label, (_, _, w, h) in BOXES.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def data(folder):
    boxes = [(image, label, bbox, 0) for image in range(3) for label, bbox in BOXES.items()]
    return write(folder, boxes, segmentations=[TRIANGLE, [], []] * 3)


@pytest.fixture(scope="module")
def bank(data, folder):
    """All donors of a class have the same box; those of class a have a mask."""
    return DonorBank(data, folder, classes=["a", "b", "c"])


def scene(generator, number, depth=np.uint8, shape=(90, 140), masks=False):
    """Noise with boxes, some of them crowd regions, and masks that are ellipses in them."""
    highest = int(np.iinfo(depth).max)
    image = generator.integers(0, highest, (*shape, 3), dtype=depth, endpoint=True)
    target = empty_target(number)
    low = generator.uniform(0, np.maximum((shape[1] - 30, shape[0] - 30), 0), size=(number, 2))
    sides = np.exp(generator.uniform(0, np.log(30), size=(number, 2)))
    target["boxes"][:] = np.concatenate([low, low + sides], axis=1)
    target["areas"][:] = sides.prod(axis=1)
    target["labels"][:] = generator.integers(1, 4, size=number)
    target["is_crowd"][:] = generator.random(number) < 0.2
    target["extra"] = generator.random((number, 2))
    for name in ("negative_labels", "not_exhaustive_labels"):
        target[name] = np.flatnonzero(generator.random(4) < 0.25) * (generator.random() < 0.5)
        target[name] = np.unique(target[name][target[name] > 0])
    if masks:
        target["masks"] = np.zeros((number, *shape), bool)
        y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
        for mask, box in zip(target["masks"], target["boxes"], strict=True):
            (cx, cy), (w, h) = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
            mask[:] = ((x - cx) / w) ** 2 + ((y - cy) / h) ** 2 <= 0.25
            mask[int(cy), int(cx)] = True
    return image, target


def frozen(image, target):
    return image.copy(), {name: values.copy() for name, values in target.items()}


def overlap(box, others):
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return np.clip(sides, 0, None).prod(axis=1)


RULES = st.fixed_dictionaries(
    {
        "may_cover": st.sampled_from([0.0, 0.0, 0.3, 1.0]),
        "max_covered": st.sampled_from([0.0, 0.7, 1.0]),
        "match_scale": st.booleans(),
        "seen_region": st.booleans(),
        "flip": st.booleans(),
        "blending": st.sampled_from(["feather", "feather", "seamless"]),
        "feather": st.sampled_from([0.0, 0.4, 1.0]),
        "scale": st.sampled_from([(1, 1), (0.5, 2)]),
    }
)


@given(
    seed=st.integers(0, 2**32),
    rules=RULES,
    number=st.integers(0, 6),
    depth=st.sampled_from([np.uint8, np.uint16]),
    masks=st.booleans(),
    shape=st.sampled_from([(90, 140), (90, 140), (40, 200), (12, 12), (1, 1)]),
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_every_paste_keeps_to_every_rule(bank, seed, rules, number, depth, masks, shape):
    generator = np.random.default_rng(seed)
    if min(shape) < 40:
        number = 0
    image, target = scene(generator, number, depth, shape, masks)
    kept_image, kept = frozen(image, target)
    paste = RarePaste(bank, probability=1, max_pastes=4, tries=20, **rules)
    state = generator.bit_generator.state
    new_image, new = paste(image, target, generator)
    # Nothing that was passed in is changed, and the same draws give the same.
    assert np.array_equal(image, kept_image)
    assert all(np.array_equal(target[name], kept[name]) for name in kept)
    again = np.random.default_rng()
    again.bit_generator.state = state
    image_again, new_again = paste(image, target, again)
    assert np.array_equal(new_image, image_again)
    assert all(np.array_equal(new[name], new_again[name]) for name in new)
    assert new_image.dtype == depth
    assert new_image.shape == image.shape
    # Every paste that was asked for is told.
    labels, codes = new["pastes"].T
    assert 1 <= len(codes) <= 4
    placed = int((codes == CODE["placed"]).sum())
    added = new["pasted"].nonzero()[0]
    assert new["labels"][added].tolist() == labels[codes == CODE["placed"]].tolist()
    assert added.tolist() == list(range(len(new["boxes"]) - placed, len(new["boxes"])))
    assert (paste.counts.sum(axis=1) / 2 == np.bincount(labels, minlength=4)).all()
    # Rows stay in step.
    alone = {"negative_labels", "not_exhaustive_labels", "pastes"}
    assert {len(v) for name, v in new.items() if name not in alone} == {len(new["boxes"])}
    assert all(new[name].dtype == target[name].dtype for name in target)
    # LVIS's lists.
    closed = np.isin(labels, target["not_exhaustive_labels"])
    assert (codes[closed] == CODE["not_exhaustive"]).all()
    assert not (codes[~closed] == CODE["not_exhaustive"]).any()
    assert not np.isin(new["negative_labels"], labels[codes == 0]).any()
    assert set(target["negative_labels"]) - set(labels[codes == 0]) == set(new["negative_labels"])
    if not rules["seen_region"]:
        assert not (codes == CODE["outside_region"]).any()
    old = target["boxes"].astype(float)
    old_areas = (old[:, 2:] - old[:, :2]).prod(axis=1)
    crowd = old[target["is_crowd"]]
    low, high = rules["scale"]
    height, width = shape
    for row in added:
        box, label = new["boxes"][row].astype(float), int(new["labels"][row])
        assert (box[:2] >= 0).all()
        assert (box[2:] <= (width, height)).all()
        assert not new["is_crowd"][row]
        others = new["boxes"][added[added != row]].astype(float)
        assert (overlap(box, others) < 1e-6).all()
        assert (overlap(box, crowd) < 1e-6).all()
        covered = overlap(box, old[~target["is_crowd"]])
        assert (covered <= rules["may_cover"] * old_areas[~target["is_crowd"]] + 1e-3).all()
        if rules["seen_region"]:
            region = bank.seen_regions[label]
            middle = (box[:2] + box[2:]) / 2 / (width, height)
            slack = 1.5 / np.array([width, height])  # of the mask's box after resizing
            assert (middle >= region[:2] - slack).all()
            assert (middle <= region[2:] + slack).all()
        size = np.sqrt((box[2:] - box[:2]).prod())
        limits = (0.5, 2) if rules["match_scale"] and number else (1, 1)
        assert low * limits[0] * SIZES[label] - 2 <= size <= high * limits[1] * SIZES[label] + 2
    # Pixels change near pasted boxes only, and never in crowd regions.
    changed = (new_image != image).any(axis=2)
    allowed = np.zeros(shape, bool)
    for left, top, right, bottom in new["boxes"][added]:
        wide, tall = 0.2 * (right - left) + 4, 0.2 * (bottom - top) + 4
        rows = slice(max(0, int(top - tall)), int(bottom + tall) + 1)
        allowed[rows, max(0, int(left - wide)) : int(right + wide) + 1] = True
    untouched = crowd if rules["may_cover"] else old
    for left, top, right, bottom in untouched:
        allowed[int(np.ceil(top)) : int(bottom), int(np.ceil(left)) : int(right)] = False
    assert not (changed & ~allowed).any()
    if placed == 0:
        assert new_image is image
    if not masks and not rules["may_cover"]:
        assert np.array_equal(new["boxes"][:number], target["boxes"])
        assert np.array_equal(new["is_crowd"][:number], target["is_crowd"])
    if masks:
        assert new["masks"].shape[1:] == shape
        for row in range(len(new["boxes"]) - placed):
            assert new["masks"][row].any()
            # No pixel of an old object is also one of a pasted object.
            assert not (new["masks"][row] & new["masks"][added].any(axis=0)).any()
        for row in added:
            box, mask = new["boxes"][row], new["masks"][row]
            tight = mask_box(mask)
            assert (np.abs(tight - box) < 1).all()
            if new["labels"][row] == 1:  # those have a mask: to the pixel
                assert np.array_equal(tight, box)
                assert 0.3 < mask.sum() / (box[2:] - box[:2]).prod() < 0.85


def test_probability_zero_is_the_identity(bank):
    image, target = scene(np.random.default_rng(0), 3, masks=True)
    new_image, new = RarePaste(bank, probability=0)(image, target, np.random.default_rng(0))
    assert new_image is image
    assert new["pastes"].shape == (0, 2)
    assert new["pastes"].dtype == np.int64
    assert all(new[name] is target[name] for name in target)


def test_rows_of_earlier_pastes_are_kept(bank):
    target = {**empty_target(), "pastes": np.array([[2, 1]])}
    image = np.zeros((90, 140, 3), np.uint8)
    _, new = RarePaste(bank, probability=1, max_pastes=1)(image, target, np.random.default_rng(0))
    assert new["pastes"][0].tolist() == [2, 1]
    assert len(new["pastes"]) == 2


# The size follows the place


def sizes_at(bank, target, *, tries=1, shape=(400, 400), seeds=60, **options):
    paste = RarePaste(bank, probability=1, max_pastes=1, scale=(1, 1), tries=tries, **options)
    image = np.zeros((*shape, 3), np.uint8)
    found = []
    for seed in range(seeds):
        _, new = paste(image, target, np.random.default_rng(seed))
        if new["pasted"].any():
            box = new["boxes"][-1]
            ratio = np.sqrt((box[2:] - box[:2]).prod()) / SIZES[int(new["labels"][-1])]
            found.append([*(box[:2] + box[2:]) / 2, ratio])
    return np.array(found)


@pytest.mark.parametrize(("zoom", "expected"), [(1, 1), (1.5, 1.5), (0.7, 0.7), (5, 2), (0.1, 0.5)])
def test_objects_larger_than_usual_make_the_donor_larger(bank, zoom, expected):
    target = empty_target(2)
    target["labels"][:] = [1, 2]
    for box, label, corner in zip(target["boxes"], (1, 2), ((0, 0), (360, 360)), strict=True):
        _, _, w, h = BOXES[label]
        box[:] = [*corner, corner[0] + zoom * w, corner[1] + zoom * h]
    ratios = sizes_at(bank, target)[:, 2]
    assert len(ratios) > 30
    assert np.allclose(ratios, expected, rtol=0.06)
    assert np.allclose(sizes_at(bank, target, match_scale=False)[:, 2], 1, rtol=0.06)


def test_near_objects_count_more_and_crowd_regions_not_at_all(bank):
    target = empty_target(3)
    target["labels"][:] = 1
    side = SIZES[1]
    target["boxes"][:] = [
        [0, 180, side / 2, 180 + side / 2],
        [400 - 2 * side, 180, 400, 180 + 2 * side],
        [150, 0, 250, 99],
    ]
    target["is_crowd"][2] = True
    found = sizes_at(bank, target)
    left, right = found[found[:, 0] < 120, 2], found[found[:, 0] > 280, 2]
    assert len(left) > 8
    assert len(right) > 8
    assert left.max() < 1 < right.min()
    # Against the formula, in a loop.
    diagonal = np.hypot(400, 400)
    for x, y, ratio in found:
        weights, logs = [], []
        for box in target["boxes"][:2].astype(float):
            middle = (box[:2] + box[2:]) / 2
            weights.append(1 / (np.hypot(x - middle[0], y - middle[1]) + diagonal / 10))
            logs.append(np.log(np.sqrt((box[2:] - box[:2]).prod()) / side))
        assert np.isclose(ratio, np.exp(np.average(logs, weights=weights)), rtol=0.1)


def test_an_unusually_large_donor_comes_back_to_what_is_usual_at_the_place(tmp_path):
    boxes = [(0, 1, (5, 5, 16, 16), 0), (1, 1, (5, 5, 16, 16), 0), (2, 1, (5, 5, 28, 28), 0)]
    bank = DonorBank(write(tmp_path, boxes), tmp_path, classes=["a"])
    target = empty_target(1)
    target["labels"][:], target["boxes"][:] = 1, [0, 0, 16, 16]
    image = np.zeros((200, 200, 3), np.uint8)
    paste = RarePaste(bank, probability=1, max_pastes=1, scale=(1, 1))
    for seed in range(20):
        _, new = paste(image, target, np.random.default_rng(seed))
        assert np.allclose(new["boxes"][1, 2:] - new["boxes"][1, :2], 16, atol=1.5)


def test_donors_of_folders_come_in_the_usual_size(data, folder, tmp_path):
    (tmp_path / "b").mkdir()
    cv2.imwrite(str(tmp_path / "b/1.png"), np.full((200, 200, 3), 99, np.uint8))
    bank = DonorBank(data, folder, classes=["b"], folders=[tmp_path], folder_share=1)
    assert np.allclose(sizes_at(bank, empty_target(), seeds=10)[:, 2], 1, rtol=0.06)
    target = empty_target(1)
    target["labels"][:], target["boxes"][:] = 2, [0, 0, 15, 21]  # half as large again as usual
    assert np.allclose(sizes_at(bank, target, seeds=10)[:, 2], 1.5, rtol=0.06)


# Old boxes that are covered


def cover(bank, box, *, masks=None, may_cover=1.0, seeds=300, **options):
    """Targets after pasting over one old box, with the pasted boxes."""
    target = {**empty_target(1), "labels": np.array([2]), "areas": np.array([50.0])}
    target["boxes"] = np.array([box], np.float32)
    if masks is not None:
        target["masks"] = masks
    paste = RarePaste(
        bank, probability=1, max_pastes=1, scale=(1, 1), may_cover=may_cover, tries=1,
        match_scale=False, **options,
    )  # fmt: skip
    image = np.full((60, 60, 3), 100, np.uint8)
    return [paste(image, target, np.random.default_rng(seed)) for seed in range(seeds)]


def test_a_box_that_is_covered_becomes_a_crowd_region_or_goes(data, folder):
    bank = DonorBank(data, folder, classes=["b"], margin=0)
    seen = set()
    for _, new in cover(bank, [24, 24, 30, 30], max_covered=0.5):
        if new["pasted"].sum() == 0:
            continue
        left, top, right, bottom = new["boxes"][-1]
        wide = np.clip(min(right, 30) - max(left, 24), 0, None)
        share = wide * np.clip(min(bottom, 30) - max(top, 24), 0, None) / 36
        if share == 1:
            assert new["labels"].tolist() == [2]  # the pasted one alone
            seen.add("gone")
        else:
            assert new["boxes"][0].tolist() == [24, 24, 30, 30]
            assert new["is_crowd"].tolist() == [share > 0.5, False]
            seen.add(bool(share > 0.5))
    assert seen == {"gone", True, False}


def test_masks_lose_what_is_covered_and_their_boxes_follow(bank):
    mask = np.zeros((1, 60, 60), bool)
    mask[0, 20:30, 20:30] = True
    cut = 0
    for image, new in cover(bank, [20, 20, 30, 30], masks=mask, max_covered=0.9):
        if len(new["boxes"]) < 2 or new["is_crowd"][0]:
            continue
        old, pasted = new["masks"]
        hidden = mask[0] & pasted
        assert not (old & pasted).any()
        assert not (old & ~mask[0]).any()
        lost = mask[0].sum() - old.sum()
        # The soft edge of a mask takes nothing, that of a margin all from the middle on.
        assert lost >= hidden.sum()
        assert lost == 0 or (np.abs(image[mask[0] & ~old].astype(int) - 100).sum() > 0)
        assert np.array_equal(new["boxes"][0], mask_box(old))
        assert np.isclose(new["areas"][0], 50 * old.sum() / 100)
        cut += bool(lost)
    assert cut > 20


def test_what_is_more_than_half_the_donors_is_covered(tmp_path):
    """A white donor on black: the image shows how much of each pixel is the donor's."""
    data = write(tmp_path, [(0, 1, (30, 30, 12, 9), 0)])
    cv2.imwrite(str(tmp_path / "0.png"), np.full((SIDE, SIDE, 3), 200, np.uint8))
    bank = DonorBank(data, tmp_path, classes=["a"], margin=1)
    mask = np.zeros((1, 60, 60), bool)
    mask[0, 10:50, 10:50] = True
    paste = RarePaste(bank, probability=1, max_pastes=1, may_cover=0.3)
    target = {**empty_target(1), "masks": mask}
    target["boxes"] = np.array([[10, 10, 50, 50]], np.float32)
    met = 0
    for seed in range(20):
        image, new = paste(np.zeros((60, 60, 3), np.uint8), target, np.random.default_rng(seed))
        covered = image[..., 0] >= 100
        if covered.any():
            assert np.array_equal(new["masks"][0], mask[0] & ~covered)
            met += 1
    assert met > 5


def test_as_much_is_covered_as_is_allowed_and_no_more(data, folder):
    bank = DonorBank(data, folder, classes=["b"], margin=0)
    shares = []
    for _, new in cover(bank, [20, 20, 40, 40], may_cover=0.25):
        if new["pasted"].any():
            shares.append(overlap(new["boxes"][1], new["boxes"][:1])[0] / 400)
    assert 0.21 < max(shares) <= 0.25


def test_crowd_regions_stay_clear_at_any_overlap(bank):
    target = empty_target(1)
    target["boxes"][:] = [40, 0, 60, 90]
    target["is_crowd"][:] = True
    paste = RarePaste(bank, probability=1, max_pastes=3, may_cover=1)
    for seed in range(40):
        image = np.zeros((90, 100, 3), np.uint8)
        new_image, _ = paste(image, target, np.random.default_rng(seed))
        assert not new_image[:, 40:60].any()


# Blending


@pytest.mark.parametrize("feather", [0.0, 1.0])
def test_a_mask_is_drawn_to_the_pixel_with_a_soft_edge_outside(data, folder, feather):
    bank = DonorBank(data, folder, classes=["a"])
    paste = RarePaste(bank, probability=1, max_pastes=1, scale=(1, 1), feather=feather, flip=True)
    whole = segmentation_mask(TRIANGLE, SIDE, SIDE)
    x0, y0, x1, y1 = mask_box(whole).astype(int)
    triangle = whole[y0:y1, x0:x1]
    known = []  # the object of each image, and mirrored
    for n in range(3):
        pixels = cv2.imread(str(folder / f"{n}.png"))[y0:y1, x0:x1, ::-1]
        known += [(triangle, pixels), (triangle[:, ::-1], pixels[:, ::-1])]
    met = set()
    for seed in range(20):
        image = np.full((90, 90, 3), 7, np.uint8)
        target = {**empty_target(), "masks": np.zeros((0, 90, 90), bool)}
        new_image, new = paste(image, target, np.random.default_rng(seed))
        mask, (left, top, right, bottom) = new["masks"][0], new["boxes"][0].astype(int)
        inside, drawn = mask[top:bottom, left:right], new_image[top:bottom, left:right]
        assert mask.sum() == inside.sum()
        found = [
            n
            for n, (shape, pixels) in enumerate(known)
            if np.array_equal(inside, shape) and np.array_equal(drawn[shape], pixels[shape])
        ]
        assert len(found) == 1
        met |= set(found)
        beyond = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) > 0
        assert (new_image[~beyond] == 7).all()
        halo = (new_image[beyond & ~mask] != 7).mean()
        assert (halo > 0.3) if feather else (halo == 0)
    assert len(met) > 4


def test_without_a_mask_the_rectangle_is_the_mask(bank, data, folder):
    bank = DonorBank(data, folder, classes=["b"])
    target = {**empty_target(), "masks": np.zeros((0, 90, 90), bool)}
    paste = RarePaste(bank, probability=1, max_pastes=1)
    _, new = paste(np.zeros((90, 90, 3), np.uint8), target, np.random.default_rng(0))
    left, top, right, bottom = new["boxes"][0]
    expected = np.zeros((90, 90), bool)
    expected[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    assert np.array_equal(new["masks"][0], expected)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("blending", ["feather", "seamless"])
def test_images_of_two_values_stay_so(bank, depth, blending):
    highest = np.iinfo(depth).max
    generator = np.random.default_rng(0)
    paste = RarePaste(bank, probability=1, max_pastes=3, blending=blending)
    changed = 0
    for _ in range(15):
        image = (generator.random((90, 90, 1)) < 0.5).repeat(3, axis=2) * depth(highest)
        new_image, _ = paste(image, empty_target(), generator)
        assert new_image.dtype == depth
        assert set(np.unique(new_image)) == {0, highest}
        changed += bool((new_image != image).any())
    assert changed > 10
    image[40, 40] = 1  # one pixel of another value, and it is a photograph
    assert len(np.unique(paste(image, empty_target(), generator)[0])) > 3


@pytest.mark.parametrize("two", [True, False])
def test_a_plain_image_follows_the_donor(tmp_path, two):
    data = write(tmp_path, [(0, 1, (30, 30, 21, 17), 0)])
    pixels = np.random.default_rng(0).integers(0, 2, (SIDE, SIDE, 1), dtype=np.uint8) * 255
    cv2.imwrite(str(tmp_path / "0.png"), pixels // (1 if two else 2))
    bank = DonorBank(data, tmp_path, classes=["a"])
    paste = RarePaste(bank, probability=1, max_pastes=1, scale=(1.3, 1.3))
    image, _ = paste(np.zeros((90, 90, 3), np.uint8), empty_target(), np.random.default_rng(0))
    values = len(np.unique(image))
    assert values == 2 if two else values > 3


def test_depths_are_converted_white_to_white(tmp_path):
    for source, other in ((np.uint8, np.uint16), (np.uint16, np.uint8)):
        data = write(tmp_path, [(0, 1, (30, 30, 20, 16), 0)], depth=source)
        bank = DonorBank(data, tmp_path, classes=["a"], margin=0)
        paste = RarePaste(bank, probability=1, max_pastes=1, scale=(1, 1))
        image, new = paste(np.full((90, 90, 3), 9, other), empty_target(), np.random.default_rng(0))
        left, top, right, bottom = new["boxes"][0].astype(int)
        donor = bank.crop(0).image.astype(int)
        expected = donor * 257 if other == np.uint16 else donor // 257
        assert image.dtype == other
        assert np.array_equal(image[top:bottom, left:right], expected)


def test_seamless_keeps_the_place_and_takes_the_colours_around(tmp_path):
    """A dark square on grey, pasted onto a bright image: a darker square at the box."""
    data = write(tmp_path, [(0, 1, (30, 30, 20, 20), 0)])
    pixels = np.full((SIDE, SIDE, 3), 90, np.uint8)
    pixels[30:50, 30:50] = 50
    cv2.imwrite(str(tmp_path / "0.png"), pixels)
    bank = DonorBank(data, tmp_path, classes=["a"])
    paste = RarePaste(bank, probability=1, max_pastes=1, scale=(1, 1), blending="seamless")
    inner = 0
    for seed in range(40):
        image = np.full((90, 90, 3), 200, np.uint8)
        new_image, new = paste(image, empty_target(), np.random.default_rng(seed))
        left, top, right, bottom = new["boxes"][0]
        if min(left, top) < 8 or max(right, bottom) > 82:
            continue  # at the border the edge is soft instead
        seen = new_image[..., 0] < 180
        assert np.allclose(mask_box(seen), new["boxes"][0], atol=1.01)
        assert np.abs(new_image[seen].astype(int) - 160).mean() < 8
        inner += 1
    assert inner > 10


def test_at_the_border_a_soft_edge_stands_in(bank):
    seamless = RarePaste(bank, probability=1, max_pastes=1, blending="seamless", scale=(3, 3))
    soft = RarePaste(bank, probability=1, max_pastes=1, scale=(3, 3))
    generator = np.random.default_rng(0)
    image = generator.integers(1, 255, (110, 110, 3), dtype=np.uint8)
    same = 0
    for seed in range(30):
        a, new = seamless(image, empty_target(), np.random.default_rng(seed))
        b, _ = soft(image, empty_target(), np.random.default_rng(seed))
        assert len(new["boxes"]) <= 1
        same += bool(np.array_equal(a, b))
    assert 0 < same < 30


# What did not work


def test_unreadable_donors_are_skipped_and_counted(tmp_path, caplog):
    data = write(tmp_path, [(n, 1, (9, 9, 20, 20), 0) for n in range(4)])
    (tmp_path / "2.png").write_bytes(b"no image")
    results = []
    for warm in (False, True):  # what a process has met before does not matter
        bank = DonorBank(data, tmp_path, classes=["a"])
        paste = RarePaste(bank, probability=1, max_pastes=3)
        image = np.full((150, 150, 3), 5, np.uint8)
        if warm:
            with pytest.raises(ValueError, match=r"2.png"):
                bank.crop(2)
        with caplog.at_level(logging.WARNING):
            generator = np.random.default_rng(1)
            results.append([paste(image, empty_target(), generator) for _ in range(30)])
        assert paste.counts[1, CODE["unreadable"]] > 5
        assert paste.counts[1, CODE["placed"]] > 20
        assert "unreadable" in paste.summary(data.categories)
    assert caplog.text.count("2.png: the image cannot be read") == 2  # once for each bank
    for (image_a, a), (image_b, b) in zip(*results, strict=True):
        assert np.array_equal(image_a, image_b)
        assert np.array_equal(a["pastes"], b["pastes"])


def test_counts_and_summary_say_what_became_of_each_class(bank, data):
    paste = RarePaste(bank, probability=1, max_pastes=2)
    target = {**empty_target(), "not_exhaustive_labels": np.array([2])}
    image = np.zeros((90, 140, 3), np.uint8)
    generator = np.random.default_rng(0)
    rows = [paste(image, target, generator)[1]["pastes"] for _ in range(40)]
    counts = np.zeros((4, len(OUTCOMES)), int)
    np.add.at(counts, tuple(np.concatenate(rows).T), 1)
    assert np.array_equal(paste.counts, counts)
    lines = paste.summary(data.categories).splitlines()
    asked = counts.sum(axis=1)
    assert lines[1] == f"b: {asked[2]} asked, 0 placed, {asked[2]} not exhaustive"
    assert lines[0].startswith(f"a: {asked[1]} asked, {counts[1, 0]} placed")
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("change", "shape", "reason"),
    [
        ({}, (5, 5), "were larger than the image"),
        ({"not_exhaustive_labels": np.array([1, 2, 3])}, (90, 90), "not all annotated"),
    ],
)
def test_the_log_says_the_main_reason(bank, caplog, change, shape, reason):
    paste = RarePaste(bank, probability=1, max_pastes=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(_PATIENCE):
            paste(np.zeros((*shape, 3), np.uint8), {**empty_target(), **change},
                  np.random.default_rng(0))  # fmt: skip
    assert f"the last {_PATIENCE} donors were all refused. {_PATIENCE} of them" in caplog.text
    assert reason in caplog.text


def test_a_region_without_room_is_its_own_reason(tmp_path):
    data = write(tmp_path, [(0, 1, (0, 0, 20, 20), 0)])
    bank = DonorBank(data, tmp_path, classes=["a"])
    paste = RarePaste(bank, probability=1, max_pastes=1, seen_region=True, scale=(1, 1))
    # The middle must be in the first 22 %; here that is nearer to the border than the donor allows.
    _, new = paste(np.zeros((30, 30, 3), np.uint8), empty_target(), np.random.default_rng(0))
    assert new["pastes"].tolist() == [[1, CODE["outside_region"]]]
    _, new = paste(np.zeros((60, 60, 3), np.uint8), empty_target(), np.random.default_rng(0))
    assert new["pastes"].tolist() == [[1, CODE["placed"]]]


@pytest.mark.parametrize("name", ["may_cover", "max_covered"])
def test_shares_out_of_range_are_refused(bank, name):
    with pytest.raises(ValueError, match=rf"RarePaste: {name} is 2"):
        RarePaste(bank, **{name: 2})
    with pytest.raises(ValueError, match='blending is "poisson"'):
        RarePaste(bank, blending="poisson")
