"""Of several free places a donor goes where the image looks like the margin it brings along."""

from __future__ import annotations

import numpy as np
import pytest
from donor_sets import empty_target, write
from hypothesis import given, settings
from hypothesis import strategies as st

from detbalance.augmentation import DonorBank, RarePaste
from detbalance.augmentation.cutting import Donor
from detbalance.augmentation.paste_size_and_place import most_alike

cv2 = pytest.importorskip("cv2")

BOX = np.array([10.0, 8.0, 30.0, 24.0])


def donor_of(image, mask=None, others=()):
    return Donor(image, BOX, np.array(others, float).reshape(-1, 4), 1, 320.0, mask)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 7), st.sampled_from([np.uint8, np.uint16]))
def test_the_place_it_was_cut_from_is_the_most_alike(seed, own, depth):
    """Whatever is in the box, and with the image in any depth."""
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 256, (90, 120, 3), np.uint8)
    corners = generator.integers(0, (80, 58), (8, 2)).astype(float)
    x, y = corners[own].astype(int)
    crop = image[y : y + 32, x : x + 40].copy()
    crop[8:24, 10:30] = 0  # the object
    scale = 257 if depth == np.uint16 else 1
    sizes = np.tile([40.0, 32.0], (8, 1))
    found = most_alike(image.astype(depth) * depth(scale), donor_of(crop), corners, sizes)
    assert found == next(n for n in range(8) if (corners[n] == corners[own]).all())


def test_sizes_may_differ_and_other_boxes_do_not_count():
    image = np.zeros((60, 200, 3), np.uint8)
    image[:, 100:] = 255
    crop = np.full((32, 40, 3), 255, np.uint8)
    crop[8:24, 10:30] = 90
    corners = np.array([[0.0, 0.0], [110.0, 2.0]])
    sizes = np.array([[80.0, 60.0], [20.0, 16.0]])
    assert most_alike(image, donor_of(crop), corners, sizes) == 1
    crop[:, 32:] = 0  # another object, which is not blended in
    crop[:, :8] = 250
    assert most_alike(image, donor_of(crop, others=[[31, 0, 40, 32]]), corners, sizes) == 1


def test_with_a_mask_or_without_a_margin_the_first_place_is_taken():
    image = np.zeros((60, 100, 3), np.uint8)
    image[:, 50:] = 255
    crop = np.full((32, 40, 3), 255, np.uint8)
    corners, sizes = np.array([[0.0, 0.0], [60.0, 0.0]]), np.full((2, 2), 30.0)
    assert most_alike(image, donor_of(crop), corners, sizes) == 1
    assert most_alike(image, donor_of(crop, mask=np.ones((32, 40), bool)), corners, sizes) == 0
    whole = Donor(crop, np.array([0.0, 0, 40, 32]), np.zeros((0, 4)), 1, 1280.0)
    assert most_alike(image, whole, corners, sizes) == 0


def test_pasting_compares_the_places_that_are_free(tmp_path):
    """Of two halves of an image, dark donors go to the dark one; with one place, to either."""
    data = write(tmp_path, [(0, 1, (20, 20, 24, 24), 0)], names=("a",))
    cv2.imwrite(str(tmp_path / "0.png"), np.full((80, 80, 3), 30, np.uint8))
    bank = DonorBank(data, tmp_path, classes=["a"])
    image = np.full((90, 240, 3), 220, np.uint8)
    image[:, :120] = 30

    def dark_share(places):
        paste = RarePaste(
            bank, probability=1, max_pastes=1, match_scale=False, context_places=places
        )
        lefts = [
            paste(image, empty_target(), np.random.default_rng(seed))[1]["boxes"][0, 0]
            for seed in range(60)
        ]
        return np.mean(np.array(lefts) < 96)

    assert dark_share(12) == 1
    assert 0.2 < dark_share(1) < 0.7
