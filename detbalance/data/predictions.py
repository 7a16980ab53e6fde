"""Detections of one model as flat arrays, and written as a COCO results file.

Dimension letters: D detections, K categories.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from detbalance.data.annotations import Annotations
from detbalance.data.arrays import Bool, Float64, Int64, ReadOnlyArrays
from detbalance.data.files import replace_file


@dataclass(frozen=True, eq=False)
class Predictions(ReadOnlyArrays):
    """Detections of one model on the images of one annotation file, in any order.

    Attributes:
        image_index: int64 [D], row of the image in the annotations.
        labels: int64 [D], 1..K.
        bbox: float64 [D, 4], xywh in pixels.
        scores: float64 [D].

    Raises:
        ValueError: if the arrays have different lengths or the wrong shape.

    Example:
        >>> one = Predictions(image_index=[0], labels=[2], bbox=[[5, 5, 10, 20]], scores=[0.9])
        >>> one.num_predictions, one.bbox.dtype
        (1, dtype('float64'))
    """

    image_index: Int64
    labels: Int64
    bbox: Float64
    scores: Float64

    def __post_init__(self) -> None:
        for name, dtype in (
            ("image_index", np.int64),
            ("labels", np.int64),
            ("bbox", np.float64),
            ("scores", np.float64),
        ):
            array = np.asarray(getattr(self, name), dtype=dtype)
            if name == "bbox" and array.size == 0:
                array = array.reshape(0, 4)
            object.__setattr__(self, name, array)
        count = len(self.scores)
        shapes = {
            "image_index": (self.image_index.shape, (count,)),
            "labels": (self.labels.shape, (count,)),
            "bbox": (self.bbox.shape, (count, 4)),
        }
        for name, (shape, expected) in shapes.items():
            if shape != expected:
                raise ValueError(
                    f"Predictions: {name} is {list(shape)} beside {count} scores. "
                    f"Expected {list(expected)}."
                )
        super().__post_init__()

    @property
    def num_predictions(self) -> int:
        """D, the number of detections."""
        return len(self.scores)

    def take(self, rows: Int64 | Bool) -> Predictions:
        """Return the detections of `rows` (indices in any order, or a mask)."""
        return Predictions(
            self.image_index[rows], self.labels[rows], self.bbox[rows], self.scores[rows]
        )

    def relabelled(self, labels: Int64) -> Predictions:
        """Give the detections the labels of another file.

        Args:
            labels: int64 [K + 1], the new label of each; what has the new label 0 is left out.
        """
        new = labels[self.labels]
        kept = new > 0
        return replace(self, labels=new).take(kept)


_CHUNK = 20_000  # entries encoded at a time, so that memory stays small


def save_predictions(
    path: str | os.PathLike[str], predictions: Predictions, annotations: Annotations
) -> None:
    """Write detections as a COCO results file, which any COCO tool reads.

    The file appears whole or not at all.

    Args:
        path: file to write; its folder must exist. An existing file is replaced.
        predictions: detections on the images of `annotations`.
        annotations: gives image ids and category ids.

    Raises:
        ValueError: if a label is not in 1..K, an image row does not exist, or a score or bbox is
            not finite.
    """
    rows = predictions.image_index
    wrong = (rows < 0) | (rows >= annotations.num_images)
    if wrong.any():
        raise ValueError(
            f"save_predictions(): image row {rows[wrong][0]} does not exist. "
            f"{annotations.source} has rows 0 to {annotations.num_images - 1}."
        )
    wrong = ~(np.isfinite(predictions.scores) & np.isfinite(predictions.bbox).all(axis=1))
    if wrong.any():
        raise ValueError(
            f"save_predictions(): {np.count_nonzero(wrong)} detections have a score or bbox that "
            f"is not finite (first: detection {np.argmax(wrong)}). Leave them out."
        )
    image_ids = annotations.image_ids[rows]
    category_ids = annotations.categories.category_ids(predictions.labels)

    def entries(start: int, stop: int) -> Iterator[bytes]:
        for image_id, category_id, bbox, score in zip(
            image_ids[start:stop].tolist(),
            category_ids[start:stop].tolist(),
            predictions.bbox[start:stop].tolist(),
            predictions.scores[start:stop].tolist(),
            strict=True,
        ):
            yield msgspec.json.encode(
                {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}
            )

    with replace_file(path) as file:
        file.write(b"[")
        for start in range(0, predictions.num_predictions, _CHUNK):
            file.write(b",\n" if start else b"\n")
            file.write(b",\n".join(entries(start, start + _CHUNK)))
        file.write(b"]\n")
