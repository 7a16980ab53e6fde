"""The one reader of labels: against plain loops, in every form, bad input."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled_images import as_arrays, counts, in_all_forms, label_lists

from detbalance.data import load_annotations
from detbalance.sampling import ImageLabels, repeat_factors

INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


@given(label_lists(), st.randoms(use_true_random=False))
def test_counts_and_pairs_equal_a_plain_loop(images, random):
    by_image, by_box = counts(images)
    pairs = sorted(Counter((i, c) for i, held in enumerate(images) for c in held).items())
    for form in in_all_forms(images, random):
        held = ImageLabels.of("test", form.get("data"), {k: form[k] for k in form if k != "data"})
        assert len(held) == held.num_images == len(images)
        assert {c: n for c, n in enumerate(held.image_counts) if n} == by_image
        assert {c: n for c, n in enumerate(held.instance_counts) if n} == by_box
        assert held.shows_boxes.tolist() == [bool(labels) for labels in images]
        shown, labels, boxes = (array.tolist() for array in held.pairs)
        assert list(zip(zip(shown, labels, strict=True), boxes, strict=True)) == pairs
        values = -np.arange(held.num_classes, dtype=float)
        smallest = [-min(labels) if labels else 7.0 for labels in images]
        assert held.largest(values, empty=7.0).tolist() == smallest


@pytest.mark.parametrize("num_classes", [2, 1203, 8191, 8192, 70_000])
def test_counts_of_many_images_equal_those_of_sorted_pairs(num_classes):
    generator = np.random.default_rng(num_classes)
    arrays = {
        "image_index": generator.integers(0, 3000, 9000),
        # A few classes are in most images, many times.
        "labels": (generator.random(9000) ** 6 * num_classes).astype(np.int64) + 1,
        "num_images": 3500,
    }
    pairs = np.unique(np.column_stack([arrays["image_index"], arrays["labels"]]), axis=0)
    held = ImageLabels(**arrays)
    assert (held.image_counts == np.bincount(pairs[:, 1], minlength=held.num_classes)).all()


@given(st.lists(label_lists(), min_size=1, max_size=4), st.data())
def test_concatenated_sets_are_the_joined_lists(parts, data):
    joined = [held for part in parts for held in part]
    forms = [ImageLabels(part) if data.draw(st.booleans()) else part for part in parts]
    held = ImageLabels.concatenate(forms)
    expected = ImageLabels(joined)
    assert held.image_index.tolist() == expected.image_index.tolist()
    assert held.labels.tolist() == expected.labels.tolist()
    assert held.num_images == expected.num_images
    assert held.num_classes == expected.num_classes


@pytest.mark.parametrize("dtype", INTEGERS)
def test_all_integer_types_count_alike(dtype):
    labels = np.array([1, 2, 1, 120], dtype=dtype)
    images = np.array([0, 0, 1, 100], dtype=dtype)
    held = ImageLabels(image_index=images, labels=labels, num_images=np.int64(101))
    expected = ImageLabels(image_index=images.tolist(), labels=labels.tolist(), num_images=101)
    for one in (held, ImageLabels.concatenate([expected, held])):
        assert one.image_counts[[1, 2, 120]].tolist() == [x * len(one) // 101 for x in (2, 1, 1)]
    assert [a.tolist() for a in held.pairs] == [a.tolist() for a in expected.pairs]
    assert ImageLabels.concatenate([held, held]).image_index.tolist()[-1] == 201


def test_largest_label_that_is_taken():
    held = ImageLabels([[2**24 - 1], [1]])
    assert held.image_counts[[1, 2**24 - 1]].tolist() == [1, 1]
    assert repeat_factors(held, threshold=1.0) == pytest.approx([2**0.5] * 2)


def test_iterables_without_order_are_taken():
    assert ImageLabels([{1, 2}, iter([2, 2]), ()]).instance_counts.tolist() == [0, 1, 3]


def test_image_labels_are_passed_through():
    held = ImageLabels([[1]])
    assert ImageLabels.of("f", held) is held
    with pytest.raises(ValueError, match=r"^f: data and plain arrays given.*labels"):
        ImageLabels.of("f", held, {"labels": [1]})


def write_set(path, boxes, names=("cat", "owl")):
    """A COCO file with the category of each box of each image."""
    notes = [
        {"id": n, "image_id": i, "category_id": c, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
        for n, (i, c) in enumerate(((i, c) for i, held in enumerate(boxes) for c in held), 1)
    ]
    images = [
        {"id": i, "file_name": f"{i}.jpg", "width": 9, "height": 9} for i in range(len(boxes))
    ]
    categories = [{"id": 10 * i, "name": name} for i, name in enumerate(names, 1)]
    path.write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
    return load_annotations(path)


def test_rarity_is_that_in_the_union_of_several_files(tmp_path):
    # Trap T11: owls are rare in the first file and frequent in all.
    few = write_set(tmp_path / "a.json", [[10], [10], [10], [10, 20]])
    many = write_set(tmp_path / "b.json", [[20, 20]] * 4)
    joined = ImageLabels.concatenate([few, many])
    assert (joined.num_images, joined.num_classes) == (8, 3)
    assert joined.image_counts.tolist() == [0, 4, 5]
    assert repeat_factors(joined, threshold=0.5).tolist() == [1.0] * 8
    one_by_one = np.concatenate([repeat_factors(part, threshold=0.5) for part in (few, many)])
    assert one_by_one[3] == pytest.approx(2**0.5)
    lists = [[1], [1], [1], [1, 2], [2, 2], [2, 2], [2, 2], [2, 2]]
    options = {"threshold": 0.9, "power": 1.0}
    assert (repeat_factors(joined, **options) == repeat_factors(lists, **options)).all()


def test_files_with_other_categories_are_not_joined(tmp_path):
    one = write_set(tmp_path / "a.json", [[10]])
    other = write_set(tmp_path / "b.json", [[10]], names=("owl", "cat"))
    with pytest.raises(ValueError, match=r"different categories.*Write the same"):
        ImageLabels.concatenate([one, other])
    with pytest.raises(ValueError, match="no data set given"):
        ImageLabels.concatenate([])


def test_classes_of_the_categories_count_without_boxes(tmp_path):
    held = ImageLabels(write_set(tmp_path / "a.json", [[10], []]))
    assert held.image_counts.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("abc", TypeError, "data is a str. Expected annotations or a list"),
        (5, TypeError, "data is a int"),
        ([[1], 2], TypeError, r"data\[1\] is 2. Expected the labels of the boxes of image 1"),
        ([[1], [1.5]], TypeError, r"data\[1\] is \[1\.5\]"),
        ([[1], ["a"]], TypeError, r"data\[1\] is \['a'\]"),
        ([[1], [[2]]], TypeError, r"data\[1\] is \[\[2\]\]"),
        ([[1], [0]], ValueError, r"1 entries of labels .*labels\[1\] is 0\)"),
        ([[1], [2**24]], ValueError, r"labels go up to 16777216.*Number the classes"),
        ([], ValueError, "num_images is 0. Expected a whole number >= 1"),
        (None, ValueError, "image_index, labels or num_images is missing"),
    ],
)
def test_bad_data_is_refused(data, error, message):
    with pytest.raises(error, match=r"^ImageLabels: " + message):
        ImageLabels(data)


def test_bad_arrays_are_refused():
    arrays = as_arrays([[1], [2]])
    with pytest.raises(TypeError, match=r"does not know lables\. Expected its own arguments, or"):
        ImageLabels(**arrays, lables=[1])
    with pytest.raises(ValueError, match=r"num_images is 2\.5. Expected a whole number"):
        ImageLabels(**arrays | {"num_images": 2.5})
    with pytest.raises(ValueError, match=r"^repeat_factors\(\): labels has the shape"):
        repeat_factors(**arrays | {"labels": [[1, 2]]}, threshold=0.5)


def test_annotations_may_be_anything_with_the_four_arrays():
    boxes = SimpleNamespace(
        image_index=np.array([0, 1]),
        labels=np.array([1, 2]),
        is_crowd=np.array([True, False]),
        num_images=3,
    )
    assert ImageLabels(boxes).image_counts.tolist() == [0, 0, 1]
