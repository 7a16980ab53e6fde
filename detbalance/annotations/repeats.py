"""Boxes that a file lists more than once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detbalance.annotations.arrays import Annotations


def repeated_boxes(annotations: Annotations) -> npt.NDArray[np.bool_]:
    """Find annotations that say again what an earlier one says: same image, class and box.

    A crowd region repeats a crowd region only. The boxes are compared as the file has them, to the
    last digit; ids are not looked at.

    Returns:
        bool [N], True for each but the first of equal ones.
    """
    rows = (*annotations.bbox.T, annotations.is_crowd, annotations.labels, annotations.image_index)
    order = np.lexsort(rows)  # stable: of equal ones the first in the file comes first
    repeated = np.zeros(len(order), dtype=np.bool_)
    if len(order):
        equal = [values[order[1:]] == values[order[:-1]] for values in rows]
        repeated[order[1:]] = np.logical_and.reduce(equal)
    return repeated
