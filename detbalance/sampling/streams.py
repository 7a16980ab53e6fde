"""Streams of items, one global stream an epoch, of which each rank gives its own; resumable.

What a stream holds is drawn by a subclass: see `samplers.py` and `batches.py`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from torch.utils.data import Sampler

from detbalance.data.arrays import Int64
from detbalance.data.checks import check_number

Item = TypeVar("Item")

# Items looked up at once: few enough to cost no memory, enough to cost no time.
_CHUNK = 4096
# What random numbers are for, so that two uses never see the same ones.
DRAWING, WALKING, BATCHING = range(3)


def generator_of(seed: int, *use: int) -> np.random.Generator:
    """Make a generator of its own for one use of a seed; global random state plays no part."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=use)))


@dataclass
class _Place:
    """Where an iterator began in the global stream, and how many items it has given."""

    epoch: int
    position: int = 0
    taken: int = 0
    restored: bool = False


class EpochStream(Sampler[Item]):
    """Items of one global stream per epoch, of which each rank gives its own."""

    # What the digest is of, which is its key in the state too; what must be as it was for it to be
    # the same; what one item is.
    _made_from: ClassVar[str] = "factors"
    _to_keep: ClassVar[str] = "annotations and threshold"
    _counted: ClassVar[str] = "images, not batches,"

    def __init__(
        self, length: int, digest: str, *, seed: int, rank: int, world_size: int, infinite: bool
    ) -> None:
        super().__init__()
        self.seed = self._integer("seed", seed, 0)
        self.world_size = self._integer("world_size", world_size, 1)
        self.rank = self._integer("rank", rank, 0, self.world_size - 1)
        self.infinite = bool(infinite)
        self.epoch_length = length
        self.digest = digest
        self._at = _Place(0)

    @property
    @abstractmethod
    def epoch(self) -> int:
        """The epoch at which the next iterator begins."""

    @abstractmethod
    def _turn_to(self, epoch: int) -> None:
        """Make another epoch the current one."""

    @abstractmethod
    def _reader(self, epoch: int) -> Callable[[Int64], list[Item]]:
        """Give a function from positions in an epoch's stream to the items there."""

    def __len__(self) -> int:
        """Items per rank and epoch, equal on all ranks and in all epochs."""
        return math.ceil(self.epoch_length / self.world_size)

    def __iter__(self) -> Iterator[Item]:
        """Give this rank's items; the first time after `load_state_dict`, those that are left."""
        place = self._current_place()
        if place.epoch != self.epoch:
            self._turn_to(place.epoch)
        # Not the place of earlier iterators, which go on counting if they are still used.
        place = self._at = _Place(place.epoch, place.position if place.restored else 0)
        epoch, position = place.epoch, place.position + self.rank
        rounds = max(0, math.ceil((self.epoch_length - place.position) / self.world_size))
        end = place.position + rounds * self.world_size
        # The reader of its own keeps its draw when set_epoch() is called during the iteration.
        read = self._reader(epoch)
        while self.infinite or position < end:
            if self.infinite:
                ahead, position = divmod(position, self.epoch_length)
                if ahead:
                    epoch += ahead
                    read = self._reader(epoch)
                end = self.epoch_length
            stop = min(end, position + _CHUNK * self.world_size)
            positions = np.arange(position, stop, self.world_size)
            for item in read(positions % self.epoch_length):
                place.taken += 1
                yield item
            position += len(positions) * self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Draw the stream of an epoch, and begin at its start."""
        epoch = self._integer("epoch", epoch, 0)
        if self._at.restored and (self.infinite or epoch == self._at.epoch):
            return
        self._at = _Place(epoch)
        self._turn_to(epoch)

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Say where in the stream the ranks are, to continue there later."""
        place = self._current_place()
        used = place.taken if consumed is None else consumed
        if not 0 <= used <= place.taken:
            raise ValueError(
                f"{type(self).__name__}: consumed is {used}. Expected 0..{place.taken}, what was "
                f"handed out since the iterator was made. Count {self._counted} of this rank."
            )
        epoch, position = place.epoch, place.position + used * self.world_size
        if self.infinite:
            ahead, position = divmod(position, self.epoch_length)
            epoch += ahead
        return {
            "epoch": epoch,
            "position": position,
            "seed": self.seed,
            self._made_from: self.digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, also on another number of ranks."""
        name = type(self).__name__
        missing = {"epoch", "position", "seed", self._made_from} - set(state)
        if missing:
            raise ValueError(
                f"{name}: the state has no {', '.join(sorted(missing))}. Expected what "
                "state_dict() returned. Pass the sampler's part of the checkpoint."
            )
        if state[self._made_from] != self.digest:
            raise ValueError(
                f"{name}: the state was saved with other {self._made_from}. Expected the same "
                f"{self._to_keep} as when it was saved. Start a new epoch with set_epoch() if the "
                "data set has changed."
            )
        if state["seed"] != self.seed:
            raise ValueError(
                f"{name}: the state was saved with seed {state['seed']}, this sampler has seed "
                f"{self.seed}. Expected the same. Build the sampler with the saved seed."
            )
        epoch = self._integer("epoch", state["epoch"], 0)
        position = self._integer("position", state["position"], 0)
        if self.infinite and position >= self.epoch_length:
            # Saved at the padded end of a finite epoch.
            epoch, position = epoch + 1, 0
        self._turn_to(epoch)
        self._at = _Place(epoch, position, restored=True)

    def _current_place(self) -> _Place:
        """The place of the latest iterator, unless the epoch has changed since."""
        place = self._at
        if place.epoch == self.epoch or (place.restored and self.infinite):
            return place
        return _Place(self.epoch)

    def _integer(self, name: str, value: int, least: int, most: float = math.inf) -> int:
        advice = "Pass the values of this process."
        where = type(self).__name__
        check_number(where, name, value, least=least, most=most, whole=True, advice=advice)
        return int(value)


class StreamSampler(EpochStream[int]):
    """Image indices, drawn by a subclass: the parent of the samplers."""

    image_ids: Int64 | None = None

    def __init__(self, num_images: int, length: int, digest: str, **options: Any) -> None:
        super().__init__(length, digest, **options)
        self.num_images = num_images
        self._epoch = 0
        self._stream = self._draw(0)

    @abstractmethod
    def _draw(self, epoch: int) -> Int64:
        """Draw the global stream of an epoch, int64 [T], from `(self.seed, epoch)` alone."""

    @property
    def epoch(self) -> int:
        """The epoch of the current draw, at which the next iterator begins."""
        return self._epoch

    def epoch_indices(self, epoch: int | None = None) -> Int64:
        """Tell the images of an epoch, over all ranks."""
        epoch = self._epoch if epoch is None else self._integer("epoch", epoch, 0)
        return self._stream.copy() if epoch == self._epoch else self._draw(epoch)

    def _turn_to(self, epoch: int) -> None:
        if epoch != self._epoch:
            self._stream, self._epoch = self._draw(epoch), epoch

    def _reader(self, epoch: int) -> Callable[[Int64], list[int]]:
        stream = self._stream if epoch == self._epoch else self._draw(epoch)
        return lambda positions: stream[positions].tolist()
