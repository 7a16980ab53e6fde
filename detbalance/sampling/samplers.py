"""A stream of image indices for a data loader, drawn by factors per image.

Letters: M images, L indices per rank and epoch.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler


class RepeatFactorSampler(Sampler[int]):
    """Draw each image as often as its factor says, in an order that can be told in advance.

    One global stream per epoch is drawn from `(seed, epoch)` alone, by a generator of its own. It
    has round(sum of factors) indices in every epoch. Each image is in it floor(factor) or
    ceil(factor) times, and the expected count is the factor itself: the fractions are laid end to
    end in random order and every whole step from a random start picks one (systematic rounding).
    Where the factors do not sum to a whole number the fractions are moved towards 0 or 1 together,
    by less than half an image in all.

    Rank r takes the positions r, r + world_size, ... of the stream. Where its length does not
    divide by `world_size`, the stream continues with its own beginning, so that all ranks have the
    same length and no draw is lost; at most world_size - 1 draws are seen twice for that.

    Call `set_epoch` before each epoch, or all epochs are the same. The draw is fixed then: `len`
    and order do not change while a loader runs.

    Args:
        factors: [M], finite, >= 0; expected draws of each image in one epoch.
        seed: >= 0.
        rank: of this process, in 0..world_size-1.
        world_size: number of processes.

    Attributes:
        repeat_factors: float64 [M], the factors, read-only.
        epoch: the epoch of the current draw.

    Raises:
        ValueError: if the factors are not as described or all 0, or a number is out of its range.
        TypeError: if seed, rank or world_size is not an integer.

    Example:
        >>> sampler = RepeatFactorSampler([2.0, 1.5, 0.5, 0.0], seed=3)
        >>> len(sampler)
        4
        >>> sampler.set_epoch(1)
        >>> sorted(sampler)[:3]
        [0, 0, 1]

    Source: the factors' stochastic rounding: Wu et al., Detectron2, 2019, repeat factor sampler.
    Differs: systematic instead of independent rounding, so the length is fixed; finite and
    resumable.
    """

    def __init__(
        self, factors: npt.ArrayLike, *, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__()
        self.repeat_factors = _checked_factors(factors)
        self.seed = _checked_integer("seed", seed, 0, None)
        self.world_size = _checked_integer("world_size", world_size, 1, None)
        self.rank = _checked_integer("rank", rank, 0, self.world_size - 1)
        self._whole, self._fractions, self._extra = _split(self.repeat_factors)
        self._total = int(self._whole.sum()) + self._extra
        self._digest = hashlib.blake2b(self.repeat_factors.tobytes(), digest_size=16).hexdigest()
        self.epoch = 0
        self._stream = self._draw()
        # Global position at which the current iteration began; what this rank took since then.
        self._start = 0
        self._taken = 0
        self._continues = False

    def __len__(self) -> int:
        """Indices per rank and epoch, equal on all ranks and in all epochs."""
        return math.ceil(self._total / self.world_size)

    def __iter__(self) -> Iterator[int]:
        """Give this rank's indices; the first time after `load_state_dict`, those that are left."""
        if not self._continues:
            self._start = 0
        self._continues = False
        self._taken = 0
        rounds = max(0, math.ceil((self._total - self._start) / self.world_size))
        positions = self._start + self.rank + self.world_size * np.arange(rounds)
        # A list of its own: set_epoch() during the iteration does not reach it.
        for index in self._stream[positions % self._total].tolist():
            self._taken += 1
            yield index

    def set_epoch(self, epoch: int) -> None:
        """Draw the stream of an epoch and begin at its start.

        Setting the epoch that `load_state_dict` has just restored keeps the restored position, so
        that a training loop can call this in every epoch, also in the first after a resume.

        Args:
            epoch: >= 0.

        Raises:
            ValueError: if the epoch is negative.
            TypeError: if the epoch is not an integer.
        """
        epoch = _checked_integer("epoch", epoch, 0, None)
        if epoch == self.epoch and self._continues:
            return
        self._start, self._taken, self._continues = 0, 0, False
        if epoch != self.epoch:
            self.epoch = epoch
            self._stream = self._draw()

    def state_dict(self, consumed: int | None = None) -> dict[str, Any]:
        """Say where in the epoch the ranks are, to continue there later.

        Args:
            consumed: indices of *this rank* that were really used since its iterator was made. A
                loader with workers asks for indices ahead of the batches it has given out; without
                this number those would be skipped after a resume. None for all handed out.

        Returns:
            Plain numbers and strings: `epoch`, `position` (in the global stream, the same on all
            ranks that are in step), `seed`, `factors` (a digest).

        Raises:
            ValueError: if more were consumed than handed out, or less than none.
        """
        used = self._taken if consumed is None else consumed
        if not 0 <= used <= self._taken:
            raise ValueError(
                f"RepeatFactorSampler: consumed is {used}. Expected 0..{self._taken}, what was "
                "handed out since the iterator was made. Count images of this rank, not batches."
            )
        position = self._start + used * self.world_size
        return {
            "epoch": self.epoch,
            "position": position,
            "seed": self.seed,
            "factors": self._digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, also on another number of ranks.

        The next iteration gives what is left of the epoch: on the same world size exactly the
        indices that were left. `len` stays the length of a whole epoch.

        Args:
            state: from `state_dict` of any rank.

        Raises:
            ValueError: if it is not such a state, or comes from other factors or another seed.
        """
        missing = {"epoch", "position", "seed", "factors"} - set(state)
        if missing:
            raise ValueError(
                f"RepeatFactorSampler: the state has no {', '.join(sorted(missing))}. "
                "Expected what state_dict() returned. Pass the sampler's part of the checkpoint."
            )
        if state["factors"] != self._digest:
            raise ValueError(
                "RepeatFactorSampler: the state was saved with other factors. Expected the same "
                "annotations and threshold as when it was saved. Start a new epoch with set_epoch()"
                " if the data set has changed."
            )
        if state["seed"] != self.seed:
            raise ValueError(
                f"RepeatFactorSampler: the state was saved with seed {state['seed']}, this sampler "
                f"has seed {self.seed}. Expected the same. Build the sampler with the saved seed."
            )
        position = _checked_integer("position", state["position"], 0, None)
        self.set_epoch(state["epoch"])
        self._start, self._taken, self._continues = position, 0, True

    def _draw(self) -> npt.NDArray[np.int64]:
        """The global stream of the epoch, int64 [round(sum of factors)]."""
        # Not the generator that seeds elsewhere use: another stream even for equal numbers.
        generator = np.random.Generator(np.random.Philox([self.seed, self.epoch]))
        counts = self._whole
        if self._extra:
            # Neighbours in the file are often alike; in file order at most one of two small
            # fractions side by side would ever be drawn in the same epoch.
            order = generator.permutation(np.flatnonzero(self._fractions))
            ends = np.cumsum(self._fractions[order])
            points = np.arange(self._extra) + generator.random()
            picked = np.searchsorted(ends, points, side="right")
            counts = counts.copy()
            # The last end may be a rounding error short of the last point.
            counts[order[np.minimum(picked, len(order) - 1)]] += 1
        stream = np.repeat(np.arange(len(counts)), counts)
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
    values.flags.writeable = False
    return values


def _checked_integer(name: str, value: int, low: int, high: int | None) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"RepeatFactorSampler: {name} is {value!r}. Expected an integer. Convert it with int()."
        ) from None
    if number < low or (high is not None and number > high):
        expected = f"{low} or more" if high is None else f"{low}..{high}"
        raise ValueError(
            f"RepeatFactorSampler: {name} is {number}. Expected {expected}. "
            "Pass the values of this process."
        )
    return number
