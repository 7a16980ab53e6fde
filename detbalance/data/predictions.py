"""Detections of one model as flat arrays.

Dimension letters: D detections, K categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detbalance.data.arrays import ReadOnlyArrays

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


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

    def relabelled(self, labels: Int64) -> Predictions:
        """Give the detections the labels of another file.

        Args:
            labels: int64 [K + 1], the new label of each; what has the new label 0 is left out.
        """
        new = labels[self.labels]
        kept = new > 0
        return Predictions(self.image_index[kept], new[kept], self.bbox[kept], self.scores[kept])
