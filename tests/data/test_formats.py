"""YOLO labels and Pascal VOC folders: the arrays of the COCO file that says the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from commands import failing_command, run_command
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detbalance.data import Annotations, load_annotations
from detbalance.data.convert import convert
from detbalance.data.faults import AnnotationError
from detbalance.data.loading import image_folder
from detbalance.data.split import split_annotations
from detbalance.data.split_files import write_split

NAMES = ["screw", "Nut & bolt <M3>", "größe"]


def write_coco(folder: Path, sizes, boxes, names=NAMES, **more) -> Path:
    """A COCO file with its images; boxes: (image, class, x, y, width, height)."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i, size in enumerate(sizes):
        Image.new("L", size).save(folder / "images" / f"i{i}.png")
    document = {
        "images": [
            {"id": i + 1, "file_name": f"i{i}.png", "width": width, "height": height}
            for i, (width, height) in enumerate(sizes)
        ],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {"id": n + 1, "image_id": i + 1, "category_id": c + 1, "bbox": box, **more}
            for n, (i, c, *box) in enumerate(boxes)
        ],
    }
    path = folder / "train.json"
    path.write_text(json.dumps(document))
    return path


@st.composite
def scenes(draw):
    """Image sizes, and boxes with sides of whole, half and thousandth pixels."""
    sizes = draw(st.lists(st.tuples(*[st.integers(8, 3000)] * 2), min_size=1, max_size=3))
    # Not longer than 20 times their width, which no detector takes.
    sizes = [(max(w, h // 20), max(h, w // 20)) for w, h in sizes]
    boxes = []
    for _ in range(draw(st.integers(0, 6))):
        image = draw(st.integers(0, len(sizes) - 1))
        step = draw(st.sampled_from([1, 2, 1000]))
        sides = []
        for length in sizes[image]:
            low = draw(st.integers(0, (length - 1) * step - 1))
            high = draw(st.integers(low + 1, length * step))
            sides.append((low / step, (high - low) / step))
        (x, w), (y, h) = sides
        boxes.append((image, draw(st.integers(0, 2)), x, y, w, h))
    return sizes, sorted(set(boxes))


def assert_same(one: Annotations, other: Annotations, *, but=("source",)) -> None:
    for field in dataclasses.fields(Annotations):
        if field.name in but:
            continue
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("file_names", "segmentations") and a is not None:
            a, b = ([text.replace(b" ", b"") for text in texts] for texts in (a, b))
        if field.name.endswith("_labels") and a is not None:
            a, b = ([labels.tolist() for labels in lists] for lists in (a, b))
        same = np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        assert same, field.name


@settings(max_examples=40, deadline=None)
@given(scenes(), st.sampled_from(["yolo", "voc", "coco"]))
def test_other_formats_give_the_same_arrays_to_the_bit(scene, to):
    with TemporaryDirectory() as name:
        folder = Path(name)
        truth = load_annotations(write_coco(folder, *scene))
        images = {"train": folder / "images"}
        assert convert({"train": truth}, folder / "new", to, images=images) == []
        path = {"yolo": "data.yaml:train", "coco": "train.json"}.get(to)
        again = folder / "new" / path if path else f"{folder / 'new'}:train"
        assert_same(load_annotations(again), truth)


@pytest.fixture
def coco(tmp_path):
    boxes = [(0, 0, 4, 5, 20, 10), (1, 2, 0, 0, 64, 48), (0, 1, 30.5, 20.25, 10, 10)]
    return write_coco(tmp_path, [(64, 48), (64, 48), (32, 32)], boxes)


@pytest.fixture
def yolo(coco, tmp_path):
    images = {"train": coco.parent / "images"}
    convert({"train": load_annotations(coco)}, tmp_path / "yolo", "yolo", images=images)
    return tmp_path / "yolo" / "data.yaml"


@pytest.fixture
def voc(coco, tmp_path):
    convert({"train": load_annotations(coco)}, tmp_path / "voc", "voc")
    return tmp_path / "voc"


def test_layouts_of_other_tools_are_read(tmp_path):
    """A split as a folder, a list of folders, a text file; names as a list; paths that climb."""
    root = tmp_path / "set"
    for part, stem in (("train", "7"), ("train/deep", "12"), ("valid", "3")):
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 100)).save(root / "images" / part / f"{stem}.JPG", "JPEG")
        (root / "labels" / part / f"{stem}.txt").write_text("1 .5 .5 .1 .2\n\n0 0.5 0.5 1 1")
    Image.new("RGB", (10, 10)).save(root / "images" / "train" / "8.jpg")  # without labels
    (root / "val.txt").write_text("./images/valid/3.JPG\n\n")
    (root / "data.yaml").write_text(
        "path: /nowhere/on/this/machine\ntrain: [images/train]\nval: val.txt\n"
        "test: ../images/valid\nnc: 2\nnames: [a, b]\n"
    )
    train = load_annotations(root / "data.yaml:train")
    assert [train.file_name(i) for i in range(3)] == ["7.JPG", "8.jpg", "deep/12.JPG"]
    assert train.image_ids.tolist() == [7, 8, 12]  # as Ultralytics numbers its results
    assert train.categories.ids == (1, 2)
    assert train.labels.tolist() == [2, 1, 2, 1]
    assert train.bbox[0].tolist() == [90, 40, 20, 20]
    assert image_folder(root / "data.yaml:train") == root / "images" / "train"
    for split in ("val", "test"):
        part = load_annotations(root / f"data.yaml:{split}")
        assert part.image_ids.tolist() == [3]
        assert_same(part, part)


def test_outlines_are_read_as_boxes_and_kept_where_asked_for(yolo):
    label = yolo.parent / "labels/train/i2.txt"
    label.write_text("0 .25 .25 .5 .25 .75 .75")
    path = f"{yolo}:train"
    row = load_annotations(path)
    assert row.bbox[row.rows(2)].tolist() == [[8, 8, 16, 16]]
    outlines = load_annotations(path, segmentations=True)
    assert outlines.segmentation(outlines.rows(2).start) == [[8, 8, 16, 8, 24, 24]]
    assert outlines.segmentation(0) is None


def test_voc_counts_pixels_from_one_and_sorts_names(tmp_path):
    folder = tmp_path / "VOC2007"
    (folder / "Annotations").mkdir(parents=True)
    (folder / "Annotations" / "000005.xml").write_text(
        "<annotation><filename>000005.jpg</filename>"
        "<size><width>500</width><height>375</height></size>"
        "<object><name>dog</name><difficult>1</difficult><bndbox><xmax>48</xmax><xmin>1</xmin>"
        "<ymin>240</ymin><ymax>371</ymax></bndbox><part><name>head</name><bndbox/></part></object>"
        "<object><name>car</name><bndbox><xmin>8</xmin><ymin>12</ymin><xmax>352</xmax>"
        "<ymax>498</ymax></bndbox></object></annotation>"
    )
    truth = load_annotations(folder, tolerance=1000)
    assert truth.categories.names == ("car", "dog")
    assert truth.image_ids.tolist() == [5]
    assert truth.labels.tolist() == [2, 1]
    assert truth.bbox.tolist() == [[0, 239, 48, 132], [7, 11, 345, 487]]
    assert [str(fault) for fault in truth.faults] == [
        f"1 object is marked as difficult (kept, like any other) (first: "
        f"{folder / 'Annotations' / '000005.xml'}, dog)"
    ]


def test_a_split_of_other_formats_is_written_as_coco(yolo, voc, tmp_path):
    for number, path in enumerate((f"{yolo}:train", f"{voc}:train")):
        split = split_annotations(load_annotations(path), val_share=0.4)
        train, val = write_split(split, tmp_path / str(number))
        parts = [load_annotations(train), load_annotations(val)]
        assert sum(part.num_images for part in parts) == 3
        assert sum(part.num_annotations for part in parts) == 3
        assert_same(parts[0], split.train, but=("source", "annotation_ids"))


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


FIRST = "labels/train/i0.txt"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (FIRST, "0 ", "7 ", r"1 label line has a class that names lacks \(first: .* class 7"),
        (FIRST, "0 ", "0.5 ", "1 label line is not a class and four numbers"),
        (FIRST, "0 ", "nan ", "1 label line is not a class and four numbers"),
        (FIRST, "0 ", "screw ", "1 label line is not a class and four numbers"),
        (FIRST, "0 ", "0 0.1 ", "1 label line is not a class and four numbers"),
        (FIRST, "0 ", "0 80 60 20 10\n0 ", "1 label line has numbers that are no shares"),
        (FIRST, "0 ", "0 1.7 .5 .1 .1\n0 ", "1 annotation has a bbox wholly outside its image"),
        (FIRST, "0 ", "0 .5 .5 0 .1\n0 ", "1 annotation has a bbox of zero width"),
        ("data.yaml", "names:", "nc: 4\nnames:", "nc is 4 beside 3 names"),
        ("data.yaml", "names:", "classes:", "has no names"),
        ("data.yaml", "0: screw", "0: yes", "names has 0: True"),
        ("data.yaml", "0: screw", "-1: screw", "names has -1"),
        ("data.yaml", "0: screw", "0: größe", "1 category has the name of an earlier category"),
        ("data.yaml", "train: train.txt", "train: nowhere", "nowhere is not there"),
        ("data.yaml", "train: train.txt", "val: train.txt\ntest: a", 'has no split "train"'),
        ("data.yaml", "train: train.txt", "train: labels", "holds no image"),
        ("data.yaml", "names:", "names: [", "is not YAML"),
        ("train.txt", "i1.png", "other.png", "1 image has no size that can be read"),
    ],
)  # fmt: skip
def test_faults_of_yolo_labels_are_one_line(yolo, file, old, new, message):
    replaced(yolo.parent / file, old, new)
    with pytest.raises(AnnotationError, match=message) as error:
        load_annotations(f"{yolo}:train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<size>", "<sizes>", "is no readable XML"),
        ("<width>64</width>", "", "1 XML file has no size with a width and a height"),
        ("<height>48", "<height>-48", "1 XML file has no size with a width and a height"),
        ("<name>screw</name>", "", "1 object has no name or no bndbox"),
        ("<xmin>5", "<xmin>five", "1 object has no name or no bndbox"),
        ("<xmin>5", "<xmin>50", "1 annotation has a bbox of negative width"),
    ],
)
def test_faults_of_voc_folders_are_one_line(voc, old, new, message):
    replaced(voc / "Annotations" / "i0.xml", old, new)
    with pytest.raises(AnnotationError, match=message) as error:
        load_annotations(f"{voc}:train")
    assert "\n" not in str(error.value)


