"""The configuration that `init` writes: what it holds, and when a training fits into its time."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import coco, load, long_tail

from detbalance.planning import make_plan
from detbalance.planning.configuration import (
    EVALUATIONS,
    LEAST_EVALUATIONS,
    Configuration,
    Start,
    choose_schedule,
    mirrors,
)
from detbalance.planning.detector_choice import choose_input_size, fit_anchors

yaml = pytest.importorskip("yaml")

OFFLINE = Start("retinanet", "tf_efficientnet_lite0", "offline", "made.", False, False)
NONE = Start("retinanet", "tiny", "none", "none to be had.", False, False)
COCO = Start("retinanet", "resnet50_fpn_v2", "default", "COCO's.", True, True)


def configuration(tmp_path, *, start=OFFLINE, images=None, side=40.0, **schedule):
    train = load(tmp_path / "train.json", coco(images or long_tail(), side=side))
    size = choose_input_size(train, has_gpu=start.has_gpu)
    return Configuration.of(
        train,
        output="runs/a b: c",
        data={"train": "train.json", "train_images": "x", "val": "ä.json", "val_images": "y"},
        start=start,
        size=size,
        anchors=fit_anchors(train, size),
        schedule=choose_schedule(start, train.num_images, 3, **schedule),
        plan=make_plan(train),
    )


@pytest.mark.parametrize("start", [OFFLINE, NONE, COCO])
def test_the_text_says_what_the_values_are_and_gives_each_a_reason(tmp_path, start):
    made = configuration(tmp_path, start=start, step_seconds=1.0, evaluation_seconds=2.0)
    text = made.to_yaml()
    assert yaml.safe_load(text) == made.to_dict()
    assert max(len(line) for line in text.splitlines() if " " in line.strip("# ")) <= 100
    for word in ("Weights", "Input", "Anchors", "epochs", "mirrored", "About", made.start.reason):
        assert word in text.replace("\n  # ", " ")


@pytest.mark.parametrize("start", [OFFLINE, NONE, COCO])
def test_a_training_takes_it(tmp_path, start):
    config = pytest.importorskip("detbalance.training.config")
    made = configuration(tmp_path, start=start)
    parsed = config.parse_config(yaml.safe_load(made.to_yaml()), "made")
    assert parsed.model.backbone == start.backbone
    assert math.ceil(parsed.train.iterations / parsed.train.evaluate_every) >= EVALUATIONS
    assert parsed.train.ema_decay > 0
    if start.weights != "none":
        assert parsed.train.backbone_rate < 1  # loaded weights are not lost


@given(
    images=st.integers(1, 100_000),
    classes=st.integers(1, 1203),
    step=st.floats(0.01, 20),
    evaluation=st.floats(0, 600),
    minutes=st.floats(0.5, 600),
)
def test_a_training_fits_into_its_minutes(images, classes, step, evaluation, minutes):
    times = {"step_seconds": step, "evaluation_seconds": evaluation}
    free = choose_schedule(OFFLINE, images, classes, **times)
    fitted = choose_schedule(OFFLINE, images, classes, minutes=minutes, **times)
    assert fitted.iterations <= free.iterations or fitted.limit == "time"
    assert LEAST_EVALUATIONS <= fitted.evaluations <= EVALUATIONS
    least = LEAST_EVALUATIONS * (step + evaluation)
    assert fitted.minutes <= max(minutes, least / 60) * (1 + 1e-9)
    assert fitted.epochs == pytest.approx(fitted.iterations * fitted.batch_size / images)
    assert math.isclose(
        60 * fitted.minutes, fitted.iterations * step + fitted.evaluations * evaluation
    )
    assert fitted.batch_size <= images


def test_training_is_longer_from_no_weights_with_more_images_and_with_more_classes():
    draws = [
        schedule.iterations * schedule.batch_size
        for schedule in (
            choose_schedule(OFFLINE, 1000, 3),
            choose_schedule(OFFLINE, 3000, 3),
            choose_schedule(OFFLINE, 3000, 1203),
            choose_schedule(NONE, 100_000, 3),
        )
    ]
    assert draws == sorted(set(draws))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["car", "bus"], True),
        (["turn left", "stop"], False),
        (["Arrow-Right", "stop"], False),
        (["0", "1", "2"], False),
        (["a", "b", "line"], False),
        (["four", "eight", "edge"], False),
        (["brightness"], True),
        (["leftover"], True),
    ],
)
def test_images_are_mirrored_unless_names_say_that_sides_matter(names, expected):
    assert mirrors(names) is expected


def test_warnings_say_what_figures_will_suffer_from(tmp_path):
    assert configuration(tmp_path).warnings == []
    (line,) = configuration(tmp_path, start=NONE).warnings
    assert line.startswith("No pretrained weights: none to be had.")
    (line,) = configuration(tmp_path, side=4.0).warnings
    assert line.startswith("100% of the boxes are below 8 pixels at this input size")
    (line,) = configuration(tmp_path, step_seconds=1.0, minutes=1).warnings
    assert "epochs are few" in line


def test_very_different_image_sizes_are_said_and_not_refused(tmp_path):
    document = coco([["a"]] * 80, side=40)
    document["images"][0] |= {"width": 6400}
    train = load(tmp_path / "train.json", document)
    size = choose_input_size(train)
    made = Configuration.of(
        train,
        output="run",
        data={},
        start=OFFLINE,
        size=size,
        anchors=fit_anchors(train, size),
        schedule=choose_schedule(OFFLINE, 80, 1),
        plan=make_plan(train),
    )
    (line,) = made.warnings
    assert line.startswith("The longer sides of the images are 640 to 6400 pixels")
