"""The layers of a detector's heads, and a last layer of another kind where a loss needs it.

A layer stays where its outputs can mean what the new loss takes them for: their number, the kind of
layer, and sigmoid or softmax are the same. What has been learned then stays too. Only a bias that
is still exactly what the loss before, or torchvision's RetinaNet and FCOS, started from becomes the
start of the new loss: it has learned nothing yet.

Letters: A rows, D outputs, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.misc import Conv2dNormActivation

from detbalance.detection.adapter import full_precision
from detbalance.detection.defaults import DetectorDefaults, Norm
from detbalance.losses import ClassificationLoss

HEAD_STD = 0.01
"""Torchvision's initial spread of the weights in RetinaNet's heads."""


def retinanet_head(
    defaults: DetectorDefaults, num_classes: int, anchors: AnchorGenerator
) -> RetinaNetHead:
    """Build both heads of a RetinaNet."""
    channels = defaults.fpn_channels
    norm = _norm_layer(defaults.head_norm, channels)
    per_place = anchors.num_anchors_per_location()[0]
    head = RetinaNetHead(channels, per_place, num_classes, norm_layer=norm)
    for part in (head.classification_head, head.regression_head):
        if defaults.head_convs != len(part.conv):
            layers = [
                Conv2dNormActivation(channels, channels, norm_layer=norm)
                for _ in range(defaults.head_convs)
            ]
            for layer in layers:
                nn.init.normal_(layer[0].weight, std=HEAD_STD)
                if layer[0].bias is not None:
                    nn.init.zeros_(layer[0].bias)
            part.conv = nn.Sequential(*layers)
    if defaults.second_recipe:
        # Torchvision's own v2 builder has no public way either.
        head.regression_head._loss_type = "giou"
    return head


def fcos_head(defaults: DetectorDefaults, num_classes: int, anchors: AnchorGenerator) -> FCOSHead:
    """Build the heads of an FCOS."""
    channels, convs = defaults.fpn_channels, defaults.head_convs
    per_place = anchors.num_anchors_per_location()[0]
    # For torchvision, None is a group norm of 32 groups.
    norm = _norm_layer(defaults.head_norm, channels) or nn.Identity
    head = FCOSHead(channels, per_place, num_classes, num_convs=0)
    head.classification_head = FCOSClassificationHead(
        channels, per_place, num_classes, convs, norm_layer=norm
    )
    head.regression_head = FCOSRegressionHead(channels, per_place, convs, norm_layer=norm)
    return head


def proposal_head(defaults: DetectorDefaults, anchors: AnchorGenerator) -> RPNHead:
    """Build the head of a region proposal network."""
    per_place = anchors.num_anchors_per_location()[0]
    return RPNHead(defaults.fpn_channels, per_place, conv_depth=2 if defaults.second_recipe else 1)


def box_head(defaults: DetectorDefaults) -> TwoMLPHead | FastRCNNConvFCHead:
    """Build the part of a second stage between the pooled features and the last layers."""
    channels = defaults.fpn_channels
    if defaults.head_convs == 0:
        return TwoMLPHead(channels * defaults.pooled**2, defaults.representation)
    return FastRCNNConvFCHead(
        (channels, defaults.pooled, defaults.pooled),
        [channels] * defaults.head_convs,
        [defaults.representation],
        norm_layer=_norm_layer(defaults.head_norm, channels),
    )


def _norm_layer(norm: Norm, channels: int) -> Callable[..., nn.Module] | None:
    if norm == "group":
        return partial(nn.GroupNorm, math.gcd(32, channels))
    return nn.BatchNorm2d if norm == "batch" else None


STOCK_PRIOR = 0.01
"""The probability that torchvision's RetinaNet and FCOS start from."""
WEIGHT_STD = 0.01
"""The spread of the weights that a last layer starts from, as in torchvision's one-stage heads."""


class CosineLinear(nn.Module):
    """Cosines of the angles between a row's features and the weights of each output."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(
            torch.empty(out_features, in_features, device=device, dtype=dtype)
        )
        nn.init.normal_(self.weight, std=WEIGHT_STD)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the cosines, in float32 also under autocast."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self._cosines(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._cosines(x)

    def _cosines(self, x: Tensor) -> Tensor:
        rows = F.normalize(full_precision(x), dim=1)
        outputs = F.normalize(full_precision(self.weight), dim=1)
        return F.linear(rows, outputs).clamp(-1.0, 1.0)


def fit_convolution(
    layer: nn.Conv2d,
    anchors: int,
    outputs: int,
    before: ClassificationLoss | None,
    after: ClassificationLoss | None,
) -> nn.Conv2d:
    """Give the last layer of a one-stage head for a loss."""
    start = _start(after, outputs).repeat(anchors)
    if layer.out_channels == len(start):
        _restart(layer.bias, _start(before, outputs).repeat(anchors), start)
        return layer
    new = nn.Conv2d(
        layer.in_channels,
        len(start),
        kernel_size=3,
        padding=1,
        device=layer.weight.device,
        dtype=layer.weight.dtype,
    )
    _initialise(new, start)
    return new


def fit_linear(
    layer: nn.Linear | CosineLinear,
    outputs: int,
    before: ClassificationLoss | None,
    after: ClassificationLoss | None,
) -> nn.Linear | CosineLinear:
    """Give the last layer of a two-stage head for a loss."""
    cosine = after is not None and after.last_layer == "cosine"
    fits = layer.out_features == outputs and isinstance(layer, CosineLinear) == cosine
    if fits and _activation(before) == _activation(after):
        if isinstance(layer, nn.Linear) and before is not None and after is not None:
            _restart(layer.bias, before.initial_bias(), after.initial_bias())
        return layer
    place: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    if cosine:
        return CosineLinear(layer.in_features, outputs, **place)
    new = nn.Linear(layer.in_features, outputs, **place)
    if after is not None:
        _initialise(new, after.initial_bias())
    return new


def _activation(loss: ClassificationLoss | None) -> str:
    return "softmax" if loss is None else loss.activation


def _start(loss: ClassificationLoss | None, outputs: int) -> Tensor:
    """The bias that the head of a one-stage detector starts from, float [D]."""
    if loss is not None:
        return loss.initial_bias()
    return torch.full((outputs,), -math.log((1 - STOCK_PRIOR) / STOCK_PRIOR))


@torch.no_grad()
def _restart(bias: Tensor | None, before: Tensor, after: Tensor) -> None:
    if bias is not None and torch.equal(bias, before.to(bias)):
        bias.copy_(after)


@torch.no_grad()
def _initialise(layer: nn.Conv2d | nn.Linear, bias: Tensor) -> None:
    nn.init.normal_(layer.weight, std=WEIGHT_STD)
    assert layer.bias is not None
    layer.bias.copy_(bias)