def test_faults_are_left_out_and_counted_where_asked_for(yolo, voc):
    replaced(yolo.parent / FIRST, "0 ", "7 ")
    part = load_annotations(f"{yolo}:train", drop_invalid=True)
    assert (part.num_annotations, part.faults[0].count) == (2, 1)
    replaced(voc / "Annotations" / "i0.xml", "<width>64</width>", "")
    part = load_annotations(f"{voc}:train", drop_invalid=True)
    assert (part.num_images, part.num_annotations) == (2, 1)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none.yaml:train", r"none\.yaml: cannot be read \(No such file or directory\)"),
        ("yolo/data.yaml:val", r'has no split "val". One of them is expected: .*data\.yaml:train'),
        ("voc:val", "has no split val .*its splits is expected: train"),
        (".", "this is a folder without Annotations"),
    ],
)
def test_what_is_not_there_is_one_line(yolo, voc, tmp_path, path, message):
    with pytest.raises(AnnotationError, match=message):
        load_annotations(f"{tmp_path}/{path}")


def test_a_label_file_that_is_no_text_is_one_line(yolo):
    (yolo.parent / FIRST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AnnotationError, match=r"i0\.txt: cannot be read \(it is no text\)"):
        load_annotations(f"{yolo}:train")


def test_what_a_format_cannot_say_is_counted(tmp_path):
    file = write_coco(tmp_path, [(64, 48)], [(0, 0, 4.12345678, 5, 20, 10), (0, 1, 1, 1, 9, 9)])
    document = json.loads(file.read_text())
    first, second = document["annotations"]
    first |= {"segmentation": [[4, 5, 24, 5, 24, 15]], "area": 100, "ignore": 1}
    second["iscrowd"] = 1
    document["images"][0] |= {"id": 9, "neg_category_ids": [3], "not_exhaustive_category_ids": []}
    for entry in document["annotations"]:
        entry["image_id"] = 9
    file.write_text(json.dumps(document))
    truth = {"train": load_annotations(file, segmentations=True)}
    images = {"train": tmp_path / "images"}
    lost = convert(truth, tmp_path / "yolo", "yolo", images=images)
    for words in (
        "1 crowd region is left out",
        "1 box with the mark of being ignored loses it",
        "1 outline is not written",
        "the area of 1 annotation is not width",
        "(LVIS) is lost",
        "1 box is rounded",
        "image ids are lost",
    ):
        assert sum(words in text for text in lost) == 1, words
    assert load_annotations(tmp_path / "yolo" / "data.yaml").num_annotations == 1
    assert convert(truth, tmp_path / "coco", "coco") == []
    assert_same(
        load_annotations(tmp_path / "coco" / "train.json", segmentations=True), truth["train"]
    )


