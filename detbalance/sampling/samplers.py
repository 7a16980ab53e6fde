"""Streams of image indices for a data loader: by factors per image, or class by class.

Letters: M images, K' classes with boxes, T draws of an epoch over all ranks.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Int64
from detbalance.data.checks import check_number
from detbalance.sampling.balance import background_share
from detbalance.sampling.image_order import rows_in_order
from detbalance.sampling.labels import ImageLabels, LabelsLike
from detbalance.sampling.streams import DRAWING, WALKING, StreamSampler, generator_of


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
        self.repeat_factors = values if rows is None else values[rows]
        self.repeat_factors.flags.writeable = False
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
            f"RepeatFactorSampler: factors have the shape {values.shape}. Expected one number per"
            f" image. {advice}"
        )
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        raise ValueError(
            f"RepeatFactorSampler: {len(bad)} factors are not usable (first: factors[{bad[0]}] is "
            f"{values[bad[0]]}). Expected finite numbers >= 0. {advice}"
        )
    if not values.any():
        raise ValueError(
            f"RepeatFactorSampler: all {len(values)} factors are 0. Expected at least one above 0."
        )
    return values


_Images = npt.NDArray[np.int32]
_NAME = "ClassAwareSampler"
# The source of the images without boxes; the classes are 0, 1, ...
_EMPTY = 1 << 30


class ClassAwareSampler(StreamSampler):
    """Give the classes their turns: a class first, then an image that shows it.

    Every class with boxes has one turn in each cycle, and each cycle has a new order. At its turn a
    class gives the next of its own images, in a shuffled order in which none comes again until all
    have come; then it shuffles them anew. Both go on over the ends of epochs. So in T' draws each
    class has floor(T' / K') or ceil(T' / K') turns, and who has one more goes round. An image that
    shows several classes is drawn for each of them.

    Images without boxes are one more source, with background * T draws in each epoch, rounded up
    or down so that their share is exact over the epochs, and evenly spread. Without them a detector
    forgets what is *not* an object; they are left out for `background=0` only.

    `class_aware_factors` gives the expected draws of each image by the same rule, for
    `RepeatFactorSampler` and for planning; this sampler also keeps the turns apart in time.

    Rank r takes the positions r, r + world_size, ...; padding, `set_epoch`, `infinite` and resuming
    are as in `RepeatFactorSampler`.

    Args:
        data: annotations, `ImageLabels`, or a list with the labels of each image. Crowd boxes do
            not count.
        target_length: T; None for M.
        background: share of the draws for images without boxes, in [0, 1). None for their share of
            the images; 0 never draws them.
        seed, rank, world_size, infinite, dataset: as of `RepeatFactorSampler`.
        **arrays: instead of data: image_index, labels, num_images, is_crowd as of `ImageLabels`.

    Attributes:
        epoch: the epoch of the current draw.
        epoch_length: T.
        image_ids: int64 [M], of the images that the indices mean, as far as known.

    Raises:
        ValueError: if the labels are not as described, a number is out of its range, a background
            share is given where all images or none have boxes, or the data set has an image that
            the annotations have not.
        TypeError: if labels are not integers.

    Example:
        >>> sampler = ClassAwareSampler([[1], [1], [1], [1], [2], []], target_length=7)
        >>> [list(sampler).count(image) for image in (4, 5)]
        [3, 1]

    Source: Shen et al., Relay Backpropagation, 2016, arXiv:1512.05830, sec. 3.2. Differs: images
    without boxes have a share; an epoch has a fixed length; draws depend on seed and epoch alone.
    """

    _made_from = "labels"
    _to_keep = "annotations, target_length and background"

    def __init__(
        self,
        data: LabelsLike = None,
        *,
        target_length: int | None = None,
        background: float | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        infinite: bool = False,
        dataset: Any = None,
        **arrays: npt.ArrayLike,
    ) -> None:
        image_labels = ImageLabels.of(_NAME, data, arrays)
        rows, self.image_ids = rows_in_order(
            _NAME, len(image_labels), image_labels.image_ids, dataset
        )
        image_labels = image_labels if rows is None else image_labels.in_order(rows)
        length = image_labels.num_images if target_length is None else target_length
        advice = "Leave it out for one draw per image."
        check_number(_NAME, "target_length", length, least=1, whole=True, advice=advice)
        length = int(length)
        self._empty = np.flatnonzero(~image_labels.shows_boxes).astype(np.int32)
        self._empty_draws = background_share(_NAME, image_labels, background) * length
        images, labels, _ = image_labels.pairs
        by_class = np.argsort(labels, kind="stable")
        ends = np.cumsum(image_labels.image_counts[image_labels.image_counts > 0])
        self._images = [part for part in np.split(images[by_class], ends) if len(part)]
        digest = hashlib.blake2b(digest_size=16)
        for part in (
            images,
            labels,
            np.array([image_labels.num_images, length, self._empty_draws]),
        ):
            digest.update(part.data)
        super().__init__(
            image_labels.num_images,
            length,
            digest.hexdigest(),
            seed=seed,
            rank=rank,
            world_size=world_size,
            infinite=infinite,
        )

    def _draw(self, epoch: int) -> Int64:
        generator = generator_of(self.seed, DRAWING, epoch)
        length = self.epoch_length
        # Draws of images without boxes before this epoch and after it.
        before, after = (math.floor(self._empty_draws * end + 0.5) for end in (epoch, epoch + 1))
        stream = np.empty(length, dtype=np.int64)
        for_empty = np.zeros(length, dtype=np.bool_)
        if after > before:
            # Steps of length / draws from a random start, rounded down: no two fall together.
            steps = np.arange(after - before) * length + generator.integers(length)
            for_empty[steps // (after - before)] = True
            stream[for_empty] = self._walk(_EMPTY, before, after)
        if self._images:
            turns = self._turns(epoch * length - before, (epoch + 1) * length - after, generator)
            stream[~for_empty] = turns
        return stream

    def _turns(self, before: int, after: int, generator: np.random.Generator) -> _Images:
        """The images of the classes' turns, of which there were some before the epoch."""
        number = len(self._images)
        # Counted as if the classes came in one fixed order; so who has one more goes round.
        place = generator_of(self.seed, DRAWING).permutation(number)
        starts, stops = ((end + number - 1 - place) // number for end in (before, after))
        cycles, rest = divmod(after - before, number)
        drawn = np.empty((cycles + 1, number), dtype=np.int32)
        for source, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
            drawn[: stop - start, source] = self._walk(source, start, stop)
        order = np.tile(np.arange(number, dtype=np.int32), (cycles, 1))
        order = generator.permuted(order, axis=1)
        in_order = np.take_along_axis(drawn[:cycles], order, axis=1).ravel()
        if not rest:
            return in_order
        last = generator.permutation(np.flatnonzero(stops - starts > cycles))
        return np.concatenate([in_order, drawn[cycles, last]])

    def _walk(self, source: int, start: int, stop: int) -> _Images:
        """Places start .. stop - 1 in a source's endless row of shuffled passes."""
        if start == stop:
            return np.zeros(0, dtype=np.int32)
        if source == _EMPTY:
            images, usual = self._empty, self._empty_draws
        else:
            images, usual = self._images[source], self.epoch_length / len(self._images)
        # Passes are shuffled in blocks that last for about an epoch, by one generator each.
        passes = math.ceil(usual / len(images))
        size = passes * len(images)
        first = start // size
        blocks = [
            generator_of(self.seed, WALKING, source, block).permuted(
                np.tile(images, (passes, 1)), axis=1
            )
            for block in range(first, -(-stop // size))
        ]
        return np.concatenate(blocks, axis=None)[start - first * size : stop - first * size]
