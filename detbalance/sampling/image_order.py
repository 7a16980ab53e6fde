"""Which image a factor is of: ids that go with the factors, and the order of a data set's images.

A file lists its images in one order, and a data set may give them in another: torchvision's
`CocoDetection` sorts them by id. Letters: M images of the file, D of the data set.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import Int64


class Factors(npt.NDArray[np.float64]):
    """Factors, float64 [M], that know the image of each, as far as arithmetic alone made them."""

    image_ids: Int64 | None = None

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        """Let what arithmetic makes keep the ids; factors of different images do not multiply."""
        if array.shape != self.shape or array.dtype != self.dtype:
            return array[()] if array.ndim == 0 else np.asarray(array)
        inputs = context[1] if context else [self]
        known = [ids for v in inputs if (ids := getattr(v, "image_ids", None)) is not None]
        if any(not np.array_equal(ids, known[0]) for ids in known[1:]):
            raise ValueError(
                "factors: two arrays are of different images, or of the same in another order."
                " Factors of the same annotations are expected. Compute both from one file."
            )
        return factors_of(array, known[0] if known else None)

    def __repr__(self) -> str:
        """As of any array."""
        return repr(np.asarray(self))


def factors_of(values: npt.NDArray[np.float64], image_ids: Int64 | None) -> Factors:
    """Say of which images an array of factors is."""
    result = values.view(Factors)
    result.image_ids = image_ids
    return result


def image_ids_of(dataset: Any) -> Int64 | None:
    """Ask a data set for the id of each of its images, in its order."""
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):
        inner = image_ids_of(dataset.dataset)
        return None if inner is None else inner[np.asarray(dataset.indices, dtype=np.int64)]
    if "image_id" in (getattr(dataset, "column_names", None) or ()):
        ids = dataset["image_id"]
    else:
        ids = getattr(getattr(dataset, "annotations", dataset), "image_ids", None)
        ids = getattr(dataset, "ids", None) if ids is None else ids
    ids = np.asarray(ids)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        return None
    return ids.astype(np.int64)


def rows_in_order(
    where: str, num_images: int, image_ids: Int64 | None, dataset: Any
) -> tuple[Int64 | None, Int64 | None]:
    """Find the row of the file that each image of a data set is."""
    dataset_ids = None if dataset is None else image_ids_of(dataset)
    if dataset_ids is None or image_ids is None:
        if isinstance(dataset, Sized) and len(dataset) != num_images:
            raise ValueError(
                f"{where}: the data set has {len(dataset)} images, and {num_images} are balanced."
                " The same images in the same order are expected. Compute the factors from the"
                " file that the data set reads."
            )
        return None, image_ids if dataset_ids is None else dataset_ids
    if np.array_equal(dataset_ids, image_ids):
        return None, image_ids
    by_id = np.argsort(image_ids, kind="stable")
    places = np.searchsorted(image_ids, dataset_ids, sorter=by_id).clip(max=num_images - 1)
    rows = by_id[places]
    missing = np.flatnonzero(image_ids[rows] != dataset_ids)
    if len(missing):
        raise ValueError(
            f"{where}: {len(missing)} of {len(dataset_ids)} images of the data set have no factor"
            f" (first: dataset[{missing[0]}], image id {dataset_ids[missing[0]]}). Factors of its"
            " images are expected. Compute them from the file that the data set reads."
        )
    return rows, dataset_ids
