"""Plans: counts, settings, the recommendation, what is said in words, the file format."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import coco, load, long_tail

from detbalance.planning import Plan, load_plan, make_plan
from detbalance.planning.classes import boxes_beside, companions
from detbalance.planning.findings import near_pairs
from detbalance.planning.recommendation import (
    CHOICES,
    ENOUGH_BOXES,
    FITTED,
    LARGEST_REPEAT,
    LVIS_DEFAULT,
    WORTH,
    recommend,
)
from detbalance.sampling import FACTORS, ImageLabels, class_exposure, exposure_ratio

SETS = ("bccd", "chess", "deeppcb_lt", "gtsdb_crops")


def planned(folder: Path, images: list[list[str]], val: list[list[str]] | None = None, **options):
    """The plan of such images; `names` are further categories of the training file."""
    train = load(folder / "train.json", coco(images, options.pop("names", ())))
    if val is not None:
        options["val"] = load(folder / "val.json", coco(val, prefix="val"))
    return make_plan(train, **options)


def row(plan: Plan, name: str):
    (found,) = [row for row in plan.classes if row.name == name]
    return found


def words(plan: Plan) -> str:
    return "\n".join([*plan.class_notes, *plan.setting_notes, plan.recommendation.reason])


# Counts


def test_classes_are_counted_rarest_first_without_crowds(tmp_path):
    document = coco([["a", "a", "b"], ["a"], []], names=["c"])
    document["annotations"][3]["iscrowd"] = 1  # the second image has nothing else
    plan = make_plan(load(tmp_path / "train.json", document))
    counted = [(row.name, row.images, row.boxes, row.category_id) for row in plan.classes]
    assert counted == [("c", 0, 0, 7), ("b", 1, 1, 4), ("a", 1, 2, 1)]
    summary = plan.train
    assert (summary.images, summary.boxes, summary.crowd_boxes, summary.categories) == (3, 3, 1, 3)
    assert summary.background_images == 2
    assert summary.background_share == pytest.approx(2 / 3)
    assert (plan.box_ratio, plan.image_ratio, plan.reference) == (2, 1, "a")
    assert "c has no box in" in words(plan)


def test_sizes_are_medians_and_shares_by_the_limits_of_coco(tmp_path):
    document = coco([["a"] * 4, ["b"] * 3, []], names=["c"])
    sides = [10, 31, 32, 96, 20, 30, 200]
    for annotation, side in zip(document["annotations"], sides, strict=True):
        annotation["bbox"][2:] = [side, side]
        annotation["area"] = side * side
    document["annotations"][6]["area"] = 96 * 96 + 1  # a mask in a larger box
    crowd = {"id": 99, "category_id": 1, "bbox": [0, 0, 600, 600], "area": 9, "iscrowd": 1}
    document["annotations"].append({**crowd, "image_id": 1})
    plan = make_plan(load(tmp_path / "train.json", document))
    a, b, c = (row(plan, name) for name in "abc")
    assert (a.median_size, a.small, a.medium, a.large) == (31.5, 0.5, 0.5, 0)
    assert (b.median_size, b.small, b.medium) == (30, pytest.approx(2 / 3), 0)
    assert b.large == pytest.approx(1 / 3)
    assert all(math.isnan(value) for value in (c.median_size, c.small, c.medium, c.large))


def test_a_class_with_fewer_boxes_in_more_images_is_rarer(tmp_path):
    plan = planned(tmp_path, [["p", "p", "p"], ["q"], ["q"]])
    assert [row.name for row in plan.classes] == ["q", "p"]
    assert (plan.box_ratio, plan.image_ratio) == (1.5, 2)


def test_groups_come_from_the_training_file_by_the_limits_given(tmp_path):
    plan = planned(tmp_path, long_tail(), [["snow"]] * 500, limits=(10, 100))
    assert [(row.name, row.group) for row in plan.classes] == [
        ("snow", "rare"),
        ("stop", "common"),
        ("road", "frequent"),
    ]
    assert "up to 10 train images" in plan.group_rule
    assert str(tmp_path / "train.json") in plan.group_rule


@given(st.lists(st.lists(st.integers(1, 5), max_size=6), min_size=1, max_size=12))
def test_what_is_seen_beside_a_class_is_what_a_loop_counts(images):
    held = ImageLabels(images)
    labels, in_images = companions(held)
    reference = boxes_beside(held, 1) if held.num_classes > 1 else None
    for label in range(1, held.num_classes):
        own = [image for image in images if label in image]
        shared = [
            0 if other in (0, label) else sum(other in image for image in own)
            for other in range(held.num_classes)
        ]
        assert in_images[label] == max(shared)
        assert labels[label] == (shared.index(max(shared)) if max(shared) else 0)
        if own:
            mean = sum(image.count(1) for image in own) / len(own)
            assert reference[label] == pytest.approx(mean)
        else:
            assert math.isnan(reference[label])


def test_a_rare_class_is_named_with_its_companion(tmp_path):
    plan = planned(tmp_path, long_tail())
    snow, stop = row(plan, "snow"), row(plan, "stop")
    assert (snow.companion, snow.companion_images, snow.reference_boxes) == ("road", 3, 0.5)
    assert (stop.companion, stop.companion_images, stop.reference_boxes) == (None, 0, 0)


# The validation file


def test_val_says_how_well_a_recall_will_be_known(tmp_path):
    val = [["snow"]] * 5 + [["stop", "stop"]] * 10 + [["road"]] * 200
    plan = planned(tmp_path, long_tail(), val)
    snow, stop, road = (row(plan, name) for name in ("snow", "stop", "road"))
    assert (snow.val_images, snow.val_boxes, stop.val_images, stop.val_boxes) == (5, 5, 10, 20)
    known = [round(row.half_width, 2) for row in (snow, stop, road)]
    assert known == [0.33, 0.20, 0.07]
    assert (snow.val_boxes_missing, stop.val_boxes_missing, road.val_boxes_missing) == (88, 73, 0)
    assert plan.few_in_val == ("snow",)
    assert "recall of snow will be known to +-0.33" in words(plan)
    assert "88 boxes more of snow would give +-0.10" in words(plan)


def test_classes_that_only_one_file_has_are_named(tmp_path):
    plan = planned(tmp_path, long_tail(), [["road", "moon"], ["stop"] * 30], names=["sun"])
    assert plan.absent_in_val == ("snow",)  # "sun" is in neither
    assert plan.unknown_to_train == ("moon",)
    assert "snow has no box in" in words(plan)
    assert "moon is in" in words(plan)
    assert "never learnt, so never found" in words(plan)
    assert "sun has no box in" in words(plan)
    assert math.isnan(row(plan, "snow").half_width)


def test_without_val_nothing_is_said_about_it(tmp_path):
    plan = planned(tmp_path, long_tail())
    assert plan.val is None
    assert (plan.absent_in_val, plan.few_in_val, plan.unknown_to_train) == ((), (), ())
    assert {row.val_boxes for row in plan.classes} == {None}
    assert "val" not in words(plan)


# Settings


@pytest.fixture(scope="module")
def tail(tmp_path_factory):
    """A long-tailed training file and its plan."""
    folder = tmp_path_factory.mktemp("tail")
    train = load(folder / "train.json", coco(long_tail(), names=["sun"]))
    return train, make_plan(train, images_per_second=10)


def factors_of(train, setting):
    options = dict(setting.config)
    method = options.pop("method")
    return np.ones(train.num_images) if method == "none" else FACTORS[method](train, **options)


def test_figures_are_those_of_the_factors_that_the_config_lines_give(tail):
    train, plan = tail
    assert [setting.name for setting in plan.settings] == ["none", LVIS_DEFAULT, *FITTED]
    labels = [train.categories.names.index(row.name) + 1 for row in plan.classes]
    for setting in plan.settings:
        factors = factors_of(train, setting)
        exposure = class_exposure(train, factors)
        np.testing.assert_array_equal(setting.exposure, exposure[labels])
        assert setting.max_min == exposure_ratio(exposure)
        assert setting.epoch_length == factors.sum()
        assert setting.least_boxes == pytest.approx(np.nanmin(exposure[1:]) * 366 / factors.sum())
        assert setting.relative_length == factors.sum() / 366
        assert setting.seconds == factors.sum() / 10
        assert setting.largest_repeat == factors.max()
        assert setting.seldom_images == (factors < 0.5).sum()
        assert setting.never_images == (factors == 0).sum()
        shown = sum(setting.group_exposure.values())
        assert shown == pytest.approx(np.nansum(exposure[1:]))
    none = plan.settings[0]
    assert (none.effective_images, none.max_min) == (366, plan.box_ratio)
    assert math.isnan(none.exposure[0])  # "sun"


def test_variety_is_the_number_of_images_where_some_are_drawn_alike_and_others_never(tail):
    from detbalance.planning.recommendation import _setting

    train, _ = tail
    held = ImageLabels(train)
    factors = np.where(np.arange(366) < 100, 3.0, 0.0)
    groups = type("Groups", (), {"names": (), "of_class": np.zeros(4)})
    setting = _setting("x", {}, held, factors, groups, [1, 2, 3], None)
    assert setting.effective_images == pytest.approx(100)
    assert (setting.seldom_images, setting.never_images) == (266, 266)


def test_fitted_settings_are_equally_long(tail):
    train, plan = tail
    lengths = [plan.setting(name).epoch_length for name in FITTED]
    np.testing.assert_allclose(lengths, plan.target_length, rtol=0.02)
    asked = make_plan(train, target_length=500)
    lengths = [asked.setting(name).epoch_length for name in FITTED]
    np.testing.assert_allclose(lengths, 500, rtol=0.02)


def test_epochs_stay_short_where_most_classes_are_rare(tmp_path):
    plan = planned(tmp_path, [["road"]] * 50 + [[f"rare {i // 5}"] for i in range(500)])
    assert plan.target_length == 2 * plan.train.images


def test_the_default_of_lvis_is_said_to_do_nothing_where_it_does_nothing(tail, tmp_path):
    _, plan = tail
    assert plan.setting(LVIS_DEFAULT).exposure[1:] == plan.settings[0].exposure[1:]
    assert "default of LVIS do nothing here" in words(plan)
    large = planned(tmp_path, [["snow"]] + [["road"]] * 1500)
    assert large.setting(LVIS_DEFAULT).largest_repeat > 1
    assert "do nothing here" not in words(large)


def test_what_cannot_be_had_is_left_out_with_its_reason(tail):
    train, _ = tail
    plan = make_plan(train, target_length=100)  # fewer than the images: nothing can repeat them
    names = [setting.name for setting in plan.settings]
    assert "repeat_factor" not in names
    assert "class_aware" in names
    (reason,) = [note for note in plan.setting_notes if note.startswith("repeat_factor cannot")]
    assert "target_length is 100. Expected" in reason


def test_time_and_iterations_are_explained(tail):
    train, plan = tail
    assert "Training counts iterations, so no setting makes it longer" in words(plan)
    assert all(math.isnan(setting.seconds) for setting in make_plan(train).settings)


def test_more_repeats_than_a_class_can_bear_are_warned_of(tmp_path):
    plan = planned(tmp_path, [["snow"]] * 3 + [["road"]] * 400)
    assert plan.setting("class_aware").largest_repeat > 60
    assert "class_aware draws one image" in words(plan)
    assert "learnt by heart" in words(plan)
    assert "snow is in fewer than 10 train images" in words(plan)
    for name in CHOICES:
        assert plan.setting(name).largest_repeat <= LARGEST_REPEAT * 1.001


# The recommendation


def test_a_long_tail_is_balanced_and_few_boxes_are_pasted(tail):
    _, plan = tail
    advice = plan.recommendation
    assert advice.verdict == "balance"
    assert advice.setting in CHOICES
    assert plan.recommended.least_boxes > WORTH * plan.settings[0].least_boxes
    assert "snow has 6 boxes beside 303 of road" in advice.reason
    assert advice.config == {
        "sampling": plan.recommended.config,
        "augmentation": {"paste": {"probability": 0.5}},
    }


@pytest.mark.parametrize(
    ("least", "chosen"),
    [
        ((80, 85, 100), "repeat_factor"),
        ((79, 85, 100), "instance_aware"),
        ((79, 79, 100), "balanced_exposure (half)"),
    ],
)
def test_the_simplest_setting_within_reach_of_the_best_is_taken(tail, least, chosen):
    _, plan = tail
    # Equal classes may show more still: they cost the frequent ones too much.
    figures = {**dict(zip(CHOICES, least, strict=True)), "balanced_exposure": 1000}
    settings = [
        dataclasses.replace(s, least_boxes=figures.get(s.name, 10), effective_images=200.0)
        for s in plan.settings
    ]
    assert recommend(plan.train, plan.classes, settings, set()).setting == chosen


@pytest.mark.parametrize("fault", [{"effective_images": 100.0}, {"largest_repeat": 10.2}])
def test_what_would_be_learnt_by_heart_is_not_chosen(tail, fault):
    _, plan = tail
    settings = [
        dataclasses.replace(s, **fault) if s.name == "balanced_exposure (half)" else s
        for s in plan.settings
    ]
    advice = recommend(plan.train, plan.classes, settings, set())
    assert advice.setting in ("repeat_factor", "instance_aware")


def test_showing_every_class_less_is_no_balance(tmp_path):
    # Images with few boxes bring max/min down, and the rare class down with it.
    full = [["pawn"] * 8 + ["queen"] * 2] * 40 + [["pawn"] * 8 + ["rook"] * 3] * 40
    plan = planned(tmp_path, [*full, *[["pawn", "queen"]] * 20, *[["pawn", "rook"]] * 30])
    none, solved = plan.settings[0], plan.setting("balanced_exposure")
    assert solved.max_min * 2 < none.max_min
    assert solved.least_boxes < none.least_boxes
    assert plan.recommendation.setting == "none"
    assert plan.recommendation.verdict == "sampling cannot help"
    assert "balanced_exposure shows the least shown class less than no sampling does" in words(plan)


def test_enough_boxes_are_not_pasted(tmp_path):
    plan = planned(tmp_path, long_tail(rare=ENOUGH_BOXES, common=200, frequent=2000))
    assert plan.recommendation.verdict == "balance"
    assert "augmentation" not in plan.recommendation.config


def test_boxes_too_small_to_paste_are_not_pasted(tmp_path):
    train = load(tmp_path / "train.json", coco(long_tail(), side=7))
    assert "augmentation" not in make_plan(train).recommendation.config


def test_classes_are_named_where_paste_would_take_others_by_default(tmp_path):
    # By images, "p" is the most frequent class: paste's own choice is "q" and "r" only.
    images = [["p"]] * 20 + [["q"] * 60] * 5 + [["r"] * 70] * 6
    for options in ({}, {"limits": (100, 200)}):
        plan = planned(tmp_path, images, **options)
        assert plan.recommendation.config["augmentation"]["paste"]["classes"] == ["p"]


def test_nothing_is_rare_is_said_plainly(tmp_path):
    plan = planned(tmp_path, [["a"]] * 100 + [["b"]] * 60 + [["a", "b"]] * 20)
    advice = plan.recommendation
    assert (advice.setting, advice.verdict) == ("none", "nothing is rare")
    assert advice.reason.startswith("Nothing is rare here: every class has 80 boxes or more")
    assert advice.lines == "sampling:\n  method: none"


@pytest.mark.parametrize("images", [[["a"]] * 300 + [["b"]] * 99, [["a"] * 5] * 30 + [["b"]] * 99])
def test_three_times_as_many_images_or_boxes_are_not_nothing(tmp_path, images):
    assert planned(tmp_path, images).recommendation.verdict != "nothing is rare"


def test_few_boxes_of_every_class_are_no_imbalance(tmp_path):
    plan = planned(tmp_path, [["a"]] * 12 + [["b"]] * 10)
    advice = plan.recommendation
    assert (advice.setting, advice.verdict) == ("none", "too few boxes")
    assert "label more, and paste" in advice.reason
    # By default paste takes rare and common classes only, and there are none.
    assert advice.config["augmentation"]["paste"]["classes"] == ["b", "a"]


def test_a_frequent_class_in_every_image_is_said_to_be_out_of_reach(tmp_path):
    plan = planned(tmp_path, [["cell"] * 12 + ["platelet"]] * 60 + [["cell"] * 12] * 5)
    advice = plan.recommendation
    assert (advice.setting, advice.verdict) == ("none", "sampling cannot help")
    assert "Images of platelet also hold 12.0 boxes of cell" in advice.reason


def test_the_verdict_does_not_hang_on_one_box(tmp_path):
    """A class in every photo: the rare one can be shown a quarter more, and stays as far behind."""
    seen = set()
    for others in (30, 33, 34, 35, 36, 37):
        images = [["cell"] * 24 + ["spore"]] * 124 + [["cell"] * 17] * others
        plan = planned(tmp_path, images)
        solved, none = plan.setting("balanced_exposure (half)"), plan.settings[0]
        seen.add(solved.least_boxes >= WORTH * none.least_boxes)
        assert plan.recommendation.verdict == "sampling cannot help"
    assert seen == {True, False}
    advice = plan.recommendation.reason
    assert "spore never comes alone. Images of spore also hold 24.0 boxes of cell" in advice
    assert "let paste add boxes of spore alone; a loss for rare classes" in advice
    assert "repair after training (detbalance refit)" in advice


@pytest.mark.parametrize(
    ("least", "max_min", "chosen"),
    [
        # Above the limit of 125 boxes by half a box, but hardly nearer to the most shown class.
        ((100, 100, 125.5), (71, 71, 59.5), "none"),
        ((100, 100, 125.5), (71, 71, 40), "balanced_exposure (half)"),
        # The best is worth it, the simpler one within reach of it is not.
        ((120, 120, 140), (50, 50, 50), "balanced_exposure (half)"),
        ((126, 120, 140), (50, 50, 50), "repeat_factor"),
        ((126, 130, 140), (60, 50, 50), "instance_aware"),
        ((100, 100, 124.5), (71, 71, 20), "none"),
    ],
)
def test_the_chosen_setting_is_the_one_that_must_be_worth_it(tail, least, max_min, chosen):
    _, plan = tail
    figures = {
        "none": (100.0, 71.0),
        **dict(zip(CHOICES, zip(least, max_min, strict=True), strict=True)),
    }
    settings = [
        dataclasses.replace(
            setting,
            least_boxes=figures.get(setting.name, (1, 71))[0],
            max_min=figures.get(setting.name, (1, 71))[1],
            largest_repeat=2.0,
            effective_images=300.0,
        )
        for setting in plan.settings
    ]
    assert recommend(plan.train, plan.classes, settings, set()).setting == chosen


def test_single_things_are_told_in_the_singular(tmp_path):
    plan = planned(tmp_path, [["a"], *[["b"]] * 40], [["a"], *[["b"]] * 96])
    everything = words(plan) + plan.group_rule
    assert "a has 1 box beside 40 of b" in everything
    assert not re.search(
        r"(?<![\d.,/-])1 (boxes|classes|train images|images|annotations)", everything
    )


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        ([[], [], [], []], "has no box: every image is background"),
        ([["a"], ["a"], []], "Only a has boxes: with one class there is nothing to balance"),
        ([["a", "b", "b"]], "has one image"),
    ],
)
def test_degenerate_data_have_a_plan_in_words(tmp_path, images, reason):
    plan = planned(tmp_path, images, [*images, ["y"]], names=["z"])
    assert plan.recommendation.verdict == "nothing to balance"
    assert reason in plan.recommendation.reason
    assert plan.recommendation.setting == "none"
    assert round_trip(plan).to_dict() == plan.to_dict()


def test_much_background_is_mentioned(tmp_path):
    plan = planned(tmp_path, [[]] * 500 + long_tail(common=20, frequent=100))
    assert "80% of the train images show no box" in words(plan)


# Findings


def test_faults_of_the_files_are_findings(tmp_path):
    document = coco(long_tail())
    document["annotations"][0]["bbox"][2] = -5
    document["annotations"][1]["category_id"] = 99
    document["annotations"][2]["bbox"][2] = 700  # beyond the image: kept, clipped
    plan = make_plan(load(tmp_path / "train.json", document))
    assert [(finding.kind, finding.count) for finding in plan.faults] == [
        ("unknown category", 1),
        ("negative bbox size", 1),
    ]
    (note,) = [finding for finding in plan.findings if not finding.is_fault]
    assert note.kind == "clipped bbox"
    assert plan.findings[-1] is note
    assert "annotation 1" in plan.faults[1].text
    assert plan.train.boxes == len(document["annotations"]) - 2


def findings_of(path: Path, document: dict, **options):
    return make_plan(load(path, document), **options).findings


def test_a_large_part_left_out_is_said_in_the_verdict(tmp_path):
    train = load(tmp_path / "train.json", coco(long_tail()))
    for left_out, part in ((40, None), (100, "100 of 469 annotations (21%)")):
        plan = make_plan(dataclasses.replace(train, num_left_out=left_out))
        assert [finding.kind for finding in plan.findings] == (["left out"] if part else [])
        assert plan.recommendation.reason.startswith("Mend the findings above") == bool(part)
        if part:
            assert part in plan.findings[0].text


def test_crowd_regions_alone_are_neither_background_nor_nothing(tmp_path):
    document = coco([["a", "b"]] * 6)
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 1
    plan = make_plan(load(tmp_path / "train.json", document))
    (finding,) = plan.faults
    assert (finding.kind, finding.count) == ("crowd only", 12)
    assert "all 12 annotations are crowd regions (iscrowd 1)" in finding.text
    assert "Set iscrowd to 0" in finding.text
    assert "has only crowd regions" in plan.recommendation.reason
    everything = words(plan)
    assert "background" not in everything
    assert "Label some" not in everything
    for annotation in document["annotations"]:
        annotation["iscrowd"] = int(annotation["category_id"] == 4)
    plan = make_plan(load(tmp_path / "train.json", document))
    assert "all 6 annotations of b are crowd regions" in plan.faults[0].text
    assert "All annotations of b are crowd regions, which leaves a alone" in words(plan)
    assert "Only a has boxes" not in words(plan)
    assert "Label some" not in words(plan)
    assert row(plan, "b").crowd_boxes == 6
    document["annotations"][1]["iscrowd"] = 0
    assert not make_plan(load(tmp_path / "train.json", document)).findings


def test_a_category_above_the_classes_is_no_class(tmp_path):
    document = coco(long_tail(), ["parts", "empty"])
    for category in document["categories"]:
        category["supercategory"] = "none" if category["name"] == "parts" else "parts"
    plan = make_plan(load(tmp_path / "train.json", document))
    assert row(plan, "empty").group is None
    assert plan.train.categories == len(plan.classes) == 4
    assert all(len(setting.exposure) == 4 for setting in plan.settings)
    assert [row(plan, name).group for name in ("snow", "stop", "road")] == [
        "rare",
        "common",
        "frequent",
    ]
    assert "parts is only the supercategory of others" in words(plan)
    assert "empty has no box" in words(plan)
    assert round_trip(plan).to_dict() == plan.to_dict()


xywh = st.tuples(*[st.floats(0.02, 0.9) for _ in range(4)])


def boxes_document(boxes, size=(640, 480), area=None):
    """One image a box, x and y below w and h of the image as given."""
    document = coco([["a"]] * len(boxes))
    for image, annotation, box in zip(
        document["images"], document["annotations"], boxes, strict=True
    ):
        image["width"], image["height"] = size
        annotation["bbox"] = list(box)
        annotation.pop("area")
        if area is not None:
            annotation["area"] = area(*box)
    return document


def in_pixels(parts, size=(640, 480)):
    """Boxes inside the image from four shares each."""
    width, height = size
    return [
        (x * width * (1 - w), y * height * (1 - h), w * width, h * height) for x, y, w, h in parts
    ]


@given(st.lists(xywh, min_size=30, max_size=40))
@settings(max_examples=8)
def test_boxes_in_pixels_are_never_called_another_format(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("boxes")
    boxes = in_pixels(parts)
    for area in (None, lambda x, y, w, h: w * h, lambda x, y, w, h: 0.7 * w * h):
        found = findings_of(folder / "a.json", boxes_document(boxes, area=area))
        assert not any(finding.kind.startswith("boxes") for finding in found)
    whole = boxes_document([(0, 0, 640, 480)] * 30, area=lambda x, y, w, h: w * h)
    assert not any(f.kind.startswith("boxes") for f in findings_of(folder / "a.json", whole))


@given(st.lists(st.tuples(*[st.floats(0.3, 0.9) for _ in range(4)]), min_size=30, max_size=40))
@settings(max_examples=8)
def test_boxes_in_other_formats_are_a_finding(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("boxes")
    real = in_pixels([(x, y, w / 3, h / 3) for x, y, w, h in parts])
    corners = [(x, y, x + w, y + h) for x, y, w, h in real]
    centres = [(x + w / 2, y + h / 2, w, h) for x, y, w, h in real]
    fractions = [(x / 640, y / 480, w / 640, h / 480) for x, y, w, h in real]

    def kinds(boxes, **options):
        plan = make_plan(load(folder / "a.json", boxes_document(boxes, **options)))
        kinds = [finding.kind for finding in plan.faults if finding.kind.startswith("boxes")]
        assert bool(kinds) == plan.recommendation.reason.startswith("Mend the findings above")
        return kinds

    small = [(x / 8, y / 8, x / 8 + w / 8, y / 8 + h / 8) for x, y, w, h in real]
    told = lambda x, y, x2, y2: (x2 - x) * (y2 - y)  # noqa: E731
    assert kinds(small, area=told) == ["boxes as corners"]
    beyond = sum(x + w > 641 or y + h > 481 for x, y, w, h in corners)
    if beyond >= len(corners) / 2:
        assert kinds(corners) == ["boxes as corners"]
    assert kinds(fractions) == ["boxes below one pixel"]
    reach = sum(x + w > 641 or y + h > 481 for x, y, w, h in centres)
    if reach >= len(centres) / 10 and reach < len(centres) / 2:
        assert kinds(centres) == ["boxes as centres"]
    wrong = boxes_document(real, (20, 15))
    for annotation in wrong["annotations"]:
        annotation["bbox"][:2] = [1, 1]
    (finding,) = make_plan(load(folder / "a.json", wrong)).faults
    assert finding.kind in ("boxes beyond", "boxes as corners")


def test_a_box_said_twice_is_a_finding(tmp_path):
    document = coco(long_tail())
    assert not findings_of(tmp_path / "train.json", document)
    again = [{**document["annotations"][i], "id": 9000 + i} for i in (3, 9)]
    document["annotations"] += again
    (finding,) = findings_of(tmp_path / "train.json", document)
    assert (finding.kind, finding.count, finding.is_fault) == ("repeated box", 2, True)
    assert "2 boxes in 2 images repeat a box of the same class exactly" in finding.text


def test_a_file_under_several_ids_is_a_finding(tmp_path):
    document = coco(long_tail())
    for i in (4, 7, 300):
        document["images"][i]["file_name"] = "2.png"
    (finding,) = findings_of(tmp_path / "train.json", document)
    assert (finding.kind, finding.count, finding.is_fault) == ("file listed twice", 1, True)
    assert "1 file name is listed under several image ids (2.png)" in finding.text


def test_augmented_copies_are_a_note_and_on_both_sides_a_finding(tmp_path):
    train, val = coco(long_tail()), coco([["road"]] * 6)
    for i, image in enumerate(train["images"]):
        image["file_name"] = f"day/p{i // 3:03}_jpg.rf.{i:032x}.jpg"
    (note,) = findings_of(tmp_path / "train.json", train)
    assert (note.kind, note.count, note.is_fault) == ("augmented copies", 366, False)
    assert "366 images are augmented copies (.rf. in their names) of 122 pictures" in note.text
    for i, image in enumerate(val["images"]):
        image["file_name"] = f"p{9 * i:03}_jpg.rf.{1000 + i:032x}.jpg"
    loaded = load(tmp_path / "val.json", val)
    fault, _ = findings_of(tmp_path / "train.json", train, val=loaded)
    assert (fault.file, fault.count, fault.is_fault) == (loaded.source, 6, True)
    assert "6 images are copies of pictures" in fault.text


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (["Stop sign", "stop_sign", "stopsign "], 2),
        (["\ufb01sh", "fish"], 1),
        (["platelet", "platlet", "plateled"], 1),
        (["screws", "screw"], 1),
        (["type a", "type b", "a frame", "b frame"], 0),
        (["limit 30", "limit 80", "limit 3"], 0),
        (["typical", "atypical", "cat", "cut", "motorcycle", "motorcyclist"], 0),
        (["abcdefgh", "abdcefgh"], 0),
        (["车", "人", "++", "--"], 0),
    ],
)
def test_names_spelled_twice_are_found(names, pairs):
    assert len(near_pairs(names)) == pairs


def edits(a: str, b: str) -> int:
    """Levenshtein's distance, by its definition."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        row, before = [i], row
        for j, right in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (left != right)))
    return row[-1]


