"""Crops of one class: drawn, checked, and kept until there are enough.

Letters: N drawn crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detbalance.generation.crops import Crop, as_pixels, as_tensor, resize
from detbalance.generation.filters import CropFilter
from detbalance.generation.gan import GanTraining
from detbalance.generation.result import ClassResult

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
