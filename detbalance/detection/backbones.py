"""Backbones by name: torchvision's, any of timm's, and a tiny one to train from scratch."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from detbalance.data.messages import needs

RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
MOBILENET = "mobilenet_v3_large"
TORCHVISION_BACKBONES = (
    *(f"{name}_fpn" for name in RESNETS),
    "resnet50_fpn_v2",
    f"{MOBILENET}_fpn",
    f"{MOBILENET}_320_fpn",
)
TINY = "tiny"

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclass(frozen=True, eq=False)
class Body:
    """The part of a backbone before the feature pyramid."""

    module: nn.Module
    channels: list[int]
    strides: list[int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Pyramid(nn.Module):
    """A body and a feature pyramid, with the names of torchvision's `BackboneWithFPN`."""

    def __init__(
        self,
        body: Body,
        channels: int,
        extra_levels: int,
        *,
        from_body: bool = False,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        start = body.channels[-1] if from_body else channels
        extra = (None, LastLevelMaxPool, partial(LastLevelP6P7, start, channels))[extra_levels]
        self.body = body.module
        self.fpn = FeaturePyramidNetwork(
            body.channels, channels, None if extra is None else extra(), norm_layer
        )
        self.out_channels = channels
        self.names = [str(i) for i in range(len(body.channels))]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the pyramid."""
        return self.fpn(self.body(x))  # type: ignore[no-any-return]


Norm: TypeAlias = Callable[[int], nn.Module]


class TinyBody(nn.Module):
    """Four stages of 32, 48, 64 and 96 channels for small images and training from scratch."""

    channels = (64, 96)
    strides = (8, 16)

    def __init__(self, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _convolution(norm, 3, 32, stride=2), _convolution(norm, 32, 48, stride=2)
        )
        self.stage3 = nn.Sequential(_convolution(norm, 48, 64, stride=2), _Residual(norm, 64))
        self.stage4 = nn.Sequential(_convolution(norm, 64, 96, stride=2), _Residual(norm, 96))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute the feature maps."""
        fine = self.stage3(self.stem(x))
        return {"0": fine, "1": self.stage4(fine)}


class _Residual(nn.Module):
    def __init__(self, norm: Norm, channels: int) -> None:
        super().__init__()
        self.convolution = _convolution(norm, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution(x)  # type: ignore[no-any-return]


def _convolution(norm: Norm, inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        norm(outputs),
        nn.ReLU(inplace=True),
    )


def build_body(
    name: str,
    strides: Sequence[int] | None,
    *,
    default_strides: Sequence[int],
    pretrained: bool = False,
    frozen_norm: bool = False,
    trainable_layers: int | None = None,
) -> Body:
    """Build the body of a backbone by name."""
    if name == TINY:
        _check_strides(name, strides, [8, 16], complete=True)
        norm = FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d
        return Body(TinyBody(norm), list(TinyBody.channels), list(TinyBody.strides), *HALF)
    if name in TORCHVISION_BACKBONES:
        return _torchvision_body(name, strides, default_strides, frozen_norm, trainable_layers)
    return timm_body(name, strides or default_strides, pretrained, frozen_norm)


def _torchvision_body(
    name: str,
    strides: Sequence[int] | None,
    default_strides: Sequence[int],
    frozen_norm: bool,
    trainable_layers: int | None,
) -> Body:
    mobile = name.startswith(MOBILENET)
    stages = {8: 2, 16: 3, 32: 5} if mobile else {4: 1, 8: 2, 16: 3, 32: 4}
    _check_strides(name, strides, list(stages))
    chosen = list(strides or default_strides)
    options = {
        "weights": None,
        "norm_layer": FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d,
        # Torchvision's MobileNet Faster R-CNN takes the last two stages, both of stride 32.
        "returned_layers": [4, 5] if chosen == [32, 32] else [stages[stride] for stride in chosen],
        "trainable_layers": (6 if mobile else 5) if trainable_layers is None else trainable_layers,
    }
    if mobile:
        built = mobilenet_backbone(backbone_name=MOBILENET, fpn=True, **options)
    else:
        built = resnet_fpn_backbone(backbone_name=resnet_name(name), **options)
    # What goes into the pyramid that torchvision built around the body.
    channels = [block[0].in_channels for block in built.fpn.inner_blocks]
    return Body(built.body, channels, chosen, *IMAGENET)


def resnet_name(backbone: str) -> str:
    """Give torchvision's name of the classifier that a ResNet backbone is cut from."""
    return backbone.removesuffix("_v2").removesuffix("_fpn")


def _check_strides(
    name: str, strides: Sequence[int] | None, known: list[int], *, complete: bool = False
) -> None:
    if strides is None:
        return
    if not set(strides) <= set(known) or (complete and list(strides) != known):
        raise ValueError(
            f'build_detector(): backbone "{name}" cannot give feature maps of strides'
            f" {list(strides)}. {'Exactly' if complete else 'Some of'} {known} are expected."
            " Change strides."
        )


def _timm() -> Any:
    """The library, imported only for a backbone of its own."""
    try:
        import timm
        import timm.layers
    except ImportError as error:
        raise needs("this backbone", "timm", "train") from error
    return timm


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
    timm = _timm()
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
        features = timm.layers.freeze_batch_norm_2d(features)
    mean, std = (tuple(float(v) for v in settings[key]) for key in ("mean", "std"))
    return Body(TimmBody(features), channels, list(strides), mean, std)


def check_timm_name(name: str) -> None:
    """Refuse a backbone that nobody knows."""
    timm = _timm()
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
        return _timm().create_model(
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
