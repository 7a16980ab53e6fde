"""Annotation files: what is read, what is refused, and that nothing changes on the way."""

from __future__ import annotations

import dataclasses
import io
import json
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detbalance.data import (
    AnnotationError,
    Annotations,
    Categories,
    PackedBytes,
    coco_file,
    files,
    load_annotations,
    loading,
    repeated_boxes,
)

PER_ANNOTATION = ("image_index", "annotation_ids", "labels", "is_crowd", "areas", "bbox", "boxes")
PER_IMAGE = ("image_ids", "sizes", "offsets")


def box(annotation_id, image_id=1, category_id=5, bbox=(10, 10, 20, 20), **more):
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(bbox),
        **more,
    }


def document(annotations=(), images=None, categories=None):
    return {
        "images": images
        or [
            {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80},
            {"id": 2, "file_name": "b.jpg", "width": 100, "height": 80},
        ],
        "categories": categories or [{"id": 9, "name": "owl"}, {"id": 5, "name": "cat"}],
        "annotations": list(annotations),
    }


@pytest.fixture
def load(tmp_path):
    """Write a document (or text) and load it."""

    def run(content, **options):
        path = tmp_path / "train.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return load_annotations(path, **options)

    return run


def assert_equal(a: Annotations, b: Annotations) -> None:
    assert a.categories == b.categories
    for name in PER_ANNOTATION + PER_IMAGE:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        assert getattr(a, name).dtype == getattr(b, name).dtype
    assert list(a.file_names) == list(b.file_names)
    for name in ("neg_labels", "not_exhaustive_labels"):
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one.labels, other.labels)
            np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_array_equal(a.is_ignored, b.is_ignored)
    if a.segmentations is not None and b.segmentations is not None:
        for n in range(a.num_annotations):
            assert a.segmentation(n) == b.segmentation(n)


# Strategies: whole files, sound ones and ones with any fault.

coordinate = st.floats(0, 90, width=32).map(lambda v: round(v, 2))
side = st.floats(0.5, 10, width=32).map(lambda v: round(v, 2))
polygon = st.lists(st.lists(coordinate, min_size=6, max_size=8), min_size=1, max_size=2)
rle = st.fixed_dictionaries({"counts": st.text(max_size=6), "size": st.just([80, 100])})
name = st.text(st.characters(codec="utf-8", exclude_characters="/\\:\0"), min_size=1, max_size=5)


@st.composite
def sound_documents(draw):
    image_ids = draw(st.lists(st.integers(0, 10**12), min_size=1, max_size=4, unique=True))
    category_ids = draw(st.lists(st.integers(0, 400), min_size=1, max_size=4, unique=True))
    names = draw(
        st.lists(name, min_size=len(category_ids), max_size=len(category_ids), unique=True)
    )
    annotation_ids = draw(st.lists(st.integers(-3, 10**12), max_size=12, unique=True))
    lvis = draw(st.booleans())
    images = []
    for image_id in image_ids:
        image = {"id": image_id, "width": 100, "height": 101, "extra": [{"a": 1}, {"b": 2}]}
        if draw(st.booleans()):
            image["file_name"] = "x" + draw(name)
        if lvis:
            image["neg_category_ids"] = draw(st.lists(st.sampled_from(category_ids), max_size=3))
            image["not_exhaustive_category_ids"] = category_ids[:1]
        images.append(image)
    notes = []
    for annotation_id in annotation_ids:
        note = box(
            annotation_id,
            draw(st.sampled_from(image_ids)),
            draw(st.sampled_from(category_ids)),
            [draw(coordinate), draw(coordinate), draw(side), draw(side)],
        )
        note.update(
            draw(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "area": st.floats(0, 1e6),
                        "iscrowd": st.sampled_from([0, 1, True, False, None]),
                        "ignore": st.sampled_from([0, 1, True, False, None]),
                        "segmentation": st.one_of(polygon, rle),
                        "attributes": st.just([{"k": 1}, {"k": 2}]),
                    },
                )
            )
        )
        notes.append(note)
    categories = [
        {"id": i, "name": n, **({"frequency": "r"} if lvis else {})}
        for i, n in zip(category_ids, names, strict=True)
    ]
    parts = {"images": images, "annotations": notes, "categories": categories, "info": {}}
    return {key: parts[key] for key in draw(st.permutations(list(parts)))}


