"""Boxes that a file lists more than once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from detbalance.data.annotations import Annotations


def repeated_boxes(annotations: Annotations) -> npt.NDArray[np.bool_]:
    """Find annotations that say again what an earlier one says: same image, class and box.

    A crowd region repeats a crowd region only. The boxes are compared as the file has them, to the
    last digit; ids are not looked at.

    Returns:
        bool [N], True for each but the first of equal ones.
    """
    return repeated_rows(
        *annotations.bbox.T, annotations.is_crowd, annotations.labels, annotations.image_index
    )


def repeated_rows(*columns: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Find rows of a table, given by its columns, that are equal to an earlier one."""
    order = np.lexsort(columns)  # stable: of equal ones the first in the file comes first
    repeated = np.zeros(len(order), dtype=np.bool_)
    if len(order):
        equal = [values[order[1:]] == values[order[:-1]] for values in columns]
        repeated[order[1:]] = np.logical_and.reduce(equal)
    return repeated
