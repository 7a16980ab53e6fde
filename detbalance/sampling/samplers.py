"""A stream of image indices for a data loader, drawn by factors per image.

Letters: M images, T draws of an epoch over all ranks.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from detbalance.sampling.order import rows_in_order
from detbalance.sampling.streams import DRAWING, Int64, StreamSampler, generator_of


class RepeatFactorSampler(StreamSampler):
    """Draw each image as often as its factor says, in an order that can be told in advance.

    One global stream per epoch is drawn from `(seed, epoch)` alone, by a generator of its own. It
    has T = round(sum of factors) indices in every epoch. Each image is in it floor(factor) or
    ceil(factor) times, and the expected count is the factor itself: the fractions are laid end to
    end in random order and every whole step from a random start picks one (systematic rounding).
    Where the factors do not sum to a whole number the fractions are moved towards 0 or 1 together,
    by less than half an image in all.

    Rank r takes the positions r, r + world_size, ... of the stream. Where its length does not
    divide by `world_size`, the stream continues with its own beginning, so that all ranks have the
    same length and no draw is lost; at most world_size - 1 draws are seen twice for that.

    Call `set_epoch` before each epoch, or all epochs are the same. The draw is fixed then: `len`
    and order do not change while a loader runs. Loops that count iterations instead of epochs pass
    `infinite=True`: the iterator then goes on with the next epoch by itself and never ends; nothing
    is padded, and `len` stays the images per epoch and rank.

    Args:
        factors: [M], finite, >= 0; expected draws of each image in one epoch.
        seed: >= 0.
        rank: of this process, in 0..world_size-1.
        world_size: number of processes.
        infinite: go on with the next epoch at the end of one.
        dataset: that the indices are for. Where it tells its image ids (`image_ids_of`) and the
            factors know theirs, they are put into its order; else it must have as many images.

    Attributes:
        repeat_factors: float64 [M], the factors, read-only.
        image_ids: int64 [M], of the images that the indices mean, as far as known.
        epoch: the epoch of the current draw.
        epoch_length: T.

    Raises:
        ValueError: if the factors are not as described or all 0, a number is out of its range, or
            the data set has an image without a factor.
        TypeError: if seed, rank or world_size is not an integer.

    Example:
        >>> sampler = RepeatFactorSampler([2.0, 1.5, 0.5, 0.0], seed=3)
        >>> len(sampler)
        4
        >>> sampler.set_epoch(1)
        >>> sorted(sampler)[:3]
        [0, 0, 1]

    Source: the factors' stochastic rounding: Wu et al., Detectron2, 2019, repeat factor sampler.
    Differs: systematic instead of independent rounding, so the length is fixed; resumable; finite
    unless told otherwise.
    """

    def __init__(
        self,
        factors: npt.ArrayLike,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        infinite: bool = False,
        dataset: Any = None,
    ) -> None:
        values = _checked_factors(factors)
        known = getattr(factors, "image_ids", None)
        name = type(self).__name__
        rows, self.image_ids = rows_in_order(name, len(values), known, dataset)
        self.repeat_factors = _read_only(values if rows is None else values[rows])
        whole, fractions, self._extra = _split(self.repeat_factors)
        # The copies that every epoch has; 32 bits hold the images of any set.
        images = np.arange(len(whole), dtype=np.int32)
        self._always = np.repeat(images, whole)
        self._sometimes = images[fractions > 0]
        self._fractions = fractions[self._sometimes]
        super().__init__(
            len(whole),
            len(self._always) + self._extra,
            hashlib.blake2b(self.repeat_factors.data, digest_size=16).hexdigest(),
            seed=seed,
            rank=rank,
            world_size=world_size,
            infinite=infinite,
        )

    def _draw(self, epoch: int) -> Int64:
        generator = generator_of(self.seed, DRAWING, epoch)
        # Neighbours in the file are often alike; in file order at most one of two small fractions
        # side by side would ever be drawn in the same epoch.
        order = generator.permutation(len(self._sometimes))
        ends = np.cumsum(self._fractions[order])
        points = np.arange(self._extra) + generator.random()
        steps = np.searchsorted(ends, points, side="right")
        # The last end may be a rounding error short of the last point.
        picked = self._sometimes[order[np.minimum(steps, len(order) - 1)]]
        stream = np.concatenate([self._always, picked], dtype=np.int64)
        generator.shuffle(stream)
        return stream


def _split(
    factors: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], int]:
    """Whole parts; fractions that sum to a whole number; that number."""
    whole = np.floor(factors)
    fractions = factors - whole
    exact = float(fractions.sum())
    # A tiny total still draws one image.
    extra = max(math.floor(exact + 0.5), int(not whole.any()))
    if extra < exact:
        fractions = fractions * (extra / exact)
    elif extra > exact:
        # Only images with a fraction may move, and none above 1.
        room = np.where(fractions > 0, 1.0 - fractions, 0.0)
        fractions = fractions + room * ((extra - exact) / room.sum())
    return whole.astype(np.int64), fractions, extra


def _checked_factors(factors: npt.ArrayLike) -> npt.NDArray[np.float64]:
    values = np.array(factors, dtype=np.float64)
    advice = "Build them with detbalance.sampling.repeat_factors()."
    if values.ndim != 1 or not len(values):
        raise ValueError(
            f"RepeatFactorSampler: factors have the shape {values.shape}. Expected one number per "
            f"image. {advice}"
        )
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        raise ValueError(
            f"RepeatFactorSampler: {len(bad)} factors are not usable (first: factors[{bad[0]}] is "
            f"{values[bad[0]]}). Expected finite numbers >= 0. {advice}"
        )
    if not values.any():
        raise ValueError(
            f"RepeatFactorSampler: all {len(values)} factors are 0. Expected at least one above 0. "
            "An epoch would have no image."
        )
    return values


def _read_only(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    values.flags.writeable = False
    return values
