"""The layers of a detector's heads, as a plan says."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.misc import Conv2dNormActivation

from detbalance.detection.plan import Norm, Plan

HEAD_STD = 0.01
"""Torchvision's initial spread of the weights in RetinaNet's heads."""


def retinanet_head(plan: Plan, num_classes: int, anchors: AnchorGenerator) -> RetinaNetHead:
    """Build both heads of a RetinaNet."""
    channels = plan.fpn_channels
    norm = _norm_layer(plan.head_norm, channels)
    per_place = anchors.num_anchors_per_location()[0]
    head = RetinaNetHead(channels, per_place, num_classes, norm_layer=norm)
    for part in (head.classification_head, head.regression_head):
        if plan.head_convs != len(part.conv):
            layers = [
                Conv2dNormActivation(channels, channels, norm_layer=norm)
                for _ in range(plan.head_convs)
            ]
            for layer in layers:
                nn.init.normal_(layer[0].weight, std=HEAD_STD)
                if layer[0].bias is not None:
                    nn.init.zeros_(layer[0].bias)
            part.conv = nn.Sequential(*layers)
    if plan.second_recipe:
        # Torchvision's own v2 builder has no public way either.
        head.regression_head._loss_type = "giou"
    return head


def fcos_head(plan: Plan, num_classes: int, anchors: AnchorGenerator) -> FCOSHead:
    """Build the heads of an FCOS."""
    channels, convs = plan.fpn_channels, plan.head_convs
    per_place = anchors.num_anchors_per_location()[0]
    # For torchvision, None is a group norm of 32 groups.
    norm = _norm_layer(plan.head_norm, channels) or nn.Identity
    head = FCOSHead(channels, per_place, num_classes, num_convs=0)
    head.classification_head = FCOSClassificationHead(
        channels, per_place, num_classes, convs, norm_layer=norm
    )
    head.regression_head = FCOSRegressionHead(channels, per_place, convs, norm_layer=norm)
    return head


def proposal_head(plan: Plan, anchors: AnchorGenerator) -> RPNHead:
    """Build the head of a region proposal network."""
    per_place = anchors.num_anchors_per_location()[0]
    return RPNHead(plan.fpn_channels, per_place, conv_depth=2 if plan.second_recipe else 1)


def box_head(plan: Plan) -> TwoMLPHead | FastRCNNConvFCHead:
    """Build the part of a second stage between the pooled features and the last layers."""
    channels = plan.fpn_channels
    if plan.head_convs == 0:
        return TwoMLPHead(channels * plan.pooled**2, plan.representation)
    return FastRCNNConvFCHead(
        (channels, plan.pooled, plan.pooled),
        [channels] * plan.head_convs,
        [plan.representation],
        norm_layer=_norm_layer(plan.head_norm, channels),
    )


def _norm_layer(norm: Norm, channels: int) -> Callable[..., nn.Module] | None:
    if norm == "group":
        return partial(nn.GroupNorm, math.gcd(32, channels))
    return nn.BatchNorm2d if norm == "batch" else None