@given(st.lists(st.text("abcd", min_size=6, max_size=8), max_size=12, unique=True))
def test_names_that_are_near_are_one_letter_apart(names):
    assert all(edits(a, b) == 1 for a, b in near_pairs(names))
    for i, a in enumerate(names):
        b = f"{a[:3]}x{a[4:]}"
        if not near_pairs(names[: i + 1]):
            assert near_pairs([*names[: i + 1], b])


def test_near_names_are_a_finding_of_both_files(tmp_path):
    train = load(tmp_path / "train.json", coco(long_tail()))
    val = load(tmp_path / "val.json", coco([["Road"], ["snow"], ["stop"]], prefix="v"))
    (finding,) = make_plan(train, val=val).findings
    assert (finding.kind, finding.file) == ("similar class names", val.source)
    assert '1 pair of classes with nearly one name ("road" and "Road")' in finding.text


def test_equal_file_names_are_a_finding_until_the_files_are_compared(tmp_path):
    train = load(tmp_path / "train.json", coco(long_tail()))
    val = load(tmp_path / "val.json", coco([["road"]] * 4))
    (finding,) = make_plan(train, val=val).findings
    assert (finding.kind, finding.count, finding.is_fault) == ("same file name", 4, True)
    assert "0.png, 1.png, 2.png, ..." in finding.text
    assert make_plan(train, val=val, duplicates=[]).findings == ()


