"""What is said of objects that are small at the input size, or too large to be pasted."""

from __future__ import annotations

import pytest
from commands import failing_command, run_command
from plans import coco, load, write

from detbalance.planning import make_plan
from detbalance.planning.objects import no_room_notes, small_notes


def sized(tmp_path, sides, *, number=20):
    """A class for each side of its boxes, on images of 640 x 640 pixels."""
    document = coco([[name] for name in sides for _ in range(number)])
    names = {entry["id"]: entry["name"] for entry in document["categories"]}
    for entry in document["annotations"]:
        side = sides[names[entry["category_id"]]]
        entry |= {"bbox": [10, 10, side, side], "area": side * side}
    return load(tmp_path / "train.json", document)


@pytest.mark.parametrize(
    ("size", "names"), [((640, 640), []), ((320, 320), ["bolt"]), ((160, 160), ["bolt", "nut"])]
)
def test_a_class_is_small_rather_than_rare_by_the_input_size(tmp_path, size, names):
    train = sized(tmp_path, {"bolt": 20, "nut": 40, "plate": 200})
    said = list(small_notes(train, size))
    assert len(said) == bool(names)
    for name in ("bolt", "nut", "plate"):
        assert (name in "".join(said)) == (name in names)
    if names:
        assert f"bolt ({20 * size[0] / 640:.0f} px)" in said[0]


def test_the_input_size_is_chosen_where_none_is_given(tmp_path):
    assert not list(small_notes(sized(tmp_path, {"bolt": 20}), None))  # 640 x 640 is chosen
    (said,) = small_notes(sized(tmp_path, {"dot": 4, "plate": 200}), None)
    assert "dot" in said
    assert "plate" not in said


def test_objects_that_are_too_large_to_be_pasted_are_named(tmp_path):
    train = sized(tmp_path, {"bolt": 40, "plate": 120})
    (said,) = no_room_notes(train, ["bolt", "plate"])
    assert "plate (median 4% of an image)" in said
    assert "bolt" not in said
    assert not list(no_room_notes(train, ["bolt"]))


def test_the_plan_names_what_paste_takes_and_by_what_rule(tmp_path):
    document = coco([["snow"]] * 12 + [["stop"]] * 60 + [["road"]] * 300, side=40)
    plan = make_plan(load(tmp_path / "a.json", document))
    assert (
        "paste adds boxes of snow, stop: all rare and common classes" in plan.recommendation.reason
    )
    assert "classes" not in plan.recommendation.config["augmentation"]["paste"]


def test_small_classes_are_a_note_of_the_plan(tmp_path, capsys):
    file = write(tmp_path / "a.json", coco([["dot"]] * 30 + [["plate"]] * 30, side=20))
    _, out, _ = run_command(capsys, "plan", file, "--input-size", "160x160")
    assert "Small rather than rare: at 160 x 160 pixels" in out
    for wrong in ("160", "axb", "0x5"):
        assert "--input-size" in failing_command(capsys, "plan", file, "--input-size", wrong)