@given(sound_documents(), st.sampled_from([None, 1, "\t"]))
@settings(max_examples=40)
def test_load_gives_what_the_file_says(tmp_path_factory, file, indent):
    path = tmp_path_factory.mktemp("load") / "train.json"
    path.write_text(json.dumps(file, indent=indent))
    loaded = load_annotations(path, segmentations=True)
    assert {fault.kind for fault in loaded.faults} <= {"crowd only"}
    assert loaded.image_ids.tolist() == [image["id"] for image in file["images"]]
    assert loaded.categories.ids == tuple(sorted(c["id"] for c in file["categories"]))
    for row, image in enumerate(file["images"]):
        assert loaded.file_name(row) == image.get("file_name", "")
        wanted = [a for a in file["annotations"] if a["image_id"] == image["id"]]
        part = loaded.rows(row)
        assert loaded.annotation_ids[part].tolist() == [a["id"] for a in wanted]
        assert loaded.bbox[part].tolist() == [a["bbox"] for a in wanted]
        assert loaded.is_crowd[part].tolist() == [bool(a.get("iscrowd")) for a in wanted]
        ignored = [bool(a.get("ignore")) for a in wanted]
        assert any(ignored) <= (loaded.is_ignored is not None)
        if loaded.is_ignored is not None:
            assert loaded.is_ignored.any()
            assert loaded.is_ignored[part].tolist() == ignored
        ids = loaded.categories.category_ids(loaded.labels[part])
        assert ids.tolist() == [a["category_id"] for a in wanted]
        areas = [a.get("area", a["bbox"][2] * a["bbox"][3]) for a in wanted]
        assert loaded.areas[part].tolist() == areas
        got = [loaded.segmentation(n) for n in range(part.start, part.stop)]
        assert got == [a.get("segmentation") for a in wanted]
        assert (loaded.image_index[part] == row).all()
        x, y, w, h = loaded.bbox[part].T
        np.testing.assert_array_equal(
            loaded.boxes[part], np.stack([x, y, x + w, y + h], 1).astype(np.float32)
        )


@given(sound_documents(), st.sampled_from([1, 60, 10**6]))
@settings(max_examples=40)
def test_all_readers_agree(tmp_path_factory, file, part):
    """Cut text (any part length), entries found by the parser, and the tolerant reader."""
    path = tmp_path_factory.mktemp("readers") / "train.json"
    path.write_text(json.dumps(file))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_file, "_PART", part)
        cut = load_annotations(path, segmentations=True)
        patch.setattr(coco_file.Rows, "add_cut", lambda self, data: None)
        parsed = load_annotations(path, segmentations=True)
        patch.setattr(
            coco_file.Rows, "columns", lambda self: pytest.fail("not the tolerant reader")
        )
        path.write_text(json.dumps({**file, "unused": float("nan")}))
        tolerant = load_annotations(path, segmentations=True)
    assert_equal(cut, parsed)
    assert_equal(cut, tolerant)


@pytest.mark.parametrize("part", [1, 150, 10**6])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("order", [("images", "annotations", "categories"), ("annotations",)])
def test_common_files_are_read_in_one_pass(load, monkeypatch, part, indent, order):
    """The slower ways would give the same values, so only their absence shows the fast one."""
    content = document([box(n, segmentation=[[1, 2, 3]], score=n % 2) for n in range(20)])
    content = {key: content[key] for key in (*order, *(set(content) - set(order)))}
    monkeypatch.setattr(coco_file, "_PART", part)
    monkeypatch.setattr(
        coco_file.Rows, "add_entries", lambda self, entries: pytest.fail("second pass")
    )
    monkeypatch.setattr(loading, "read_tolerant", lambda *args, **options: pytest.fail("tolerant"))
    for notes in ([], content["annotations"][:1], content["annotations"]):
        loaded = load(json.dumps({**content, "annotations": notes}, indent=indent))
        assert loaded.annotation_ids.tolist() == [note["id"] for note in notes]


