"""A PyTorch loader that can be saved and taken up again after any batch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from detbalance.sampling.batches import BalancedBatchSampler
from detbalance.sampling.image_order import image_ids_of


class ResumableLoader(DataLoader[Any]):
    """A `DataLoader` whose state is the last batch that it gave, not the last that workers read.

    Lightning saves and restores the state of such a loader by itself.

    Args:
        dataset: indexed like the factors.
        batch_sampler: of this process.
        **options: of `DataLoader`.

    Raises:
        ValueError: if the data set tells its image ids, and they are not those that the sampler's
            indices mean.
    """

    def __init__(self, dataset: Any, batch_sampler: BalancedBatchSampler, **options: Any) -> None:
        expected, ids = batch_sampler.sampler.image_ids, image_ids_of(dataset)
        if expected is not None and ids is not None and not np.array_equal(expected, ids):
            raise ValueError(
                "ResumableLoader: the data set gives its images in another order than the sampler"
                " means, or other images. One order is expected. Pass dataset=dataset to the"
                " sampler, too."
            )
        super().__init__(dataset, batch_sampler=batch_sampler, **options)
        self._batches, self._given = batch_sampler, 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._given = 0
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Say which batches were given, in plain numbers and strings, the same on all ranks."""
        return self._batches.state_dict(self._given)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch that was given, also on another number of processes."""
        self._given = 0
        self._batches.load_state_dict(state)
