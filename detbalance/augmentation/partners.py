"""Images to mix in, drawn by the factors of the sampler.

Letters: M images.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from detbalance.augmentation.contract import Image, Target, prepared

_logger = logging.getLogger(__name__)

Load: TypeAlias = Callable[[int], tuple[Image, Target]]

_ATTEMPTS = 5  # partners that are tried where files cannot be read


class Partners:
    """Images drawn by the factors of the sampler."""

    def __init__(self, owner: str, load: Load, factors: npt.ArrayLike) -> None:
        values = np.asarray(factors, np.float64)
        if values.ndim != 1 or not (np.isfinite(values) & (values >= 0)).all() or not values.sum():
            raise ValueError(
                f"{owner}: factors are {values}. Expected one number from 0 on for each image, not"
                " all 0. Give those of the sampler."
            )
        self._owner, self._load = owner, load
        self._cumulative = np.cumsum(values)
        self._named: set[int] = set()

    def draw(self, generator: np.random.Generator) -> tuple[Image, Target] | None:
        """Draw a partner; None where none of several could be read."""
        for _ in range(_ATTEMPTS):
            row = drawn_index(self._cumulative, generator)
            try:
                return prepared(self._owner, *self._load(row))
            except (ValueError, OSError) as error:
                if row not in self._named:
                    self._named.add(row)
                    _logger.warning("%s: a partner is left out: %s", self._owner, error)
        return None


def drawn_index(cumulative: NDArray[np.float64], generator: np.random.Generator) -> int:
    """Draw an index by the cumulative sums of the weights."""
    found = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
    # The product may be rounded up to the sum itself.
    return int(min(found, np.searchsorted(cumulative, cumulative[-1])))