def test_convert_writes_both_parts_whole_or_nothing(coco, tmp_path, capsys):
    other = write_coco(tmp_path / "other", [(20, 20)], [(0, 0, 1, 1, 5, 5)], names=NAMES[:1])
    images = ("--images", coco.parent / "images", "--val-images", other.parent / "images")
    both = (coco, "--val", other, *images, "--to", "yolo", "--output", tmp_path / "new")
    status, out, _ = run_command(capsys, "convert", *both)
    assert status == 0
    assert "data.yaml:train" in out
    val = load_annotations(tmp_path / "new" / "data.yaml:val")
    assert val.categories.names == tuple(NAMES)
    assert val.bbox.tolist() == [[1, 1, 5, 5]]
    error = failing_command(capsys, "convert", *both)
    assert "is not empty" in error
    # Back, without naming the images: the format says where they are.
    path = tmp_path / "new" / "data.yaml"
    back = (f"{path}:train", "--val", f"{path}:val", "--to", "coco", "--output", tmp_path / "coco")
    assert run_command(capsys, "convert", *back)[0] == 0
    again = load_annotations(tmp_path / "coco" / "val.json")
    assert again.image_path(0, tmp_path / "coco" / "images" / "val").is_file()
    # VOC has one folder for all images.
    voc = ("--to", "voc", "--output", tmp_path / "voc")
    error = failing_command(capsys, "convert", *back[:3], *voc)
    assert "two images would have their labels in i0" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["images"][0].pop("file_name"), "has no file_name"),
        (lambda d: d["images"][0].pop("width"), "has no width and height"),
        (lambda d: d["images"][1].update(file_name="i0.jpg"), "two images would have their labels"),
        (lambda d: d["images"][1].update(file_name="gone.png"), "gone.png: is not there"),
    ],
)
def test_what_cannot_be_converted_leaves_nothing_behind(coco, tmp_path, change, message):
    document = json.loads(coco.read_text())
    change(document)
    coco.write_text(json.dumps(document))
    (coco.parent / "images" / "i0.jpg").write_bytes(
        (coco.parent / "images" / "i0.png").read_bytes()
    )
    images = {"train": coco.parent / "images"}
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        convert({"train": load_annotations(coco)}, tmp_path / "new", "yolo", images=images)
    assert sorted(tmp_path.iterdir()) == before


def test_labels_without_images_are_refused(coco, tmp_path, capsys):
    options = ("--to", "yolo", "--output", tmp_path / "new")
    assert "--images" in failing_command(capsys, "convert", coco, *options)
