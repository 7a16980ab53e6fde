"""Small torchvision detectors, and a batch for them."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models import detection as tv
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from detbalance.detection.backbones import Body, Pyramid, TinyBody

K = 4
COUNTS = [0, 40, 30, 20, 10]


def backbone() -> Pyramid:
    body = Body(TinyBody(), [64, 96], [8, 16], (0.5,) * 3, (0.5,) * 3)
    return Pyramid(body, 32, 0)


def anchors(*, sizes: int = 1) -> AnchorGenerator:
    values = tuple(tuple(16.0 * 2**i * (1 + j / 2) for j in range(sizes)) for i in range(2))
    return AnchorGenerator(values, ((0.5, 1.0, 2.0),) * 2)


def retinanet(seed: int = 0) -> tv.RetinaNet:
    torch.manual_seed(seed)
    model = tv.RetinaNet(
        backbone(), K + 1, min_size=96, max_size=128, anchor_generator=anchors(), score_thresh=0.001
    )
    nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.2)
    return model


def rcnn(seed: int = 0, kind: str = "faster") -> tv.FasterRCNN:
    torch.manual_seed(seed)
    names = ["0", "1"]
    builder, extra = {
        "faster": (tv.FasterRCNN, {}),
        "mask": (
            tv.MaskRCNN,
            {
                "mask_roi_pool": MultiScaleRoIAlign(names, 7, 2),
                "mask_head": tv.mask_rcnn.MaskRCNNHeads(32, (8,), 1),
            },
        ),
        "keypoint": (
            tv.KeypointRCNN,
            {
                "keypoint_roi_pool": MultiScaleRoIAlign(names, 7, 2),
                "keypoint_head": tv.keypoint_rcnn.KeypointRCNNHeads(32, (8,)),
                "keypoint_predictor": tv.keypoint_rcnn.KeypointRCNNPredictor(8, 3),
            },
        ),
    }[kind]
    model = builder(
        backbone(),
        K + 1,
        min_size=96,
        max_size=128,
        rpn_anchor_generator=anchors(),
        box_roi_pool=MultiScaleRoIAlign(names, 7, 2),
        box_score_thresh=0.01,
        box_batch_size_per_image=64,
        box_detections_per_img=20,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=100,
        **extra,
    )
    if kind == "mask":
        model.roi_heads.mask_predictor = tv.mask_rcnn.MaskRCNNPredictor(8, 8, K + 1)
    return model


def fcos(seed: int = 0) -> tv.FCOS:
    torch.manual_seed(seed)
    model = tv.FCOS(
        backbone(),
        K + 1,
        min_size=96,
        max_size=128,
        anchor_generator=AnchorGenerator(((8.0,), (16.0,)), ((1.0,),) * 2),
        score_thresh=0.001,
    )
    nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.2)
    return model


BUILDERS = {"retinanet": retinanet, "fcos": fcos, "fasterrcnn": rcnn}
ONE_STAGE = ("retinanet", "fcos")


def batch(seed: int = 0):
    """Three images; the second has no boxes."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(3, 96, 96 + 16 * i, generator=generator) for i in range(3)]
    targets = []
    for count in (3, 0, 2):
        corner = torch.rand(count, 2, generator=generator) * 50
        side = 14 + torch.rand(count, 2, generator=generator) * 28
        targets.append(
            {
                "boxes": torch.cat([corner, corner + side], 1),
                "labels": torch.randint(1, K + 1, (count,), generator=generator),
            }
        )
    return images, targets


def full_batch():
    """The batch with masks and keypoints, as Mask and Keypoint R-CNN take it."""
    images, targets = batch()
    for image, target in zip(images, targets, strict=True):
        n = len(target["boxes"])
        target["masks"] = torch.ones(n, *image.shape[1:], dtype=torch.uint8)
        corners = torch.cat([target["boxes"][:, None, :2] + 3.0, torch.ones(n, 1, 1)], 2)
        target["keypoints"] = corners.expand(n, 3, 3)
    return images, targets


def with_crowd(target, *boxes):
    crowd = torch.tensor(boxes, dtype=torch.float32)
    return {
        "boxes": torch.cat([target["boxes"], crowd]),
        "labels": torch.cat([target["labels"], torch.full((len(crowd),), -1)]),
    }


def losses_of(model, images, targets, seed: int = 5):
    torch.manual_seed(seed)  # an R-CNN samples regions
    return model.train()(images, targets)


def gradients_of(model, images, targets):
    model.zero_grad()
    sum(losses_of(model, images, targets).values()).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def detections_of(model, images):
    with torch.no_grad():
        return model.eval()(images)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def last_layer(model):
    if isinstance(model, (tv.RetinaNet, tv.FCOS)):
        return model.head.classification_head.cls_logits
    return model.roi_heads.box_predictor.cls_score


def captured_head_loss(model, images, targets):
    """The losses of a one-stage detector, and what its head was given."""
    seen = {}
    head = model.head
    compute = head.compute_loss

    def spy(targets, outputs, anchors, matched):
        seen.update(targets=targets, outputs=outputs, anchors=anchors, matched=matched)
        return compute(targets, outputs, anchors, matched)

    head.compute_loss = spy
    try:
        losses = losses_of(model, images, targets)
    finally:
        del head.compute_loss
    return losses, seen
