"""Faults of annotation files: named with count and first example, or left out and counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_annotations import assert_equal, box, document, sound_documents

from detbalance.cli import main
from detbalance.data import AnnotationError, Categories, Fault, load_annotations, repeated_boxes
from detbalance.data.duplicates import find_duplicates
from detbalance.data.images import check_images


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


# One fault each: refused with its count and first example, left out when asked.

FAULTS = {
    "duplicate image id": (
        document([box(3)], images=[{"id": 1}, {"id": 1}]),
        r"1 image has the id of an earlier image \(first: image 1\)",
    ),
    "unknown category": (
        document([box(3), box(912, category_id=7), box(913, category_id=8)]),
        r'2 annotations have a category_id that "categories" does not list '
        r"\(first: annotation 912, category_id 7\)",
    ),
    "unknown image": (
        document([box(3), box(912, image_id=7)]),
        r'1 annotation has an image_id that "images" does not list '
        r"\(first: annotation 912, image_id 7\)",
    ),
    "non-finite bbox": (
        document([box(3), box(4, bbox=[0, float("nan"), 5, 5]), box(5, bbox=[0, 0, 1e999, 5])]),
        r"2 annotations have a bbox with NaN or infinity \(first: annotation 4, bbox \[0.0, nan",
    ),
    "negative bbox size": (
        document([box(3), box(4, bbox=[5, 5, 5, -1])]),
        r"1 annotation has a bbox of negative width or height \(first: annotation 4",
    ),
    "empty bbox": (
        document([box(3), box(4, bbox=[5, 5, 0, 5]), box(5, bbox=[64, 5, 1e-9, 5])]),
        r"2 annotations have a bbox of zero width or height \(first: annotation 4",
    ),
    "bbox outside": (
        document([box(3), box(4, bbox=[100, 5, 9, 5]), box(5, bbox=[5, -9, 9, 9])]),
        r"2 annotations have a bbox wholly outside its image "
        r"\(first: annotation 4, bbox .*, image size \[100, 80\]\)",
    ),
    "bbox": (
        document([box(3), box(4, bbox=[5, 5, 5]), box(5, bbox=["1", 1, 1, 1])]),
        r"2 annotations have a bbox that is not four numbers \(first: annotation 4, bbox \[5, 5, 5",
    ),
    "missing key": (
        document([box(3), {"id": 4, "image_id": 1, "category_id": 5}]),
        r"1 annotation has no image_id, category_id or bbox \(first: annotation 4, no bbox\)",
    ),
    "no bbox": (
        document([box(3), {**box(4, segmentation=[[1, 1, 9, 1, 9, 9]]), "bbox": None}]),
        r"1 annotation has a segmentation and no bbox .make one from its outline. .first: annot",
    ),
    "annotation id": (
        document([box(3), box(4, image_id=True), box(6, image_id="one"), box(7, image_id=1.5)]),
        r"3 annotations have an image_id or category_id that is not a whole number "
        r"\(first: annotation 4, image_id True\)",
    ),
    "annotation id too large": (
        document([box(3), box(6, image_id=2**63), box(7, category_id="9" * 30)]),
        r"2 annotations have an image_id or category_id beyond 64 bits, above 2\^63 - 1 "
        r"\(first: annotation 6, image_id 9223372036854775808\)",
    ),
    "image id too large": (
        document([box(3)], images=[{"id": 1}, {"id": 14624521930792899053}]),
        r"1 image has an id beyond 64 bits, above 2\^63 - 1 \(first: images\[1\], id 146245219",
    ),
    "category id too large": (
        document([box(3)], categories=[{"id": 5, "name": "a"}, {"id": 2**64, "name": "b"}]),
        r"1 category has an id beyond 64 bits, above 2\^63 - 1 \(first: categories\[1\], id 1844",
    ),
    "annotation entry": (
        document([box(3), 17]),
        r"1 annotation is not a JSON object \(first: annotations\[1\] is 17\)",
    ),
    "iscrowd": (
        document([box(3), box(4, iscrowd=2)]),
        r"1 annotation has an iscrowd that is not 0 or 1 \(first: annotation 4, iscrowd 2\)",
    ),
    "ignore": (
        document([box(3), box(4, ignore="1")]),
        r"1 annotation has an ignore that is not 0 or 1 \(first: annotation 4, ignore \"1\"\)",
    ),
    "image id": (
        document([box(3)], images=[{"id": 1}, {"id": "two"}, {}, {"id": "²"}]),
        r'3 images have no id that is a whole number \(first: images\[1\], id "two"\)',
    ),
    "image size": (
        document([box(3)], images=[{"id": 1}, {"id": 2, "width": -5}, {"id": 3, "height": 1.5}]),
        r"2 images have a width or height that is not a whole number of pixels "
        r"\(first: image 3, height 1.5\)",
    ),
    "file_name": (
        document([box(3)], images=[{"id": 1}, {"id": 2, "file_name": 7}]),
        r"1 image has a file_name that is not text \(first: image 2, file_name 7\)",
    ),
    "image entry": (
        document([box(3)], images=[{"id": 1}, []]),
        r"1 image is not a JSON object \(first: images\[1\] is \[\]\)",
    ),
    "category id": (
        document([box(3)], categories=[{"id": 5, "name": "a"}, {"id": None, "name": "b"}]),
        r"1 category has no id that is a whole number \(first: categories\[1\], id None\)",
    ),
    "category name": (
        document([box(3)], categories=[{"id": 5, "name": "a"}, {"id": 6}]),
        r"1 category has no name that is text \(first: category 6, name None\)",
    ),
    "category entry": (
        document([box(3)], categories=[{"id": 5, "name": "a"}, "owl"]),
        r'1 category is not a JSON object \(first: categories\[1\] is "owl"\)',
    ),
    "image category list": (
        document([box(3)], images=[{"id": 1, "neg_category_ids": [5, 77]}]),
        r"1 image has a neg_category_ids .* \(first: image 1, neg_category_ids has 77\)",
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_fault_stops_loading_with_its_count_and_first_example(load, kind):
    content, message = FAULTS[kind]
    with pytest.raises(AnnotationError, match=message) as caught:
        load(content)
    assert "\n" not in str(caught.value)
    assert "train.json: " in str(caught.value)
    assert "pass --drop-invalid (drop_invalid=True)" in str(caught.value)


@pytest.mark.parametrize("kind", FAULTS)
def test_fault_is_left_out_and_counted_when_asked(load, kind):
    content, _ = FAULTS[kind]
    loaded = load(content, drop_invalid=True)
    assert [fault.kind for fault in loaded.faults] == [kind]
    assert 3 in loaded.annotation_ids
    assert len(content["annotations"]) - loaded.num_annotations == (
        loaded.faults[0].count if content["annotations"][1:] else 0
    )


def test_fault_message_names_every_kind_at_once(load):
    content = document([box(1, bbox=[0, 0, 0, 1]), box(2, category_id=1), box(3, image_id=4)])
    with pytest.raises(AnnotationError, match=r"image_id.*; .*category_id.*; .*zero width"):
        load(content)


@pytest.mark.parametrize(
    "bad",
    ["/etc/passwd", "../a.jpg", "x/../../a.jpg", "..\\a.jpg", "C:\\a.jpg", "c:a", "\\a", "a\0"],
)
@pytest.mark.parametrize("key", ["file_name", "coco_url"])
def test_a_name_outside_the_image_folder_is_noted_and_never_opened(load, bad, key, tmp_path):
    if key == "coco_url":  # of LVIS, whose last two parts are the name
        bad = "http://x/../a.jpg"
    images = [{"id": 1, "file_name": "ok/..a..b/x..jpg"}, {"id": 2, key: bad}]
    for drop_invalid in (False, True):
        loaded = load(
            document([box(1), box(2, image_id=2)], images=images), drop_invalid=drop_invalid
        )
        assert loaded.annotation_ids.tolist() == [1, 2]
        assert [(f.kind, f.count, f.is_note) for f in loaded.faults] == [
            ("unsafe file_name", 1, True)
        ]
    with pytest.raises(
        ValueError, match=r"image 2 has the file_name .*points outside the image fol"
    ):
        loaded.image_path(1, tmp_path)
    assert loaded.file_name(1) in find_duplicates(loaded, tmp_path, near=None).unreadable
    assert check_images(loaded, tmp_path)[loaded.file_name(1)] == "points outside the image folder"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"id": 5, "name": "b"},
            "id of an earlier category, but not its name .first: category 5, n",
        ),
        (
            {"id": 6, "name": "a"},
            "name of an earlier category, but not its id .first: category 6, n",
        ),
    ],
)
def test_a_class_with_two_ids_or_two_names_is_refused_always(load, other, message):
    content = document([box(1), box(2, category_id=6)], categories=[{"id": 5, "name": "a"}, other])
    for drop_invalid in (False, True):
        with pytest.raises(AnnotationError, match=f"1 category has the {message}") as caught:
            load(content, drop_invalid=drop_invalid)
        assert "Expected one id and one name for each class" in str(caught.value)
        assert "--drop-invalid" not in str(caught.value)


def test_annotations_of_a_category_left_out_are_counted_apart(load):
    categories = [{"id": 5, "name": "a"}, {"id": 6, "name": 7}]
    content = document([box(1), box(2, category_id=6)], categories=categories)
    with pytest.raises(AnnotationError, match=r"json: 1 category has no name [^;]*\. Correct"):
        load(content)
    loaded = load(content, drop_invalid=True)
    assert loaded.annotation_ids.tolist() == [1]
    assert loaded.num_left_out == 1
    assert [str(fault) for fault in loaded.faults][1] == (
        "1 annotation is left out with its category (first: annotation 2, category_id 6)"
    )


# What is kept, with a note.


def test_annotation_ids_that_start_again_are_numbered_anew(load, caplog):
    """Each image counts from 1; a twin with ids of its own says what is to come out."""
    notes = [box(n, image, 5, [10 * n, 1, 8, 9]) for image in (2, 1) for n in (1, 2, 3)]
    twin = [{**note, "id": n} for n, note in enumerate(notes, start=1)]
    for drop_invalid in (False, True):
        loaded = load(document(notes), drop_invalid=drop_invalid)
        same = load(document(twin))
        assert loaded.annotation_ids.tolist() == same.annotation_ids.tolist() == [4, 5, 6, 1, 2, 3]
        assert loaded.bbox.tolist() == same.bbox.tolist()
        assert str(loaded.faults[0]) == (
            "3 annotations have the id of an earlier one, or none (all kept, numbered anew)"
            " (first: annotation 1)"
        )
    assert not repeated_boxes(loaded).any()
    assert "--drop-invalid" not in caplog.text


@pytest.mark.parametrize("missing", [{}, {"id": None}, {"id": "a1-7"}, {"id": True}, {"id": 2**70}])
def test_no_annotation_needs_an_id(load, missing):
    notes = [17, box(3), {**box(3), "id": None}, box(4)]
    notes[2] = {**{key: value for key, value in box(3).items() if key != "id"}, **missing}
    loaded = load(document(notes), drop_invalid=True)
    assert loaded.annotation_ids.tolist() == [2, 3, 4]  # places in the file
    assert [fault.kind for fault in loaded.faults] == ["annotation entry", "annotation number"]
    assert loaded.num_left_out == 1


@given(file=sound_documents(), data=st.data())
@settings(max_examples=40)
def test_ids_written_as_text_of_digits_are_the_numbers(tmp_path_factory, file, data):
    path = tmp_path_factory.mktemp("text") / "train.json"
    path.write_text(json.dumps(file))
    expected = load_annotations(path)
    zeros = data.draw(st.sampled_from(["", "00"]))

    def as_text(entry, key):
        if entry[key] >= 0 and data.draw(st.booleans()):
            entry[key] = f"{zeros}{entry[key]}"
            return True
        return False

    images = sum([as_text(image, "id") for image in file["images"]])
    classes = sum([as_text(category, "id") for category in file["categories"]])
    keys = ("id", "image_id", "category_id")
    notes = sum(any([as_text(note, key) for key in keys]) for note in file["annotations"])
    path.write_text(json.dumps(file))
    loaded = load_annotations(path)
    assert_equal(loaded, expected)
    counts = {f.kind: f.count for f in loaded.faults if f.kind.endswith("as text")}
    found = {"image": images, "category": classes, "annotation": notes}
    assert counts == {f"{what} id as text": count for what, count in found.items() if count}


@pytest.mark.parametrize("other", ["01", 1])
def test_two_spellings_of_an_image_id_are_refused_always(load, other):
    content = document([box(1, "1"), box(2, other)], images=[{"id": "1"}, {"id": other}])
    for drop_invalid in (False, True):
        with pytest.raises(AnnotationError, match=r"1 image has the id of an .* spelled otherwise"):
            load(content, drop_invalid=drop_invalid)


@pytest.mark.parametrize("wrong", [-1.0, "9", float("nan"), float("inf"), [3], 10**400])
def test_a_wrong_area_is_width_times_height(load, wrong):
    content = document([box(3, area=5.5), box(4, area=wrong), box(5, area=0), box(6)])
    for drop_invalid in (False, True):
        loaded = load(content, drop_invalid=drop_invalid)
        assert loaded.areas.tolist() == [5.5, 400.0, 0.0, 400.0]
        assert [(fault.kind, fault.count) for fault in loaded.faults] == [("area", 1)]
        assert "kept, width x height taken" in str(loaded.faults[0])


def test_an_area_is_finite_where_the_bbox_is_huge(load):
    loaded = load(document([box(1, bbox=[5, 5, 1e200, 1e200])]))
    assert np.isfinite(loaded.areas).all()
    assert loaded.boxes.tolist() == [[5, 5, 100, 80]]


def test_a_category_listed_again_is_one(load):
    again = {"id": 5, "name": "cat", "supercategory": "pet"}
    categories = [{"id": 5, "name": "cat"}, {"id": 9, "name": "owl"}, again, again]
    loaded = load(document([box(1), box(2, category_id=9)], categories=categories))
    assert loaded.categories == Categories((5, 9), ("cat", "owl"))
    assert [str(fault) for fault in loaded.faults] == [
        '2 categories are listed again (kept once) (first: category 5, name "cat")'
    ]


def test_a_class_of_crowd_regions_only_is_noted(load):
    notes = [box(1, iscrowd=1), box(2, iscrowd=1), box(3, category_id=9), box(4, 1, 9, iscrowd=1)]
    (note,) = load(document(notes)).faults
    assert str(note) == (
        "1 category has crowd regions only (kept, not counted; a single object has iscrowd 0)"
        ' (first: "cat", 2 with iscrowd 1)'
    )
    assert load(document(notes[2:])).faults == ()


# Nothing left.


@pytest.mark.parametrize("kind", ["unknown image", "bbox", "no bbox", "bbox outside"])
def test_no_annotation_left_stops_with_the_fault(load, kind):
    content, message = FAULTS[kind]
    content["annotations"].remove(box(3))
    for drop_invalid in (False, True):
        with pytest.raises(AnnotationError, match=message) as caught:
            load(content, drop_invalid=drop_invalid)
        assert '"annotations" has no entry left, because' in str(caught.value)
        assert "--drop-invalid" not in str(caught.value)


def test_a_file_without_annotations_has_images_of_background(load):
    assert load(document()).num_annotations == 0


@pytest.mark.parametrize("command", ["plan", "split", "report", "compare"])
@pytest.mark.parametrize("drop", [[], ["--drop-invalid"]])
def test_every_command_stops_where_no_annotation_is_left(tmp_path, capsys, command, drop):
    paths = [tmp_path / name for name in ("train.json", "results.json", "parts")]
    paths[0].write_text(json.dumps(document([box(1, bbox={"x": 1}), box(2, bbox=[1, 2, 3])])))
    paths[1].write_text(json.dumps([box(1, score=0.5)]))
    arguments = {
        "plan": paths[:1],
        "split": [paths[0], "--output", paths[2], *drop],
        "report": [*paths[:2], *drop],
        "compare": [paths[1], paths[1], "--annotations", paths[0], *drop],
    }
    with pytest.raises(SystemExit) as stopped:
        main([command, *map(str, arguments[command])])
    assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert 'train.json: "annotations" has no entry left, because 2 annotations have' in shown.err
    assert not paths[2].exists()


def test_a_file_that_is_read_twice_has_its_notes_printed_once(tmp_path):
    path, results = tmp_path / "train.json", tmp_path / "results.json"
    path.write_text(json.dumps(document([box(1, area=-1), box(2, image_id=2, category_id=9)])))
    results.write_text(json.dumps([{**box(1, score=0.5), "image_id": "1"}]))
    script = "import sys; from detbalance.cli import main; main(sys.argv[1:])"
    arguments = ["report", path, results, "--train", path, "--num-bootstrap", "0"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stderr.count("has an area that is not a number >= 0") == 1
    assert done.stderr.count("1 of 1 detections have an image_id as text") == 1


def test_how_much_is_left_out_is_told(load, caplog):
    few = [box(n) for n in range(10)]
    loaded = load(document([*few, box(10, image_id=7)]), drop_invalid=True)
    assert (loaded.num_annotations, loaded.num_left_out) == (10, 1)
    assert "annotations are left out" not in caplog.text
    loaded = load(document([*few, box(10, image_id=7), 3, box(12, bbox=[1])]), drop_invalid=True)
    assert (loaded.num_annotations, loaded.num_left_out) == (10, 3)
    assert "train.json: 3 of 13 annotations are left out" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iscrowd": -1}, "1 annotation has an iscrowd that is not 0 or 1"),
        ({"ignore": 2}, "1 annotation has an ignore that is not 0 or 1"),
        ({"bbox": [1e308, 5, 1e308, 5]}, "1 annotation has a bbox with NaN or infinity"),
    ],
)
def test_faults_of_value_alone_are_found_by_the_fast_reader_too(load, change, message):
    content = document([box(3), {**box(4), **change}], images=[{"id": 1}])
    with pytest.raises(AnnotationError, match=message):
        load(content)


@pytest.mark.parametrize("value", [7, ["a"], [77]])
def test_image_with_a_wrong_category_list_stays(load, value):
    loaded = load(document(images=[{"id": 1, "neg_category_ids": value}]), drop_invalid=True)
    assert loaded.num_images == 1
    assert [fault.kind for fault in loaded.faults] == ["image category list"]


def test_no_note_about_a_box_that_is_left_out(load):
    content = document([box(1), box(2, category_id=7, bbox=[90, 5, 30, 5])])
    assert [f.kind for f in load(content, drop_invalid=True).faults] == ["unknown category"]


def test_boxes_are_clipped_silently_within_the_tolerance_and_noted_beyond(load, caplog):
    content = document([box(1, bbox=[-1.5, 70, 20, 11]), box(2, bbox=[90, 5, 30, 5])])
    loaded = load(content)
    assert loaded.boxes.tolist() == [[0, 70, 18.5, 80], [90, 5, 100, 10]]
    assert loaded.bbox.tolist() == [[-1.5, 70, 20, 11], [90, 5, 30, 5]]
    assert [(f.kind, f.count, f.is_note) for f in loaded.faults] == [("clipped bbox", 1, True)]
    assert "1 annotation has a bbox that reaches beyond its image (kept, clipped)" in caplog.text
    assert load(content, tolerance=20).faults == ()
    assert load(content, tolerance=0).faults[0].count == 2


def test_boxes_are_not_checked_against_an_unknown_size(load):
    loaded = load(document([box(1, bbox=[500, 500, 9, 9])], images=[{"id": 1}]))
    assert loaded.boxes.tolist() == [[500, 500, 509, 509]]
    assert loaded.sizes.tolist() == [[0, 0]]


@pytest.mark.parametrize("tolerance", [-1, float("nan")])
def test_tolerance_out_of_range(load, tolerance):
    with pytest.raises(ValueError, match="Expected pixels >= 0"):
        load(document(), tolerance=tolerance)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty. Expected JSON"),
        (b" \n", "the file is empty"),
        (b'{"images": [],\n "x" 1}', r"not JSON \(Expecting ':' delimiter at line 2, column 6\)"),
        (b"\x89PNG\r\n\x1a\n", "not JSON"),
        (b"\x1f\x8b\x08\0{}", r"compressed \(gzip\). Expected JSON. Unpack it first"),
        (b"{" + b'"a":[' * 100_000, "not JSON"),
        (b'{"id": 1}\n{"id": 2}\n', r"not JSON \(JSON lines: a second value begins at line 2\)"),
        (b"{}\n]", r"not JSON \(Extra data at line 2, column 1\)"),
        (b"[]", "the file is a list. Expected a COCO annotation file"),
        (b'[{"image_id": 1, "score": 0.5}]', "looks like a results file"),
        (
            json.dumps(document([{"image_id": 1, "segments_info": [box(1)]}])).encode(),
            "the file looks like a panoptic one",
        ),
        (b"7", "the top level is 7"),
        (b'{"images": [], "annotations": []}', '"categories" is missing .found: .*images'),
        (b'{"images": 3, "annotations": [], "categories": []}', '"images" is 3. Expected a list'),
        (b'{"images": [], "annotations": [], "categories": []}', '"images" has no entry'),
        (b'{"images": [{"id": 1}], "annotations": [], "categories": []}', '"categories" has no'),
    ],
)
def test_what_is_not_an_annotation_file_is_refused(load, content, message):
    for drop_invalid in (False, True):
        with pytest.raises(AnnotationError, match=message) as caught:
            load(content, drop_invalid=drop_invalid)
        assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(AnnotationError, match=r"none.json: no such file"):
        load_annotations(tmp_path / "none.json")
    with pytest.raises(AnnotationError, match="this is a folder"):
        load_annotations(str(tmp_path))


def test_nothing_left_is_refused(load):
    content = document(images=[{"id": "a"}])
    with pytest.raises(AnnotationError, match='"images" has no entry left, because 1 image has no'):
        load(content, drop_invalid=True)


def test_segmentation_with_nan_is_a_fault_only_where_it_is_read(load):
    content = document([box(1, segmentation=[[float("nan")]]), box(2)])
    assert load(content).num_annotations == 2
    with pytest.raises(AnnotationError, match="1 annotation has a segmentation with NaN"):
        load(content, segmentations=True)


def test_fault_reads_as_a_sentence():
    assert str(Fault("empty bbox", 1, "annotation 4")) == (
        "1 annotation has a bbox of zero width or height (first: annotation 4)"
    )


def test_string_ids_are_read(shared):
    path: Path = shared / "eval/faster_coco_eval_small/gt_ignore_test.json"
    ids = [int(image["id"]) for image in json.loads(path.read_text())["images"]]
    assert load_annotations(path).image_ids.tolist() == ids
