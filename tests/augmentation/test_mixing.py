"""Mosaic and mixup: who the partners are, and what becomes of every object."""

from __future__ import annotations

import json
import logging
import pickle

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from detbalance.augmentation import Compose, DonorBank, Mixup, Mosaic, RarePaste
from detbalance.augmentation.transform import is_bilevel
from detbalance.data import load_annotations
from detbalance.detection.dataset import DetectionDataset, Draw, collate
from detbalance.sampling import class_exposure

KINDS = (Mosaic, Mixup)


class Scenes:
    """Small images whose objects are rectangles, each in a colour of its own; rows say which.

    Args:
        seed: of everything.
        images: how many.
        dtype: of all images, or two that take turns.
        bilevel: objects are white on black.
        sides: least and largest side of an image.
        boxes: largest number of boxes of an image.
    """

    def __init__(self, seed, images=5, dtype="uint8", bilevel=False, sides=(6, 40), boxes=5):
        draw = np.random.default_rng(seed)
        self.examples, self.colours, self.labels = [], {}, {}
        for i in range(images):
            kind = np.dtype(dtype if isinstance(dtype, str) else dtype[i % 2])
            top = np.iinfo(kind).max
            height, width = (int(side) for side in draw.integers(*sides, 2))
            image = np.full((height, width, 3), 0 if bilevel else top // 255 * 40, kind)
            owner = np.full((height, width), -1)
            number = int(draw.integers(0, boxes + 1))
            ids = 100 * i + np.arange(number)
            low = (draw.uniform(0, 1, (number, 2)) * (width, height)).astype(int)
            high = low + 1 + (draw.uniform(0, 1, (number, 2)) ** 3 * (width, height)).astype(int)
            found = np.concatenate([low, np.minimum(high, (width, height))], axis=1)
            for n, (left, upper, right, lower) in zip(ids.tolist(), found.tolist(), strict=True):
                # Of 8 bits, whatever the image has.
                self.colours[n] = np.full(3, 255) if bilevel else draw.integers(60, 256, 3)
                image[upper:lower, left:right] = self.colours[n] * (top // 255)
                owner[upper:lower, left:right] = n
                self.labels[n] = int(draw.integers(1, 4))
            sides_of = (found[:, 2:] - found[:, :2]).astype(float)
            target = {
                "boxes": found.astype(np.float32),
                "labels": np.array([self.labels[n] for n in ids.tolist()], np.int64),
                "areas": sides_of.prod(axis=1),
                "is_crowd": draw.random(number) < 0.2,
                "pasted": np.zeros(number, bool),
                "ids": ids,
                "masks": owner[None] == ids[:, None, None],
            }
            for array in (image, *target.values()):
                array.flags.writeable = False
            self.examples.append((image, target))

    def load(self, row):
        return self.examples[row]


scenes = st.builds(
    Scenes,
    st.integers(0, 2**32),
    dtype=st.sampled_from(["uint8", "uint16", ("uint8", "uint16")]),
    bilevel=st.booleans(),
    sides=st.sampled_from([(1, 5), (6, 40), (24, 25)]),
)


def check_in_step(scenes, before, image, target):
    """What holds for every mix of scenes."""
    assert (image.shape, image.dtype) == (before.shape, before.dtype)
    assert image.flags.c_contiguous
    assert {len(values) for values in target.values()} == {len(target["boxes"])}
    assert target["masks"].shape[1:] == image.shape[:2]
    own = scenes.load(0)[1]
    assert {name: values.dtype for name, values in target.items()} == {
        name: values.dtype for name, values in own.items()
    }
    boxes, (height, width) = target["boxes"], image.shape[:2]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (width, height)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert [scenes.labels[n] for n in target["ids"].tolist()] == target["labels"].tolist()
    assert (target["areas"] > 0).all()


def pixels_of(box):
    left, top, right, bottom = (float(side) for side in box)
    return slice(int(top), int(np.ceil(bottom))), slice(int(left), int(np.ceil(right)))


@given(
    scenes,
    st.integers(0, 2**32),
    st.sampled_from([(0.5, 1.0), (0.3, 0.3), (1.0, 2.5)]),
    st.sampled_from([1, 10]),
    st.sampled_from([0.0, 0.3, 1.0]),
)
@settings(max_examples=60)
def test_mosaic_keeps_everything_in_step_and_nothing_visible_unlabelled(
    scenes, seed, scale, tries, visibility
):
    mosaic = Mosaic(
        scenes.load,
        np.ones(5),
        probability=1,
        scale=scale,
        tries=tries,
        min_visibility=visibility,
    )
    before, own = scenes.load(0)
    image, target = mosaic(before, own, np.random.default_rng(seed))
    check_in_step(scenes, before, image, target)
    if all(is_bilevel(picture) for picture, _ in scenes.examples):
        assert is_bilevel(image)
        return  # all objects have the same colour
    if min(image.shape[:2]) < 2:
        assert np.array_equal(image, before)
        return
    check_visible(scenes, image, target)


def check_visible(scenes, image, target):
    """Every object that shows its colour is labelled or under another's box, and in its mask."""
    labelled = np.zeros(image.shape[:2], bool)
    for box in target["boxes"]:
        labelled[pixels_of(box)] = True
    top = np.iinfo(image.dtype).max
    for n, colour in scenes.colours.items():
        seen = (image == colour * (top // 255)).all(axis=2)
        for row in np.flatnonzero(target["ids"] == n):
            place = pixels_of(target["boxes"][row])
            assert not (seen[place] & ~target["masks"][row][place]).any()
        assert not (seen & ~labelled).any()


def test_what_windows_leave_of_objects_is_painted_over():
    for seed in range(20):
        scenes = Scenes(seed)
        mosaic = Mosaic(scenes.load, np.ones(5), probability=1, tries=1, min_visibility=1.0)
        check_visible(scenes, *mosaic(*scenes.load(0), np.random.default_rng(seed)))


@given(scenes, st.integers(0, 2**32))
@settings(max_examples=40)
def test_mixup_keeps_every_box_of_both(scenes, seed):
    mixup = Mixup(scenes.load, np.eye(5)[1], probability=1)
    before, own = scenes.load(0)
    image, target = mixup(before, own, np.random.default_rng(seed))
    check_in_step(scenes, before, image, target)
    if is_bilevel(before):
        assert np.array_equal(image, before)
        return
    partner, theirs = scenes.load(1)
    empty = ~theirs["masks"].any(axis=(1, 2))  # wholly covered by other objects
    assert np.array_equal(target["ids"][: len(own["ids"])], own["ids"])
    assert np.array_equal(target["boxes"][: len(own["ids"])], own["boxes"])
    added = target["ids"][len(own["ids"]) :].tolist()
    # A mask can lose its pixels when it becomes smaller.
    if partner.shape == before.shape:
        assert added == theirs["ids"].tolist()
        assert np.array_equal(target["masks"][len(own["ids"]) :], theirs["masks"])
    assert set(theirs["ids"][empty].tolist()) <= set(added) <= set(theirs["ids"].tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_same_state_gives_the_same_also_after_pickling(kind):
    scenes = Scenes(3)
    mixing = kind(scenes.load, np.arange(5.0), probability=0.7)
    copy = pickle.loads(pickle.dumps(mixing))
    results = []
    for one in (mixing, mixing, copy):
        generator = np.random.default_rng(5)
        results.append([one(*scenes.load(i), generator) for i in range(5)])
    for other in results[1:]:
        for (image, target), (image_b, target_b) in zip(results[0], other, strict=True):
            assert np.array_equal(image, image_b)
            assert all(np.array_equal(target[name], target_b[name]) for name in target)
    assert any(len(t["ids"]) > len(scenes.load(i)[1]["ids"]) for i, (_, t) in enumerate(results[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_probability_0_is_identity(kind):
    scenes = Scenes(3)
    image, target = scenes.load(0)
    new_image, new = kind(scenes.load, np.ones(5), probability=0)(
        image, target, np.random.default_rng(0)
    )
    assert np.array_equal(new_image, image)
    assert new is target


def test_a_box_as_large_as_its_image_stays_in_the_mosaic():
    image = np.full((60, 80, 3), 200, np.uint8)
    target = {
        "boxes": np.array([[0, 0, 80, 60]], np.float32),
        "labels": np.array([1]),
        "areas": np.array([4800.0]),
        "is_crowd": np.array([False]),
    }
    mosaic = Mosaic(lambda row: (image, target), [1.0], probability=1)
    for seed in range(20):
        _, new = mosaic(image, target, np.random.default_rng(seed))
        assert len(new["boxes"]) == 4
        sides = new["boxes"][:, 2:] - new["boxes"][:, :2]
        # Areas are those of the boxes, as they were before.
        np.testing.assert_allclose(new["areas"], sides.prod(axis=1), rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_partners_are_drawn_by_the_factors(kind):
    factors = np.array([0.0, 1.0, 3.0, 0.25, 0.0, 1.75, 0.0])
    drawn = np.zeros(7)
    image, target = Scenes(1, sides=(2, 3), boxes=0).load(0)

    def load(row):
        drawn[row] += 1
        return image, target

    mixing = kind(load, factors, probability=1)
    generator = np.random.default_rng(0)
    for _ in range(500 if kind is Mosaic else 1500):
        mixing(image, target, generator)
    total = drawn.sum()
    assert total == 1500
    expected = factors / factors.sum()
    spread = np.sqrt(total * expected * (1 - expected))
    assert (np.abs(drawn - total * expected) <= 4 * spread).all()


def rare_scene(rare):
    """A small box in a frame of noise; class 2 if rare."""
    image = np.full((40, 40, 3), 90, np.uint8)
    image[15:20, 15:20] = 250
    return image, {
        "boxes": np.array([[15, 15, 20, 20]], np.float32),
        "labels": np.array([2 if rare else 1]),
        "areas": np.array([25.0]),
        "is_crowd": np.array([False]),
    }


def realised_share(kind, partners, factors, rare, draws):
    """Share of the rare class among the boxes that draws by `factors` show."""
    mixing = kind(lambda row: rare_scene(rare[row]), partners, probability=1)
    generator = np.random.default_rng(7)
    shown = np.zeros(3)
    for row in generator.choice(len(rare), size=draws, p=factors / factors.sum()):
        _, target = mixing(*rare_scene(rare[row]), generator)
        shown += np.bincount(target["labels"], minlength=3)
    return shown[2] / shown.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_classes_are_shown_as_the_sampler_shows_them(kind):
    rare = np.arange(20) < 2
    factors = np.where(rare, 9.0, 1.0)
    exposure = class_exposure([[2 if r else 1] for r in rare], factors)
    expected = exposure[2] / exposure[1:].sum()
    draws, images = (250, 4) if kind is Mosaic else (400, 2)
    tolerance = 4 * np.sqrt(expected * (1 - expected) / (draws * images))
    assert realised_share(kind, factors, factors, rare, draws) == pytest.approx(
        expected, abs=tolerance
    )
    # Partners drawn evenly, as elsewhere, undo most of the balance.
    evenly = realised_share(kind, np.ones(20), factors, rare, draws)
    assert evenly < expected - 2 * tolerance


@pytest.mark.parametrize("number", [1, 8])
def test_boxes_shown_are_told_about_right(number):
    def scene(seed):
        low = np.random.default_rng(seed).uniform(0, 0.93, (number, 2)) * (160, 120)
        return np.zeros((120, 160, 3), np.uint8), {
            "boxes": np.concatenate([low, low + 8], axis=1).astype(np.float32),
            "labels": np.ones(number, np.int64),
            "areas": np.full(number, 64.0),
            "is_crowd": np.zeros(number, bool),
        }

    examples = [scene(seed) for seed in range(10)]
    mosaic = Mosaic(lambda row: examples[row], np.ones(10), probability=0.5)
    generator = np.random.default_rng(0)
    shown = [len(mosaic(*examples[i % 10], generator)[1]["boxes"]) for i in range(200)]
    told = mosaic.boxes_shown([number])[0]
    # Windows that cut boxes are drawn again, so that somewhat more is shown.
    assert 0.95 < np.mean(shown) / number / told < (1.05 if number == 1 else 1.25)
    assert Mixup(lambda row: examples[row], np.ones(10), probability=0.25).boxes_shown([3]) == 1.25


def test_windows_prefer_boxes_of_classes_that_are_shown_little():
    image = np.zeros((60, 60, 3), np.uint8)
    target = {
        "boxes": np.array([[1, 1, 7, 7], [52, 52, 58, 58]], np.float32),
        "labels": np.array([1, 2]),
        "areas": np.array([36.0, 36.0]),
        "is_crowd": np.array([False, False]),
    }
    shares = {}
    for name, exposure in {"alike": None, "rare": [np.nan, 95.0, 5.0]}.items():
        # At twice the size no window holds both.
        options = {"probability": 1, "scale": (2.0, 2.0), "exposure": exposure}
        mosaic = Mosaic(lambda row: (image, target), [1.0], **options)
        generator = np.random.default_rng(0)
        labels = np.concatenate([mosaic(image, target, generator)[1]["labels"] for _ in range(100)])
        shares[name] = (labels == 2).mean()
    assert shares["alike"] == pytest.approx(0.5, abs=0.1)
    assert shares["rare"] == pytest.approx(0.95, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_partners_that_cannot_be_read_are_named_once_and_left_out(kind, caplog):
    scenes = Scenes(8, sides=(24, 25))

    def load(row):
        if row == 2:
            raise ValueError("two.png: the image cannot be read (it is truncated).")
        return scenes.load(row)

    mixing = kind(load, [0, 1, 1, 0, 0], probability=1)
    generator = np.random.default_rng(0)
    mixed = [mixing(*scenes.load(0), generator)[0] for _ in range(20)]
    assert sum(image is scenes.load(0)[0] for image in mixed) <= 6
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert f"{kind.__name__}: a partner is left out: two.png: the image" in caplog.text
    alone = kind(load, [0, 0, 1, 0, 0], probability=1)
    image, target = scenes.load(0)
    new_image, new = alone(image, target, generator)
    assert np.array_equal(new_image, image)
    assert new is target


@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_the_images_are_united(kind):
    image = np.full((24, 24, 3), 50, np.uint8)

    def target(label, **lists):
        boxes = {
            "boxes": np.array([[8, 8, 12, 12]], np.float32),
            "labels": np.array([label]),
            "areas": np.array([16.0]),
            "is_crowd": np.array([False]),
        }
        return boxes | {name: np.array(values, np.int64) for name, values in lists.items()}

    def mixed(own, other):
        mixing = kind(lambda row: (image, other), [1.0], probability=1)
        return mixing(image, own, np.random.default_rng(0))[1]

    own = target(1, negative_labels=[6, 3, 4, 2], not_exhaustive_labels=[7])
    other = target(2, negative_labels=[3, 5, 2, 6], not_exhaustive_labels=[8, 7])
    new = mixed(own, other)
    assert new["negative_labels"].tolist() == [3, 6]  # 2 is there now
    assert new["not_exhaustive_labels"].tolist() == [7, 8]
    assert new["negative_labels"].dtype == new["not_exhaustive_labels"].dtype == np.int64
    for pair in ((own, target(2)), (target(2), own)):
        new = mixed(*pair)
        assert new["negative_labels"].tolist() == []
        assert new["not_exhaustive_labels"].tolist() == [7]
    assert not {"negative_labels", "not_exhaustive_labels"} & set(mixed(target(1), target(2)))


def test_mixup_shows_both_and_leaves_the_rest():
    own = np.full((20, 30, 3), 200, np.uint8)
    partner = np.full((40, 40, 3), 100 * 257, np.uint16)
    target = {
        "boxes": np.array([[1, 1, 5, 5]], np.float32),
        "labels": np.array([1]),
        "areas": np.array([16.0]),
        "is_crowd": np.array([False]),
    }
    theirs = {**target, "boxes": np.array([[10, 20, 30, 40]], np.float32), "areas": np.array([300])}
    shares = []
    for seed in range(300):
        mixup = Mixup(lambda row: (partner, theirs), [1.0], probability=1)
        image, new = mixup(own, target, np.random.default_rng(seed))
        mixed = (image != 200).any(axis=2)
        columns = np.flatnonzero(mixed.any(axis=0))
        assert mixed.all(axis=0).sum() == 20  # fitted: 20 x 20, over the whole height
        left = columns[0]
        assert np.array_equal(columns, np.arange(left, left + 20))
        np.testing.assert_allclose(new["boxes"], [[1, 1, 5, 5], [left + 5, 10, left + 15, 20]])
        assert new["areas"].tolist() == [16, 75]
        (value,) = np.unique(image[mixed])
        shares.append((value - 100) / 100)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.std(shares) == pytest.approx(np.sqrt(1 / (4 * 17)), rel=0.15)  # Beta(8, 8)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Mosaic, {"probability": 1.5}, r"Mosaic: probability is 1\.5\. Expected .* 0\.\.1"),
        (Mosaic, {"scale": (1, 0.5)}, r"Mosaic: scale is \(1, 0\.5\)"),
        (Mosaic, {"min_visibility": -1}, "Mosaic: min_visibility is -1"),
        (Mosaic, {"tries": 0}, "Mosaic: tries is 0"),
        (Mixup, {"probability": float("nan")}, "Mixup: probability is nan"),
        (Mixup, {"alpha": 0}, "Mixup: alpha is 0"),
    ],
)
def test_impossible_values_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(Scenes(0).load, np.ones(5), **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factors", [[], [0.0, 0.0], [1.0, -1.0], [1.0, np.inf], [[1.0]]])
def test_impossible_factors_are_refused(kind, factors):
    with pytest.raises(ValueError, match=rf"{kind.__name__}: factors are .*not all 0"):
        kind(Scenes(0).load, factors)


# In a data set


@pytest.fixture
def folder(tmp_path):
    """Ten images with a box each, the last one's of a rare class."""
    draw = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(10):
        pixels = draw.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{i}.png"), pixels)
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": 64, "height": 48})
        box = {"bbox": [5 + i, 10, 12, 9], "area": 100, "category_id": 2 if i == 9 else 1}
        annotations.append({"id": i + 1, "image_id": i + 1, **box})
    categories = [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "notes.json").write_text(json.dumps(document))
    return tmp_path


def mixed_data(folder):
    annotations = load_annotations(folder / "notes.json")
    source = DetectionDataset(annotations, folder)
    factors = np.ones(10)
    bank = DonorBank(annotations, folder, classes=["nut"])
    steps = [
        Mosaic(source.load, factors),
        Mixup(source.load, factors, probability=0.5),
        RarePaste(bank, probability=0.8),
    ]
    return DetectionDataset(annotations, folder, augmentation=Compose(steps), seed=3)


def loaded(data, draws, workers):
    loader = DataLoader(
        data,
        batch_sampler=[draws[i : i + 3] for i in range(0, len(draws), 3)],
        collate_fn=collate,
        num_workers=workers,
        generator=torch.Generator(),
        multiprocessing_context="fork" if workers else None,
    )
    return [pair for batch in loader for pair in zip(*batch, strict=True)]


def test_images_do_not_depend_on_workers_or_on_where_a_run_went_on(folder):
    draws = [Draw(i % 10, i) for i in range(12)]
    alone = loaded(mixed_data(folder), draws, 0)
    assert sum(len(target["labels"]) > 1 for _, target in alone) > 6
    assert any(target["pasted"].any() for _, target in alone)
    for other in (
        loaded(mixed_data(folder), draws, 2),
        alone[:6] + loaded(mixed_data(folder), draws[6:], 2),
    ):
        for (image, target), (image_b, target_b) in zip(alone, other, strict=True):
            assert torch.equal(image, image_b)
            assert all(torch.equal(target[name], target_b[name]) for name in target)


def test_a_data_set_with_mixing_pickles_small(folder):
    data = mixed_data(folder)
    assert len(pickle.dumps(data)) < 30_000
    image, target = pickle.loads(pickle.dumps(data))[Draw(2, 5)]
    assert torch.equal(image, data[Draw(2, 5)][0])
    assert torch.equal(target["boxes"], data[Draw(2, 5)][1]["boxes"])
