"""A stream of image indices in which every class has its turn equally often.

Letters: M images, K' classes with boxes, T draws of an epoch over all ranks.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from detbalance.sampling.labels import ImageLabels, LabelsLike
from detbalance.sampling.order import rows_in_order
from detbalance.sampling.shares import background_share
from detbalance.sampling.streams import (
    DRAWING,
    WALKING,
    Int64,
    StreamSampler,
    checked_integer,
    generator_of,
)

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
        seed: >= 0.
        rank: of this process, in 0..world_size-1.
        world_size: number of processes.
        infinite: go on with the next epoch at the end of one.
        dataset: that the indices are for. Where it tells its image ids (`image_ids_of`) and the
            annotations know theirs, they are put into its order; else it must have as many images.
        **arrays: instead of data: image_index, labels, num_images, is_crowd as of `ImageLabels`.

    Attributes:
        epoch: the epoch of the current draw.
        epoch_length: T.
        image_ids: int64 [M], of the images that the indices mean, as far as known.

    Raises:
        ValueError: if the labels are not as described, a number is out of its range, a background
            share is given where all images or none have boxes, or the data set has an image that
            the annotations have not.
        TypeError: if labels, target_length, seed, rank or world_size are not integers.

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
        held = ImageLabels.of(_NAME, data, arrays)
        rows, self.image_ids = rows_in_order(_NAME, len(held), held.image_ids, dataset)
        held = held if rows is None else held.in_order(rows)
        length = held.num_images
        if target_length is not None:
            advice = "Leave it out for one draw per image."
            length = checked_integer(_NAME, "target_length", target_length, 1, advice=advice)
        self._empty = np.flatnonzero(~held.shows_boxes).astype(np.int32)
        self._empty_draws = background_share(_NAME, held, background) * length
        images, labels, _ = held.pairs
        by_class = np.argsort(labels, kind="stable")
        ends = np.cumsum(held.image_counts[held.image_counts > 0])
        self._images = [part for part in np.split(images[by_class], ends) if len(part)]
        digest = hashlib.blake2b(digest_size=16)
        for part in (images, labels, np.array([held.num_images, length, self._empty_draws])):
            digest.update(part.data)
        super().__init__(
            held.num_images,
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
        given = np.empty((cycles + 1, number), dtype=np.int32)
        for source, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
            given[: stop - start, source] = self._walk(source, start, stop)
        order = np.tile(np.arange(number, dtype=np.int32), (cycles, 1))
        order = generator.permuted(order, axis=1)
        in_order = np.take_along_axis(given[:cycles], order, axis=1).ravel()
        if not rest:
            return in_order
        last = generator.permutation(np.flatnonzero(stops - starts > cycles))
        return np.concatenate([in_order, given[cycles, last]])

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
