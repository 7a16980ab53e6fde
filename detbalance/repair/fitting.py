"""Refit a linear classifier on region features: what is learned is a change of the present one.

All slots share one change: they see the same patch and differ in the shape of their anchor only,
and the few boxes of a rare class would be thin spread over nine classifiers.

Letters: n regions, F features, D outputs, S slots, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torchvision.ops import sigmoid_focal_loss

from detbalance.data.arrays import Float32, Int64
from detbalance.detection.targets import extra_inputs
from detbalance.repair.classifier import Classifier
from detbalance.repair.region_features import Samples


class RegionLoss:
    """A detector's own classification loss, with a weight for each region."""

    def __init__(self, classifier: Classifier) -> None:
        self._loss = classifier.loss
        self._sigmoid = classifier.sigmoid
        self._classes = classifier.num_classes
        if self._loss is not None:
            self._loss.eval()

    def __call__(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Compute the weighted sum of the regions' losses, a scalar."""
        if self._loss is not None:
            # As if all regions were of one image that lists no classes, each found exactly.
            extra = extra_inputs(self._loss, [{}], [labels], lambda: (labels > 0).float())
            return self._loss(logits, labels, normalizer=1.0 / weights, **extra)  # type: ignore[no-any-return]
        if not self._sigmoid:
            return (cross_entropy(logits, labels, reduction="none") * weights).sum()
        # Torchvision's RetinaNet and FCOS have an output for background, which is never positive.
        targets = one_hot(labels, self._classes).to(logits)
        targets[:, 0] = 0.0
        rows: Tensor = sigmoid_focal_loss(logits, targets).sum(dim=1)
        return (rows * weights).sum()


_SLOW = 0.02
"""The rate of shifts and factors, which work on all regions alike, as a part of that of logits."""


@dataclass(frozen=True)
class FitSettings:
    """How the change is learned."""

    iterations: int = 400
    batch_size: int = 1024
    learning_rate: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Change:
    """What is added to the weight and bias of every slot, after its weights are scaled."""

    weight: Tensor  # float [D, F]
    bias: Tensor  # float [D]
    scale: Tensor  # float [D]

    def logits(self, samples: Samples, bias: Tensor) -> Tensor:
        """The logits of regions after the change, float32 [n, D]."""
        own = bias[torch.from_numpy(samples.slots)]
        features, present = samples.read()
        scaled = own + self.scale * (present - own)
        return scaled + features @ self.weight.T + self.bias

    def apply(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The classifier after the change."""
        scale = self.scale.to(weight)
        return weight * scale[:, None] + self.weight.to(weight), bias + self.bias.to(bias)


def class_weights(samples: Samples, num_classes: int, balance: float) -> Float32:
    """Weight regions so that classes count as in the images (balance 0), or all alike (1)."""
    own = samples.weights.astype(np.float64)
    sums = np.bincount(samples.labels, weights=own, minlength=num_classes)[1:]
    goals = np.where(sums > 0, np.maximum(sums, 1e-12) ** (1.0 - balance), 0.0)
    if goals.sum() > 0:
        goals *= sums.sum() / goals.sum()
    factor = np.ones(num_classes)
    factor[1:] = np.divide(goals, sums, out=np.ones_like(goals), where=sums > 0)
    return (own * factor[samples.labels]).astype(np.float32)


def fit_change(
    samples: Samples,
    weights: Float32,
    bias: Tensor,
    objective: RegionLoss,
    *,
    decay: float,
    free: str = "all",
    settings: FitSettings | None = None,
) -> Change:
    """Learn a change of the classifier by mini-batches."""
    settings = settings or FitSettings()
    generator = np.random.default_rng(settings.seed)
    outputs, width = samples.logits.shape[1], samples.features.shape[1]
    rms = _root_mean_square(samples, generator)
    weight = torch.zeros(outputs, width, requires_grad=free == "all")
    shift = torch.zeros(outputs, requires_grad=True)
    scale = torch.zeros(outputs, requires_grad=free == "scale")
    # A step of Adam moves every weight by the rate: with many features that all agree, a logit by
    # the rate times their number.
    groups = [{"params": [shift], "lr": settings.learning_rate * _SLOW}]
    if free == "all":
        groups += [{"params": [weight], "lr": settings.learning_rate / width}]
    else:
        groups += [{"params": [scale], "lr": settings.learning_rate * _SLOW}]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.iterations)
    batches = _batches(samples.labels, weights, settings.batch_size, generator)
    total = float(weights[samples.labels > 0].sum()) or 1.0
    for _, (rows, counts) in zip(range(settings.iterations), batches, strict=False):
        part = samples.take(rows)
        change = Change(weight / rms, shift, 1.0 + scale)
        loss = objective(
            change.logits(part, bias), torch.from_numpy(part.labels), torch.from_numpy(counts)
        )
        pull = (weight**2).sum() + (shift**2).sum() + (scale**2).sum()
        optimizer.zero_grad()
        (loss / total + 0.5 * decay * pull).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return Change((weight / rms).detach(), shift.detach(), (1.0 + scale).detach())


def mean_loss(
    samples: Samples,
    weights: Float32,
    bias: Tensor,
    objective: RegionLoss,
    change: Change | None,
) -> float:
    """The objective per object of all regions, for a change or none."""
    total = 0.0
    with torch.no_grad():
        for chunk in samples.chunks():
            part = samples.take(chunk)
            logits = part.read()[1] if change is None else change.logits(part, bias)
            counts = torch.from_numpy(weights[chunk])
            total += float(objective(logits, torch.from_numpy(part.labels), counts))
    return total / (float(weights[samples.labels > 0].sum()) or 1.0)


def _batches(
    labels: Int64, weights: Float32, size: int, generator: np.random.Generator
) -> Iterator[tuple[Int64, Float32]]:
    """Draw regions by what they count, for ever; each drawn one then counts the same."""
    sides = [np.flatnonzero(labels > 0), np.flatnonzero(labels == 0)]
    sides = [side for side in sides if len(side)]
    size = max(1, size // max(1, len(sides)))
    sums = [weights[side].astype(np.float64).cumsum() for side in sides]
    while True:
        rows, counts = [], []
        for side, total in zip(sides, sums, strict=True):
            # One draw in each of as many equal steps through the weights.
            step = total[-1] / size
            points = (np.arange(size) + generator.random(size)) * step
            places = np.searchsorted(total, points, side="right").clip(max=len(side) - 1)
            rows.append(side[places])
            counts.append(np.full(size, step, np.float32))
        yield np.concatenate(rows), np.concatenate(counts)


def _root_mean_square(samples: Samples, generator: np.random.Generator) -> Tensor:
    """Of each feature over some rows, float32 [F]; features that are always 0 have 1."""
    some = np.sort(generator.permutation(len(samples))[:4096])
    values = np.asarray(samples.features[some], np.float64)
    rms = np.sqrt((values**2).mean(axis=0)) if len(values) else np.ones(values.shape[1])
    # A feature that is nearly always 0 would else get enormous weights from its few values.
    floor = 0.1 * float(rms.mean()) if rms.size else 0.0
    return torch.from_numpy(np.maximum(rms, floor if floor > 0 else 1.0)).float()
