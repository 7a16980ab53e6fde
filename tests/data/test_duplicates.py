"""Repeated images: byte for byte, by picture, and what must not be taken for either."""

from __future__ import annotations

import functools
import io
import json
import shutil
import sys
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from detbalance.data import Annotations, duplicates, load_annotations
from detbalance.data.duplicates import DuplicatePair, find_duplicates


@functools.cache
def photo(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Detail at every scale, as photos have: the sum of noise from coarse to fine."""
    rng = np.random.default_rng(seed)
    total = np.zeros((size[1], size[0], 3))
    for cells in (3, 6, 12, 24, 48, 96):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(noise.resize(size, Image.Resampling.BICUBIC), float) / cells**0.7
    total -= total.min()
    return Image.fromarray((total * (230 / total.max())).astype(np.uint8))


def annotated(folder: Path, images: dict[str, Image.Image], name: str = "train") -> Annotations:
    """Save images under their names, and list them in a file."""
    for file_name, image in images.items():
        image.save(folder / file_name, compress_level=1)
    return listed(folder, list(images), name)


def listed(folder: Path, names: list[str], name: str = "train") -> Annotations:
    entries = [{"id": i, "file_name": n} if n else {"id": i} for i, n in enumerate(names)]
    document = {"images": entries, "categories": [{"id": 1, "name": "a"}], "annotations": []}
    (folder / f"{name}.json").write_text(json.dumps(document))
    return load_annotations(folder / f"{name}.json")


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


COPIES = {
    "saved again": lambda image: jpeg(image, 40),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "a third, saved again": lambda image: jpeg(
        image.resize((image.width // 3, image.height // 3)), 75
    ),
    "larger": lambda image: image.resize((image.width * 2, image.height * 2)),
    "stretched": lambda image: image.resize((image.width, image.height * 2 // 3)),
    "grey": lambda image: image.convert("L"),
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "with alpha": lambda image: image.convert("RGBA"),
    "a palette": lambda image: image.convert("L").convert("P"),
    "16 bits": lambda image: Image.fromarray(
        np.asarray(image.convert("L")).astype(np.uint16) * 257
    ),
    "12 bits": lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 16),
}


@pytest.mark.parametrize("change", COPIES)
def test_changed_copies_are_near_their_originals_and_nothing_else(change, tmp_path):
    train = annotated(tmp_path, {f"{i}.png": photo(i) for i in range(7)})
    copies = {f"copy {i}.png": COPIES[change](photo(i)) for i in (0, 2, 6)}
    others = {f"other {i}.png": photo(i) for i in (8, 9)}
    val = annotated(tmp_path, copies | others, "val")
    found = find_duplicates(train, tmp_path, val)
    assert [(pair.first, pair.second, pair.kind) for pair in found.pairs] == [
        (f"{i}.png", f"copy {i}.png", "near") for i in (0, 2, 6)
    ]
    assert max(pair.distance for pair in found.pairs) <= 96
    assert (found.num_near, found.num_identical, found.num_compared) == (3, 0, 12)


def test_other_crops_and_mirrored_images_are_not_near(tmp_path):
    image = photo(1)
    train = annotated(tmp_path, {"a.png": image})
    changed = {
        "mirrored.png": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "cropped.png": image.crop((16, 12, 304, 228)),
    }
    assert not find_duplicates(train, tmp_path, annotated(tmp_path, changed, "val")).pairs


def test_the_same_bytes_are_identical_whatever_their_name(tmp_path):
    train = annotated(tmp_path, {"a.png": photo(1), "b.jpg": photo(2)})
    (tmp_path / "val").mkdir()
    shutil.copy(tmp_path / "b.jpg", tmp_path / "val" / "c.jpg")
    val = annotated(tmp_path / "val", {"d.png": photo(3)}, "val")
    val = listed(tmp_path / "val", ["d.png", "c.jpg"], "val")
    for near in (96, None):
        found = find_duplicates(train, tmp_path, val, tmp_path / "val", near=near)
        assert found.pairs == (DuplicatePair("b.jpg", "c.jpg", "identical", 0),)
        assert found.num_identical == 1
        assert found.num_compared == 4


def test_one_file_in_both_sets_is_a_leak(tmp_path):
    train = annotated(tmp_path, {"a.png": photo(1), "b.png": photo(2)})
    found = find_duplicates(train, tmp_path, listed(tmp_path, ["b.png"], "val"), near=None)
    assert found.pairs == (DuplicatePair("b.png", "b.png", "identical", 0),)


def test_copies_within_one_set_are_each_paired_with_an_earlier_one(tmp_path):
    image = photo(1)
    images = {
        "a.png": image,
        "b.png": photo(2),
        "c.jpg": image,
        "d.png": image,
        "e.png": image.convert("L"),
    }
    found = find_duplicates(annotated(tmp_path, images), tmp_path)
    near, identical, grey = found.pairs
    assert (near.first, near.second, near.kind) == ("a.png", "c.jpg", "near")
    assert identical == DuplicatePair("a.png", "d.png", "identical", 0)
    assert (grey.second, grey.kind) == ("e.png", "near")


def test_identical_comes_before_near_and_repeats_within_val_are_no_leak(tmp_path):
    image = photo(1)
    train = annotated(tmp_path, {"grey.png": image.convert("L"), "same.bmp": image})
    shutil.copy(tmp_path / "same.bmp", tmp_path / "copy.bmp")
    val = annotated(tmp_path, {"new.bmp": photo(2), "again.bmp": photo(2)}, "val")
    val = listed(tmp_path, ["copy.bmp", "new.bmp", "again.bmp"], "val")
    found = find_duplicates(train, tmp_path, val)
    assert found.pairs == (DuplicatePair("same.bmp", "copy.bmp", "identical", 0),)


def test_only_files_of_equal_size_are_read_for_bytes(tmp_path, monkeypatch):
    images = {f"{i}.png": photo(i, (40 + i, 30)) for i in range(6)}
    train = annotated(tmp_path, images)
    (tmp_path / "copy.png").write_bytes((tmp_path / "4.png").read_bytes())
    val = listed(tmp_path, ["copy.png"], "val")
    read = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path), read_bytes(path))[1])
    assert find_duplicates(train, tmp_path, val, near=None).num_identical == 1
    assert {path.name for path in read} == {"4.png", "copy.png"}


def test_equal_size_and_other_bytes_are_not_identical(tmp_path):
    train = annotated(tmp_path, {"a.bmp": photo(1)})
    val = annotated(tmp_path, {"b.bmp": photo(2)}, "val")
    assert (tmp_path / "a.bmp").stat().st_size == (tmp_path / "b.bmp").stat().st_size
    assert not find_duplicates(train, tmp_path, val, near=None).pairs


def stripes(*rows: int) -> Image.Image:
    image = np.full((240, 320), 255, dtype=np.uint8)
    for row in rows:
        image[row : row + 4] = 0
    return Image.fromarray(image)


def test_images_without_a_pattern_are_near_nothing(tmp_path):
    """An all-white image must not match every other, as the hash alone would have it."""
    white = Image.new("L", (320, 240), 255)
    speck = np.full((240, 320), 250, dtype=np.uint8)
    speck[10, 10] = 200
    plain = {
        "white.png": white,
        "white1.png": white.convert("1"),
        "black.png": Image.new("RGB", (64, 64)),
        "speck.png": Image.fromarray(speck),
        "one.png": stripes(20),
        "two.png": stripes(60, 200),
        "gradient.png": Image.linear_gradient("L"),
    }
    naive = [imagehash.phash(plain[n], hash_size=32) for n in ("white.png", "black.png", "one.png")]
    assert naive[0] - naive[1] <= 96
    assert naive[0] - naive[2] <= 96
    found = find_duplicates(annotated(tmp_path, plain), tmp_path)
    assert not found.pairs
    assert found.num_plain == len(plain)
    assert not found.unreadable


def test_plain_images_with_the_same_bytes_are_identical(tmp_path):
    white = Image.new("1", (64, 64), 1)
    found = find_duplicates(annotated(tmp_path, {f"{i}.png": white for i in range(3)}), tmp_path)
    assert [(p.first, p.second, p.kind) for p in found.pairs] == [
        ("0.png", "1.png", "identical"),
        ("0.png", "2.png", "identical"),
    ]


def test_the_hash_is_that_of_imagehash():
    for seed in range(20):
        image, file = photo(seed), io.BytesIO()
        image.save(file, "PNG")
        small = image.convert("L").resize((128, 128), Image.Resampling.LANCZOS)
        expected = imagehash.phash(small, hash_size=32, highfreq_factor=4).hash
        assert duplicates._phash(file.getvalue()) == np.packbits(expected).tobytes()


def test_different_16_bit_images_are_told_apart(tmp_path):
    """Plain conversion cuts 16-bit values off at 255: all images would be white."""

    def deep(seed: int) -> Image.Image:
        return Image.fromarray(np.asarray(photo(seed).convert("L")).astype(np.uint16) * 200 + 900)

    naive = [imagehash.phash(deep(seed), hash_size=32) for seed in (1, 2)]
    assert naive[0] == naive[1]
    found = find_duplicates(annotated(tmp_path, {f"{i}.png": deep(i) for i in (1, 2)}), tmp_path)
    assert not found.pairs
    assert found.num_plain == 0


def test_files_that_cannot_be_read_are_counted_and_the_rest_compared(tmp_path):
    image = photo(1)
    annotated(tmp_path, {"a.jpg": image, "b.png": image.convert("L")})
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    bad = ["cut.jpg", "gone.png", "text.png", "empty.png", "", "folder.png"]
    progress = []
    found = find_duplicates(
        listed(tmp_path, ["a.jpg", *bad, "b.png"]),
        tmp_path,
        progress=lambda done, total: progress.append((done, total)),
    )
    assert [(p.first, p.second) for p in found.pairs] == [("a.jpg", "b.png")]
    assert found.unreadable == (*bad[:4], "image 5", "folder.png")
    assert found.num_compared == 2
    assert progress == [(i, 8) for i in range(1, 9)]
    by_bytes = find_duplicates(listed(tmp_path, ["a.jpg", *bad]), tmp_path, near=None)
    assert by_bytes.unreadable == ("gone.png", "image 5", "folder.png")


def test_sets_without_images_have_no_duplicates(tmp_path):
    some = annotated(tmp_path, {"a.png": photo(1)})
    none = some.subset([])
    for pair in ((some, none), (none, some), (none, none)):
        assert not find_duplicates(pair[0], tmp_path, pair[1]).pairs
    assert not find_duplicates(none, tmp_path).pairs


@pytest.mark.parametrize("chunk", [3, 8, 100])
@pytest.mark.parametrize("within", [True, False])
def test_nearest_hashes_are_those_of_brute_force(chunk, within, monkeypatch):
    rng = np.random.default_rng(chunk)
    hashes = [rng.bytes(128) for _ in range(40)]
    for copy, original in ((9, 2), (25, 2), (30, 30 - 7), (39, 5)):
        changed = bytearray(hashes[original])
        changed[copy] ^= 0b101
        hashes[copy] = bytes(changed)
    searched = np.arange(40 if within else 20)
    wanted = np.arange(0 if within else 20, 40)
    bits = np.unpackbits(np.array([list(h) for h in hashes], dtype=np.uint8), axis=1)
    distances = (bits[:, None] != bits[None]).sum(axis=2)
    monkeypatch.setattr(duplicates, "_CHUNK", chunk)
    best, nearest = duplicates._nearest(hashes, searched, wanted)
    for row, found, distance in zip(wanted, best, nearest, strict=True):
        before = distances[row, searched[searched < row]]
        assert found == (before.argmin() if before.size else -1)
        assert distance == before.min() if before.size else distance > 511


def test_near_out_of_range_is_named(tmp_path):
    train = annotated(tmp_path, {"a.png": photo(1)})
    for near in (-1, 512):
        with pytest.raises(ValueError, match=f"near is {near}. Expected 0 to 511 of 1024 bits"):
            find_duplicates(train, tmp_path, near=near)


def test_without_the_library_identical_files_are_found_still(tmp_path, monkeypatch):
    train = annotated(tmp_path, {"a.png": photo(1), "b.png": photo(1)})
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert find_duplicates(train, tmp_path, near=None).num_identical == 1
    with pytest.raises(ImportError, match=r"pip install .*\[plan\]"):
        find_duplicates(train, tmp_path)


@pytest.mark.parametrize("name", ["bccd", "gtsdb_crops"])
def test_real_photos_of_different_scenes_are_far_apart(name, shared):
    folder = shared / "data" / name
    val = load_annotations(folder / "val.json")
    train = load_annotations(folder / "train.json").subset(range(120))
    found = find_duplicates(train, folder / "images", val.subset(range(60)), near=160)
    assert not found.pairs
    assert not found.unreadable


def test_boards_with_other_defects_and_bare_boards_are_not_near(shared):
    folder = shared / "data" / "deeppcb_lt"
    train = load_annotations(folder / "train.json")
    bare = [f"200851{i}.png" for i in (59, 67, 68)]
    # The closest pairs of boards: one layout, other defects.
    alike = [f"506000{i:02}.png" for i in (0, 1, 2, 3, 4, 18, 19, 33, 35, 50, 51, 65, 66, 67)]
    alike += [f"770000{i}.png" for i in (59, 64, 72, 77)]
    rows = [i for i in range(train.num_images) if train.file_name(i) in {*bare, *alike}]
    assert len(rows) > 8
    found = find_duplicates(train.subset(rows), folder / "images")
    assert found.num_plain == 3
    assert found.num_near == 0
    assert {pair.second for pair in found.pairs} <= set(bare)