@given(sound_documents())
@settings(max_examples=40)
def test_save_and_load_round_trip(tmp_path_factory, file):
    folder = tmp_path_factory.mktemp("save")
    (folder / "a.json").write_text(json.dumps(file))
    first = load_annotations(folder / "a.json", segmentations=True)
    first.save(folder / "b.json")
    assert_equal(first, load_annotations(folder / "b.json", segmentations=True))
    assert sorted(p.name for p in folder.iterdir()) == ["a.json", "b.json"]


broken = st.sampled_from(
    [
        *(None, "7", 7.5, -1, float("nan"), float("inf"), True, 10**30, "../x", "\ud800"),
        *([], {}, [1, 2], [0, 0, 0, 0], [1e308] * 4, [5, 5, -1, 4], [float("nan")] * 4),
    ]
)


@given(sound_documents(), st.data())
@settings(max_examples=100)
def test_a_damaged_file_is_refused_in_one_line_or_loads_sound(tmp_path_factory, file, data):
    for _ in range(data.draw(st.integers(1, 3))):
        section = data.draw(st.sampled_from(["images", "annotations", "categories"]))
        # Earlier rounds may have left nothing of an entry.
        if entries := [entry for entry in file[section] if entry]:
            entry = data.draw(st.sampled_from(entries))
            key = data.draw(st.sampled_from(sorted(entry)))
            if data.draw(st.booleans()):
                entry[key] = data.draw(broken)
            else:
                del entry[key]
    path = tmp_path_factory.mktemp("damaged") / "train.json"
    path.write_text(json.dumps(file))
    for segmentations in (False, True):
        stopped, _ = attempt(path, segmentations=segmentations)
        assert stopped is None or not any(not fault.is_note for fault in stopped.faults)
        loaded, message = attempt(path, segmentations=segmentations, drop_invalid=True)
        assert "\n" not in message
        if loaded is None:
            continue
        counted = sum(fault.count for fault in loaded.faults if not fault.is_note)
        assert len(file["annotations"]) - loaded.num_annotations <= counted
        assert (stopped is None) == (counted > 0)
        assert np.isfinite(loaded.boxes).all()
        assert (loaded.boxes[:, 2:] > loaded.boxes[:, :2]).all()
        assert ((loaded.labels >= 1) & (loaded.labels <= loaded.categories.num_categories)).all()
        assert (np.diff(loaded.image_index) >= 0).all()
        assert len(np.unique(loaded.annotation_ids)) == loaded.num_annotations


def attempt(path, **options):
    """Return the annotations and "", or None and the message; any other error is a failure."""
    try:
        return load_annotations(path, **options), ""
    except AnnotationError as problem:
        return None, str(problem)


def test_byte_order_mark_and_utf16_are_read(load):
    text = json.dumps(document([box(1)]))
    assert_equal(load(text.encode("utf-8-sig")), load(text))
    assert_equal(load(text.encode("utf-16")), load(text))


def test_whole_numbers_written_as_floats_are_read(load):
    images = [{"id": 1.0, "width": 100.0, "height": 80.0}]
    loaded = load(document([box(4.0, 1.0, 5.0, iscrowd=1.0)], images=images))
    assert loaded.annotation_ids.tolist() == [4]
    assert loaded.sizes.tolist() == [[100, 80]]
    assert loaded.is_crowd.tolist() == [True]


def test_annotations_key_in_other_places_is_not_taken_for_the_list(load):
    sound = document([box(1), box(2)])
    for info in (
        {"annotations": [box(7)]},
        {"text": '"annotations": [', "annotations": []},
        [{"annotations": [box(8)]}],
    ):
        assert_equal(load({"info": info, **sound}), load(sound))


