"""The three small networks, and the differentiable augmentation of what they see.

Letters: N images, S their side in pixels, K' classes that are learned, Z latent numbers,
F features.

Letters: N images, S their side in pixels.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, relu

LATENT = 64
_EMBEDDED = 32
SIZES = (32, 48, 64)
GROUP = 4
"""Images of one class that the discriminator looks at together."""


def parts(images: Tensor, length: int = 256) -> list[Tensor]:
    """Cut a long batch into parts, so that memory stays small; no part of none."""
    return [images[start : start + length] for start in range(0, len(images), length)]


class ConditionalNorm(nn.Module):
    """Batch normalisation whose scale and shift follow from a class and a latent vector.

    Source: de Vries et al., Modulating early visual processing by language, 2017, arXiv:1707.00683,
    sec. 3.1.
    """

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.affine = nn.Linear(condition, 2 * channels)
        nn.init.normal_(self.affine.weight, std=0.02)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Normalise float [N, channels, H, W] under float [N, condition]."""
        scale, shift = self.affine(condition)[:, :, None, None].chunk(2, dim=1)
        return cast(Tensor, self.norm(x) * (1 + scale) + shift)


class Generator(nn.Module):
    """Draws crops of a class from noise; 0.6 million weights at the default width."""

    def __init__(self, num_labels: int, size: int = 32, width: int = 24) -> None:
        super().__init__()
        self.start = size // 8
        condition = LATENT + _EMBEDDED
        self.embedding = nn.Embedding(num_labels, _EMBEDDED)
        channels = (4 * width, 4 * width, 2 * width, width)
        self.first = nn.Linear(condition, channels[0] * self.start**2)
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)
            for before, after in pairwise(channels)
        )
        self.norms = nn.ModuleList(ConditionalNorm(c, condition) for c in channels)
        self.last = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        """Draw images."""
        condition = torch.cat([latent, self.embedding(labels)], dim=1)
        x = self.first(condition).unflatten(1, (-1, self.start, self.start))
        x = relu(self.norms[0](x, condition))
        for up, norm in zip(self.ups, self.norms[1:], strict=True):
            x = relu(norm(up(x), condition))
        return torch.tanh(self.last(x))


class Discriminator(nn.Module):
    """Tells real crops from drawn ones, given the class.

    Source: Miyato and Koyama, cGANs with projection discriminator, 2018, arXiv:1802.05637, eq. 6.
    Differs: a plain stack of strided convolutions; the spread over `GROUP` images of one class is
    one more feature map (Karras et al., 2018, arXiv:1710.10196, sec. 3, has it over the batch), so
    that a generator that draws one image of a class again and again is found out.
    """

    def __init__(self, num_labels: int, size: int = 32, width: int = 32) -> None:
        super().__init__()
        channels = (3, width, 2 * width, 4 * width)
        self.downs = nn.ModuleList(
            nn.Conv2d(before, after, 4, 2, 1) for before, after in pairwise(channels)
        )
        self.mix = nn.Conv2d(channels[-1] + 1, channels[-1], 3, padding=1)
        features = channels[-1]
        self.score = nn.Linear(features, 1)
        self.embedding = nn.Embedding(num_labels, features)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Score images."""
        x = images
        for down in self.downs:
            x = leaky_relu(down(x), 0.2)
        spread = x.reshape(-1, GROUP, *x.shape[1:]).std(dim=1, unbiased=False).mean(dim=(1, 2, 3))
        spread = spread.repeat_interleave(GROUP)[:, None, None, None].expand(-1, 1, *x.shape[2:])
        x = leaky_relu(self.mix(torch.cat([x, spread], dim=1)), 0.2)
        x = x.mean(dim=(2, 3))
        projection = (self.embedding(labels) * x).sum(dim=1)
        return cast(Tensor, self.score(x)[:, 0] + projection)


class CropClassifier(nn.Module):
    """Tells the classes apart, and nonsense (the last output) from all of them."""

    def __init__(self, num_labels: int, width: int = 24) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = (3, width, 2 * width, 4 * width, 4 * width)
        for (before, after), stride in zip(pairwise(channels), (2, 2, 2, 1), strict=True):
            layers += [
                nn.Conv2d(before, after, 3, stride, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.last = nn.Linear(2 * channels[-1], num_labels + 1)

    def features(self, images: Tensor) -> Tensor:
        """Describe float [N, 3, S, S] in -1..1 as float [N, F]: mean and maximum of each map."""
        x = self.body(images)
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits float [N, K' + 1] of float [N, 3, S, S] in -1..1."""
        return cast(Tensor, self.last(self.features(images)))