def test_images_without_a_name_are_not_the_same(tmp_path):
    sets = []
    for name in ("train", "val"):
        document = coco(long_tail())
        for image in document["images"]:
            del image["file_name"]
        sets.append(load(tmp_path / f"{name}.json", document))
    assert make_plan(sets[0], val=sets[1]).findings == ()


def test_lists_of_lvis_are_mentioned(tmp_path):
    document = coco(long_tail())
    for image in document["images"]:
        image["neg_category_ids"] = [1]
        image["not_exhaustive_category_ids"] = []
    (finding,) = make_plan(load(tmp_path / "train.json", document)).findings
    assert (finding.kind, finding.is_fault) == ("LVIS lists", False)
    assert "neg_category_ids and not_exhaustive_category_ids" in finding.text


# The file format


def round_trip(plan: Plan) -> Plan:
    return Plan.from_dict(json.loads(json.dumps(plan.to_dict(), allow_nan=False)))


def test_plan_survives_json(tail, tmp_path):
    _, plan = tail
    again = round_trip(plan)
    assert again.to_dict() == plan.to_dict()
    assert plan.to_dict()["schema"] == "detbalance.plan/2"
    assert math.isnan(again.settings[0].exposure[0])
    assert dataclasses.replace(again, classes=(), settings=()) == dataclasses.replace(
        plan, classes=(), settings=()
    )
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
    assert load_plan(tmp_path / "plan.json").recommended.name == plan.recommended.name


