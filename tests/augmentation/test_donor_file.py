"""The packed file of donors: the same draws and pixels as without it, never a stale one."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("cv2")
pytest.importorskip("safetensors")

from donor_sets import empty_target, write

from detbalance.augmentation import DonorBank, RarePaste, donors
from detbalance.augmentation.packing import pack_donors
from detbalance.cli import cli, main
from detbalance.data import load_annotations

CLASSES = ["a", "b", "c"]
TRIANGLE = [[12, 10, 30, 10, 12, 34]]


def make(folder, depth=np.uint8):
    """Masks on class a, other boxes near class b, class c in two images."""
    boxes, segmentations = [], []
    for image in range(6):
        boxes += [(image, 1, (12, 10, 18, 24), 0), (image, 2, (45 + image, 40, 15, 11.5), 0)]
        segmentations += [TRIANGLE, []]
        if image < 2:
            boxes += [(image, 3, (60, 55, 13, 15), 0), (image, 3, (5, 60, 8, 6), 0)]
            segmentations += [[], []]
    return write(folder, boxes, segmentations=segmentations, depth=depth)


@pytest.fixture(params=[np.uint8, np.uint16], ids=["8bit", "16bit"])
def data(request, tmp_path):
    return make(tmp_path, request.param)


@pytest.fixture
def packed(data, tmp_path):
    pack_donors(data, tmp_path, tmp_path / "d.safetensors", classes=CLASSES)
    return tmp_path / "d.safetensors"


def test_where_no_box_can_be_a_donor_it_is_said(data, tmp_path):
    with pytest.raises(ValueError, match="there is no donor to write"):
        pack_donors(data, tmp_path, tmp_path / "d.safetensors", classes=CLASSES, min_size=500)
    assert not (tmp_path / "d.safetensors").exists()


def same(one, other):
    assert one.image.dtype == other.image.dtype
    assert np.array_equal(one.image, other.image)
    assert np.array_equal(one.box, other.box)
    assert np.array_equal(one.others, other.others)
    assert one.others.shape == other.others.shape
    assert (one.label, one.area, one.resize) == (other.label, other.area, other.resize)
    assert (one.mask is None) == (other.mask is None)
    assert one.mask is None or np.array_equal(one.mask, other.mask)
    assert not one.image.flags.writeable
    assert not other.image.flags.writeable


@pytest.mark.parametrize("options", [{}, {"classes": ["c", "a"]}, {"min_size": 14}])
def test_a_bank_with_the_file_is_the_bank_without(data, packed, tmp_path, monkeypatch, options):
    options = {"classes": CLASSES, **options}
    plain = DonorBank(data, tmp_path, **options)
    cuts = [plain.crop(number) for number in range(len(plain))]
    monkeypatch.setattr(donors, "read_image", None)  # no image is opened
    # Masks are in the file: the training loads no segmentations.
    slim = load_annotations(tmp_path / "train.json")
    bank = DonorBank(slim, tmp_path, donor_file=packed, **options)
    assert bank.labels.tolist() == plain.labels.tolist()
    assert bank.probabilities.tolist() == plain.probabilities.tolist()
    for number, cut in enumerate(cuts):
        same(cut, bank.crop(number))
    assert not bank._cache
    for seed in range(20):
        draw = [one.draw(np.random.default_rng(seed)) for one in (plain, bank)]
        assert draw[0] == draw[1]
    image = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    for seed in range(10):
        results = [
            RarePaste(one, probability=1)(image, empty_target(), np.random.default_rng(seed))
            for one in (plain, bank)
        ]
        assert np.array_equal(results[0][0], results[1][0])
        assert all(np.array_equal(results[0][1][k], results[1][1][k]) for k in results[0][1])
    unmasked = DonorBank(slim, tmp_path, donor_file=packed, masks=False, **options)
    assert all(unmasked.crop(number).mask is None for number in range(len(unmasked)))


def crop_all(bank):
    return [bank.crop(number).image.sum() for number in range(len(bank))]


def test_it_travels_to_spawned_and_forked_processes(data, packed, tmp_path):
    bank = DonorBank(data, tmp_path, classes=CLASSES, donor_file=packed)
    small = len(pickle.dumps(bank._file))
    expected = crop_all(bank)  # opened here before it travels
    assert len(pickle.dumps(bank._file)) == small
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        assert pool.submit(crop_all, bank).result() == expected
    assert crop_all(pickle.loads(pickle.dumps(bank))) == expected


def test_a_class_keeps_at_most_so_many_donors_by_the_seed(data, tmp_path):
    sets = {}
    for seed in (0, 0, 1, 2):
        path = tmp_path / f"{seed}.safetensors"
        result = pack_donors(
            data, tmp_path, path, classes=CLASSES, min_size=5, max_per_class=3, seed=seed
        )
        bank = DonorBank(data, tmp_path, classes=CLASSES, min_size=5, donor_file=path)
        assert np.bincount(bank.labels).tolist() == [0, 3, 3, 3]
        assert result.donors.tolist() == [0, 3, 3, 3]
        assert result.over_limit.tolist() == [0, 3, 3, 1]
        assert (result.boxes == result.donors + result.over_limit).all()
        found = tuple(bank._rows)
        assert sets.setdefault(seed, found) == found
    assert len(set(sets.values())) > 1


def test_what_is_left_out_is_counted_and_named(data, tmp_path):
    (tmp_path / "1.png").write_bytes(b"no image")
    done = []
    result = pack_donors(
        data,
        tmp_path,
        tmp_path / "d.safetensors",
        classes=CLASSES,
        min_size=9,
        max_overlap=0,
        progress=lambda *count: done.append(count),
    )
    assert done == [(n, 6) for n in range(1, 7)]
    assert list(result.problems) == ["1.png"]
    assert "cannot be read" in result.problems["1.png"]
    assert result.unreadable.tolist() == [0, 1, 1, 1]
    assert result.small.tolist() == [0, 0, 0, 2]
    left_out = result.small + result.overlapping + result.over_limit + result.unreadable
    assert (result.boxes == result.donors + left_out).all()
    bank = DonorBank(data, tmp_path, classes=CLASSES, donor_file=tmp_path / "d.safetensors")
    assert np.bincount(bank.labels).tolist() == result.donors.tolist()


# Stale files


def edited(path, change):
    """The annotations after a change of the JSON."""
    content = json.loads(path.read_text())
    change(content)
    copy = path.with_name("changed.json")
    copy.write_text(json.dumps(content))
    return load_annotations(copy)


def move_a_box(content):
    content["annotations"][0]["bbox"][0] += 1


def add_a_box_beside(content):
    new = {"id": 99, "image_id": 0, "category_id": 1, "bbox": [40, 5, 9, 9], "area": 81}
    content["annotations"].append({**new, "iscrowd": 0})


def drop_a_donor(content):
    del content["annotations"][1]


def swap_the_classes(content):
    first, second = content["categories"][:2]
    first["name"], second["name"] = second["name"], first["name"]


def rename_an_image(content):
    content["images"][0]["file_name"] = "9.png"


def make_a_crowd(content):
    content["annotations"][0]["iscrowd"] = 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (move_a_box, "the boxes or classes of"),
        (add_a_box_beside, "the boxes or classes of"),
        (drop_a_donor, "1 of its 16 donors are no annotations of"),
        (swap_the_classes, "the boxes or classes of"),
        (rename_an_image, "the boxes or classes of"),
        (make_a_crowd, "the boxes or classes of"),
    ],
)
def test_a_stale_file_is_refused(tmp_path, change, why):
    path = tmp_path / "d.safetensors"
    pack_donors(make(tmp_path), tmp_path, path, classes=CLASSES, min_size=5)
    changed = edited(tmp_path / "train.json", change)
    with pytest.raises(ValueError, match=rf"d.safetensors: is stale, {why}.*train.json.*again"):
        DonorBank(changed, tmp_path, classes=CLASSES, donor_file=path)


def test_further_images_and_another_order_do_no_harm(tmp_path):
    data = make(tmp_path)
    path = tmp_path / "d.safetensors"
    kept = data.subset([4, 2, 0])
    pack_donors(kept, tmp_path, path, classes=CLASSES)
    bank = DonorBank(data, tmp_path, classes=CLASSES, donor_file=path)
    plain = DonorBank(data, tmp_path, classes=CLASSES)
    rows = plain._rows.tolist()
    assert set(data.image_index[bank._rows]) == {0, 2, 4}
    for number, row in enumerate(bank._rows.tolist()):
        same(plain.crop(rows.index(row)), bank.crop(number))


def test_another_margin_is_refused(data, packed, tmp_path):
    with pytest.raises(
        ValueError, match=r"have a margin of 0\.2, 0\.3 is asked for.*--margin 0\.3"
    ):
        DonorBank(data, tmp_path, classes=CLASSES, margin=0.3, donor_file=packed)


def test_a_file_without_the_classes_is_refused(data, packed, tmp_path):
    pack_donors(data, tmp_path, packed, classes=["a"])
    with pytest.raises(ValueError, match=r"d.safetensors: holds none of the 8 boxes .*\(b, c\)"):
        DonorBank(data, tmp_path, classes=["b", "c"], donor_file=packed)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\x10\0\0\0\0\0\0\0" + b"{}" + b" " * 14])
def test_what_is_no_donor_file_is_refused(data, tmp_path, content):
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x.safetensors: "):
        DonorBank(data, tmp_path, classes=CLASSES, donor_file=path)


def test_a_truncated_file_is_refused(data, packed, tmp_path):
    packed.write_bytes(packed.read_bytes()[:-100])
    with pytest.raises(ValueError, match="no donor file can be read"):
        DonorBank(data, tmp_path, classes=CLASSES, donor_file=packed)


def rewritten(path, metadata=(), **arrays):
    """The file with other metadata and arrays; None leaves one out."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(path, framework="numpy") as file:
        about = {**file.metadata(), **dict(metadata)}
        values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    values.update(arrays)
    save_file(
        {name: value for name, value in values.items() if value is not None},
        path,
        {name: value for name, value in about.items() if value is not None},
    )
    return values


