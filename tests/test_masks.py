"""Segmentations as pixels: the same as pycocotools, in any window, and never an error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detbalance.augmentation.masks import mask_box, segmentation_mask

coco = pytest.importorskip("pycocotools.mask")

# pycocotools with NumPy 2.4, in `decode`, which the package does not call.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HEIGHT, WIDTH = 23, 31


def whole(polygons):
    """All of the image by pycocotools, the union of the parts."""
    drawn = coco.frPyObjects(polygons, HEIGHT, WIDTH)
    return coco.decode(coco.merge(drawn)).astype(bool)


def runs(mask):
    """Run lengths of a mask, pixel by pixel down the columns."""
    counts, last = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if mask[y, x] != last:
                counts.append(0)
                last = mask[y, x]
            counts[-1] += 1
    return counts


def random_window(generator):
    left, right = np.sort(generator.choice(WIDTH + 1, 2, replace=False))
    top, bottom = np.sort(generator.choice(HEIGHT + 1, 2, replace=False))
    return int(left), int(top), int(right), int(bottom)


@given(seed=st.integers(0, 2**32), beyond=st.sampled_from([0.0, 9.0]))
@settings(max_examples=60, deadline=None)
def test_polygons_are_those_of_pycocotools_in_any_window(seed, beyond):
    generator = np.random.default_rng(seed)
    polygons = [
        generator.uniform(-beyond, (WIDTH + beyond, HEIGHT + beyond), size=(number, 2)).ravel()
        for number in generator.integers(3, 8, size=generator.integers(1, 4))
    ]
    polygons = [polygon.round(1).tolist() for polygon in polygons]
    window = random_window(generator)
    for part in (None, window):
        left, top, right, bottom = part or (0, 0, WIDTH, HEIGHT)
        expected = whole(polygons)[top:bottom, left:right]
        found = segmentation_mask(polygons, HEIGHT, WIDTH, window=part)
        if not expected.any():
            assert found is None
        else:
            assert found.dtype == bool
            assert np.array_equal(found, expected)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_a_convex_polygon_holds_the_pixels_inside(seed):
    """Without pycocotools: pixels more than one pixel inside are in, those outside are not."""
    generator = np.random.default_rng(seed)
    turns = np.sort(generator.uniform(0, 2 * np.pi, size=7))
    corners = np.stack([16 + 12 * np.cos(turns), 11 + 9 * np.sin(turns)], axis=1)
    found = segmentation_mask([corners.ravel().tolist()], HEIGHT, WIDTH)
    sides = np.roll(corners, -1, axis=0) - corners
    for y in range(HEIGHT):
        for x in range(WIDTH):
            from_corner = np.array([x + 0.5, y + 0.5]) - corners
            turned = sides[:, 0] * from_corner[:, 1] - sides[:, 1] * from_corner[:, 0]
            depth = (turned / np.hypot(*sides.T)).min()
            pixel = found is not None and found[y, x]
            if depth > 1:
                assert pixel
            if depth < -1:
                assert not pixel


@given(seed=st.integers(0, 2**32), density=st.sampled_from([0.02, 0.5, 0.98]))
@settings(max_examples=40, deadline=None)
def test_run_lengths_listed_and_compressed(seed, density):
    generator = np.random.default_rng(seed)
    mask = generator.random((HEIGHT, WIDTH)) < density
    size = [HEIGHT, WIDTH]
    text = coco.encode(np.asfortranarray(mask, np.uint8))["counts"]
    left, top, right, bottom = window = random_window(generator)
    for counts in (runs(mask), text, text.decode()):
        found = segmentation_mask({"size": size, "counts": counts}, HEIGHT, WIDTH)
        assert np.array_equal(found, mask)
        part = segmentation_mask({"size": size, "counts": counts}, HEIGHT, WIDTH, window=window)
        expected = mask[top:bottom, left:right]
        assert np.array_equal(part, expected) if expected.any() else part is None


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        "text",
        7,
        {},
        [[]],
        [[1, 2, 3, 4]],  # two corners
        [[1, 2, 3, 4, 5, 6, 7]],  # half a corner
        [["a", "b", "c", "d", "e", "f"]],
        [[1, 2, float("nan"), 4, 5, 6]],
        [[1, 1, 1e12, 1, 1, 1e12]],
        [[-9, -9, -2, -9, -2, -2]],  # outside
        [None],
        [[[1, 2], [3, 4]]],
        {"counts": [0, HEIGHT * WIDTH]},
        {"size": [WIDTH, HEIGHT], "counts": [0, HEIGHT * WIDTH]},
        {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH + 1]},
        {"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]},
        {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},  # background only
        {"size": [HEIGHT, WIDTH], "counts": []},
        {"size": [HEIGHT, WIDTH], "counts": "\xff nonsense"},
        {"size": [HEIGHT, WIDTH], "counts": None},
        {"size": None, "counts": [1]},
        {"size": [HEIGHT, WIDTH], "counts": [[1, 2]]},
        {"size": [HEIGHT, WIDTH], "counts": ["a"]},
    ],
)
def test_what_shows_no_pixel_is_none(segmentation):
    assert segmentation_mask(segmentation, HEIGHT, WIDTH) is None


def test_of_several_polygons_those_that_are_none_are_left_out():
    square = [2, 3, 9, 3, 9, 12, 2, 12]
    found = segmentation_mask([[1, 2], square, []], HEIGHT, WIDTH)
    assert np.array_equal(found, whole([square]))


def test_the_box_of_a_mask_is_around_its_pixels():
    mask = np.zeros((9, 8), bool)
    mask[2, 5] = mask[6, 3] = True
    assert mask_box(mask).tolist() == [3, 2, 6, 7]
