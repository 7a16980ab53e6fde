"""A trained detector leaves Python: ONNX, TorchScript, safetensors, half precision."""

from __future__ import annotations

import io

import pytest
import safetensors.torch
import torch
from detectors import BUILDERS, ONE_STAGE, assert_same, batch, detections_of, last_layer, rcnn
from every_loss import SIGMOID, build, counts
from torch import nn

from detbalance.detection.heads import set_classification_loss
from detbalance.losses import LOSSES, SoftmaxCrossEntropyLoss

# Torch's words on its older exporter, on TorchScript, and on what tracing fixes in torchvision.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "FutureWarning", "UserWarning", "torch.jit.TracerWarning")
]
DETECTORS = {**BUILDERS, "maskrcnn": lambda: rcnn(kind="mask")}
# One of each kind: a column per class; one for background too; corrected by the class counts;
# cosines; a column for objectness; groups.
KINDS = ["focal", "equalization_v2", "posthoc", "ldam", "seesaw", "group_softmax"]
QUICK = {
    "retinanet": (None, "focal"),
    "fcos": (None, "equalization_v2"),
    "fasterrcnn": (None, "posthoc", "ldam", "seesaw", "group_softmax"),
    "maskrcnn": (None, "seesaw"),
}
PAIRS = [
    pytest.param(detector, loss, marks=() if loss in QUICK[detector] else pytest.mark.slow)
    for detector in DETECTORS
    for loss in [None, *KINDS]
    if loss is None or loss in SIGMOID or detector not in ONE_STAGE
]
IMAGES = [torch.rand(3, 96, 112, generator=torch.Generator().manual_seed(i)) for i in range(2)]


def loss_of(kind):
    if kind == "posthoc":
        return SoftmaxCrossEntropyLoss(counts(), posthoc_tau=0.7)
    return None if kind is None else build(kind)


def detector(name, kind):
    """In eval mode, with scores that differ widely and the ten best detections."""
    model = set_classification_loss(DETECTORS[name](), loss_of(kind)).eval()
    heads = model if name in ONE_STAGE else model.roi_heads
    heads.score_thresh, heads.detections_per_img = 1e-5, 10
    torch.manual_seed(1)
    for place, part in model.named_modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)) and "bbox" not in place:
            nn.init.kaiming_normal_(part.weight)
    layer = last_layer(model)
    if name in ONE_STAGE or kind in SIGMOID:  # no scores of 1
        layer.weight.data *= 0.1
    if isinstance(layer, nn.Linear):  # and none below any threshold
        layer.bias.data.zero_()
    return model


def assert_close(found, expected):
    assert len(expected["scores"]) == 10
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-3, msg=key)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_an_exported_model_detects_the_same_in_onnx_runtime(name, kind):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model, file = detector(name, kind), io.BytesIO()
    keys = list(detections_of(model, IMAGES[:1])[0])
    torch.onnx.export(model, (IMAGES[:1],), file, dynamo=False, opset_version=17)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(file.getvalue(), options)
    for image in IMAGES:  # the second has other numbers of proposals and detections on the way
        found = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        found = dict(zip(keys, map(torch.from_numpy, found), strict=True))
        assert_close(found, detections_of(model, [image])[0])


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_scripted_model_detects_the_same(name, kind):
    model = detector(name, kind)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    images = batch()[0]
    losses, found = scripted(images)
    assert losses == {}
    for ours, theirs in zip(found, detections_of(model, images), strict=True):
        assert len(theirs["scores"]) == 10
        assert_same(theirs, ours)
    scripted.train()
    with pytest.raises(torch.jit.Error, match=r"@unused methods|annotated to be ignored"):
        scripted(*batch())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_model_of_half_precision_finds_what_the_whole_one_finds(name, kind, dtype):
    model = detector(name, kind)
    (whole,) = detections_of(model, IMAGES[:1])
    (half,) = detections_of(model.to(dtype), [IMAGES[0].to(dtype)])
    assert half["boxes"].dtype == half["scores"].dtype == torch.float32
    torch.testing.assert_close(half["scores"], whole["scores"], rtol=0.1, atol=0.05)


def test_regions_of_a_half_model_are_pooled_where_they_are():
    """In bfloat16 a box at 803 would be one at 804."""
    heads = set_classification_loss(rcnn(), None).roi_heads
    ramp = torch.linspace(0, 1, 104).expand(1, 32, 8, 104).bfloat16()
    features, sizes = {"0": ramp, "1": ramp[..., ::2, ::2]}, [(64, 832)]
    pooled = [
        heads.box_roi_pool(features, [torch.tensor([[x, 8.0, x + 24, 40.0]])], sizes).float()
        for x in (802.0, 803.0)
    ]
    assert pooled[0].mean() != pooled[1].mean()
    assert heads.box_roi_pool(features, [torch.zeros(1, 4)], sizes).dtype == torch.bfloat16


class Scores(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return self.loss.scores(logits)


@pytest.mark.parametrize("name", LOSSES)
def test_the_scores_of_every_loss_can_be_scripted(name):
    loss = build(name)
    scripted = torch.jit.script(Scores(loss))
    for dtype in (torch.float64, torch.float32, torch.float16):
        logits = torch.randn(5, loss.num_outputs).to(dtype)
        assert torch.equal(scripted(logits), loss.scores(logits))


@pytest.mark.parametrize("name", LOSSES)
def test_the_state_of_every_loss_is_tensors_that_safetensors_keeps(name):
    state = set_classification_loss(rcnn(), build(name)).state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other = set_classification_loss(rcnn(seed=1), build(name))
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(state)))
    assert_same(state, other.state_dict())
