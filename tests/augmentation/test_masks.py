"""Segmentations as pixels: the same as pycocotools, in any window, and never an error."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detbalance.augmentation import DonorBank
from detbalance.augmentation.cutting import mask_box, note_unusable_masks, segmentation_mask
from detbalance.augmentation.packing import pack_donors
from detbalance.data import load_annotations
from detbalance.detection.dataset import DetectionDataset

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
@settings(max_examples=60)
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
@settings(max_examples=40)
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
@settings(max_examples=40)
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


SIZE = {"size": [HEIGHT, WIDTH]}
# What a file may hold in place of a mask, and would crash or stall a library.
UNUSABLE = {
    "flat": [2, 3, 9, 3, 9, 12],
    "pairs": [[2, 3], [9, 3], [9, 12]],
    "pairs in a list": [[[2, 3], [9, 3], [9, 12]]],
    "odd": [[2, 3, 9, 3, 9, 12, 7]],
    "four": [[2, 3, 9, 3]],
    "text": "2, 3, 9, 3, 9, 12",
    "number": 7,
    "true": [[True, False, True, False, True, False]],
    "text in a list": [["2", "3", "9", "3", "9", "12"]],
    "infinite": [[2, 3, 9, 3, 9, float("inf")]],
    "far": [[2, 3, 1e5, 3, 9, 12]],
    "large": [[2, 3, 10**400, 3, 9, 12]],
    "least": [[1, -(2**63), 9, 1, 9, 9]],
    "long outline": [[0, 0, 99_999, 0] * 20],
    "without a size": {"counts": [HEIGHT * WIDTH]},
    "another size": {"size": [WIDTH, HEIGHT], "counts": [0, HEIGHT * WIDTH]},
    "one side": {"size": [HEIGHT], "counts": [0, HEIGHT * WIDTH]},
    "size of text": {"size": [str(HEIGHT), str(WIDTH)], "counts": [0, HEIGHT * WIDTH]},
    "fraction": {"size": [HEIGHT + 0.5, WIDTH], "counts": [0, HEIGHT * WIDTH]},
    "too short": SIZE | {"counts": [3, 5]},
    "too long": SIZE | {"counts": [0, HEIGHT * WIDTH, 1]},
    "negative": SIZE | {"counts": [HEIGHT * WIDTH + 1, -1]},
    # Adds up to the pixels of the image where sums wrap around at 64 bits.
    "overflow": SIZE | {"counts": [2**63 - 1, 2**63 - 1, HEIGHT * WIDTH + 2]},
    "beyond 64 bits": SIZE | {"counts": [2**70]},
    "unsigned": SIZE | {"counts": [2**64 - 1, HEIGHT * WIDTH + 1]},
    "part of a run": SIZE | {"counts": [0.5, HEIGHT * WIDTH - 0.5]},
    "nan": SIZE | {"counts": [float("nan")]},
    "runs of text": SIZE | {"counts": [str(HEIGHT * WIDTH)]},
    "runs of runs": SIZE | {"counts": [[0, HEIGHT * WIDTH]]},
    "other counts": SIZE | {"counts": {"0": 7}},
    "no counts": SIZE,
    "huge text": SIZE | {"counts": "o" * 60 + "1"},
    "text without an end": SIZE | {"counts": "o"},
    "text of other letters": SIZE | {"counts": "\xff\u20ac 7"},
    "text too long": SIZE | {"counts": "00" * 9},
}


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
        *UNUSABLE.values(),
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


def annotated(folder, segmentations, size=(WIDTH, HEIGHT)):
    """A file with one box for each segmentation."""
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": size[0], "height": size[1]}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1 + n % 2, "bbox": [n % 9, 2, 9, 9]}
            | ({} if segmentation == "none" else {"segmentation": segmentation})
            for n, segmentation in enumerate(segmentations)
        ],
    }
    path = folder / "train.json"
    path.write_text(json.dumps(content).replace("Infinity", "1e999").replace("NaN", "-1e999"))
    return load_annotations(path, segmentations=True, drop_invalid=True)


SQUARE = [2, 3, 9, 3, 9, 12, 2, 12]
SOUND = ["none", None, [], {}, [SQUARE], SIZE | {"counts": [0, HEIGHT * WIDTH]}]


@pytest.mark.parametrize("kind", [k for k in UNUSABLE if k not in ("infinite", "nan")])
def test_what_cannot_be_drawn_is_counted_once(tmp_path, caplog, kind):
    notes = annotated(tmp_path, [*SOUND, UNUSABLE[kind], *SOUND, UNUSABLE[kind]])
    rows = np.arange(notes.num_annotations)
    assert note_unusable_masks(notes, rows[: len(SOUND)]) == 0
    assert not caplog.messages
    assert note_unusable_masks(notes, rows) == 2
    (line,) = caplog.messages
    assert f"2 of 14 segmentations cannot be drawn (first: annotation {len(SOUND)} " in line
    assert "\n" not in line


def test_polygons_beside_sound_ones_are_counted(tmp_path):
    notes = annotated(tmp_path, [[SQUARE, [1, 2]], [SQUARE, 7], [SQUARE]])
    assert note_unusable_masks(notes, np.arange(3)) == 2


def test_runs_of_an_image_of_unknown_size_are_held_against_their_own(tmp_path):
    notes = annotated(tmp_path, [*SOUND, UNUSABLE["another size"], UNUSABLE["too short"]], (0, 0))
    assert note_unusable_masks(notes, np.arange(notes.num_annotations)) == 1


@pytest.mark.parametrize("text", ["[[1, 2, 1e999, 4, 5, 6]]", '{"counts": "\\ud800", "size": [1]}'])
def test_a_segmentation_that_only_python_reads_is_no_error(tmp_path, text):
    notes = annotated(tmp_path, ["here"])
    path = tmp_path / "train.json"
    path.write_text(path.read_text().replace('"here"', text))
    notes = load_annotations(path, segmentations=True)
    assert segmentation_mask(notes.segmentation(0), HEIGHT, WIDTH) is None
    assert note_unusable_masks(notes, np.arange(1)) == 1


@pytest.mark.parametrize("user", ["data set", "donor bank", "donor file"])
def test_everyone_who_takes_masks_says_it_and_goes_on(tmp_path, caplog, user):
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "a.png"), np.full((HEIGHT, WIDTH, 3), 99, np.uint8))
    every = list(UNUSABLE.values())
    notes = annotated(tmp_path, [s for s in every if s is not UNUSABLE["nan"]])
    if user == "data set":
        found = DetectionDataset(notes, tmp_path, masks=True).load(0)[1]
        left, top, right, bottom = notes.boxes[0].astype(int)
        assert found["masks"][0].sum() == (right - left) * (bottom - top)
    elif user == "donor bank":
        bank = DonorBank(notes, tmp_path, classes=["a", "b"], max_overlap=1.0)
        assert bank.crop(0).mask is None
    else:
        pack_donors(notes, tmp_path, tmp_path / "x", classes=["a", "b"], max_overlap=1.0)
    said = [line for line in caplog.messages if "segmentations cannot be drawn" in line]
    assert len(said) == 1
