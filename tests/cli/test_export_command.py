"""`detbalance export`: what is written detects the same elsewhere, or is not left behind."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision.models.detection as tv
from commands import failing_command, run_command
from every_loss import counts
from squares import write_config
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from detbalance.detection import export
from detbalance.detection.heads import set_classification_loss
from detbalance.detection.models import build_detector
from detbalance.losses import LOSSES
from detbalance.training.checkpoint import load_detector
from detbalance.training.config import load_config
from detbalance.training.loop import train

pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "FutureWarning", "UserWarning")
]
KEYS = ("boxes", "labels", "scores")
NAMES = ["background", *"abcd"]


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    """Of a detector that has learnt a little: which of two equal scores stays would be chance."""
    folder = tmp_path_factory.mktemp("run")
    overrides = ["train.iterations=40", "train.learning_rate=0.003", "train.trackers=[]"]
    config = load_config(write_config(data, folder), [*overrides, "model.detections_per_image=20"])
    train(config)
    return config.output / "last.pt"


def test_an_onnx_file_detects_the_same_in_onnx_runtime(checkpoint, capsys, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    status, out, _ = run_command(capsys, "export", checkpoint, file, "--image-size", "96x64")
    assert status == 0
    assert "It takes one image [3, 64, 96]" in out
    assert "on 10 images" in " ".join(out.split())
    session = onnxruntime.InferenceSession(file.read_bytes())
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == [
        "background",
        "red",
        "green",
    ]
    model = load_detector(checkpoint)
    for seed in range(10):
        image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            expected = model([image])[0]
        boxes, labels, scores = session.run(None, {"image": image.numpy()})
        assert len(scores) == len(expected["scores"]) > 0
        for box, label, score in zip(*(expected[k].numpy() for k in KEYS), strict=True):
            same = (labels == label) & (np.abs(scores - score) < 1e-5)
            assert (same & (np.abs(boxes - box).max(axis=1) < 1e-3)).any()


def test_torchscript_takes_images_of_any_size(checkpoint, data, capsys, tmp_path):
    file = tmp_path / "model.ts"
    status, _, _ = run_command(capsys, "export", checkpoint, file, "--images", data / "images")
    assert status == 0
    scripted, model = torch.jit.load(file), load_detector(checkpoint)
    for size in ((64, 64), (80, 120)):
        image = torch.rand(3, *size)
        with torch.no_grad():
            (found,), (expected,) = scripted([image]), model([image])
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("suffix", ["onnx", "ts"])
def test_thresholds_go_into_the_model(checkpoint, capsys, tmp_path, suffix):
    pytest.importorskip("onnxruntime")
    model = load_detector(checkpoint)
    image = export.made_images((64, 64), 1)[0]
    with torch.no_grad():
        (all_of_them,) = model([image])
    of_red = all_of_them["scores"][all_of_them["labels"] == 1]
    upper, lower = of_red.sort(descending=True).values[[4, 5]].tolist()
    cut = (upper + lower) / 2
    file = tmp_path / "thresholds.json"
    file.write_text(
        json.dumps({"schema": "detbalance.thresholds/1", "thresholds": {"red": cut, "green": 2.0}})
    )
    output = tmp_path / f"model.{suffix}"
    options = ("--thresholds", file, "--image-size", "64x64")
    assert run_command(capsys, "export", checkpoint, output, *options)[0] == 0
    if suffix == "ts":
        (found,) = torch.jit.load(output)([image])
        labels, scores = found["labels"], found["scores"]
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(output.read_bytes())
        _, labels, scores = map(torch.from_numpy, session.run(None, {"image": image.numpy()}))
    assert set(labels.tolist()) == {1}
    assert len(scores) == int((of_red >= cut).sum())


def detector(name, backbone="resnet50_fpn", loss="focal", **options):
    model = build_detector(5, detector=name, backbone=backbone, min_size=64, max_size=64, **options)
    if loss is not None:
        set_classification_loss(model, LOSSES[loss](counts()))
    torch.manual_seed(1)
    for place, part in model.named_modules():  # scores that differ
        if isinstance(part, nn.Conv2d | nn.Linear) and ("cls" in place or "predictor" in place):
            nn.init.normal_(part.weight, std=0.05)
    model.class_names = NAMES
    return model.eval(), {"detector": name, "backbone": backbone}


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("retinanet", "focal"),
        ("retinanet", None),
        ("fcos", "focal"),
        ("fasterrcnn", "cross_entropy"),
    ],
)
def test_plain_torchvision_takes_the_weights(tmp_path, name, loss):
    backbone = "mobilenet_v3_large_320_fpn" if name == "fasterrcnn" else "resnet50_fpn"
    model, options = detector(name, backbone, loss)
    images = export.made_images((64, 64), 2)
    file = tmp_path / "model.safetensors"
    result = export.export_torchvision(model, file, images, options=options)
    assert result.difference <= 1e-5
    assert result.detections > 0
    # By torchvision alone, as the JSON says.
    recipe = json.loads((tmp_path / "model.json").read_text())
    stock = getattr(tv, recipe["builder"])(
        weights=None, weights_backbone=None, **recipe["arguments"]
    )
    anchors = AnchorGenerator(
        tuple(map(tuple, recipe["anchor_sizes"])), tuple(map(tuple, recipe["anchor_ratios"]))
    )
    (stock.rpn if name == "fasterrcnn" else stock).anchor_generator = anchors
    stock.load_state_dict(safetensors.torch.load_file(file))
    with torch.no_grad():
        for image in images:
            (expected,), (found,) = model([image]), stock.eval()([image])
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "tiny", "loss": "focal"}, 'torchvision has no model "retinanet_tiny"'),
        (
            {"loss": "equalization_v2"},
            "detects something else|detects nothing|the layers are not those",
        ),
        ({"fpn_channels": 64}, "the layers are not those of retinanet_resnet50_fpn"),
    ],
)
def test_what_torchvision_cannot_say_is_refused(tmp_path, options, message):
    model, described = detector("retinanet", **options)
    with pytest.raises(ValueError, match=message):
        export.export_torchvision(
            model, tmp_path / "m.safetensors", export.made_images((64, 64), 1), options=described
        )
    assert not list(tmp_path.iterdir())


def test_an_export_that_detects_something_else_is_not_left_behind(
    checkpoint, tmp_path, monkeypatch
):
    pytest.importorskip("onnxruntime")
    model = load_detector(checkpoint)
    monkeypatch.setattr(export, "_difference", lambda *_: 0.01)
    for write, name in ((export.export_onnx, "m.onnx"), (export.export_torchscript, "m.ts")):
        with pytest.raises(ValueError, match=r"largest difference 0\.01"):
            write(model, tmp_path / name, export.made_images((64, 64), 1))
        assert not (tmp_path / name).exists()


def test_what_detects_nothing_is_not_taken_for_the_same(checkpoint, tmp_path):
    model = load_detector(checkpoint)
    model.score_thresh = 2.0
    with pytest.raises(ValueError, match="detects nothing on the images"):
        export.export_torchscript(model, tmp_path / "m.ts", export.made_images((64, 64), 1))
    assert not (tmp_path / "m.ts").exists()


@pytest.mark.parametrize("change", ["score", "box", "label", "missing"])
def test_differences_are_found_in_any_order(change):
    one = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 20], [5, 5, 20, 20]]),
        "labels": torch.tensor([1, 2, 1]),
        "scores": torch.tensor([0.9, 0.5, 0.5]),
    }
    other = {name: value[[2, 0, 1]].clone() for name, value in one.items()}
    assert export._difference(one, other, 100) == 0
    if change == "missing":
        other = {name: value[[0, 2]] for name, value in other.items()}
    elif change == "label":
        other["labels"][1] = 2
    elif change == "score":
        other["scores"][1] += 0.002
    else:
        other["boxes"][1, 2] += 0.2
    assert export._difference(one, other, 100) >= 0.002 - 1e-6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.pdf"], "its suffix is of no format. .onnx, .ts"),
        (["m.onnx", "--image-size", "64"], "--image-size"),
        (["m.json", "--to", "torchvision"], "m.json: is where the JSON file"),
        (["m.safetensors", "--thresholds", "t.json"], "--thresholds: torchvision's model has one"),
        (["m.onnx", "--images", "nowhere"], "nowhere is no folder"),
    ],
)
def test_wrong_options_are_one_line(checkpoint, capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in failing_command(capsys, "export", checkpoint, *words)


def test_a_file_that_is_not_ours_is_one_line(capsys, tmp_path):
    torch.save({"model": {}}, tmp_path / "theirs.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name in ("theirs.pt", "text.pt", "none.pt"):
        assert name in failing_command(capsys, "export", tmp_path / name, tmp_path / "m.onnx")
