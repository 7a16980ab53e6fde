"""Differentiable augmentation: the same random changes for real and drawn images.

Letters: N images, S their side in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