def test_lvis_keys_are_read_selected_and_saved(load, tmp_path):
    content = document(
        [box(1, category_id=9)],
        images=[
            {
                "id": 1,
                "coco_url": "http://images.cocodataset.org/train2017/000000000009.jpg",
                "neg_category_ids": [9, 5],
                "not_exhaustive_category_ids": [9],
            },
            {"id": 2, "file_name": "b.jpg", "neg_category_ids": [5]},
        ],
        categories=[
            {"id": 9, "name": "owl", "frequency": "r"},
            {"id": 5, "name": "cat", "frequency": "f"},
        ],
    )
    loaded = load(content)
    assert loaded.file_name(0) == "train2017/000000000009.jpg"
    assert loaded.categories == Categories((5, 9), ("cat", "owl"), ("f", "r"))
    assert loaded.neg_labels[0].tolist() == [2, 1]
    assert loaded.not_exhaustive_labels[1].tolist() == []
    owls = loaded.select(["owl"])
    assert owls.categories == Categories((9,), ("owl",), ("r",))
    assert [owls.neg_labels[i].tolist() for i in range(2)] == [[1], []]
    assert loaded.subset([1]).neg_labels[0].tolist() == [1]
    loaded.save(tmp_path / "saved.json")
    assert_equal(loaded, load_annotations(tmp_path / "saved.json"))


def test_select_keeps_images_and_relabels(load):
    loaded = load(
        document([box(1, 2, 9), box(2, 1, 5), box(3, 1, 9, segmentation=[[1.5]])]),
        segmentations=True,
    )
    owls = loaded.select(["owl"])
    assert owls.num_images == 2
    assert owls.annotation_ids.tolist() == [3, 1]
    assert owls.labels.tolist() == [1, 1]
    assert owls.offsets.tolist() == [0, 1, 2]
    assert owls.segmentation(0) == [[1.5]]
    assert_equal(loaded.select(["owl", "cat"]), loaded)


def test_marks_of_ignored_annotations_follow_them(load):
    notes = [box(1, ignore=1), box(2, category_id=9), box(3, image_id=2, category_id=9, ignore=1)]
    loaded = load(document(notes))
    assert loaded.is_ignored.tolist() == [True, False, True]
    assert loaded.select(["owl"]).is_ignored.tolist() == [False, True]
    assert loaded.subset([1, 0]).is_ignored.tolist() == [True, True, False]
    assert not loaded.is_ignored.flags.writeable
    assert load(document([box(1, ignore=0), box(2)])).is_ignored is None


def test_select_refuses_unknown_and_empty(load):
    loaded = load(document())
    with pytest.raises(ValueError, match=r'"owk"\. Known: cat, owl\. Did you mean "owl"'):
        loaded.select(["owk"])
    with pytest.raises(ValueError, match="names is empty"):
        loaded.select([])
    with pytest.raises(TypeError, match="Expected a list of names"):
        loaded.select("owl")


def test_subset_keeps_the_order_given(load):
    loaded = load(document([box(1, 2), box(2, 1), box(3, 2)]), segmentations=True)
    assert_equal(loaded.subset([0, 1]), loaded)
    assert_equal(loaded.subset(np.array([False, True])), loaded.subset([1]))
    turned = loaded.subset([1, 0])
    assert turned.image_ids.tolist() == [2, 1]
    assert turned.annotation_ids.tolist() == [1, 3, 2]
    assert turned.image_index.tolist() == [0, 0, 1]
    assert turned.file_name(0) == "b.jpg"
    assert loaded.subset([]).num_images == 0


def test_subset_refuses_wrong_rows(load):
    loaded = load(document())
    with pytest.raises(ValueError, match=r"image row 2 does not exist\. Rows are 0 to 1"):
        loaded.subset([2])
    with pytest.raises(ValueError, match="image row 1 occurs 2 times"):
        loaded.subset([1, 0, 1])
    with pytest.raises(ValueError, match=r"bool \[3\]. Expected \[2\]"):
        loaded.subset([True, False, True])
    with pytest.raises(TypeError, match="Expected int or bool"):
        loaded.subset([0.5])


