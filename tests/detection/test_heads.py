"""The classification loss of torchvision's detectors, exchanged."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from detectors import (
    BUILDERS,
    COUNTS,
    ONE_STAGE,
    K,
    assert_same,
    batch,
    captured_head_loss,
    detections_of,
    full_batch,
    gradients_of,
    last_layer,
    losses_of,
    rcnn,
    retinanet,
)
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import detection as tv

from detbalance.detection.heads import detector_classes, set_classification_loss
from detbalance.losses import LOSSES, SigmoidFocalLoss, SoftmaxCrossEntropyLoss


@pytest.mark.parametrize("name", BUILDERS)
def test_stock_loss_is_bit_equal_to_torchvision(name):
    images, targets = batch()
    stock, ours = BUILDERS[name](), BUILDERS[name]()
    assert set_classification_loss(ours, None) is ours
    assert_same(stock.state_dict(), ours.state_dict())
    for a, b in zip(detections_of(stock, images), detections_of(ours, images), strict=True):
        assert len(a["scores"]) > 0
        assert_same(a, b)
    assert_same(losses_of(stock, images, targets), losses_of(ours, images, targets))
    assert_same(gradients_of(stock, images, targets), gradients_of(ours, images, targets))


@pytest.mark.parametrize(
    ("kind", "normalizer"),
    [("faster", "batch"), ("faster", "image"), ("mask", "image"), ("keypoint", "image")],
)
def test_cross_entropy_on_an_rcnn_is_bit_equal_to_torchvision(kind, normalizer):
    images, targets = full_batch()
    stock, ours = rcnn(kind=kind), rcnn(kind=kind)
    set_classification_loss(ours, SoftmaxCrossEntropyLoss(COUNTS), normalizer=normalizer)
    state = ours.state_dict()
    del state["roi_heads.classification_loss._extra_state"]
    assert_same(stock.state_dict(), state)
    for a, b in zip(detections_of(stock, images), detections_of(ours, images), strict=True):
        assert len(a["scores"]) > 0
        assert_same(a, b)
    a, b = losses_of(stock, images, targets), losses_of(ours, images, targets)
    assert {"faster": 4, "mask": 5, "keypoint": 5}[kind] == len(b)
    assert_same(a, b)


def test_focal_with_image_normaliser_is_torchvisions_retinanet_loss():
    images, targets = batch()
    stock, ours = retinanet(), retinanet()
    set_classification_loss(ours, SigmoidFocalLoss(COUNTS), normalizer="image")
    # Torchvision's has a background column without positives: take it out of the comparison.
    stock_layer = stock.head.classification_head.cls_logits
    rows = torch.arange(3 * (K + 1)).view(3, K + 1)
    with torch.no_grad():
        stock_layer.bias[rows[:, 0]] = -100.0
        stock_layer.weight[rows[:, 0]] = 0.0
        kept = rows[:, 1:].flatten()
        ours.head.classification_head.cls_logits.weight.copy_(stock_layer.weight[kept])
        ours.head.classification_head.cls_logits.bias.copy_(stock_layer.bias[kept])
    for a, b in zip(detections_of(stock, images), detections_of(ours, images), strict=True):
        assert len(a["scores"]) > 0
        torch.testing.assert_close(a, b)
    a, b = losses_of(stock, images, targets), losses_of(ours, images, targets)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_batch_normaliser_divides_both_losses_by_the_foreground_of_the_batch():
    images, targets = batch()
    model = set_classification_loss(retinanet(), SigmoidFocalLoss(COUNTS))
    losses, seen = captured_head_loss(model, images, targets)
    loss = SigmoidFocalLoss(COUNTS)
    classes = boxes = found = 0.0
    for i, (target, matched) in enumerate(zip(seen["targets"], seen["matched"], strict=True)):
        labels = torch.where(matched == -2, -1, 0)
        labels[matched >= 0] = target["labels"][matched[matched >= 0]]
        classes += loss(seen["outputs"]["cls_logits"][i], labels, normalizer=1.0)
        if (matched >= 0).any():
            goal = model.box_coder.encode_single(
                target["boxes"][matched[matched >= 0]], seen["anchors"][i][matched >= 0]
            )
            offsets = seen["outputs"]["bbox_regression"][i][matched >= 0]
            boxes += functional.l1_loss(offsets, goal, reduction="sum")
        found += int((matched >= 0).sum())
    assert found > 5
    torch.testing.assert_close(losses["classification"], classes / found)
    torch.testing.assert_close(losses["bbox_regression"], boxes / found)


@pytest.mark.parametrize("normalizer", ["batch", "image"])
@pytest.mark.parametrize("name", BUILDERS)
def test_a_batch_without_any_box_has_finite_losses(name, normalizer):
    images, targets = batch()
    model = set_classification_loss(
        BUILDERS[name](), SigmoidFocalLoss(COUNTS), normalizer=normalizer
    )
    losses = losses_of(model, images, [targets[1]] * 3)
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()


def test_sigmoid_loss_on_an_rcnn_divides_by_sampled_foreground():
    images, targets = batch()
    model = set_classification_loss(rcnn(), SigmoidFocalLoss(COUNTS))
    seen = {}
    model.roi_heads.box_predictor.register_forward_hook(lambda *a: seen.update(out=a[-1]))
    select = model.roi_heads.select_training_samples
    model.roi_heads.select_training_samples = lambda *a: seen.setdefault("drawn", select(*a))
    losses = losses_of(model, images, targets)
    labels = torch.cat(seen["drawn"][2])
    logits = seen["out"][0]
    assert logits.shape[1] == K
    expected = SigmoidFocalLoss(COUNTS)(logits, labels, normalizer=float((labels > 0).sum()))
    torch.testing.assert_close(losses["loss_classifier"], expected)
    parts = zip(logits.split([len(n) for n in seen["drawn"][2]]), seen["drawn"][2], strict=True)
    by_image = [SigmoidFocalLoss(COUNTS)(part, label) for part, label in parts]
    seen.clear()
    set_classification_loss(model, SigmoidFocalLoss(COUNTS), normalizer="image")
    again = losses_of(model, images, targets)
    torch.testing.assert_close(again["loss_classifier"], torch.stack(by_image).mean())
    assert torch.equal(again["loss_box_reg"], losses["loss_box_reg"])


@pytest.mark.parametrize("name", BUILDERS)
def test_sigmoid_head_starts_from_the_losses_prior_and_gives_right_labels(name):
    images, _ = batch()
    model = BUILDERS[name]()
    set_classification_loss(model, SigmoidFocalLoss(COUNTS, prior=0.05))
    layer = last_layer(model)
    torch.testing.assert_close(layer.bias.sigmoid(), torch.full_like(layer.bias, 0.05))
    assert 0.008 < layer.weight.std() < 0.012
    with torch.no_grad():
        layer.bias.view(-1, K)[:, 2] += 2.0  # class 3 everywhere
    (model if name in ONE_STAGE else model.roi_heads).detections_per_img = 10_000
    for found in detections_of(model, images):
        assert found["labels"][0] == 3
        assert set(found["labels"].tolist()) == {1, 2, 3, 4}
        best = found["scores"][found["labels"] == 3]
        score = 1 / (1 + 19 * math.exp(-2.0))
        if name == "fcos":
            score = math.sqrt(score * 0.5)  # the centerness starts from 0.5
        torch.testing.assert_close(best, torch.full_like(best, score), rtol=0.2, atol=0)
        assert (found["scores"].diff() <= 0).all()


def test_background_never_is_detected_by_a_sigmoid_head_at_score_threshold_zero():
    images, _ = batch()
    model = set_classification_loss(retinanet(), SigmoidFocalLoss(COUNTS))
    model.score_thresh = 0.0
    assert all((found["labels"] > 0).all() for found in detections_of(model, images))


@pytest.mark.parametrize("name", BUILDERS)
def test_losses_can_be_swapped_back_and_forth(name):
    images, targets = batch()
    stock, model = BUILDERS[name](), BUILDERS[name]()
    assert detector_classes(model) == K + 1
    for loss in (SigmoidFocalLoss(COUNTS), SigmoidFocalLoss(COUNTS, gamma=1.0), None):
        set_classification_loss(model, loss)
        assert detector_classes(model) == K + 1
    assert model.state_dict().keys() == stock.state_dict().keys()
    stock.load_state_dict(model.state_dict())
    assert_same(losses_of(stock, images, targets), losses_of(model, images, targets))
    assert type(model) is type(stock)
    if name in ONE_STAGE:
        bias = last_layer(model).bias
        torch.testing.assert_close(bias, torch.full_like(bias, -math.log(99.0)))


@pytest.mark.parametrize("name", BUILDERS)
def test_an_equally_wide_last_layer_is_kept(name):
    model = set_classification_loss(BUILDERS[name](), SigmoidFocalLoss(COUNTS))
    layer = last_layer(model)
    set_classification_loss(model, SigmoidFocalLoss(COUNTS, prior=0.3))
    assert last_layer(model) is layer


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("focal", [True, False])
def test_adapted_models_can_be_copied_pickled_and_averaged(name, focal):
    images, targets = batch()
    model = BUILDERS[name]()
    set_classification_loss(model, SigmoidFocalLoss(COUNTS) if focal else None)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    average = torch.optim.swa_utils.AveragedModel(model)
    copies = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
        average.module,
    ]
    expected = losses_of(model, images, targets)
    for other in copies:
        assert other is not model
        assert_same(expected, losses_of(other, images, targets))
    average.update_parameters(model)


class CountingLoss(SigmoidFocalLoss):
    """A loss with a running statistic."""

    def __init__(self, counts):
        super().__init__(counts)
        self.register_buffer("rows", torch.zeros(()))

    def forward(self, logits, labels, *, normalizer=None):
        self.rows += len(labels)
        return super().forward(logits, labels, normalizer=normalizer)


@pytest.mark.parametrize("name", BUILDERS)
def test_buffers_of_a_loss_belong_to_the_model(name):
    images, targets = batch()
    model = set_classification_loss(BUILDERS[name](), CountingLoss(COUNTS))
    key = next(k for k in model.state_dict() if k.endswith("classification_loss.rows"))
    losses_of(model, images, targets)
    assert model.state_dict()[key] > 0
    assert {b.dtype for n, b in model.double().named_buffers() if n == key} == {torch.float64}


@pytest.mark.parametrize("name", BUILDERS)
def test_only_this_model_changes(name):
    set_classification_loss(BUILDERS[name](), SigmoidFocalLoss(COUNTS))
    other = BUILDERS[name]()
    kinds = {type(module).__module__ for module in other.modules()}
    assert not any(
        kind.startswith("detbalance") for kind in kinds - {"detbalance.detection.backbones"}
    )


def test_a_users_own_head_class_keeps_its_methods():
    class OwnHead(tv.retinanet.RetinaNetClassificationHead):
        def forward(self, x):
            return super().forward(x) + 1.0

    model = retinanet()
    model.head.classification_head.__class__ = OwnHead
    images, _ = batch()
    before = detections_of(model, images)
    set_classification_loss(model, None)
    assert isinstance(model.head.classification_head, OwnHead)
    for a, b in zip(before, detections_of(model, images), strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("name", BUILDERS)
def test_losses_and_boxes_are_float32_under_autocast(name):
    images, targets = batch()
    seen = []

    class Spy(SigmoidFocalLoss):
        def forward(self, logits, labels, *, normalizer=None):
            seen.append((logits.dtype, torch.is_autocast_enabled("cpu")))
            return super().forward(logits, labels, normalizer=normalizer)

    model = set_classification_loss(BUILDERS[name](), Spy(COUNTS))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model, images, targets)
        found = detections_of(model, images)
    assert seen == [(torch.float32, False)]
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert (
        {f["boxes"].dtype for f in found} == {f["scores"].dtype for f in found} == {torch.float32}
    )


@pytest.mark.parametrize("name", BUILDERS)
def test_anchors_are_exact_under_autocast(name):
    model = set_classification_loss(BUILDERS[name](), None).eval()
    generator = model.anchor_generator if name in ONE_STAGE else model.rpn.anchor_generator
    images, _ = model.transform([torch.rand(3, 96, 2000)])
    features = [torch.rand(1, 8, 96 // s, 2048 // s) for s in (8, 16)]
    exact = generator(images, features)
    half = generator(images, [f.bfloat16() for f in features])
    assert torch.equal(exact[0], half[0])
    assert half[0].dtype == torch.float32


# Several processes


def _same_model_and_batch():
    images, targets = batch()
    images = [image[:, :, :96] for image in images]  # a batch is padded to its largest image
    model = set_classification_loss(retinanet(), SigmoidFocalLoss(COUNTS)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # its statistics are those of a process
            module.eval()
    return model, images, targets


def _rank_losses(rank: int, path: str, results) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=2
    )
    model, images, targets = _same_model_and_batch()
    wrapped = DistributedDataParallel(model)
    rows = [0] if rank == 0 else [1, 2]
    losses = wrapped([images[i] for i in rows], [targets[i] for i in rows])
    sum(losses.values()).backward()
    grad = {n: p.grad.numpy() for n, p in model.named_parameters()}
    results.put((rank, {k: v.item() for k, v in losses.items()}, grad if rank == 0 else None))
    torch.distributed.destroy_process_group()


def test_two_processes_compute_the_loss_of_the_whole_batch(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    workers = [
        context.Process(target=_rank_losses, args=(rank, str(tmp_path / "init"), queue))
        for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    found = {rank: (losses, grad) for rank, losses, grad in (queue.get(), queue.get())}
    for worker in workers:
        worker.join()
    model, images, targets = _same_model_and_batch()
    losses = model(images, targets)
    sum(losses.values()).backward()
    for name, value in losses.items():
        mean = (found[0][0][name] + found[1][0][name]) / 2
        assert mean == pytest.approx(value.item(), rel=1e-4), name
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            torch.from_numpy(found[0][1][name]), parameter.grad, rtol=1e-3, atol=1e-5
        )


# Refusals


@pytest.mark.parametrize(("name", "detector"), [("retinanet", "RetinaNet"), ("fcos", "FCOS")])
def test_a_softmax_loss_is_refused_by_a_one_stage_detector(name, detector):
    message = (
        rf'SoftmaxCrossEntropyLoss \("cross_entropy"\) works on softmax scores, {detector} uses'
        r" sigmoid\. A sigmoid loss is expected\. Choose one of: focal, .*; or a Faster, Mask or"
    )
    with pytest.raises(ValueError, match=message) as caught:
        set_classification_loss(BUILDERS[name](), SoftmaxCrossEntropyLoss(COUNTS))
    listed = str(caught.value).partition("one of: ")[2].partition(";")[0].split(", ")
    assert listed == [key for key, kind in LOSSES.items() if kind.activation == "sigmoid"]


def test_a_cosine_layer_is_refused_by_a_one_stage_detector():
    class CosineFocalLoss(SigmoidFocalLoss):
        last_layer = "cosine"

    with pytest.raises(ValueError, match=r"CosineFocalLoss needs a cosine last layer, FCOS ends"):
        set_classification_loss(BUILDERS["fcos"](), CosineFocalLoss(COUNTS))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_loss_of_other_classes_is_refused(name):
    with pytest.raises(ValueError, match=r"the loss has 3 classes.*the model has 5"):
        set_classification_loss(BUILDERS[name](), SigmoidFocalLoss([0, 1, 1]))


def test_other_detectors_are_refused():
    model = tv.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)
    with pytest.raises(TypeError, match=r"of type SSD\. .*RetinaNet, FCOS, FasterRCNN, MaskRCNN"):
        set_classification_loss(model, None)
    with pytest.raises(TypeError, match="of type SSD"):
        detector_classes(model)


def test_something_else_than_a_loss_is_refused():
    with pytest.raises(TypeError, match=r"ClassificationLoss or None is expected.*focal"):
        set_classification_loss(retinanet(), nn.CrossEntropyLoss())


def test_an_unknown_normalizer_is_refused():
    with pytest.raises(ValueError, match=r'normalizer is "anchors". Known: batch, image'):
        set_classification_loss(retinanet(), None, normalizer="anchors")


def test_unknown_heads_are_refused():
    model = rcnn()
    model.roi_heads.box_predictor = nn.Identity()
    with pytest.raises(TypeError, match="FastRCNNPredictor or a subclass"):
        set_classification_loss(model, None)
    for name, head in (("retinanet", "RetinaNetHead"), ("fcos", "FCOSHead")):
        model = BUILDERS[name]()
        model.head = nn.Identity()
        with pytest.raises(TypeError, match=f"{head} or a subclass"):
            set_classification_loss(model, None)


def test_targets_of_wrong_types_are_refused():
    images, targets = batch()
    model = set_classification_loss(rcnn(), None)
    targets[0]["labels"] = targets[0]["labels"].int()
    with pytest.raises(TypeError, match="int64 labels are expected"):
        losses_of(model, images, targets)


def test_detections_at_the_threshold_and_without_size_go_as_in_torchvision():
    stock, ours = rcnn().roi_heads, set_classification_loss(rcnn(), SoftmaxCrossEntropyLoss(COUNTS))
    logits = torch.zeros(3, K + 1)
    logits[2, 1] = 1.0
    offsets = torch.zeros(3, 4 * (K + 1))
    regions = [torch.tensor([[5.0, 5, 20, 20], [70, 70, 90, 90], [40, 40, 40.001, 60]])]
    found = []
    for threshold in (0.01, logits[0].softmax(0)[1].item()):
        for heads in (stock, ours.roi_heads):
            heads.score_thresh = threshold
            found.append(heads.postprocess_detections(logits, offsets, regions, [(96, 96)]))
    for a, b in (found[:2], found[2:]):
        assert all(torch.equal(x[0], y[0]) for x, y in zip(a, b, strict=True))
    assert [len(boxes[0]) for boxes, _, _ in found] == [2 * K, 2 * K, 0, 0]
