"""How near generated crops come to real ones: KID, beside what it is among real ones alone.

Letters: N crops, S side in pixels, F features.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detbalance.data.messages import needs
from detbalance.generation.crops import Crop, as_tensor
from detbalance.generation.gan import own_randomness
from detbalance.generation.networks import parts

_SIDE = 64
_HALVINGS = 20
_LEAST = 10  # crops; below that an estimate says nothing


@dataclass(frozen=True)
class Kid:
    """Kernel Inception Distances of one class; NaN where there are too few crops."""

    generated: float
    real: float
    background: float
    spread: float

    def to_dict(self) -> dict[str, float | None]:
        """As JSON has it: null where a figure is undefined."""
        return {k: None if v != v else round(v, 5) for k, v in asdict(self).items()}


class PretrainedFeatures(nn.Module):
    """Features of EfficientNet-Lite0 trained on ImageNet, from weights inside a package."""

    name = "EfficientNet-Lite0, ImageNet"

    def __init__(self) -> None:
        super().__init__()
        import timm

        from detbalance.detection.defaults import OFFLINE_BACKBONE
        from detbalance.detection.weights import offline_state

        with own_randomness(0):
            net: Any = timm.create_model(OFFLINE_BACKBONE, pretrained=False)
            net.load_state_dict(offline_state())
        net.reset_classifier(0)
        self.net = net.eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Describe float [N, 3, S, S] in -1..1, what the network was trained on, as [N, 1280]."""
        return torch.cat([self.net(part) for part in parts(images, 64)])


def pretrained_features() -> PretrainedFeatures | None:
    """The network that crops are compared by, or None where its weights are not installed."""
    try:
        return PretrainedFeatures()
    except ImportError:
        return None


def describe(crops: Sequence[Crop], network: nn.Module) -> Tensor:
    """Features float [N, F] of crops, all resized to 64 x 64 pixels."""
    if not crops:
        return torch.zeros(0, 1)
    return torch.as_tensor(network(as_tensor(crops, _SIDE)))


def class_kid(generated: Tensor, real: Tensor, background: Tensor, *, seed: int = 0) -> Kid:
    """Compare the crops of a class by their features."""
    half = min(len(real) // 2, 200)

    def against_real(features: Tensor) -> float:
        size = min(half, len(features))
        if size < _LEAST:
            return float("nan")
        return kid(features, real, size=size, seed=seed)[0]

    among = []
    if half >= _LEAST:
        random = torch.Generator().manual_seed(seed)
        for _ in range(_HALVINGS):
            order = torch.randperm(len(real), generator=random)
            among.append(
                kid(real[order[:half]], real[order[half : 2 * half]], size=half, subsets=1)[0]
            )
    return Kid(
        generated=against_real(generated),
        real=float(np.mean(among)) if among else float("nan"),
        background=against_real(background),
        spread=float(np.std(among)) if among else float("nan"),
    )


def kid(
    first: Tensor, second: Tensor, *, size: int, subsets: int = _HALVINGS, seed: int = 0
) -> tuple[float, float]:
    """Kernel Inception Distance between two sets of features, by torchmetrics.

    Source: Binkowski et al., Demystifying MMD GANs, 2018, arXiv:1801.01401, sec. 4. Differs: the
    features are those of the network that is at hand, so that figures of other works, which are of
    Inception's, do not compare.
    """
    metric = _metric(size, subsets)
    metric.update(first, real=True)
    metric.update(second, real=False)
    with own_randomness(seed):
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def import_kid() -> Any:
    """Import the metric, or say how to install it."""
    try:
        from torchmetrics.image.kid import KernelInceptionDistance
    except ImportError as error:
        raise needs("the quality of generated crops", "torchmetrics", "generate") from error
    return KernelInceptionDistance


def _metric(size: int, subsets: int) -> Any:
    """The metric on features that are there already."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception")  # memory: a few MB
        return import_kid()(feature=nn.Identity(), subsets=subsets, subset_size=size)