def test_arrays_are_read_only_also_after_pickling(load):
    loaded = load(document([box(1)]), segmentations=True)
    again = pickle.loads(pickle.dumps(loaded))
    assert_equal(loaded, again)
    for frozen in (loaded, again, loaded.select(["cat"]), loaded.subset([0])):
        for array in (
            *(getattr(frozen, name) for name in PER_ANNOTATION + PER_IMAGE),
            frozen.segmentations.data,
            frozen.file_names.offsets,
        ):
            with pytest.raises(ValueError, match="read-only"):
                array[:] = 0


def test_making_annotations_leaves_the_arrays_of_the_caller_writeable():
    offsets = np.zeros(1, dtype=np.int64)
    PackedBytes(np.zeros(0, np.uint8), offsets)
    offsets[0] = 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_worker_sees_the_arrays(load):
    loaded = load(document([box(1), box(2, 2)]))
    receive, send = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.write(send, str(float(loaded.boxes.sum())).encode())
        os._exit(0)
    os.waitpid(worker, 0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        assert float(pipe.read()) == float(loaded.boxes.sum())


def _num_boxes(annotations):
    return annotations.num_annotations, annotations.boxes.flags.writeable


def test_spawned_worker_gets_a_copy(load):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_num_boxes, (load(document([box(1)])),)) == (1, False)


def test_failed_save_leaves_the_old_file(load, tmp_path, monkeypatch):
    loaded = load(document([box(1)]))
    target = tmp_path / "out.json"
    target.write_text("old")
    monkeypatch.setattr(Annotations, "_annotation", lambda self, n: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loaded.save(target)
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "train.json"]


def test_segmentation_needs_to_be_loaded(load):
    with pytest.raises(ValueError, match="segmentations=True"):
        load(document([box(1)])).segmentation(0)


def test_packed_bytes_take_is_indexing():
    items = [b"", b"abc", b"d" * 300, b"x"]
    packed = PackedBytes.from_items(items)
    order = np.array([3, 1, 2, 0, 1])
    assert list(packed.take(order)) == [items[i] for i in order]
    assert len(packed.take(order[:0])) == 0
    with pytest.raises(IndexError, match="item 4 of 4"):
        packed[4]