ARRAYS = (
    "annotation_ids", "pixel_offsets", "other_offsets", "mask_offsets", "sides", "depths",
    "labels", "areas", "boxes", "others", "pixels", "mask_bits",
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "what"),
    [
        *(({name: None}, rf'"{name}" is missing') for name in ARRAYS),
        *(({name: np.zeros(3, np.float32)}, rf'"{name}" is F32 \[3\], not ') for name in ARRAYS),
        ({"labels": np.zeros(1, np.int64)}, r'"labels" is I64 \[1\], not I64 \[\d+\]'),
        *(
            ({"metadata": {name: None}}, rf'"{name}" is missing')
            for name in ("margin", "classes", "source", "fingerprint")
        ),
        ({"metadata": {"margin": "nan"}}, r"\"margin\" is 'nan', not a number in 0..1"),
        ({"metadata": {"margin": "wide"}}, r"\"margin\" is 'wide'"),
        ({"metadata": {"classes": "[" * 10**5}}, r'"classes" is no list of names'),
        ({"metadata": {"classes": '["a", 1]'}}, r'"classes" is no list of names'),
    ],
)
def test_a_donor_file_that_lacks_something_is_refused(tmp_path, change, what):
    data, path = make(tmp_path), tmp_path / "d.safetensors"
    pack_donors(data, tmp_path, path, classes=CLASSES)
    rewritten(path, **change)
    with pytest.raises(ValueError, match=rf"d.safetensors: {what}.*Write the file again"):
        DonorBank(data, tmp_path, classes=CLASSES, donor_file=path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sides", 0), ("sides", -1), ("sides", 2**31 - 1), ("depths", 0), ("depths", 3),
        ("labels", 0), ("labels", 4), ("areas", -1), ("areas", np.nan), ("areas", np.inf),
        ("boxes", -1), ("boxes", np.nan), ("boxes", 1e9), ("others", np.inf),
        ("pixel_offsets", 1), ("pixel_offsets", -(2**63)), ("pixel_offsets", 2**63 - 1),
        ("mask_offsets", 2**40), ("other_offsets", -1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", [0, -1])
def test_numbers_that_no_donor_has_are_refused(tmp_path, name, value, place):
    data, path = make(tmp_path), tmp_path / "d.safetensors"
    pack_donors(data, tmp_path, path, classes=CLASSES)
    array = np.ones((2, 4)) if name == "others" else rewritten(path)[name].copy()
    array.reshape(-1)[place] = value
    rewritten(path, **{name: array})
    with pytest.raises(ValueError, match=rf'd.safetensors: "{name}" .*Write the file again'):
        DonorBank(data, tmp_path, classes=CLASSES, donor_file=path)


def test_whatever_happens_to_the_bytes_of_a_donor_file_is_said_in_words(tmp_path):
    data, path = make(tmp_path), tmp_path / "d.safetensors"
    pack_donors(data, tmp_path, path, classes=CLASSES)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    text = whole[8 : 8 + int.from_bytes(whole[:8], "little")].rstrip()
    words = []
    for number in range(300):
        content = bytearray(whole)
        # The header, the arrays behind the pixels, and anything.
        low, high = ((8, 8 + len(text)), (len(whole) - 3000, len(whole)), (0, len(whole)))[
            number % 3
        ]
        for at in rng.integers(low, high, rng.integers(1, 4)).tolist():
            content[at] = int(
                rng.choice([0, 255, 34, 48, 93, content[at] ^ 1, content[at] + 1 & 255])
            )
        path.write_bytes(
            bytes(content[: rng.integers(len(whole))] if number % 10 == 9 else content)
        )
        try:
            bank = DonorBank(data, tmp_path, classes=CLASSES, donor_file=path)
            paste = RarePaste(bank, probability=1, max_pastes=3)
            paste(np.zeros((90, 90, 3), np.uint8), empty_target(), np.random.default_rng(number))
            for donor in range(len(bank)):
                bank.crop(donor)
        except ValueError as error:
            words.append(str(error))
    assert len(words) > 100
    assert all(str(path) in line for line in words)


def test_a_file_replaced_during_the_run_stops_it(data, packed, tmp_path):
    bank = DonorBank(data, tmp_path, classes=CLASSES, donor_file=packed)
    pack_donors(data, tmp_path, packed, classes=CLASSES, max_per_class=1)
    with pytest.raises(ValueError, match="was replaced by another file"):
        bank.crop(0)


def test_nothing_to_write_leaves_the_old_file(data, packed, tmp_path):
    before = packed.read_bytes()
    for image in range(6):
        (tmp_path / f"{image}.png").unlink()
    with pytest.raises(ValueError, match="there is no donor to write"):
        pack_donors(data, tmp_path, packed, classes=CLASSES)
    assert packed.read_bytes() == before
    assert not list(tmp_path.glob(".*"))


# The command


def run_command(folder, *options):
    arguments = ["donors", "--annotations", folder / "train.json", "--images", folder]
    arguments += ["--output", folder / "out/d.safetensors", *options]
    return CliRunner().invoke(cli, [str(part) for part in arguments])


def test_the_command_writes_the_file_and_says_what_is_in_it(tmp_path, caplog):
    data = make(tmp_path)
    (tmp_path / "1.png").unlink()
    result = run_command(tmp_path, "--classes", "b", "--classes", "c")
    assert result.exit_code == 0, result.output
    rows = {line.split()[0]: line.split()[2:] for line in result.output.splitlines() if line}
    assert rows["b"] == ["6", "5", "0", "0", "0", "1"]
    assert rows["c"] == ["4", "1", "2", "0", "0", "1"]
    assert "Images that cannot be used: 1, donors left out with them: 2" in caplog.text
    assert "1.png: the image cannot be read" in caplog.text
    bank = DonorBank(data, tmp_path, classes=["b", "c"], donor_file=tmp_path / "out/d.safetensors")
    assert len(bank) == sum(int(rows[name][1]) for name in "bc")
    assert isinstance(run_command(tmp_path).exception, ValueError)  # it is there already
    options = ("--classes", "a", "--max-per-class", "2", "--overwrite")
    assert "(2 donors, " in run_command(tmp_path, *options).output


def test_the_command_ends_in_one_line(tmp_path, capsys):
    make(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["donors", "--annotations", str(tmp_path / "train.json"), "--images",
              str(tmp_path / "nowhere"), "--output", str(tmp_path / "d")])  # fmt: skip
    assert end.value.code == 2
    assert f"error: --images: {tmp_path / 'nowhere'} is no folder" in capsys.readouterr().err
