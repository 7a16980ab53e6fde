"""The endless stream of training batches, which can be taken up again at any batch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from detbalance.detection.dataset import DetectionDataset, Draw, collate, worker_init
from detbalance.sampling.streams import StreamSampler


class BatchStream:
    """Batches of draws without end, running over the borders of epochs."""

    def __init__(self, sampler: StreamSampler, batch_size: int) -> None:
        assert sampler.infinite
        self._sampler = sampler
        self._batch_size = batch_size
        self._start = sampler.state_dict()

    def __iter__(self) -> Iterator[list[Draw]]:
        sampler = self._sampler
        sampler.load_state_dict(self._start)
        start = self._start["epoch"] * sampler.epoch_length + self._start["position"]
        draws = map(Draw, sampler, count(start + sampler.rank, sampler.world_size))
        while True:
            yield list(islice(draws, self._batch_size))

    def state_dict(self, batches: int) -> dict[str, Any]:
        """The sampler's state after the first `batches` batches of the iterator."""
        return self._sampler.state_dict(batches * self._batch_size)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken, also on another number of processes."""
        self._sampler.load_state_dict(state)
        self._start = state

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