SHIFT = 1 / 8
CUTOUT = 0.4


def diff_augment(images: Tensor, generator: torch.Generator, *, symmetry: str = "none") -> Tensor:
    """Change brightness, saturation and contrast, shift, and cut a square out of each image.

    Source: Zhao et al., Differentiable Augmentation for Data-Efficient GAN Training, 2020,
    arXiv:2006.10738, sec. 3.2. Differs: a smaller cutout, and symmetries where the user says that
    the classes have them. Further reading: Karras et al., 2020, arXiv:2006.06676, which adapts the
    strength.
    """
    images = turn(images, generator, symmetry)
    number, _, side, _ = images.shape

    def draw(count: int) -> Tensor:
        return torch.rand(count, number, 1, 1, 1, generator=generator).to(images.device)

    brightness, saturation, contrast = draw(3)
    images = images + (brightness - 0.5)
    mean = images.mean(dim=1, keepdim=True)
    images = (images - mean) * (2 * saturation) + mean
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - mean) * (contrast + 0.5) + mean
    images = _shift(images, generator, round(side * SHIFT))
    return images * _cutout(images, generator, round(side * CUTOUT))


def turn(images: Tensor, generator: torch.Generator, symmetry: str) -> Tensor:
    """Mirror and turn each image at random, as far as the symmetry allows."""
    allowed = SYMMETRIES[symmetry]
    if allowed == 1:
        return images
    drawn = torch.randint(allowed, (len(images),), generator=generator).to(images.device)
    turned = images
    for number in range(1, allowed):
        chosen = (drawn == number)[:, None, None, None]
        turned = torch.where(chosen, symmetric_copy(images, number), turned)
    return turned


SYMMETRIES = {"none": 1, "mirror": 2, "square": 8}
"""How many copies of an image each symmetry takes to be as good as the image."""


def symmetric_copy(images: Tensor, number: int) -> Tensor:
    """One of the 8 symmetries of a square: 0 none, 1 mirrored, 2..7 the turned ones."""
    mirrored = images.flip(3) if number % 2 else images
    return mirrored.rot90(number // 2, (2, 3))


def _shift(images: Tensor, generator: torch.Generator, limit: int) -> Tensor:
    """Shift each image by up to `limit` pixels either way."""
    number, _, side, _ = images.shape
    padded = torch.nn.functional.pad(images, (limit, limit, limit, limit))
    offsets = torch.randint(2 * limit + 1, (2, number, 1), generator=generator).to(images.device)
    line = torch.arange(side, device=images.device)
    rows, columns = offsets[0] + line, offsets[1] + line
    image = torch.arange(number, device=images.device)[:, None, None]
    last = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return last.permute(0, 3, 1, 2).contiguous()


def _cutout(images: Tensor, generator: torch.Generator, length: int) -> Tensor:
    """0 in a square of each image, which may reach over the edge, else 1; [N, 1, S, S]."""
    number, _, side, _ = images.shape
    start = torch.randint(side + 1, (2, number, 1), generator=generator).to(images.device)
    line = torch.arange(side, device=images.device)
    from_start = line - (start - length // 2)
    inside = (from_start >= 0) & (from_start < length)
    rows, columns = inside[0], inside[1]
    return (~(rows[:, :, None] & columns[:, None, :]))[:, None].to(images.dtype)
