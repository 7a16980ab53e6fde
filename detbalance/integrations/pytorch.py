"""A PyTorch loader that can be saved and taken up again after any batch."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from detbalance.sampling.batches import BalancedBatchSampler


class ResumableLoader(DataLoader[Any]):
    """A `DataLoader` whose state is the last batch that it gave, not the last that workers read.

    Lightning saves and restores the state of such a loader by itself.

    Args:
        dataset: indexed like the factors.
        batch_sampler: of this process.
        **options: of `DataLoader`.
    """

    def __init__(self, dataset: Any, batch_sampler: BalancedBatchSampler, **options: Any) -> None:
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
