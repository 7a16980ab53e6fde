"""Faults of annotation files: named with count and first example, or left out and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_annotations import box, document

from detbalance.annotations import AnnotationError, Fault, load_annotations


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
    "duplicate annotation id": (
        document([box(3), box(4), box(3), box(3)]),
        r"2 annotations have the id of an earlier annotation \(first: annotation 3\)",
    ),
    "duplicate image id": (
        document([box(3)], images=[{"id": 1}, {"id": 1}]),
        r"1 image has the id of an earlier image \(first: image 1\)",
    ),
    "duplicate category id": (
        document([box(3)], categories=[{"id": 5, "name": "a"}, {"id": 5, "name": "b"}]),
        r"1 category has the id of an earlier category \(first: category 5\)",
    ),
    "duplicate category name": (
        document([box(3)], categories=[{"id": 5, "name": "a"}, {"id": 6, "name": "a"}]),
        r'1 category has the name of an earlier category \(first: category 6, name "a"\)',
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
        r"1 annotation has no id, image_id, category_id or bbox \(first: annotation 4, no bbox\)",
    ),
    "annotation id": (
        document([box(3), box("4"), box(6, image_id="1"), box(2**70)]),
        r"3 annotations have an id, image_id or category_id that is not a whole number "
        r'\(first: annotation "4", id "4"\)',
    ),
    "annotation entry": (
        document([box(3), 17]),
        r"1 annotation is not a JSON object \(first: annotations\[1\] is 17\)",
    ),
    "area": (
        document([box(3), box(4, area=-1.0), box(5, area="9")]),
        r"2 annotations have an area that is not a number >= 0 \(first: annotation 4, area -1.0\)",
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
        document([box(3)], images=[{"id": 1}, {"id": "2"}, {}]),
        r'2 images have no id that is a whole number \(first: images\[1\], id "2"\)',
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
    content = document([box(1, bbox=[0, 0, 0, 1]), box(2, category_id=1), box(2, image_id=4)])
    with pytest.raises(AnnotationError, match=r"id of an earlier.*; .*image_id.*; .*zero width"):
        load(content)


@pytest.mark.parametrize(
    "bad",
    ["/etc/passwd", "../a.jpg", "x/../../a.jpg", "..\\a.jpg", "C:\\a.jpg", "c:a", "\\a", "a\0"],
)
def test_unsafe_file_name_is_refused(load, bad):
    images = [{"id": 1, "file_name": "ok/..a..b/x..jpg"}, {"id": 2, "file_name": bad}]
    content = document([box(1), box(2, image_id=2)], images=images)
    with pytest.raises(AnnotationError, match="1 image has a file_name that points outside"):
        load(content)
    loaded = load(content, drop_invalid=True)
    assert loaded.image_ids.tolist() == [1]
    assert loaded.annotation_ids.tolist() == [1]
    assert [str(fault) for fault in loaded.faults][1] == (
        "1 annotation is left out with its image (first: annotation 2, image_id 2)"
    )


def test_annotations_of_a_category_left_out_are_counted_apart(load):
    categories = [{"id": 5, "name": "a"}, {"id": 6, "name": "a"}]
    content = document([box(1), box(2, category_id=6)], categories=categories)
    with pytest.raises(AnnotationError, match=r"json: 1 category has the name [^;]*\. Correct"):
        load(content)
    loaded = load(content, drop_invalid=True)
    assert loaded.annotation_ids.tolist() == [1]
    assert [str(fault) for fault in loaded.faults][1] == (
        "1 annotation is left out with its category (first: annotation 2, category_id 6)"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"area": -1.0}, "1 annotation has an area that is not a number >= 0"),
        ({"iscrowd": -1}, "1 annotation has an iscrowd that is not 0 or 1"),
        ({"ignore": 2}, "1 annotation has an ignore that is not 0 or 1"),
        ({"bbox": [1e308, 5, 1e308, 5]}, "1 annotation has a bbox with NaN or infinity"),
    ],
)
def test_faults_of_value_alone_are_found_by_the_fast_reader_too(load, change, message):
    content = document([box(3), {**box(4), **change}], images=[{"id": 1}])
    with pytest.raises(AnnotationError, match=message):
        load(content)


def test_true_is_not_an_id(load):
    with pytest.raises(AnnotationError, match=r"not a whole number \(first: annotation True"):
        load(document([box(True)]))


@pytest.mark.parametrize("value", [7, ["a"], [77]])
def test_image_with_a_wrong_category_list_stays(load, value):
    loaded = load(document(images=[{"id": 1, "neg_category_ids": value}]), drop_invalid=True)
    assert loaded.num_images == 1
    assert [fault.kind for fault in loaded.faults] == ["image category list"]


def test_no_note_about_a_box_that_is_left_out(load):
    content = document([box(1), box(2, category_id=7, bbox=[90, 5, 30, 5])])
    assert [f.kind for f in load(content, drop_invalid=True).faults] == ["unknown category"]


def test_lvis_address_cannot_climb_either(load):
    content = document(images=[{"id": 1, "coco_url": "http://x/../a.jpg"}])
    with pytest.raises(AnnotationError, match="points outside the image folder"):
        load(content)


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
        (b"[]", "the file is a list. Expected a COCO annotation file"),
        (b'[{"image_id": 1, "score": 0.5}]', "looks like a results file"),
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


def test_string_ids_are_named(shared):
    path: Path = shared / "eval/faster_coco_eval_small/gt_ignore_test.json"
    with pytest.raises(AnnotationError, match=r'no id that is a whole number .*id "2299"'):
        load_annotations(path)
