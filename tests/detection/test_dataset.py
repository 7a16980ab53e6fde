"""Images and boxes as detectors take them, and image files checked in advance."""

from __future__ import annotations

import json
import logging
import multiprocessing
import pickle
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from detbalance.augmentation.transform import append_rows
from detbalance.data import load_annotations
from detbalance.data.images import check_images, read_image, usable_images
from detbalance.detection.dataset import DetectionDataset, Draw, collate, worker_init


def coloured(width=40, height=30):
    """Smooth colours, different in all three channels and along both axes."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 6, y * 8, 255 - x * 3], 2).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Three images: with two boxes, without boxes, with a crowd region and a box."""
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        Image.fromarray(np.roll(coloured(), i, axis=1)).save(images / f"{i}.png")
    boxes = [
        (0, 3, [1, 2, 10, 12], 0),
        (0, 9, [5, 5, 20, 20], 0),
        (2, 9, [0, 0, 30, 30], 1),
        (2, 3, [4, 4, 8, 8], 0),
    ]
    document = {
        "images": [
            {"id": 10 + i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(3)
        ],
        "categories": [{"id": 3, "name": "a"}, {"id": 9, "name": "b"}],
        "annotations": [
            {
                "id": n,
                "image_id": 10 + image,
                "category_id": category,
                "bbox": bbox,
                "area": bbox[2] * bbox[3],
                "iscrowd": crowd,
            }
            for n, (image, category, bbox, crowd) in enumerate(boxes, 1)
        ],
    }
    (tmp_path / "notes.json").write_text(json.dumps(document))
    return tmp_path


def notes(folder, **changes):
    document = json.loads((folder / "notes.json").read_text())
    for image in document["images"]:
        image.update(changes)
    (folder / "notes.json").write_text(json.dumps(document))
    return load_annotations(folder / "notes.json")


def dataset(folder, **options):
    return DetectionDataset(notes(folder), folder / "images", **options)


# Reading files


def test_png_and_jpeg_are_read_as_rgb(tmp_path):
    picture = coloured()
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), picture)
    Image.fromarray(picture).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - picture).mean() < 4


def test_other_kinds_of_png_become_rgb(tmp_path):
    grey = coloured()[:, :, 0]
    bits = grey > 100
    alpha = np.dstack([coloured(), grey])
    cases = {
        "bits": (Image.fromarray(bits), np.repeat(bits[:, :, None] * 255, 3, 2)),
        "grey": (Image.fromarray(grey), np.repeat(grey[:, :, None], 3, 2)),
        "deep": (
            Image.fromarray(grey.astype(np.uint16) * 257 + 3),
            np.repeat(grey[:, :, None], 3, 2),
        ),
        "alpha": (Image.fromarray(alpha, "RGBA"), coloured()),
        "grey_alpha": (
            Image.merge("LA", [Image.fromarray(grey), Image.fromarray(255 - grey)]),
            np.repeat(grey[:, :, None], 3, 2),
        ),
        "palette": (
            Image.fromarray(coloured() // 64 * 64).quantize(256),
            coloured() // 64 * 64,
        ),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / f"{name}.png")
        found = read_image(tmp_path / f"{name}.png")
        assert found.dtype == np.uint8
        assert np.array_equal(found, expected), name


def test_exif_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(coloured()).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    found = read_image(tmp_path / "turned.jpg")
    assert found.shape == (30, 40, 3)
    assert np.abs(found.astype(int) - coloured()).mean() < 4


def broken_files(folder):
    """Files that cannot be used, with what is said about them by reader and check."""
    Image.fromarray(coloured(400, 300)).save(folder / "good.jpg")
    Image.fromarray(coloured()).save(folder / "good.png")
    whole = (folder / "good.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "half.png").write_bytes((folder / "good.png").read_bytes()[:-20])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no image at all")
    (folder / "folder.jpg").mkdir()
    return {
        "half.jpg": ("truncated", "is truncated"),
        "half.png": ("truncated", "is truncated"),
        "empty.jpg": ("it is empty", "is empty"),
        "text.jpg": ("no image or a damaged one", "is no readable image"),
        "folder.jpg": ("Is a directory", "is no file"),
        "gone.jpg": ("No such file", "is missing"),
    }


def test_unreadable_files_are_named(tmp_path, capfd):
    for name, (reason, _) in broken_files(tmp_path).items():
        with pytest.raises(ValueError, match=rf"{name}: the image cannot be read \(.*{reason}"):
            read_image(tmp_path / name)
    (tmp_path / "middle.png").write_bytes(
        (tmp_path / "good.png").read_bytes()[:60] + b"x" * 200 + b"IEND\xae\x42\x60\x82"
    )
    with pytest.raises(ValueError, match=r"middle.png: the image cannot be read"):
        read_image(tmp_path / "middle.png")


def test_bytes_behind_the_end_of_an_image_are_fine(tmp_path):
    broken_files(tmp_path)
    long = tmp_path / "long.jpg"
    long.write_bytes((tmp_path / "good.jpg").read_bytes() + b"\0" * 6000)
    assert read_image(long).shape == (300, 400, 3)


def test_missing_opencv_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"OpenCV.*pip install .*\[page\]"):
        read_image(tmp_path / "a.png")


