"""Counts per class, and rare / common / frequent groups."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detbalance.data import Categories, load_annotations
from detbalance.data.frequency import (
    LVIS_SIZED,
    Frequency,
    class_counts,
    class_frequency,
    frequency_groups,
)

rows = st.lists(st.tuples(st.integers(0, 9), st.integers(-1, 6), st.booleans()), max_size=60)


def made(counts):
    counts = np.array([0, *counts], dtype=np.int64)
    k = len(counts) - 1
    categories = Categories(tuple(range(k)), tuple(f"class {i}" for i in range(k)))
    return Frequency(categories, 1000, counts, counts, "train.json")


def groups_of(counts, **options):
    groups = frequency_groups(made(counts), **options)
    return [groups.group(label) for label in range(1, len(counts) + 1)]


@given(rows)
def test_counts_equal_counting_by_hand(table):
    image_index, labels, is_crowd = zip(*table, strict=True) if table else ((), (), ())
    images, boxes = class_counts(
        image_index=image_index, labels=labels, num_classes=7, is_crowd=is_crowd
    )
    seen = [(i, c) for i, c, crowd in table if c > 0 and not crowd]
    per_box, per_image = Counter(c for _, c in seen), Counter(c for _, c in set(seen))
    assert boxes.tolist() == [per_box[c] for c in range(7)]
    assert images.tolist() == [per_image[c] for c in range(7)]
    assert images.dtype == boxes.dtype == np.int64


def test_class_frequency_leaves_crowd_out_and_keeps_absent_classes(tmp_path):
    path = tmp_path / "train.json"
    notes = [(1, 2, 0), (1, 2, 0), (2, 2, 0), (2, 8, 1), (2, 9, 0)]
    path.write_text(
        json.dumps(
            {
                "images": [{"id": i} for i in (1, 2, 3)],
                "categories": [{"id": i, "name": str(i)} for i in (2, 5, 8, 9)],
                "annotations": [
                    {"id": n, "image_id": i, "category_id": c, "bbox": [0, 0, 1, 1], "iscrowd": k}
                    for n, (i, c, k) in enumerate(notes)
                ],
            }
        )
    )
    frequency = class_frequency(load_annotations(path))
    assert frequency.image_counts.tolist() == [0, 2, 0, 0, 1]
    assert frequency.instance_counts.tolist() == [0, 3, 0, 0, 1]
    assert frequency.num_images == 3
    assert frequency.source == str(path)
    with pytest.raises(ValueError, match="read-only"):
        frequency.image_counts[0] = 1


@pytest.mark.parametrize("sound", [True, False])
def test_a_category_that_only_stands_above_others_is_known(tmp_path, sound):
    """Tools for export put their project's name in front, as the supercategory of all classes."""
    above = {1: "none", 2: "parts", 3: "bolt", 4: "odd", 5: "bolt", 6: 7 if sound else ["x"]}
    names = {1: "parts", 2: "bolt", 3: "odd", 4: "odder", 5: "bolt head", 6: "none"}
    path = tmp_path / "train.json"
    document = {
        "images": [{"id": 1}],
        "categories": [
            {"id": i, "name": name, "supercategory": above[i]} for i, name in names.items()
        ],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": c, "bbox": [0, 0, 1, 1]}
            for i, c in enumerate((2, 4, 5, 6 if sound else 99))
        ],
    }
    document["categories"].append({"id": 7, "name": "person", "supercategory": "person"})
    path.write_text(json.dumps(document))
    annotations = load_annotations(path, drop_invalid=True)
    expected = ("parts", "odd") if sound else ("parts", "odd", "none")
    assert class_frequency(annotations).super_categories == expected
    assert annotations.select(["parts", "bolt"]).categories.parents
    assert annotations.categories == Categories(
        annotations.categories.ids, (*names.values(), "person")
    )


def test_limits_are_those_of_lvis_at_their_edges():
    counts = [1, 10, 11, 100, 101]
    expected = ["rare"] * 2 + ["common"] * 2 + ["frequent"]
    assert groups_of(counts, limits=(10, 100)) == expected
    filled = counts + [5] * (LVIS_SIZED - len(counts))
    assert groups_of(filled)[:5] == expected
    assert frequency_groups(made(filled)).rule == (
        "rare: up to 10 train images, common: 11-100, frequent: more than 100 (LVIS limits), "
        "counted in train.json"
    )
    assert "LVIS" not in frequency_groups(made(counts), limits=(2, 5)).rule


