"""The classifier that checks crops: trained on real donors, judged on donors that it has not seen.

Letters: n crops, S side in pixels, K' classes that are learned, F features, J parts of the donors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, normalize

from detbalance.generation.gan import class_shares, draw_rows, own_randomness
from detbalance.generation.networks import CropClassifier, diff_augment, parts

PARTS = 3
_BATCH = 48
_NONSENSE = 0.3


class JudgeFeatures(nn.Module):
    """The judges' features as a network of their own."""

    def __init__(self, judges: Judges, size: int) -> None:
        super().__init__()
        self.judges, self.size = judges, size

    def forward(self, images: Tensor) -> Tensor:
        """Describe float [N, 3, any, any] in -1..1 as float [N, J * F]."""
        return self.judges.features(interpolate(images, (self.size, self.size), mode="area"))


@dataclass(frozen=True, eq=False)
class Judges:
    """Classifiers, each trained without one part of the donors, and what each says of that part."""

    members: tuple[CropClassifier, ...]
    held_out: Tensor
    held_out_background: Tensor

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Mean over the members, float [N, K' + 1], for float [N, 3, S, S] in -1..1."""
        return torch.stack([_probabilities(member, images) for member in self.members]).mean(0)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Float [N, J * F]: the features of all members, those of each of length 1."""
        described = [
            torch.cat([normalize(m.features(part), dim=1) for m in self.members], dim=1)
            for part in parts(images)
        ]
        return torch.cat(described)


def train_judges(
    images: Tensor,
    labels: Tensor,
    background: Tensor,
    *,
    symmetry: str = "none",
    seed: int = 0,
    steps: int = 300,
    progress: Callable[[int, int], None] | None = None,
) -> Judges:
    """Train the classifiers that crops are checked by."""
    part = torch.cat([torch.arange(int(n)) % PARTS for n in torch.bincount(labels)])
    background_part = torch.arange(len(background)) % PARTS
    num_labels = int(labels.max()) + 1
    held_out = torch.zeros(len(images), num_labels + 1)
    held_out_background = torch.zeros(len(background), num_labels + 1)
    members = []
    for j in range(PARTS):
        seen = part != j
        tell = (lambda done, j=j: progress(j * steps + done, PARTS * steps)) if progress else None
        member = _train(
            images[seen],
            labels[seen],
            background[background_part != j],
            symmetry,
            seed + j,
            steps,
            tell,
        )
        held_out[~seen] = _probabilities(member, images[~seen])
        if len(background):
            unseen = background_part == j
            held_out_background[unseen] = _probabilities(member, background[unseen])
        members.append(member)
    return Judges(tuple(members), held_out, held_out_background)


def _train(
    images: Tensor,
    labels: Tensor,
    background: Tensor,
    symmetry: str,
    seed: int,
    steps: int,
    tell: Callable[[int], None] | None,
) -> CropClassifier:
    random = torch.Generator().manual_seed(seed)
    counts = torch.bincount(labels).numpy()
    shares = class_shares(counts, np.ones(len(counts), np.bool_))
    with own_randomness(seed):
        net = CropClassifier(len(counts))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        batch, targets = _batch(images, labels, background, shares, random)
        logits = net(diff_augment(batch, random, symmetry=symmetry))
        loss = cross_entropy(logits, targets, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if tell is not None:
            tell(step + 1)
    return net.eval()


def _batch(
    images: Tensor,
    labels: Tensor,
    background: Tensor,
    shares: NDArray[np.float64],
    random: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Donors by class, and nonsense behind them."""
    rows = draw_rows(labels, shares, _BATCH, random)
    nonsense = [shuffled(images[rows[: _BATCH // 8]], random), noise_like(images[rows[:4]], random)]
    wanted = round(_BATCH * _NONSENSE) - sum(map(len, nonsense))
    if len(background):
        drawn = torch.randint(len(background), (wanted,), generator=random)
        nonsense.append(background[drawn])
    nothing = torch.cat(nonsense)
    targets = torch.cat([labels[rows], torch.full((len(nothing),), len(shares))])
    return torch.cat([images[rows], nothing]), targets


def shuffled(images: Tensor, random: torch.Generator, pieces: int = 4) -> Tensor:
    """Images float [N, 3, S, S] cut into pieces x pieces squares that change places."""
    number, channels, side, _ = images.shape
    length = side // pieces
    cut = images.reshape(number, channels, pieces, length, pieces, length)
    cut = cut.permute(0, 2, 4, 1, 3, 5).reshape(number, pieces**2, channels, length, length)
    order = torch.rand(number, pieces**2, generator=random).argsort(dim=1)
    cut = cut[torch.arange(number)[:, None], order]
    cut = cut.reshape(number, pieces, pieces, channels, length, length)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(number, channels, side, side)


def noise_like(images: Tensor, random: torch.Generator) -> Tensor:
    """Noise with the mean and the spread of each image, coarse or fine."""
    number, channels, side, _ = images.shape
    noise = torch.randn(number, channels, side, side, generator=random)
    coarse = torch.nn.functional.avg_pool2d(noise, 5, 1, 2) * 4
    is_coarse = torch.rand(number, 1, 1, 1, generator=random) < 0.5
    noise = torch.where(is_coarse, coarse, noise)
    mean = images.mean(dim=(2, 3), keepdim=True)
    spread = images.std(dim=(2, 3), keepdim=True)
    return torch.clamp(mean + noise * spread, -1, 1)


@torch.no_grad()
def _probabilities(net: CropClassifier, images: Tensor) -> Tensor:
    return torch.cat([net(part).softmax(dim=1) for part in parts(images)])