# Checking files in advance


def test_check_images_finds_nothing_in_a_good_folder(folder):
    assert check_images(notes(folder), folder / "images") == {}


def test_check_images_says_what_is_wrong(tmp_path):
    expected = broken_files(tmp_path)
    long = tmp_path / "long.jpg"
    long.write_bytes((tmp_path / "good.jpg").read_bytes() + b"\0" * 9000)
    names = [*expected, "good.png", "good.jpg", "long.jpg"]
    document = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [],
    }
    document["images"][-3] |= {"width": 30, "height": 40}
    document["images"][-2] |= {"width": 400, "height": 301}
    (tmp_path / "notes.json").write_text(json.dumps(document))
    found = check_images(load_annotations(tmp_path / "notes.json"), tmp_path)
    assert list(found) == names[:-1]
    for name, (_, problem) in expected.items():
        assert found[name].startswith(problem), name
    assert found["good.png"].startswith("is 40x30 pixels, the annotations say 30x40; its EXIF")
    assert found["good.jpg"] == "is 400x300 pixels, the annotations say 400x301"


def test_images_without_a_file_name(folder):
    document = json.loads((folder / "notes.json").read_text())
    del document["images"][1]["file_name"]
    (folder / "notes.json").write_text(json.dumps(document))
    annotations = load_annotations(folder / "notes.json")
    assert check_images(annotations, folder / "images") == {"": "image 11 has no file_name"}
    with pytest.raises(ValueError, match=r"image 11 has no file_name.*Add it"):
        DetectionDataset(annotations, folder / "images")[1]


# The data set


def test_examples_are_what_torchvision_takes(folder):
    data = dataset(folder)
    assert len(data) == 3
    image, target = data[0]
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    expected = torch.from_numpy(coloured()).permute(2, 0, 1) / 255
    torch.testing.assert_close(image, expected)
    types = {name: (values.dtype, tuple(values.shape)) for name, values in target.items()}
    assert types == {
        "boxes": (torch.float32, (2, 4)),
        "labels": (torch.int64, (2,)),
        "area": (torch.float32, (2,)),
        "iscrowd": (torch.int64, (2,)),
        "pasted": (torch.bool, (2,)),
        "image_id": (torch.int64, ()),
    }
    assert target["boxes"].tolist() == [[1, 2, 11, 14], [5, 5, 25, 25]]
    assert target["labels"].tolist() == [1, 2]
    assert target["area"].tolist() == [120, 400]


def test_an_image_without_boxes_has_empty_targets_of_the_same_types(folder):
    data = dataset(folder)
    full, empty = data[0][1], data[1][1]
    for name in full:
        assert empty[name].dtype == full[name].dtype
    assert empty["boxes"].shape == (0, 4)
    assert empty["image_id"] == 1


def test_crowd_rows_have_the_label_of_ignored_regions(folder):
    _, target = dataset(folder)[2]
    assert target["labels"].tolist() == [-1, 1]
    assert target["iscrowd"].tolist() == [1, 0]