def test_saved_file_is_read_by_pycocotools(load, tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    content = document(
        [box(0, 2, 9, segmentation=[[1, 1, 5, 1, 5, 5.5]]), box(1, iscrowd=1, area=7.25)]
    )
    load(content, segmentations=True).save(tmp_path / "saved.json")
    read = coco.COCO(str(tmp_path / "saved.json"))
    assert sorted(read.getCatIds()) == [5, 9]
    assert read.loadAnns([0])[0]["segmentation"] == [[1, 1, 5, 1, 5, 5.5]]
    assert read.loadAnns([1])[0]["area"] == 7.25
    result = {"image_id": 2, "category_id": 9, "bbox": [1, 1, 2, 2], "score": 0.5}
    assert len(read.loadRes([result]).anns) == 1


@pytest.mark.parametrize(
    "path",
    [
        "eval/coco_fakebbox100/instances_val2014_100.json",
        "eval/lvis_val_100/lvis_val_100.json",
        "data/gtsdb_crops/train.json",
    ],
)
def test_real_files_load_as_pycocotools_loads_them(shared, tmp_path, path):
    coco = pytest.importorskip("pycocotools.coco")
    loaded = load_annotations(shared / path, segmentations=True)
    read = coco.COCO(str(shared / path))
    assert loaded.image_ids.tolist() == read.getImgIds()
    for row, image_id in enumerate(loaded.image_ids.tolist()):
        part = loaded.rows(row)
        wanted = read.loadAnns(read.getAnnIds([image_id]))
        assert loaded.bbox[part].tolist() == [a["bbox"] for a in wanted]
        assert loaded.areas[part].tolist() == [a["area"] for a in wanted]
        got = [loaded.segmentation(n) for n in range(part.start, part.stop)]
        assert got == [a.get("segmentation") for a in wanted]
    loaded.save(tmp_path / "saved.json")
    assert_equal(loaded, load_annotations(tmp_path / "saved.json", segmentations=True))


few = st.sampled_from([0.0, 5.0, 5.5])
said = st.tuples(st.sampled_from([1, 2]), st.sampled_from([5, 9]), st.booleans(), few, few)


@given(st.lists(said, max_size=14))
@settings(max_examples=80)
def test_a_repeated_box_is_one_that_an_earlier_annotation_says(tmp_path_factory, sayings):
    """A twin that looks at every pair."""
    path = tmp_path_factory.mktemp("repeats") / "train.json"
    notes = [
        box(n, image, category, [x, 2, 9 + side, 4], iscrowd=int(crowd))
        for n, (image, category, crowd, x, side) in enumerate(sayings)
    ]
    path.write_text(json.dumps(document(notes)))
    loaded = load_annotations(path)
    found = dict(zip(loaded.annotation_ids.tolist(), repeated_boxes(loaded), strict=True))
    assert found == {n: saying in sayings[:n] for n, saying in enumerate(sayings)}


@pytest.mark.parametrize("bad", ["/etc/passwd", "../a.jpg", "x/../../a.jpg", "C:\\a.jpg", "a\0"])
def test_no_path_leads_out_of_the_image_folder(load, bad, tmp_path):
    images = [{"id": 7, "file_name": bad}, {"id": 1, "file_name": "sub/..a..b.jpg"}]
    loaded = dataclasses.replace(
        load(document(images=[{"id": 7}, images[1]])),
        file_names=PackedBytes.from_items([bad.encode(), b"sub/..a..b.jpg"]),
    )
    assert loaded.image_path(1, tmp_path) == tmp_path / "sub/..a..b.jpg"
    with pytest.raises(ValueError, match=r"image 7 has the file_name .* outside the image folder"):
        loaded.image_path(0, tmp_path)


# Files that change, and files of any size.


@pytest.mark.parametrize("reader", ["load_annotations", "open_file"])
@pytest.mark.parametrize("change", ["cut short", "written over", "longer"])
def test_a_file_that_is_rewritten_while_it_is_read_is_one_line(tmp_path, reader, change):
    """In a process of its own, which a mapped file would take with it."""
    path = tmp_path / "train.json"
    path.write_text(json.dumps(document([box(n) for n in range(9_000)])))
    script = """
import os, sys
from detbalance.data import files, load_annotations, coco_file
path, reader, change = sys.argv[1:]

def rewrite(held):
    size = os.path.getsize(path)
    if change == "cut short":
        os.truncate(path, 5000)
    else:
        with open(path, "r+b") as file:
            file.seek(size if change == "longer" else 100)
            file.write(b" " * 10)

def once(name, owner):
    original = getattr(owner, name)
    def changed(self, *args):
        if not done:
            done.append(rewrite(self))
        return original(self, *args)
    setattr(owner, name, changed)

done = []
once("add", coco_file.Rows)
once("__getitem__" if reader == "open_file" else "find", files.FileText)
try:
    load_annotations(path) if reader == "load_annotations" else files.open_file(path)
except ValueError as problem:
    print(problem)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, path, reader, change], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(rf"{path}: was changed while it was read\. Expected .*\n", done.stdout)


@given(st.binary(max_size=400), st.data())
@settings(max_examples=100)
def test_a_text_read_in_blocks_is_the_file(content, data):
    content = content.replace(b"\x07", b"}, {").replace(b"\x08", b'"annotations"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_BLOCK", data.draw(st.integers(1, 50)))
        patch.setattr(files, "_SLACK", data.draw(st.integers(1, 20)))
        text = files.FileText(io.BytesIO(content))
        gap = re.compile(rb"\}\s*,\s*\{")
        for _ in range(5):
            start, stop = (data.draw(st.integers(0, len(content))) for _ in range(2))
            assert text[start:stop] == content[start:stop]
            assert text.find(b'"annotations"') == content.find(b'"annotations"')
            found = gap.search(content, start + stop)
            expected = (content[start:], None)
            if found:
                expected = (content[start : found.start() + 1], found.end() - 1)
            assert text.cut(start, stop, gap) == expected


def test_a_pipe_is_read(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    content = json.dumps(document([box(1)]))
    writer = threading.Thread(target=path.write_text, args=(content,))
    writer.start()
    assert load_annotations(path).num_annotations == 1
    writer.join()
