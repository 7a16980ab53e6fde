"""Boxes of tensors, arrays or lists as checked columns, without importing the library they are of.

Letters: n boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from detbalance.data.categories import shorten
from detbalance.data.wording import counted

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
BoxFormat = Literal["xyxy", "xywh", "cxcywh"]


@dataclass(frozen=True, eq=False)
class BoxColumns:
    """Boxes of one image or of many, one row each."""

    boxes: Float64
    labels: Int64
    image_index: Int64
    scores: Float64
    iscrowd: Int64
    area: Float64

    @classmethod
    def read(cls, entry: Any, where: str, needed: Sequence[str]) -> BoxColumns:
        """Take the columns from a dict of tensors, arrays or lists."""
        needed = ("boxes", "labels", *needed)
        if not isinstance(entry, Mapping):
            raise ValueError(
                f"{where}: this is a {type(entry).__name__}. Expected a dict with "
                f"{', '.join(needed)}. Pass one."
            )
        missing = [key for key in needed if key not in entry]
        if missing:
            raise ValueError(
                f'{where}: "{missing[0]}" is missing (keys: {shorten(list(entry))}). Expected '
                f"{', '.join(needed)}. Add it."
            )
        boxes = _numbers(entry["boxes"], where, "boxes")
        if boxes.size and boxes.shape[1:] != (4,):
            raise ValueError(f"{where}: boxes is {list(boxes.shape)}. Expected [n, 4]. Reshape it.")
        count = boxes.size // 4

        def column(key: str) -> Float64 | None:
            wanted = key in needed or (key in ("iscrowd", "area") and entry.get(key) is not None)
            return _column(entry[key], count, where, key) if wanted else None

        def whole(key: str) -> Int64:
            return _whole(column(key), count, where, key)

        scores, area = column("scores"), column("area")
        return cls(
            boxes=boxes.reshape(count, 4),
            labels=whole("labels"),
            image_index=whole("image_index"),
            scores=np.zeros(count) if scores is None else scores,
            iscrowd=whole("iscrowd"),
            area=np.full(count, np.nan) if area is None else area,
        )

    @classmethod
    def join(cls, images: Sequence[BoxColumns]) -> dict[str, npt.NDArray[Any]]:
        """Give the columns of all images as one dict, which `read` takes again."""
        if not images:
            return {field.name: np.zeros(0) for field in fields(cls)}
        joined = {
            field.name: np.concatenate([getattr(image, field.name) for image in images])
            for field in fields(cls)
        }
        counts = [len(image.boxes) for image in images]
        return {**joined, "image_index": np.repeat(np.arange(len(images)), counts)}

    def xywh(self, where: str, box_format: BoxFormat) -> Float64:
        """Return the boxes as left, top, width and height."""
        if box_format not in get_args(BoxFormat):
            known = ", ".join(get_args(BoxFormat))
            raise ValueError(f'box_format: "{box_format}" is unknown. Known: {known}. Choose one.')
        corner, size = self.boxes[:, :2], self.boxes[:, 2:]
        with np.errstate(over="ignore", invalid="ignore"):
            if box_format == "xyxy":
                size = size - corner
            elif box_format == "cxcywh":
                corner = corner - size / 2
            bbox = np.concatenate([corner, size], axis=1)
            wrong = ~(np.isfinite(bbox).all(axis=1) & (size >= 0).all(axis=1))
        if wrong.any():
            first = int(np.argmax(wrong))
            raise ValueError(
                f"{where}: {counted(int(wrong.sum()), 'box is', 'boxes are')} not finite or of"
                f" negative size (first: {self.boxes[first].tolist()} in image"
                f" {self.image_index[first]}). "
                f"Expected {box_format} boxes. Pass the box_format that they have."
            )
        return bbox


def _numbers(value: Any, where: str, key: str) -> Float64:
    """Anything that holds numbers as float64; torch tensors of any device and dtype too."""
    if hasattr(value, "detach"):
        # NumPy has no bfloat16, so a tensor becomes double first.
        value = value.detach().cpu().double().numpy()
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as problem:
        raise ValueError(
            f"{where}: {key} is no array of numbers ({problem}). Expected a tensor, an array or a "
            "list. Convert it."
        ) from None


def _column(value: Any, count: int, where: str, key: str) -> Float64:
    """Numbers of one key, one per box."""
    array = _numbers(value, where, key)
    if array.size != count or array.ndim > 1:
        raise ValueError(
            f"{where}: {key} is {list(array.shape)} beside {counted(count, 'box')}. Expected"
            f" [{count}]. Give one per box."
        )
    return array.reshape(-1)


def _whole(values: Float64 | None, count: int, where: str, key: str) -> Int64:
    """Whole numbers of one key, zeros where there are none."""
    if values is None:
        return np.zeros(count, dtype=np.int64)
    limit = 1 if key == "iscrowd" else 2**53
    wrong = ~((values >= 0) & (values <= limit) & (values == np.floor(values)))
    if wrong.any():
        wanted = "0 or 1" if key == "iscrowd" else "whole numbers >= 0"
        raise ValueError(f"{where}: {key} has {values[wrong][0]}. Expected {wanted}. Correct it.")
    return values.astype(np.int64)
