"""Training of the generator on the donors, rare classes as often as the others.

Letters: N images of a batch, n crops, S side in pixels, K' classes that are learned.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import relu

from detbalance.generation.networks import (
    GROUP,
    LATENT,
    Discriminator,
    Generator,
    diff_augment,
    parts,
)

_PENALTY_EVERY = 8  # steps; its gradient of a gradient costs more than the rest of a step


@dataclass(frozen=True, kw_only=True)
class GanSettings:
    """How the generator is trained."""

    size: int = 32
    iterations: int = 3000
    batch_size: int = 32
    learning_rates: tuple[float, float] = (2e-4, 8e-4)
    ema: float = 0.998
    penalty: float = 0.01
    variety: float = 2.0
    symmetry: str = "none"
    seed: int = 0


def class_shares(
    counts: NDArray[np.int64], wanted: NDArray[np.bool_], *, power: float = 0.5, others: float = 0.3
) -> NDArray[np.float64]:
    """Share of each class in a batch: rare ones as often as common ones, the others less often."""
    weights = counts.astype(np.float64) ** -power
    shares = np.zeros(len(counts))
    some_others = others if (~wanted).any() else 0.0
    for group, share in ((wanted, 1 - some_others), (~wanted, some_others)):
        if group.any():
            shares[group] = share * weights[group] / weights[group].sum()
    return shares


def differences(images: Tensor) -> Tensor:
    """Mean absolute difference between neighbours in each group of `GROUP` images."""
    groups = images.reshape(-1, GROUP, *images.shape[1:])
    return (groups - groups.roll(1, dims=1)).abs().mean(dim=(1, 2, 3, 4))


def _steepness(scores: Tensor, images: Tensor) -> Tensor:
    """Mean squared gradient of the scores, float [N], by their images."""
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def draw_rows(
    labels: Tensor,
    shares: NDArray[np.float64],
    number: int,
    generator: torch.Generator,
    *,
    group: int = 1,
) -> Tensor:
    """Draw crops: the class of each first, by its share, then one of the class's crops."""
    counts = torch.bincount(labels, minlength=len(shares))
    starts = counts.cumsum(0) - counts
    classes = draw_labels(shares, number, generator, group=group)
    within = (torch.rand(number, generator=generator) * counts[classes]).long()
    return starts[classes] + within.clamp(max=counts[classes] - 1)