def test_undefined_and_infinite_figures_are_null(tail):
    _, plan = tail
    never = dataclasses.replace(plan.settings[0], max_min=math.inf)
    content = dataclasses.replace(plan, settings=(never,)).to_dict()
    assert content["settings"][0]["max_min"] is None
    assert content["settings"][0]["exposure"][0] is None
    assert content["classes"][0]["half_width"] is None
    json.dumps(content, allow_nan=False)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.pop("schema"), r"plan\.json: no schema\. Expected a plan with schema"),
        (lambda c: c.update(schema="detbalance.report/2"), "detbalance.report/2"),
        (lambda c: c["classes"][0].pop("boxes"), "missing required field `boxes`"),
        (lambda c: c.update(settings={}), "Expected `array`"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_in_one_line(tail, tmp_path, change, match):
    content = tail[1].to_dict()
    change(content)
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=match) as info:
        load_plan(tmp_path / "plan.json")
    assert "\n" not in str(info.value)


def test_newer_plans_may_have_more_keys(tail):
    content = tail[1].to_dict()
    content["classes"][0]["colour"] = "blue"
    content["more"] = 1
    assert Plan.from_dict(content).to_dict() == tail[1].to_dict()


def test_wrong_numbers_are_refused(tail):
    train, plan = tail
    with pytest.raises(ValueError, match=r"target_length is 0\. Expected a number >= 1"):
        make_plan(train, target_length=0)
    for speed in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"images_per_second is .* Expected a number > 0"):
            make_plan(train, images_per_second=speed)
    with pytest.raises(ValueError, match=r"limits are \(100, 10\)"):
        make_plan(train, limits=(100, 10))
    with pytest.raises(ValueError, match=r'no setting is called "smote"\. Known: none, '):
        plan.setting("smote")