def test_targets_can_be_written_to_without_changing_the_annotations(folder):
    data = dataset(folder)
    _, target = data[0]
    target["boxes"] += 100
    target["labels"] += 1
    assert data[0][1]["boxes"][0].tolist() == [1, 2, 11, 14]
    assert data[0][1]["labels"].tolist() == [1, 2]


@pytest.fixture
def lists(folder):
    """The same images with the lists of LVIS for the first and the last."""
    document = json.loads((folder / "notes.json").read_text())
    first, _, last = document["images"]
    first |= {"neg_category_ids": [9, 3], "not_exhaustive_category_ids": []}
    last |= {"neg_category_ids": [], "not_exhaustive_category_ids": [9]}
    (folder / "notes.json").write_text(json.dumps(document))
    return folder


LISTS = ("negative_labels", "not_exhaustive_labels")


def lists_of(target):
    assert all(target[name].dtype == torch.int64 for name in LISTS)
    return [target[name].tolist() for name in LISTS]


def test_lists_of_absent_and_not_exhaustive_classes_are_labels_in_the_target(lists):
    data = dataset(lists)
    assert [lists_of(data[i][1]) for i in range(3)] == [[[2, 1], []], [[], []], [[], [2]]]
    of_two = DetectionDataset(notes(lists).select(["b"]), lists / "images")
    assert [lists_of(of_two[i][1]) for i in (0, 2)] == [[[1], []], [[], [1]]]
    data[0][1]["negative_labels"] += 5
    assert lists_of(data[0][1]) == [[2, 1], []]


def test_only_the_lists_that_the_file_has_are_in_the_target(lists):
    assert set(LISTS) <= set(dataset(lists)[0][1])
    document = json.loads((lists / "notes.json").read_text())
    for image in document["images"]:
        image.pop("neg_category_ids", None)
    (lists / "notes.json").write_text(json.dumps(document))
    assert set(LISTS) & set(dataset(lists)[0][1]) == {"not_exhaustive_labels"}
    for image in document["images"]:
        image.pop("not_exhaustive_category_ids", None)
    (lists / "notes.json").write_text(json.dumps(document))
    assert not set(LISTS) & set(dataset(lists)[0][1])


class Shift:
    """An augmentation that draws, pastes a box and leaves one without extent."""

    def __call__(self, image, target, generator):
        n = len(target["boxes"])
        extra = {
            "boxes": np.array([[1, 1, 5, 5], [3, 3, 3, 9]], np.float32),
            "labels": np.array([2, 2]),
            "areas": np.array([16.0, 0.0]),
            "is_crowd": np.zeros(2, bool),
            "pasted": np.ones(2, bool),
        }
        assert not target["pasted"].any()
        assert target["pasted"].shape == (n,)
        target = append_rows(target, extra, 2)
        return np.full_like(image, generator.integers(256)), target


def test_augmentation_gets_all_rows_and_degenerate_boxes_are_dropped(folder):
    image, target = dataset(folder, augmentation=Shift())[Draw(0, 4)]
    assert target["pasted"].tolist() == [False, False, True]
    assert {len(target[k]) for k in ("boxes", "labels", "area", "iscrowd")} == {3}
    expected = np.random.default_rng([0, 4]).integers(256) / 255
    assert image.unique().tolist() == [pytest.approx(expected)]


class Unlist(Shift):
    """Also takes what it pasted from the classes that are absent, and says so."""

    def __call__(self, image, target, generator):
        image, target = super().__call__(image, target, generator)
        absent = target["negative_labels"]
        pastes = np.array([[2, 0]])
        return image, {**target, "negative_labels": absent[absent != 2], "pastes": pastes}


def test_lists_are_what_the_augmentation_leaves_through_workers_and_collation(lists):
    loader = DataLoader(
        dataset(lists, augmentation=Unlist()),
        batch_sampler=[[Draw(0, 0), Draw(1, 1), Draw(2, 2)]],
        collate_fn=collate,
        num_workers=1,
        multiprocessing_context="fork",
        generator=torch.Generator(),
    )
    _, targets = next(iter(loader))
    assert [lists_of(target) for target in targets] == [[[1], []], [[], []], [[], [2]]]
    assert targets[0]["labels"].tolist() == [1, 2, 2]
    assert all(target["pastes"].tolist() == [[2, 0]] for target in targets)
    assert "pastes" not in dataset(lists)[0][1]
    nothing_asked = dataset(lists, augmentation=Shift())[0][1]["pastes"]
    assert (nothing_asked.dtype, nothing_asked.shape) == (torch.int64, (0, 2))


