"""What the sizes of objects mean: for pasting them, and for finding them at an input size."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from detbalance.data import Annotations
from detbalance.data.arrays import Float64
from detbalance.data.categories import shorten
from detbalance.planning.detector_choice import choose_input_size, scales

# Of an image's area. On aquarium (natural photographs) pastes of the two classes above were placed
# in 70 and 67 of 100 cases, those of the three below in 93 to 99.
MEDIAN_TOO_LARGE, TENTH_TOO_LARGE = 0.02, 0.1
# Pixels at the input size, of the root of width x height.
SMALL = 12.0


def no_room_notes(train: Annotations, pasted: Collection[str]) -> Iterator[str]:
    """Say which of the pasted classes are so large that many pastes will find no place."""
    images = train.sizes.astype(np.float64).prod(axis=1)[train.image_index]
    sides = train.bbox[:, 2] * train.bbox[:, 3]
    shares = np.divide(sides, images, out=np.full(len(sides), np.nan), where=images > 0)
    large = []
    for name, own in _by_class(train, shares):
        if name in pasted and (
            np.median(own) > MEDIAN_TOO_LARGE or np.quantile(own, 0.9) > TENTH_TOO_LARGE
        ):
            large.append(f"{name} (median {np.median(own):.0%} of an image)")
    if large:
        yield (
            f"Many pastes will find no room, as the objects are large: {shorten(large)}. detbalance"
            " preview counts what is placed."
        )


def small_notes(train: Annotations, input_size: tuple[int, int] | None) -> Iterator[str]:
    """Say which classes are small rather than rare, at an input size (longer, shorter side)."""
    if not len(train.bbox) or not train.sizes.all() or train.is_crowd.all():
        return
    if input_size is None:
        size = choose_input_size(train)
        input_size = size.max_size, size.min_size
    longest, shortest = input_size
    scale = scales(train, shortest, longest)[train.image_index]
    sides = np.sqrt(train.bbox[:, 2] * train.bbox[:, 3]) * scale
    small = [
        f"{name} ({np.median(own):.0f} px)"
        for name, own in _by_class(train, sides)
        if np.median(own) < SMALL
    ]
    if small:
        yield (
            f"Small rather than rare: at {longest} x {shortest} pixels the median box is below"
            f" {SMALL:.0f} pixels for {shorten(small)}. A larger input (model.max_size,"
            " model.min_size) or crops (augmentation.crop) help there; sampling does not."
        )


def _by_class(train: Annotations, values: Float64) -> Iterator[tuple[str, Float64]]:
    for label, name in enumerate(train.categories.names, start=1):
        own = values[(train.labels == label) & ~train.is_crowd]
        own = own[~np.isnan(own)]
        if len(own):
            yield name, own
