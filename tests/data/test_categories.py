"""The mapping between labels, category ids and names."""

from __future__ import annotations

import json

import pytest

from detbalance.data import Categories


def test_categories_map_both_ways_and_through_a_dict():
    categories = Categories((0, 3, 7), ("a", "b", "c"), ("r", "c", "f"))
    assert categories.num_categories == 3
    assert categories.num_classes == 4
    assert categories.category_ids(categories.labels([[7, 0]])).tolist() == [[7, 0]]
    assert [categories.name(i) for i in range(4)] == ["background", "a", "b", "c"]
    assert Categories.from_dict(json.loads(json.dumps(categories.to_dict()))) == categories
    assert Categories((1,), ("a",)) != Categories((1,), ("b",))


@pytest.mark.parametrize("ids", [(0, 3, 7), (0, 3, 10**15)])
def test_categories_refuse_unknown_ids_and_labels(ids):
    categories = Categories(ids, ("a", "b", "c"))
    for unknown in (-1, 1, 8, 2**62):
        with pytest.raises(ValueError, match=f"category_id {unknown} is unknown"):
            categories.labels([0, unknown])
    for label in (0, -1, 4):
        with pytest.raises(ValueError, match=f"label {label} has no category_id"):
            categories.category_ids([label])
    for label in (-1, 4):
        with pytest.raises(ValueError, match=f"label {label} has no name"):
            categories.name(label)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ids": [2, 1], "names": ["a", "b"]}, "Ids ascend strictly"),
        ({"ids": [1, 2], "names": ["a", "a"]}, 'name "a" occurs twice'),
        ({"ids": [1, 2], "names": ["a"]}, "2 ids and 1 names"),
        ({"ids": [1], "names": ["a"], "frequency": []}, "0 frequency tags"),
        ({"ids": [1]}, '"names" is missing'),
    ],
)
def test_categories_from_a_wrong_dict(values, message):
    with pytest.raises(ValueError, match=message):
        Categories.from_dict(values)