def draw_labels(
    shares: NDArray[np.float64], number: int, generator: torch.Generator, *, group: int = 1
) -> Tensor:
    """Draw classes by their shares, int64 [number], `group` in a row alike."""
    weights = torch.from_numpy(shares)
    drawn = torch.multinomial(weights, number // group, replacement=True, generator=generator)
    return drawn.repeat_interleave(group)


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Draw from the seed what takes no generator, and leave the global state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class GanTraining:
    """A generator and a discriminator that learn from each other.

    Source: hinge losses: Lim and Ye, Geometric GAN, 2017, arXiv:1705.02894, sec. 3; the first
    penalty: R1 of Mescheder et al., 2018, arXiv:1801.04406, eq. 9, every few steps as in Karras et
    al., 2020, arXiv:1912.04958, app. B; the second: after Mao et al., 2019, arXiv:1903.05628, eq.
    3; the average: Yazici et al., 2018, arXiv:1806.04498. Differs: variety is asked for only up to
    that of the donors.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        shares: NDArray[np.float64],
        settings: GanSettings,
        device: torch.device,
    ) -> None:
        self._images, self._labels, self._shares = images, labels, shares
        self.settings, self._device = settings, device
        self.iteration = 0
        self._random = torch.Generator().manual_seed(settings.seed)
        with own_randomness(settings.seed):
            self._generator = Generator(len(shares), settings.size).to(device)
            self._discriminator = Discriminator(len(shares), settings.size).to(device)
        self._variety = self._differences_of_donors().to(device)
        self._average = copy.deepcopy(self._generator).eval().requires_grad_(False)
        self._optimizers = [
            torch.optim.Adam(net.parameters(), lr=rate, betas=(0.0, 0.99))
            for net, rate in zip(
                (self._generator, self._discriminator), settings.learning_rates, strict=True
            )
        ]

    def step(self) -> tuple[float, float]:
        """Train both networks once; returns the discriminator's and the generator's loss."""
        size = self.settings.batch_size
        rows = draw_rows(self._labels, self._shares, size, self._random, group=GROUP)
        labels = self._labels[rows].to(self._device)
        real = self._images[rows].to(self._device)
        drawn_labels, latent = self._draw(size)
        with torch.no_grad():
            drawn = self._generator(latent, drawn_labels)
        real, drawn = self._augment(real), self._augment(drawn)
        penalised = self.iteration % _PENALTY_EVERY == 0
        of_real = self._discriminator(real.requires_grad_(penalised), labels)
        of_drawn = self._discriminator(drawn, drawn_labels)
        loss = relu(1 - of_real).mean() + relu(1 + of_drawn).mean()
        if penalised:
            loss = loss + 0.5 * self.settings.penalty * _PENALTY_EVERY * _steepness(of_real, real)
        self._descend(1, loss)

        drawn_labels, latent = self._draw(size)
        drawn = self._generator(latent, drawn_labels)
        generator_loss = -self._discriminator(self._augment(drawn), drawn_labels).mean()
        lacking = relu(1 - differences(drawn) / self._variety[drawn_labels[::GROUP]]).mean()
        generator_loss = generator_loss + self.settings.variety * lacking
        self._descend(0, generator_loss)
        self._update_average()
        self.iteration += 1
        return float(loss.detach()), float(generator_loss.detach())

    def sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one crop for each label (at least one), float [N, 3, S, S] in -1..1, on the CPU."""
        drawn = []
        with torch.no_grad():
            for part in parts(labels):
                latent = torch.randn(len(part), LATENT, generator=generator).to(self._device)
                drawn.append(self._average(latent, part.to(self._device)).cpu())
        return torch.cat(drawn)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on as if there had been no break."""
        return {
            "iteration": self.iteration,
            "random": self._random.get_state(),
            "networks": [net.state_dict() for net in self._networks()],
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        for net, values in zip(self._networks(), state["networks"], strict=True):
            net.load_state_dict(values)
        for optimizer, values in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self._random.set_state(state["random"])
        self.iteration = int(state["iteration"])

    def _networks(self) -> tuple[nn.Module, ...]:
        return self._generator, self._discriminator, self._average

    def _differences_of_donors(self) -> Tensor:
        """How much two donors of a class differ, float [K']."""
        by_class = []
        for label in range(len(self._shares)):
            shares = np.eye(len(self._shares))[label]
            rows = draw_rows(self._labels, shares, 64 * GROUP, self._random)
            by_class.append(differences(self._images[rows]).mean().clamp(min=1e-3))
        return torch.stack(by_class)

    def _draw(self, number: int) -> tuple[Tensor, Tensor]:
        labels = draw_labels(self._shares, number, self._random, group=GROUP)
        latent = torch.randn(number, LATENT, generator=self._random)
        return labels.to(self._device), latent.to(self._device)

    def _augment(self, images: Tensor) -> Tensor:
        return diff_augment(images, self._random, symmetry=self.settings.symmetry)

    def _descend(self, which: int, loss: Tensor) -> None:
        optimizer = self._optimizers[which]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    @torch.no_grad()
    def _update_average(self) -> None:
        # Shorter at the start, or the average would remember the untrained weights for long.
        keep = min(self.settings.ema, (1 + self.iteration) / (10 + self.iteration))
        for mean, new in zip(
            self._average.state_dict().values(),
            self._generator.state_dict().values(),
            strict=True,
        ):
            if mean.dtype.is_floating_point:
                mean.lerp_(new, 1 - keep)
            else:
                mean.copy_(new)
