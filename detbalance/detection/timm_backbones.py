"""Any convolutional or hierarchical model of timm as a detector's body."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detbalance.data.messages import needs
from detbalance.detection.backbones import TINY, TORCHVISION_BACKBONES, Body

try:
    import timm
    from timm.layers import freeze_batch_norm_2d  # type: ignore[attr-defined]
except ImportError as error:
    raise needs("this backbone", "timm", "train") from error


class TimmBody(nn.Module):
    """A timm feature extractor with the outputs that torchvision's feature pyramid takes."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.channels_last = str(getattr(features, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the feature maps."""
        maps = self.features(x)
        named: dict[str, Tensor] = {}
        for i, level in enumerate(maps):
            named[str(i)] = level.permute(0, 3, 1, 2) if self.channels_last else level
        return named


def timm_body(name: str, strides: Sequence[int], pretrained: bool, frozen_norm: bool) -> Body:
    """Build a body from a timm model."""
    check_timm_name(name)
    try:
        features: Any = timm.create_model(name, pretrained=False, features_only=True)
        reductions = list(features.feature_info.reduction())
    except (RuntimeError, AttributeError, AssertionError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f'build_detector(): backbone "{name}" has no feature maps ({error}). A timm model with'
            " features_only support is expected. Choose another one."
        ) from error
    settings = features.pretrained_cfg
    if settings.get("fixed_input_size"):
        raise ValueError(
            f'build_detector(): backbone "{name}" takes images of one size only,'
            f" {settings.get('input_size')}. A backbone for images of any size is expected, such as"
            " a ResNet, EfficientNet or ConvNeXt. Choose another one."
        )
    missing = [stride for stride in strides if reductions.count(stride) != 1]
    if missing:
        raise ValueError(
            f'build_detector(): backbone "{name}" has no feature map of stride {missing[0]}. It has'
            f" {sorted(set(reductions))}. Set strides to some of these, or choose another backbone."
        )
    indices = [reductions.index(stride) for stride in strides]
    features = _create(name, pretrained, indices)
    channels = list(features.feature_info.channels())
    if frozen_norm:
        features = freeze_batch_norm_2d(features)  # type: ignore[no-untyped-call]
    mean, std = (tuple(float(v) for v in settings[key]) for key in ("mean", "std"))
    return Body(TimmBody(features), channels, list(strides), mean, std)


def check_timm_name(name: str) -> None:
    """Refuse a backbone that nobody knows."""
    if timm.is_model(name.split(".")[0]):
        return
    known = [*TORCHVISION_BACKBONES, TINY, *timm.list_models()]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {', '.join(repr(n) for n in near)}?" if near else ""
    raise ValueError(
        f'build_detector(): backbone "{name}" is not known. Known: {TINY},'
        f" {', '.join(TORCHVISION_BACKBONES)}, or a model of timm.{hint}"
    )


def _create(name: str, pretrained: bool, indices: list[int]) -> Any:
    try:
        return timm.create_model(
            name, pretrained=pretrained, features_only=True, out_indices=indices
        )
    # What a failed download raises depends on the hub client's version and cause.
    except Exception as error:
        if not pretrained:
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(
            f'build_detector(): the weights of "{name}" cannot be fetched ({reason}). timm\'s'
            " weights come over the network. Connect, or set weights to a local file."
        ) from error
