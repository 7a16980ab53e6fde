"""What an augmentation is: what goes in, what comes out, and what every one of them promises.

Letters: H, W height and width of the image, N boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[Any]
Target: TypeAlias = dict[str, NDArray[Any]]

MAX_SEED = 2**63 - 1  # what every library takes

PER_IMAGE = ("negative_labels", "not_exhaustive_labels", "pastes")
"""Arrays of a target that belong to the image; all others have one row per box."""


class Augmentation(Protocol):
    """Changes an image and its boxes together.

    Every implementation keeps these promises: nothing that was passed in is modified; all random
    draws come from `generator`, so that the same generator state gives the same result; every array
    of the target keeps one row per box, those named in `PER_IMAGE` apart; pixel values keep their
    type. An object that stays visible stays labelled: what is left of one whose box is dropped is
    painted over or becomes a crowd region. The result may share memory with what was passed in,
    and its image can be written to. Where the target has no `is_crowd`, no box is a crowd region;
    where it has no `areas`, they are those of the boxes.
    """

    def __call__(
        self, image: Image, target: Target, generator: np.random.Generator
    ) -> tuple[Image, Target]:
        """Return the changed image and target."""
        ...


class Compose:
    """Applies augmentations one after the other, all with the same generator.

    Args:
        augmentations: in the order in which they are applied. Mix first, then paste, then distort:
            pasted boxes then look no different from the others.
    """

    def __init__(self, augmentations: Sequence[Augmentation]) -> None:
        self.augmentations = tuple(augmentations)

    def __call__(
        self, image: Image, target: Target, generator: np.random.Generator
    ) -> tuple[Image, Target]:
        """Apply all augmentations, as `Augmentation.__call__` describes."""
        for augmentation in self.augmentations:
            image, target = augmentation(image, target, generator)
        return image, target


def prepared(owner: str, image: Image, target: Target) -> tuple[Image, Target]:
    """Return an image that can be written to, and its target with what may be missing."""
    wanted = "Expected boxes, labels, areas and is_crowd, arrays with one row for each box."
    for name in ("boxes", "labels"):
        if name not in target:
            raise ValueError(f'{owner}: the target has no "{name}". {wanted} Add it.')
    if "is_crowd" not in target or "areas" not in target:
        if "iscrowd" in target and "is_crowd" not in target:
            raise ValueError(f'{owner}: the target has "iscrowd". {wanted} Rename it to is_crowd.')
        boxes = np.asarray(target["boxes"], np.float64)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        target = {"is_crowd": np.zeros(len(boxes), np.bool_), "areas": areas, **target}
    return image if image.flags.writeable else image.copy(), target


def take_rows(target: Target, rows: NDArray[Any]) -> Target:
    """Return the target of some boxes only."""
    return {name: values if name in PER_IMAGE else values[rows] for name, values in target.items()}


def append_rows(target: Target, rows: Mapping[str, Any], number: int) -> Target:
    """Return the target with further boxes behind its own."""
    longer = {}
    for name, values in target.items():
        if name in PER_IMAGE:
            longer[name] = values
            continue
        added = rows.get(name)
        if added is None:
            added = np.zeros((number, *values.shape[1:]))
        longer[name] = np.concatenate([values, np.asarray(added).astype(values.dtype)])
    return longer


def check_range(owner: str, name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless `value` is in low..high."""
    if not low <= value <= high:  # written so that NaN fails
        raise ValueError(
            f"{owner}: {name} is {value}. Expected a number in {low:g}..{high:g}. Change {name}."
        )


def check_scale(owner: str, scale: tuple[float, float]) -> tuple[float, float]:
    """Return the smallest and the largest factor, or raise ValueError if they are none."""
    low, high = scale
    if not 0.001 <= low <= high <= 1000:
        raise ValueError(
            f"{owner}: scale is ({low}, {high}). Expected two factors in 0.001..1000 with"
            " 0 < smallest <= largest. Change scale."
        )
    return low, high
