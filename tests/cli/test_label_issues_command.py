"""`detbalance reclassify` and `detbalance label-issues`, from files to files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image
from squares import make_data, write_config
from untrained import untrained_checkpoint

from detbalance.cli import main
from detbalance.reporting.label_issues import load_label_issues
from detbalance.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Twenty images of squares, and a detector with first weights that calls all objects."""
    root = tmp_path_factory.mktemp("opinion")
    data = make_data(root / "data", images=20)
    checkpoint = untrained_checkpoint(
        write_config(data, root), data / "train.json", root / "last.pt"
    )
    state = load_checkpoint(checkpoint)
    bias = next(name for name in state["model"] if name.endswith("cls_logits.bias"))
    state["model"][bias] += 4.0
    del state["format"]
    save_checkpoint(checkpoint, state)
    return data, checkpoint, root / "features"


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code, " ".join("".join(capsys.readouterr()).split())


def arguments(made, output, *more):
    data, checkpoint, features = made
    return (
        *("--checkpoint", checkpoint, "--annotations", data / "train.json"),
        *("--images", data / "images", "--features", features, "--output", output, *more),
    )


def scores_in(file):
    return [one["score"] for one in json.loads(file.read_text())]


def test_an_opinion_is_fitted_saved_heard_and_read_again(made, tmp_path, capsys):
    data, checkpoint, _ = made
    shown = ("--predict", data / "train.json", "--predict-images", data / "images")
    code, said = call(capsys, "reclassify", *arguments(made, tmp_path / "a", *shown))
    assert code == 0, said
    report = json.loads((tmp_path / "a/second_classifier.json").read_text())
    assert report["weight"] > 0  # a detector with first weights is easily helped
    means = report["held_out_mean_ap"]
    assert means[f"{report['weight']:g}"] == max(means.values())
    assert "<- taken" in said
    before = scores_in(tmp_path / "a/predictions_before.json")
    after = scores_in(tmp_path / "a/predictions.json")
    assert before
    assert sorted(before) != sorted(after)
    assert (tmp_path / "a/comparison/comparison.json").exists()
    code, said = call(
        capsys,
        *("reclassify", "--checkpoint", checkpoint, "--annotations", data / "train.json"),
        *(
            "--classifier",
            tmp_path / "a/second_classifier.skops",
            "--output",
            tmp_path / "b",
            *shown,
        ),
    )
    assert code == 0, said
    assert scores_in(tmp_path / "b/predictions.json") == after


def test_one_class_models_lift_the_classes_that_are_named(made, tmp_path, capsys):
    more = (
        "--method",
        "Mahalanobis",
        "--class",
        "green",
        "--max-fppi",
        "1",
        "--score-threshold",
        0.9,
    )
    code, said = call(capsys, "reclassify", *arguments(made, tmp_path, *more))
    assert code == 0, said
    (lift,) = json.loads((tmp_path / "second_classifier.json").read_text())["recovered"]
    assert (lift["class"], lift["boxes"]) == ("green", 4)
    assert "by score alone" in said


def test_label_issues_are_listed_and_drawn(made, tmp_path, capsys):
    data, _, _ = made
    code, said = call(capsys, "label-issues", *arguments(made, tmp_path))
    assert code == 0, said
    found = json.loads((tmp_path / "label_issues.json").read_text())
    ids = [one["annotation_id"] for one in found["label_issues"]]
    assert sorted(ids) == list(range(1, 21))
    assert (found["boxes_judged"], found["boxes_not_judged"]) == (20, 0)
    assert [one["rank"] for one in found["label_issues"]] == list(range(1, 21))
    green = [one["rank_in_class"] for one in found["label_issues"] if one["class"] == "green"]
    assert green == [1, 2, 3, 4]
    truth = {a["id"]: a for a in json.loads((data / "train.json").read_text())["annotations"]}
    assert all(one["bbox"] == truth[one["annotation_id"]]["bbox"] for one in found["label_issues"])
    with (tmp_path / "label_issues.csv").open() as file:
        assert [int(row["annotation_id"]) for row in csv.DictReader(file)] == ids
    assert np.asarray(Image.open(tmp_path / "label_issues.png")).std() > 10
    # The detector calls everything an object.
    assert len(found["novel_images"]) == 20
    assert said.endswith(f"--output REPORT --label-issues {tmp_path}")
    read = load_label_issues(tmp_path)  # as the report does
    assert [box.annotation_id for box in read.boxes] == ids
    assert read.images == data / "images"
    assert read.judge == "combined"
    assert len(read.novel) == 20
    code, said = call(capsys, "label-issues", *arguments(made, tmp_path))
    assert code == 2
    assert "already holds label issues" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--method", "Nothing"), '"Nothing" is no classifier'),
        (("--param", "C"), "is not NAME=VALUE"),
        (("--param", "c=1"), 'no option "c"'),
        (("--predict", "val.json"), "--predict-images: one is missing"),
        (("--classifier", "x.skops"), "there is nothing to do with it"),
        (("--method", "Mahalanobis", "--class", "blue"), 'no class is called "blue"'),
    ],
)
def test_what_a_user_can_cause_ends_in_one_line(made, tmp_path, capsys, more, message):
    code, said = call(capsys, "reclassify", *arguments(made, tmp_path, *more))
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "second_classifier.skops").exists()


def test_features_and_opinions_of_another_detector_are_refused(made, tmp_path, capsys):
    data, checkpoint, features = made
    call(capsys, "reclassify", *arguments(made, tmp_path / "a"))
    state = load_checkpoint(checkpoint)
    del state["format"]
    state["model"][next(name for name in state["model"] if name.endswith("bias"))] += 1.0
    save_checkpoint(tmp_path / "other.pt", state)
    other = data, tmp_path / "other.pt", features
    code, said = call(capsys, "reclassify", *arguments(other, tmp_path / "b"))
    assert code == 2
    assert "Features of this checkpoint" in said
    shown = ("--predict", data / "train.json", "--predict-images", data / "images")
    more = ("--classifier", tmp_path / "a/second_classifier.skops", *shown)
    code, said = call(capsys, "reclassify", *arguments(other, tmp_path / "c", *more))
    assert code == 2
    assert "is about a detector with the weights" in said


def test_another_set_of_classes_is_refused(made, tmp_path, capsys):
    data, checkpoint, _ = made
    text = (data / "train.json").read_text().replace('"green"', '"blue"')
    (tmp_path / "blue.json").write_text(text)
    code, said = call(
        capsys,
        *("label-issues", "--checkpoint", checkpoint, "--annotations", tmp_path / "blue.json"),
        *("--images", data / "images", "--output", tmp_path / "out"),
    )
    assert code == 2
    assert "its classes are not those of" in said