# The lines to paste


def config_of(lines: str):
    yaml = pytest.importorskip("yaml")
    pytest.importorskip("torchvision")
    from detbalance.training.config import parse_config

    paths = {"train": "t.json", "train_images": "t", "val": "v.json", "val_images": "v"}
    raw = {"output": "runs/x", "data": paths, "loss": {"name": "focal"}} | yaml.safe_load(lines)
    return parse_config(raw, "plan")


@pytest.mark.parametrize("name", SETS)
def test_lines_load_for_every_shared_set(shared, name):
    from detbalance.data import load_annotations
    from detbalance.planning.recommendation import yaml_text

    train = load_annotations(shared / "data" / name / "train.json")
    plan = make_plan(train, val=load_annotations(shared / "data" / name / "val.json"))
    config_of(plan.recommendation.lines)
    for setting in plan.settings:  # each can be tried by hand
        config = config_of(yaml_text({"sampling": setting.config}))
        assert config.sampling.method == setting.config["method"]
    assert round_trip(plan).to_dict() == plan.to_dict()


@pytest.mark.parametrize("name", ["a: b", "yes", "12", '"', "é ⚠ 🚸", "- x # y", "[red]", "a\\n"])
def test_lines_survive_any_class_name(tmp_path, name):
    plan = planned(tmp_path, [[name]] * 12 + [["b"]] * 10)
    config = config_of(plan.recommendation.lines)
    assert config.augmentation.paste.classes == ["b", name]


def test_small_thresholds_are_numbers_in_yaml():
    yaml = pytest.importorskip("yaml")
    from detbalance.planning.recommendation import yaml_text

    for value in (1e-05, 1.5e-07, 0.001, 10.0, 3):
        assert yaml.safe_load(yaml_text({"threshold": value})) == {"threshold": value}
