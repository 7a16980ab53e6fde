"""The embedded data set: its promises about frequencies, splits, boxes and files."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from detbalance.data import digit_scenes as scenes
from detbalance.data import digits as files
from detbalance.data.digits import FREQUENCY_ORDER, NAMES, DigitsPaths, make_digits

pytest.importorskip("sklearn")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> DigitsPaths:
    return make_digits(tmp_path_factory.mktemp("full") / "digits")


def contents(paths: DigitsPaths, part: str) -> dict:
    return json.loads((paths.train if part == "train" else paths.val).read_text())


def images_per_class(coco: dict) -> list[int]:
    pairs = {(a["image_id"], a["category_id"]) for a in coco["annotations"]}
    return [sum(c == category["id"] for _, c in pairs) for category in coco["categories"]]


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_train_frequencies_fall_geometrically_from_60_percent_to_half_a_percent(full):
    counts = np.array(images_per_class(contents(full, "train")))[list(FREQUENCY_ORDER)]
    assert counts[0] == 720
    assert counts[-1] == 6
    assert np.allclose(counts[1:] / counts[:-1], (0.005 / 0.6) ** (1 / 9), rtol=0.12)


def test_every_class_is_in_at_least_18_percent_of_the_val_images(full):
    coco = contents(full, "val")
    assert min(images_per_class(coco)) >= 0.18 * len(coco["images"])


def test_files_are_ordinary_coco_with_one_rgb_png_per_image(full):
    for part, folder, number in (
        ("train", full.train_images_dir, 1200),
        ("val", full.val_images_dir, 300),
    ):
        coco = contents(full, part)
        assert [c["name"] for c in coco["categories"]] == list(NAMES)
        assert len(coco["images"]) == number
        assert {i["file_name"] for i in coco["images"]} == {p.name for p in folder.iterdir()}
        with Image.open(folder / coco["images"][-1]["file_name"]) as image:
            assert image.mode == "RGB"
            assert image.size == (128, 128)
        assert len({a["id"] for a in coco["annotations"]}) == len(coco["annotations"])


def test_boxes_are_inside_large_enough_and_apart(full):
    for part in ("train", "val"):
        coco = contents(full, part)
        boxes = np.array([a["bbox"] for a in coco["annotations"]])
        assert boxes[:, :2].min() >= 0
        assert (boxes[:, :2] + boxes[:, 2:]).max() <= 128
        longer = boxes[:, 2:].max(axis=1)
        assert longer.max() <= 48
        assert np.quantile(longer, 0.02) >= 19  # only crowded scenes shrink a digit
        image = np.array([a["image_id"] for a in coco["annotations"]])
        for number in np.unique(image):
            some = boxes[image == number]
            left, right = some[:, None, :2], some[None, :, :2]
            gap = np.maximum(left - right - some[None, :, 2:], right - left - some[:, None, 2:])
            apart = gap.max(axis=2) >= 3
            assert (apart | np.eye(len(some), dtype=bool)).all()


def test_scans_are_disjoint_between_train_and_val(tmp_path, monkeypatch):
    seen: dict[int, set[bytes]] = {}
    original = files._build_part

    def spy(folder, part, number, fractions, pools, seed):
        for digit, pool in enumerate(pools):
            own = {scan.tobytes() for scan in pool}
            assert len(own) > 50
            assert not own & seen.get(digit, set())
            seen[digit] = seen.get(digit, set()) | own
        original(folder, part, number, fractions, pools, seed)

    monkeypatch.setattr(files, "_build_part", spy)
    make_digits(tmp_path / "d", train_images=10, val_images=10)
    assert len(seen) == 10


def test_the_box_of_a_painted_glyph_is_tight_around_what_changed():
    generator = np.random.default_rng(3)
    scans = files._load_scans()
    for digit in range(10):
        glyph = scenes.draw_glyph(scans[digit][0], generator)
        height, width = glyph.shape
        before = np.full((128, 128, 3), 120, np.uint8)
        after = before.copy()
        scenes._paint(after, glyph, (30, 40), generator)
        changed = np.abs(after.astype(int) - before).max(axis=2) >= 12
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert (rows[0], rows[-1]) == (40, 40 + height - 1)
        assert (columns[0], columns[-1]) == (30, 30 + width - 1)


def test_ink_stands_out_from_the_background():
    generator = np.random.default_rng(0)
    for _ in range(200):
        shade = int(generator.integers(0, 256))
        scene = np.full((128, 128, 3), shade, np.uint8)
        scenes._paint(scene, np.full((20, 20), 255, np.uint8), (5, 5), generator)
        assert abs(float(scene[5:25, 5:25].mean()) - shade) >= 30


def test_a_crowded_scene_shrinks_digits_until_all_have_a_place():
    glyphs = [np.full((48, 40), 255, np.uint8)] * 12
    _, boxes = scenes.draw_scene(glyphs, np.random.default_rng(0))
    assert len(boxes) == 12
    assert min(box[3] for box in boxes) < 48


def test_same_seed_same_bytes_and_other_seed_other_images(tmp_path):
    small = {"train_images": 12, "val_images": 10}
    first = make_digits(tmp_path / "a", **small)
    make_digits(tmp_path / "b", **small)
    make_digits(tmp_path / "c", seed=1, **small)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    a, c = digest(tmp_path / "a"), digest(tmp_path / "c")
    assert all(a[name] != c[name] for name in a if name.endswith(".png"))
    assert min(images_per_class(contents(first, "train"))) == 1


def test_global_random_state_is_untouched(tmp_path):
    before = np.random.get_state()[1].tolist()  # noqa: NPY002 - the global state is the subject
    make_digits(tmp_path / "a", train_images=10, val_images=10)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_complete_data_is_reused_and_incomplete_or_other_data_is_rebuilt(tmp_path):
    small = {"train_images": 10, "val_images": 10}
    paths = make_digits(tmp_path / "d", **small)
    whole = digest(tmp_path / "d")
    stamp = paths.train.stat().st_mtime_ns
    make_digits(tmp_path / "d", **small)
    assert paths.train.stat().st_mtime_ns == stamp
    next(paths.val_images_dir.iterdir()).unlink()
    make_digits(tmp_path / "d", **small)
    assert digest(tmp_path / "d") == whole
    make_digits(tmp_path / "d", train_images=11, val_images=10, overwrite=True)
    assert len(list(paths.train_images_dir.iterdir())) == 11
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_an_interrupted_build_leaves_what_was_there(tmp_path, monkeypatch):
    small = {"train_images": 10, "val_images": 10}
    make_digits(tmp_path / "d", **small)
    whole = digest(tmp_path / "d")

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "draw_scene", fail)
    for root in ("d", "new"):
        with pytest.raises(KeyboardInterrupt):
            make_digits(tmp_path / root, seed=5, overwrite=True, **small)
    assert digest(tmp_path / "d") == whole
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "train.json").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 1 other file \(first: train.json\).*Choose"):
        make_digits(tmp_path)
    assert (tmp_path / "train.json").read_text() == "mine"
    root = tmp_path / "d"
    make_digits(root, train_images=10, val_images=10)
    (root / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"first: notes.txt"):
        make_digits(root, seed=1)
    with pytest.raises(ValueError, match="this is a file"):
        make_digits(root / "notes.txt")


def test_nothing_goes_that_was_not_written_here_or_that_nobody_asked_to_replace(tmp_path):
    root, small = tmp_path / "d", {"train_images": 10, "val_images": 10}
    paths = make_digits(root, **small)
    (paths.train_images_dir / "mine.png").write_bytes(b"my work")
    (paths.val_images_dir / "notes").mkdir()
    paths.train.write_text("edited")
    whole = digest(root)
    make_digits(root, **small)  # all of it is there
    (paths.val_images_dir / "00003.png").unlink()
    make_digits(root, **small)  # put back
    assert digest(root) == whole
    with pytest.raises(ValueError, match=r"holds 2 other files \(first: train/mine.png\)"):
        make_digits(root, seed=1, overwrite=True, **small)
    (paths.train_images_dir / "mine.png").unlink()
    with pytest.raises(ValueError, match=r"holds 1 other file \(first: val/notes\)"):
        make_digits(root, seed=1, overwrite=True, **small)
    (paths.val_images_dir / "notes").rmdir()
    with pytest.raises(ValueError, match=r"digits of other settings \(seed 0\).*--overwrite"):
        make_digits(root, seed=1, **small)
    assert paths.train.read_text() == "edited"
    make_digits(root, seed=1, overwrite=True, **small)
    make_digits(tmp_path / "other", seed=1, **small)
    assert digest(root) == digest(tmp_path / "other")


@pytest.mark.parametrize("marker", ["[]", "{", '{"train_images": 1e99, "val_images": 10}', "null"])
def test_a_folder_with_a_marker_of_others_is_refused(tmp_path, marker):
    (tmp_path / "digits.json").write_text(marker)
    with pytest.raises(ValueError, match=r"holds 1 other file \(first: digits.json\)"):
        make_digits(tmp_path, overwrite=True)


@pytest.mark.parametrize("name", ["train_images", "val_images"])
def test_too_large_numbers_are_refused_at_once(tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name} is 10{{18}}\. Expected at most 100000"):
        make_digits(tmp_path / "d", **{name: 10**18})


@pytest.mark.parametrize("name", ["train_images", "val_images", "seed"])
def test_too_small_numbers_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name} is -1\. Expected at least"):
        make_digits(tmp_path / "d", **{name: -1})


def test_missing_scikit_learn_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install .*\[quickstart\]"):
        make_digits(tmp_path / "d")
    assert not list(tmp_path.iterdir())
