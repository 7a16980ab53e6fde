"""Batches that never hold an image twice, of one aspect ratio where asked, and of exact number.

Letters: M images, T draws of an epoch over all ranks, B images per batch, G groups.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Int64
from detbalance.data.checks import check_number
from detbalance.sampling.streams import BATCHING, EpochStream, StreamSampler, generator_of

# 32 bits hold the draws of any epoch, and half the memory.
_Small = npt.NDArray[np.integer[Any]]
_NAME = "BalancedBatchSampler"


class BalancedBatchSampler(EpochStream[list[int]]):
    """Form the batches of a whole epoch at once, so that copies of an image come apart.

    Repeated images that meet in a batch give the same gradient twice and narrow the statistics of
    batch normalisation. Here the draws of an epoch, the copies of an image one after the other, are
    dealt to the batches like cards: an image that is drawn k times is in k batches, or in all of
    them if they are fewer. No other way of filling them has fewer copies that meet.

    With groups a batch holds one group, apart from at most G batches that take what is left of
    neighbouring groups. An image meets itself only where its group has fewer full batches than the
    image has copies. Each draw is used once, and an epoch has exactly ceil(T / B) batches.

    The batches depend on `(seed, epoch)` of the sampler alone. Rank r takes the batches r, r +
    world_size, ...; in a finite epoch the ranks that would have one less take one of the first
    again. All but the last batch of an epoch are full. Pass it to
    `DataLoader(dataset, batch_sampler=...)`.

    `len`, `set_epoch`, `state_dict` and `load_state_dict` are those of the sampler, counted in
    batches. The epoch is the sampler's, so loops that set it there are understood too. Whether the
    batches end with the epoch is the sampler's `infinite`.

    Args:
        sampler: of the images; it is not iterated, its order is used.
        batch_size: B, on each rank.
        groups: int [M], for example from `aspect_ratio_groups`; neighbouring numbers may share a
            batch. None for one group.
        drop_last: leave out the last batch of an epoch where it is not full.

    Attributes:
        sampler: as given, and so batch_size and drop_last.
        epoch_length: batches of an epoch, over all ranks.

    Raises:
        ValueError: if the batch size is no whole number above 0, no batch would be left, or there
            is not one group per image.
        TypeError: if the sampler is of another kind, or groups are not integers.

    Example:
        >>> from detbalance.sampling import RepeatFactorSampler
        >>> batches = BalancedBatchSampler(RepeatFactorSampler([3.0, 1.0, 1.0, 1.0]), 2)
        >>> [0 in batch for batch in batches], len(batches)
        ([True, True, True], 3)

    Source: grouping by aspect ratio: torchvision, references/detection, `GroupedBatchSampler`.
    Differs: no image is drawn again to fill a batch, the length is exact, copies come apart.
    """

    _made_from = "batches"
    _to_keep = "sampler, batch size and groups"
    _counted = "batches"

    def __init__(
        self,
        sampler: StreamSampler,
        batch_size: int,
        *,
        groups: npt.ArrayLike | None = None,
        drop_last: bool = False,
    ) -> None:
        if not isinstance(sampler, StreamSampler):
            raise TypeError(
                f"{_NAME}: sampler is a {type(sampler).__name__}. Expected a sampler of this "
                "package, which can tell a whole epoch. Use RepeatFactorSampler(numpy.ones(M)) to "
                "draw each image once."
            )
        self.sampler = sampler
        advice = "Pass the images per batch of one process."
        check_number(_NAME, "batch_size", batch_size, least=1, whole=True, advice=advice)
        self.batch_size = int(batch_size)
        self.drop_last = bool(drop_last)
        draws = sampler.epoch_length
        number = draws // self.batch_size if self.drop_last else math.ceil(draws / self.batch_size)
        if not number:
            raise ValueError(
                f"{_NAME}: batch_size is {batch_size} for {draws} draws in an epoch. Expected at"
                " most as many, or drop_last=False."
            )
        self._groups = _checked_groups(groups, sampler.num_images)
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"{sampler.digest} {self.batch_size} {self.drop_last}".encode())
        if self._groups is not None:
            digest.update(self._groups.data)
        super().__init__(
            number,
            digest.hexdigest(),
            seed=sampler.seed,
            rank=sampler.rank,
            world_size=sampler.world_size,
            infinite=sampler.infinite,
        )

    @property
    def epoch(self) -> int:
        """The sampler's epoch, at which the next iterator begins."""
        return self.sampler.epoch

    def _turn_to(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def _reader(self, epoch: int) -> Callable[[Int64], list[list[int]]]:
        stream = self.sampler.epoch_indices(epoch)
        groups = None if self._groups is None else self._groups[stream]
        generator = generator_of(self.seed, BATCHING, epoch)
        dealt = stream[_deal(stream, groups, self.batch_size, generator)]
        size = self.batch_size
        return lambda numbers: [dealt[n * size : (n + 1) * size].tolist() for n in numbers.tolist()]


def aspect_ratio_groups(
    widths: npt.ArrayLike, heights: npt.ArrayLike, edges: Sequence[float] = (1.0,)
) -> Int64:
    """Sort images by their shape, so that those of a batch need little padding.

    Of annotations: `aspect_ratio_groups(*annotations.sizes.T)`.

    Args:
        widths: [M], pixels; 0 where unknown.
        heights: [M], pixels; 0 where unknown.
        edges: ascending ratios of width to height, above 0. An image on an edge is in the wider
            group. By default 0 is upright, and 1 square or wide.

    Returns:
        int64 [M], 0..len(edges). Images of unknown size count as square.

    Raises:
        ValueError: if the edges do not ascend from above 0, or widths and heights do not match.

    Example:
        >>> aspect_ratio_groups([640, 480, 500, 0], [480, 640, 500, 0])
        array([1, 0, 1, 1])
    """
    wide, high = np.asarray(widths, dtype=np.float64), np.asarray(heights, dtype=np.float64)
    if wide.ndim != 1 or wide.shape != high.shape:
        raise ValueError(
            f"aspect_ratio_groups(): widths have the shape {wide.shape}, heights {high.shape}. "
            "Expected one of each per image."
        )
    steps = np.asarray(edges, dtype=np.float64)
    if not (np.diff(steps, prepend=0.0) > 0).all():
        raise ValueError(
            f"aspect_ratio_groups(): edges are {list(edges)}. Expected ascending ratios of width "
            "to height above 0. Use [0.5, 1.0, 2.0] for four groups."
        )
    known = (wide > 0) & (high > 0)
    ratios = np.where(known, wide, 1.0) / np.where(known, high, 1.0)
    return np.searchsorted(steps, ratios, side="right").astype(np.int64)


def _deal(
    stream: Int64, groups: _Small | None, size: int, generator: np.random.Generator
) -> _Small:
    """Positions of the stream, so ordered that each further `size` of them are a batch."""
    if groups is None:
        groups = np.zeros(len(stream), dtype=np.uint16)
    drawn = np.bincount(groups).astype(np.int32)
    full = drawn // size
    copies, earlier, first = _copies(stream)
    room = full[groups]
    cost = np.where(earlier == 0, copies <= room, np.uint16(1) + (copies - earlier <= room))
    by_cost = np.lexsort((cost, groups)).astype(np.int32)
    is_left = np.zeros(len(stream), dtype=np.bool_)
    left = by_cost[_places(drawn) < np.repeat(drawn % size, drawn)]
    is_left[left] = True

    kept = np.empty(len(stream), dtype=np.int32)
    # Copies one after the other, images by their first draw.
    starts = np.cumsum(np.where(earlier == 0, copies, 0), dtype=np.int32) - copies
    kept[starts[first] + earlier] = np.arange(len(stream), dtype=np.int32)
    kept = kept[~is_left[kept]]
    if len(full) > 1:
        kept = kept[np.argsort(groups[kept], kind="stable")]
    width = np.repeat(full, full * size)
    row, batch = np.divmod(_places(full * size), width)
    batches = np.empty((int(full.sum()), size), dtype=np.int32)
    batches[np.repeat(np.cumsum(full) - full, full * size) + batch, row] = kept

    whole = len(left) // size * size
    batches = np.concatenate([batches, left[:whole].reshape(-1, size)], dtype=np.int32)
    batches = generator.permuted(generator.permutation(batches), axis=1)
    return np.concatenate([batches.ravel(), left[whole:]], dtype=np.int32)


def _copies(stream: Int64) -> tuple[_Small, _Small, _Small]:
    """Of each draw: how often its image is drawn, how often before, and the first time."""
    by_image = np.argsort(stream, kind="stable").astype(np.int32)
    starts = np.flatnonzero(np.diff(stream[by_image], prepend=-1))
    counts = np.diff(starts, append=len(stream)).astype(np.int32)
    copies, earlier, first = np.empty((3, len(stream)), dtype=np.int32)
    copies[by_image] = np.repeat(counts, counts)
    earlier[by_image] = _places(counts)
    first[by_image] = np.repeat(by_image[starts], counts)
    return copies, earlier, first


def _places(counts: npt.NDArray[np.integer[Any]]) -> _Small:
    """0 .. count - 1 for each count, one after the other."""
    ends = np.cumsum(counts, dtype=np.int32)
    return np.arange(ends[-1], dtype=np.int32) - np.repeat(ends - counts.astype(np.int32), counts)


def _checked_groups(groups: npt.ArrayLike | None, num_images: int) -> _Small | None:
    """Groups numbered 0 .. G - 1 in their order."""
    if groups is None:
        return None
    values = np.asarray(groups)
    if values.shape != (num_images,):
        raise ValueError(
            f"{_NAME}: groups have the shape {values.shape} for {num_images} images. Expected one "
            "number per image. Use aspect_ratio_groups()."
        )
    if not np.issubdtype(values.dtype, np.integer):
        raise TypeError(
            f"{_NAME}: groups are {values.dtype}. Expected integers. Use aspect_ratio_groups()."
        )
    return np.unique(values, return_inverse=True)[1].reshape(num_images).astype(np.int32)