def test_small_sets_are_cut_into_thirds():
    assert groups_of([5, 500, 50]) == ["rare", "frequent", "common"]
    assert groups_of(range(1, 10)) == ["rare"] * 3 + ["common"] * 3 + ["frequent"] * 3
    assert groups_of([3, 900]) == ["rare", "frequent"]
    assert groups_of([7]) == ["frequent"]
    rule = frequency_groups(made(range(1, 10))).rule
    assert rule == (
        "rare: 1-3 train images, common: 4-6, frequent: 7-9 (9 classes of train.json ranked by "
        "train images, cut at 1/3 and 2/3)"
    )


def test_quantiles_are_settable_and_an_empty_group_is_said_to_be_empty():
    groups = frequency_groups(made([1, 2, 3, 4]), quantiles=(0.1, 0.2))
    assert groups.of_class.tolist() == [-1, 1, 2, 2, 2]
    assert groups.rule.startswith("rare: no class, common: 1, frequent: 2-4")
    assert groups.rule.endswith("cut at 0.1 and 0.2)")


@given(st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_groups_follow_the_counts(counts):
    of_class = frequency_groups(made(counts)).of_class
    assert of_class[0] == -1
    order = np.argsort(counts)
    assert (np.diff(of_class[1:][order]) >= 0).all()
    if not any(counts):
        assert (of_class == -1).all()
        return
    for count in set(counts):
        assert len({g for g, n in zip(of_class[1:], counts, strict=True) if n == count}) == 1
    assert of_class[1 + int(np.argmax(counts))] == 2
    if len(set(counts)) == 1:
        assert set(groups_of(counts)) == {"frequent"}


@given(
    st.lists(st.integers(0, 120), min_size=1, max_size=20),
    st.sampled_from([{}, {"limits": (2, 9)}, {"quantiles": (0.2, 0.7)}]),
)
def test_classes_without_boxes_are_in_no_group_and_move_no_other(counts, options):
    present = [count for count in counts if count]
    ranked = iter(groups_of(present, **options) if present else [])
    assert groups_of(counts, **options) == [next(ranked) if n else None for n in counts]
    rule = frequency_groups(made(counts), **options).rule
    absent = counts.count(0)
    assert (f"; {absent} without train boxes in no group" in rule) == bool(absent)


def test_a_long_list_of_categories_makes_no_long_tail():
    counts = [3, 40, 500] + [0] * LVIS_SIZED
    assert groups_of(counts)[:3] == ["rare", "common", "frequent"]
    rule = frequency_groups(made([0, 1, 8])).rule
    assert rule.startswith("rare: 1 train image, common: no class, frequent: 8 (2 classes of")


def test_group_of_background_and_unknown_labels():
    groups = frequency_groups(made([1, 2]))
    assert groups.group(0) is None
    for label in (-1, 3):
        with pytest.raises(ValueError, match=f"label {label} does not exist"):
            groups.group(label)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limits": (5, 5)}, "Expected two image counts a < b"),
        ({"limits": (-1, 5)}, "Expected two image counts a < b"),
        ({"quantiles": (0.5, 0.2)}, "Expected two shares p < q"),
        ({"quantiles": (0, 1)}, "Expected two shares p < q"),
        ({"limits": (1, 2), "quantiles": (0.1, 0.2)}, "are both given. Give one"),
    ],
)
def test_wrong_cuts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        frequency_groups(made([1, 2, 3]), **options)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image_index": [0], "labels": [1, 2]}, r"image_index is \[1\] beside 2 labels"),
        ({"image_index": [0], "labels": [1], "is_crowd": []}, r"is_crowd is \[0\] beside 1 labels"),
        ({"image_index": [0], "labels": [3]}, "label 3 in 3 classes. Labels are 1 to 2"),
    ],
)
def test_wrong_arrays_are_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        class_counts(num_classes=3, **arrays)
