"""Write detections as a COCO results file."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec
import numpy as np

from detbalance.data.annotations import Annotations
from detbalance.data.files import replace_file
from detbalance.data.predictions import Predictions

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