def test_augmentation_depends_on_seed_and_position_alone(folder):
    def first(seed, draw):
        return dataset(folder, augmentation=Shift(), seed=seed)[draw][0][0, 0, 0].item()

    assert first(0, Draw(0, 7)) == first(0, Draw(2, 7))
    assert len({first(0, Draw(0, position)) for position in range(20)}) > 10
    assert len({first(seed, Draw(0, 7)) for seed in range(20)}) > 10


def test_plain_rows_are_augmented_anew_each_time_and_in_each_worker(folder):
    data = dataset(folder, augmentation=Shift())
    assert len({data[0][0][0, 0, 0].item() for _ in range(20)}) > 10
    generator = torch.Generator()
    loader = DataLoader(
        data,
        batch_size=3,
        collate_fn=collate,
        num_workers=1,
        generator=generator,
        multiprocessing_context="fork",
    )
    epochs = [[image[0, 0, 0].item() for image in next(iter(loader))[0]] for _ in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3


def greys(data, rows, workers):
    """First values of the images of some rows, the loader's workers kept over three epochs."""
    loader = DataLoader(
        data,
        batch_size=2,
        sampler=rows,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator(),
        multiprocessing_context="fork" if workers else None,
    )
    epochs = []
    for epoch in range(3):
        data.set_epoch(epoch)
        examples = [pair for batch in loader for pair in zip(*batch, strict=True)]
        epochs.append({int(t["image_id"]): image[0, 0, 0].item() for image, t in examples})
    return epochs


def test_with_epochs_plain_rows_depend_on_seed_epoch_and_row_alone(folder):
    alone = greys(dataset(folder, augmentation=Shift()), [0, 1, 2], 0)
    assert len({tuple(epoch.values()) for epoch in alone}) == 3
    assert len(set(alone[0].values())) == 3
    assert greys(dataset(folder, augmentation=Shift()), [2, 0, 1], 2) == alone
    resumed = dataset(folder, augmentation=Shift())
    resumed.set_epoch(2)
    assert {row: resumed[row][0][0, 0, 0].item() for row in (1, 0, 2)} == alone[2]
    assert greys(dataset(folder, augmentation=Shift(), seed=1), [0, 1, 2], 0) != alone
    # NumPy fills short seeds up with zeros: a place in the stream must not look like an epoch.
    assert resumed[Draw(0, 2)][0][0, 0, 0].item() != alone[2][0]


def test_16_bits_reach_the_tensor_and_8_the_readers_of_8(folder):
    deep = (np.arange(1200, dtype=np.uint16) * 54 + 3).reshape(30, 40)
    Image.fromarray(deep).save(folder / "images" / "1.png")
    image, _ = dataset(folder).load(1)
    assert image.dtype == np.uint16
    assert np.array_equal(image, np.repeat(deep[:, :, None], 3, 2))
    assert np.array_equal(read_image(folder / "images" / "1.png"), (image // 257).astype(np.uint8))
    tensor, _ = dataset(folder)[1]
    torch.testing.assert_close(
        tensor[2].double(), torch.from_numpy(deep / 65535), atol=1e-7, rtol=0
    )
    assert len(tensor[0].unique()) == 1200
    assert dataset(folder).load(0)[0].dtype == np.uint8


def test_masks_are_the_segmentations_and_boxes_where_there_are_none(folder):
    document = json.loads((folder / "notes.json").read_text())
    document["annotations"][0]["segmentation"] = [[1, 2, 6, 2, 6, 14, 1, 14]]
    (folder / "notes.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"notes\.json: segmentations were not loaded.*=True"):
        dataset(folder, masks=True)
    annotations = load_annotations(folder / "notes.json", segmentations=True)
    data = DetectionDataset(annotations, folder / "images", masks=True)
    masks = data.load(0)[1]["masks"]
    assert (masks.dtype, masks.shape) == (bool, (2, 30, 40))
    expected = np.zeros_like(masks)
    expected[0, 2:14, 1:6] = expected[1, 5:25, 5:25] = True
    assert np.array_equal(masks, expected)
    assert data.load(1)[1]["masks"].shape == (0, 30, 40)
    assert "masks" not in data[0][1]
    assert "masks" not in dataset(folder).load(0)[1]


def test_loading_leaves_global_random_states_alone(folder):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    _ = dataset(folder, augmentation=Shift())[0]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_load_the_same(folder, method):
    data = dataset(folder)
    loader = DataLoader(
        data,
        batch_sampler=[[Draw(2, 0), Draw(0, 1)], [Draw(1, 2)]],
        collate_fn=collate,
        num_workers=1,
        worker_init_fn=worker_init,
        multiprocessing_context=multiprocessing.get_context(method),
        generator=torch.Generator(),
    )
    images, targets = next(iter(loader))
    for image, target, index in zip(images, targets, (2, 0), strict=True):
        expected = data[index]
        assert torch.equal(image, expected[0])
        assert all(torch.equal(target[k], expected[1][k]) for k in target)


def test_worker_init_leaves_one_thread(monkeypatch):
    import cv2

    calls = []
    monkeypatch.setattr(cv2, "setNumThreads", lambda n: calls.append(("cv2", n)))
    monkeypatch.setattr(torch, "set_num_threads", lambda n: calls.append(("torch", n)))
    worker_init(3)
    assert calls == [("cv2", 0), ("torch", 1)]


def test_pickle_is_small(folder):
    data = dataset(folder)
    assert len(pickle.dumps(data)) < 5000
    assert torch.equal(pickle.loads(pickle.dumps(data))[0][0], data[0][0])


def test_collate_keeps_images_of_different_sizes():
    batch = [(torch.zeros(3, 4, 5), {"boxes": torch.zeros(0, 4)}), (torch.zeros(3, 2, 2), {})]
    images, targets = collate(batch)
    assert [tuple(image.shape) for image in images] == [(3, 4, 5), (3, 2, 2)]
    assert targets[1] == {}


def test_unreadable_images_are_left_out_on_request(folder, caplog):
    (folder / "images" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"0\.png: the image cannot be read \(No such file"):
        dataset(folder)[0]
    with pytest.raises(ValueError, match=r"1 of 3 images cannot be used \(first: .*0\.png is"):
        usable_images(dataset(folder).annotations, folder / "images")
    with caplog.at_level(logging.WARNING):
        kept = usable_images(dataset(folder).annotations, folder / "images", skip=True)
    assert re.search(r"1 of 3 images are left out \(first: .*0\.png is missing\)", caplog.text)
    data = DetectionDataset(kept, folder / "images")
    assert len(data) == 2
    assert data[1][1]["labels"].tolist() == [-1, 1]
    for file in (folder / "images").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"2 of 2 images cannot be used"):
        usable_images(kept, folder / "images", skip=True)


def test_an_image_of_another_size_is_refused(folder):
    data = DetectionDataset(notes(folder, width=41), folder / "images")
    with pytest.raises(ValueError, match=r"0\.png: is 40x30 pixels, the annotations say 41x30"):
        data[0]
    unknown = DetectionDataset(notes(folder, width=0, height=0), folder / "images")
    assert unknown[0][0].shape == (3, 30, 40)


def test_impossible_arguments_are_refused(folder):
    with pytest.raises(ValueError, match=r"nowhere: is no folder.*Correct the path"):
        DetectionDataset(notes(folder), folder / "nowhere")
    with pytest.raises(ValueError, match="seed is -1"):
        dataset(folder, seed=-1)
    with pytest.raises(ValueError, match="epoch is -1"):
        dataset(folder).set_epoch(-1)
    with pytest.raises(IndexError, match="no image row 3; there are 3"):
        dataset(folder)[3]
    with pytest.raises(IndexError, match="no image row -1"):
        dataset(folder)[-1]
