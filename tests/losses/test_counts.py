"""What losses are told about the training set: counts of boxes and images, names."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from detbalance.losses import ClassCounts

NAMES = ["bolt", "crack"]


def test_counts_are_float64_arrays_whatever_they_were():
    for boxes in ([0, 9, 3], np.array([0, 9, 3]), torch.tensor([0, 9, 3]), (0, 9, 3)):
        counts = ClassCounts.of(boxes)
        assert counts.instance_counts.dtype == np.float64
        assert counts.instance_counts.tolist() == [0, 9, 3]
        assert counts.image_counts is counts.num_images is counts.class_names is None
    assert ClassCounts.of(counts) is counts


def test_counts_read_a_frequency():
    frequency = SimpleNamespace(
        instance_counts=np.array([0, 9, 3]),
        image_counts=np.array([0, 5, 2]),
        num_images=8,
        categories=SimpleNamespace(names=NAMES),
    )
    counts = ClassCounts.of(frequency)
    assert counts.image_counts.tolist() == [0, 5, 2]
    assert counts.num_images == 8
    assert counts.class_names == ("bolt", "crack")
    assert counts.image_frequency("x").tolist() == [0, 5 / 8, 2 / 8]


def test_counts_of_images_are_asked_for_where_they_are_missing():
    for counts in (
        ClassCounts([0, 9, 3]),
        ClassCounts([0, 9, 3], image_counts=[0, 5, 2]),
        ClassCounts([0, 9, 3], num_images=8),
    ):
        with pytest.raises(ValueError, match=r"^EQL: needs the images per class, .*Pass detbal"):
            counts.image_frequency("EQL")


def test_values_per_class_in_all_their_forms():
    counts = ClassCounts([0, 9, 3], class_names=NAMES)
    assert counts.per_class(2, "x", "gamma") == 2.0
    assert counts.per_class([0.5, 2], "x", "gamma").tolist() == [0.5, 2]
    assert counts.per_class({"crack": 3}, "x", "gamma", default=2.0).tolist() == [2, 3]
    assert counts.per_class({}, "x", "gamma").tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"^x: gamma has 3 values. Expected one number, or 2 for"):
        counts.per_class([1, 2, 3], "x", "gamma")


def test_long_lists_of_names_are_cut():
    counts = ClassCounts([1] * 31, class_names=[f"part {c}" for c in range(30)])
    with pytest.raises(ValueError, match=r"part 19, \.\.\.\. Use the names.*Did you mean \"part 2"):
        counts.per_class({"part 2x": 1.0}, "x", "gamma")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_counts": [0, 1]}, "image_counts: 2 entries beside 3 class counts. Expected the"),
        ({"image_counts": [0, -1, 2]}, r"image_counts: 1 entries are not counts \(first: index 1"),
        ({"class_names": ["bg", *NAMES]}, "class_names: 3 names for 2 classes.*Leave background"),
        ({"instance_counts": [0, math.nan, 1]}, "class_counts: 1 entries are not counts"),
        ({"instance_counts": [4]}, r"class_counts: the shape is \(1,\)"),
    ],
)
def test_counts_refuse_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        ClassCounts(**{"instance_counts": [0, 9, 3], **options})
