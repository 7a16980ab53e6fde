"""The endless stream of training batches, which can be taken up again at any batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from detbalance.detection.dataset import DetectionDataset, Draw, collate, worker_init
from detbalance.sampling import RepeatFactorSampler


class BatchStream:
    """Batches of draws without end, running over the borders of epochs.

    A draw carries its place in the run's one global stream. The dataset seeds its augmentation from
    that place, so that an image's augmentation does not depend on which worker made it, on how many
    workers or processes there are, or on how often the run was interrupted.

    Args:
        sampler: decides the order; this object sets its epochs.
        batch_size: draws a batch on this process.
    """

    def __init__(self, sampler: RepeatFactorSampler, batch_size: int) -> None:
        self._sampler = sampler
        self._batch_size = batch_size
        self._epoch = 0
        self._position = 0
        # Where the stream stood after each batch handed out since the last `state_dict`: a
        # loader's workers read ahead, so the place of the last one is not that of the training.
        self._places = {0: (0, 0)}

    def __iter__(self) -> Iterator[list[Draw]]:
        batch: list[Draw] = []
        epoch, position = self._epoch, self._position
        step, number = self._sampler.world_size, 0
        while True:
            self._sampler.load_state_dict(self._state(epoch, position))
            for index in self._sampler:
                batch.append(Draw(index, (epoch << 32) | (position + self._sampler.rank)))
                position += step
                if len(batch) == self._batch_size:
                    number += 1
                    self._places[number] = (epoch, position)
                    yield batch
                    batch = []
            epoch, position = epoch + 1, 0

    def _state(self, epoch: int, position: int) -> dict[str, Any]:
        return {**self._sampler.state_dict(0), "epoch": epoch, "position": position}

    def state_dict(self, batches: int) -> dict[str, Any]:
        """The sampler's state after the first `batches` batches of the iterator.

        The training loop counts them; earlier places are forgotten.
        """
        self._places = {n: place for n, place in self._places.items() if n >= batches}
        return self._state(*self._places[batches])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken, also on another number of processes."""
        self._sampler.load_state_dict(state)
        self._epoch, self._position = state["epoch"], state["position"]
        self._places = {0: (self._epoch, self._position)}

    def loader(self, dataset: DetectionDataset, workers: int) -> DataLoader[Any]:
        """A loader of these batches, from where the stream stands."""
        return DataLoader(
            dataset,
            batch_sampler=self,
            num_workers=workers,
            collate_fn=collate,
            worker_init_fn=worker_init,
            # Its own generator: a loader without one draws from torch's global state.
            generator=torch.Generator().manual_seed(0),
            pin_memory=torch.cuda.is_available(),
        )
