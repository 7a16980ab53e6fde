"""Crops of one class: drawn, checked, and kept until there are enough.

Letters: N drawn crops.

Letters: N drawn crops, n donors, S side in pixels, K' classes that are learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from detbalance.generation.classifier import Judges
from detbalance.generation.crops import Crop, as_pixels, as_tensor, resize
from detbalance.generation.gan import GanTraining
from detbalance.generation.networks import SYMMETRIES, symmetric_copy
from detbalance.generation.result import ClassResult

KEPT_REAL = 0.9
"""Share of unseen donors whose confidence is enough: the threshold is set so."""
COPY_QUANTILE = 0.05
"""Share of donors that are so near to another donor that, drawn, they would count as its copy."""
_SAME = 1e-6  # donors nearer than that are one image twice

Describe = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the checks say of drawn crops."""

    confidence: Tensor
    is_nonsense: Tensor
    is_copy: Tensor
    nearest: Tensor
    distance: Tensor

    @property
    def is_kept(self) -> Tensor:
        """Bool [N], neither a copy nor nonsense."""
        return ~(self.is_nonsense | self.is_copy)


class CropFilter:
    """Checks drawn crops of one class against its donors."""

    def __init__(
        self,
        judges: Judges,
        donors: Tensor,
        held_out: Tensor,
        label: int,
        *,
        symmetry: str = "none",
    ) -> None:
        self._judges, self._label = judges, label
        self.threshold = float(held_out[:, label].quantile(1 - KEPT_REAL))
        self.recall = float((~self._is_nonsense(held_out)).float().mean())
        self._spaces = [
            _Space(describe, donors, symmetry) for describe in (judges.features, small_pixels)
        ]
        self._kept: list[list[Tensor]] = [[] for _ in self._spaces]

    def __call__(self, images: Tensor) -> Verdict:
        """Check drawn crops, float [N, 3, S, S] in -1..1."""
        probabilities = self._judges.probabilities(images)
        found = [space.nearest(images) for space in self._spaces]
        distance, nearest = found[0]
        return Verdict(
            confidence=probabilities[:, self._label],
            is_nonsense=self._is_nonsense(probabilities),
            is_copy=torch.stack([distances < 1 for distances, _ in found]).any(dim=0),
            nearest=nearest,
            distance=distance,
        )

    def is_repeat(self, image: Tensor) -> bool:
        """Whether a crop, float [3, S, S], is as near to a remembered one as a copy to a donor."""
        return any(
            bool(kept) and bool((space.distances(image[None], torch.cat(kept)) < 1).any())
            for space, kept in zip(self._spaces, self._kept, strict=True)
        )

    def remember(self, image: Tensor) -> None:
        """Keep a crop, float [3, S, S], in mind."""
        for space, kept in zip(self._spaces, self._kept, strict=True):
            kept.append(space.describe(image[None]))

    def accepts(self, probabilities: Tensor) -> Tensor:
        """Whether crops with these probabilities, float [N, K' + 1], pass for the class."""
        return ~self._is_nonsense(probabilities)

    def _is_nonsense(self, probabilities: Tensor) -> Tensor:
        too_low = probabilities[:, self._label] < self.threshold
        return too_low | (probabilities.argmax(dim=1) != self._label)


class _Space:
    """Donors in one description, with the distance below which a crop is a copy."""

    def __init__(self, describe: Describe, donors: Tensor, symmetry: str) -> None:
        self.describe = describe
        turned = [symmetric_copy(donors, i) for i in range(SYMMETRIES[symmetry])]
        self._donors = torch.cat([describe(copy) for copy in turned])
        self._number = number = len(donors)
        between = torch.cdist(self._donors[:number], self._donors)
        own = torch.arange(len(self._donors)) % number == torch.arange(number)[:, None]
        between[own | (between < _SAME)] = float("inf")
        nearest = between.amin(dim=1)
        nearest = nearest[nearest.isfinite()]
        self.limit = float(nearest.quantile(COPY_QUANTILE)) if len(nearest) else _SAME

    def distances(self, images: Tensor, others: Tensor) -> Tensor:
        """Distances to others that are described, over the limit, float [N, number of others]."""
        return torch.cdist(self.describe(images), others) / self.limit

    def nearest(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the nearest donor over the limit, and the donor's row."""
        distances, places = self.distances(images, self._donors).min(dim=1)
        return distances, places % self._number


def small_pixels(images: Tensor) -> Tensor:
    """Pixels float [N, 3 * 16 * 16], each the mean of a square."""
    return avg_pool2d(images, images.shape[2] // 16).flatten(1)


_ROUNDS = 20  # as many crops as are wanted are drawn so often at most
_LARGEST = 3  # times the side of what the generator draws
_LEAST_SHARE = 0.02  # of the drawn crops; a generator with fewer good ones has learned nothing


@dataclass(frozen=True, eq=False)
class Kept:
    """A crop that passed the checks."""

    pixels: Crop
    facts: dict[str, Any]


def draw_class(
    training: GanTraining,
    check: CropFilter,
    label: int,
    donors: Sequence[Crop],
    annotation_ids: NDArray[np.int64],
    result: ClassResult,
    *,
    wanted: int,
    bi_level: bool,
    seed: int,
) -> list[Kept]:
    """Draw crops until enough have passed, and count in `result` what became of them."""
    noise = torch.Generator().manual_seed(1_000_003 * seed + label)
    random = np.random.default_rng((seed, label))
    size = training.settings.size
    kept: list[Kept] = []
    for _ in range(_ROUNDS):
        drawn = training.sample(torch.full((wanted,), label), noise)
        crops = [
            _like_a_donor(as_pixels(image), donors[int(random.integers(len(donors)))], bi_level)
            for image in drawn
        ]
        images = as_tensor(crops, size)
        verdict = check(images)
        for n, pixels in enumerate(crops):
            if len(kept) == wanted:
                break
            result.made += 1
            if verdict.is_nonsense[n]:
                result.nonsense += 1
            elif verdict.is_copy[n]:
                result.copies += 1
            elif check.is_repeat(images[n]):
                result.repeats += 1
            else:
                check.remember(images[n])
                facts = {
                    "nearest_annotation_id": int(annotation_ids[verdict.nearest[n]]),
                    "distance": round(float(verdict.distance[n]), 4),
                    "confidence": round(float(verdict.confidence[n]), 4),
                }
                kept.append(Kept(pixels, facts))
        if len(kept) == wanted:
            break
    if len(kept) < max(2, _LEAST_SHARE * result.made):
        result.left_out = f"{len(kept)} of {result.made} crops passed the checks"
        kept = []
    result.kept = len(kept)
    return kept


def _like_a_donor(pixels: Crop, donor: Crop, bi_level: bool) -> Crop:
    """A drawn crop in the width and height of a donor, no larger than it can be sharp."""
    height, width = donor.shape[:2]
    scale = min(1.0, _LARGEST * pixels.shape[0] / max(height, width))
    pixels = resize(pixels, max(1, round(width * scale)), max(1, round(height * scale)))
    if not bi_level:
        return pixels
    grey = pixels.mean(axis=2, keepdims=True) >= 127.5
    return np.repeat(np.where(grey, 255, 0), 3, axis=2).astype(np.uint8)
