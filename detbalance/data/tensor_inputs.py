"""Annotations and predictions from tensors or arrays, for evaluation without files.

Letters: M images, N annotations, D detections, n boxes of one image.

Letters: n boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from detbalance.data.annotations import Annotations
from detbalance.data.arrays import Float64, Int64, PackedBytes, offsets_of
from detbalance.data.boxes import clip_boxes
from detbalance.data.categories import Categories, find, shorten
from detbalance.data.messages import counted
from detbalance.data.predictions import Predictions

ClassNames = Sequence[str] | Mapping[int, str]


def from_tensors(
    predictions: Sequence[Mapping[str, Any]],
    targets: Sequence[Mapping[str, Any]],
    *,
    class_names: ClassNames | None = None,
    first_label: int | None = None,
    image_sizes: npt.ArrayLike | None = None,
    box_format: BoxFormat = "xyxy",
) -> tuple[Annotations, Predictions]:
    """Take what detectors and torchmetrics hold: one dict per image, of tensors or arrays.

    Torch tensors may be on any device, of any dtype, and may need gradients. Other keys, such as
    masks, are not read.

    Args:
        predictions: per image `boxes` [n, 4], `scores` [n], `labels` [n].
        targets: per image `boxes` [n, 4], `labels` [n], and where wanted `iscrowd` [n] (0 or 1)
            and `area` [n] (square pixels; width * height where it is missing).
        class_names: name of each label that the tensors use: `{0: "cat", 1: "owl"}`, or a list
            together with `first_label`. Without names, the labels that occur are the names.
        first_label: label of the first name of a list: 0, or 1 where 0 is background.
        image_sizes: [M, 2], width and height in pixels, where a later step asks for them.
        box_format: "xyxy" corners, "xywh" left, top and size, or "cxcywh" centre and size; pixels.

    Returns:
        The annotations and the predictions for every function of `detbalance.evaluation`. Image i
        has id i, category ids are the labels of the tensors, and labels are 1..K as everywhere.

    Raises:
        ValueError: if the sides have different lengths, a key is missing, shapes do not fit, a
            label has no name, or a box or a score cannot be; in one line with the first offender.

    Example:
        >>> annotations, predictions = from_tensors(
        ...     [{"boxes": [[5, 5, 20, 20]], "scores": [0.9], "labels": [0]}],
        ...     [{"boxes": [[5, 5, 21, 20]], "labels": [0]}],
        ...     class_names={0: "cat", 1: "owl"},
        ... )
        >>> annotations.categories.names, predictions.labels
        (('cat', 'owl'), array([1]))
    """
    if len(predictions) != len(targets):
        raise ValueError(
            f"from_tensors(): {len(predictions)} predictions beside {len(targets)} targets. "
            "Expected one of each per image. Give an image without boxes empty arrays."
        )
    found = [
        BoxColumns.read(entry, f"predictions[{i}]", ("scores",))
        for i, entry in enumerate(predictions)
    ]
    truth = [BoxColumns.read(entry, f"targets[{i}]", ()) for i, entry in enumerate(targets)]
    return from_arrays(
        BoxColumns.join(found),
        BoxColumns.join(truth),
        num_images=len(targets),
        class_names=class_names,
        first_label=first_label,
        image_sizes=image_sizes,
        box_format=box_format,
    )


def from_arrays(
    predictions: Mapping[str, Any],
    targets: Mapping[str, Any],
    *,
    num_images: int,
    class_names: ClassNames | None = None,
    first_label: int | None = None,
    image_sizes: npt.ArrayLike | None = None,
    box_format: BoxFormat = "xyxy",
) -> tuple[Annotations, Predictions]:
    """Take flat arrays of all images together, as `from_tensors` takes them image by image.

    Args:
        predictions: `boxes` [D, 4], `scores` [D], `labels` [D], and `image_index` [D], the place
            of each one's image, 0 to num_images - 1. Any order.
        targets: `boxes` [N, 4], `labels` [N], `image_index` [N], and where wanted `iscrowd` [N]
            and `area` [N].
        num_images: M, the images looked at, those without any box too.
        class_names: as in `from_tensors`.
        first_label: as in `from_tensors`.
        image_sizes: as in `from_tensors`.
        box_format: as in `from_tensors`.

    Returns:
        The annotations and the predictions, as `from_tensors`.

    Raises:
        ValueError: as `from_tensors`, and if an image index does not exist.

    Example:
        >>> annotations, predictions = from_arrays(
        ...     {"boxes": [[5, 5, 15, 15]], "scores": [0.9], "labels": [1], "image_index": [3]},
        ...     {"boxes": [[5, 5, 16, 15]], "labels": [1], "image_index": [3]},
        ...     num_images=4,
        ...     class_names=["cat", "owl"],
        ...     first_label=1,
        ...     box_format="xywh",
        ... )
        >>> annotations.num_images, annotations.bbox.tolist()
        (4, [[5.0, 5.0, 16.0, 15.0]])
    """
    found = BoxColumns.read(predictions, "predictions", ("scores", "image_index"))
    truth = BoxColumns.read(targets, "targets", ("image_index",))
    for where, side in (("predictions", found), ("targets", truth)):
        wrong = side.image_index >= num_images
        if wrong.any():
            raise ValueError(
                f"{where}: image_index has {side.image_index[wrong][0]}. Expected 0 to "
                f"{num_images - 1}. Let num_images be the number of all images."
            )
    used = np.union1d(found.labels, truth.labels)
    categories = _categories(used, class_names, first_label)
    known = np.array(categories.ids, dtype=np.int64)
    bbox = found.xywh("predictions", box_format)
    wrong = ~np.isfinite(found.scores)
    if wrong.any():
        raise ValueError(
            f"predictions: {counted(int(wrong.sum()), 'score is', 'scores are')} not finite"
            f" (first: {found.scores[wrong][0]} in image {found.image_index[wrong][0]}). Expected"
            " numbers. "
            "Leave these detections out."
        )
    labels = find(known, found.labels) + 1
    annotations = _annotations(truth, categories, num_images, image_sizes, box_format)
    return annotations, Predictions(found.image_index, labels, bbox, found.scores)


def _annotations(
    truth: BoxColumns,
    categories: Categories,
    num_images: int,
    image_sizes: npt.ArrayLike | None,
    box_format: BoxFormat,
) -> Annotations:
    """The ground truth, grouped by image."""
    sizes = np.zeros((num_images, 2), dtype=np.int64)
    if image_sizes is not None:
        given = np.asarray(image_sizes)
        if given.shape != sizes.shape:
            raise ValueError(
                f"image_sizes: this is {list(given.shape)}. Expected [{num_images}, 2], width and "
                "height of each image. Reshape it."
            )
        sizes[:] = given
    order = np.argsort(truth.image_index, kind="stable")
    image_index = truth.image_index[order]
    bbox = truth.xywh("targets", box_format)[order]
    empty = (bbox[:, 2:] == 0).any(axis=1)
    if empty.any():
        first = int(np.argmax(empty))
        raise ValueError(
            f"targets: {np.count_nonzero(empty)} boxes have no width or no height (first: "
            f"{truth.boxes[order[first]].tolist()} in image {image_index[first]}). Expected boxes "
            "that an object can be in. Leave them out."
        )
    area = truth.area[order]
    return Annotations(
        source="arrays",
        categories=categories,
        image_ids=np.arange(num_images),
        sizes=sizes.astype(np.int32),
        file_names=PackedBytes.from_items([b""] * num_images),
        offsets=offsets_of(np.bincount(image_index, minlength=num_images)),
        image_index=image_index,
        annotation_ids=np.arange(len(bbox)),
        labels=find(np.array(categories.ids, dtype=np.int64), truth.labels[order]) + 1,
        is_crowd=truth.iscrowd[order] == 1,
        areas=np.where(np.isnan(area), bbox[:, 2] * bbox[:, 3], area),
        bbox=bbox,
        boxes=clip_boxes(bbox, sizes, image_index, 0.0)[0],
    )


def _categories(used: Int64, class_names: ClassNames | None, first_label: int | None) -> Categories:
    """The classes: those named, or those that occur."""
    if class_names is None:
        names = {label: str(label) for label in used.tolist()}
    elif isinstance(class_names, Mapping):
        names = {int(label): str(class_names[label]) for label in sorted(class_names)}
    elif first_label is None:
        raise ValueError(
            "class_names: this is a list, and first_label is missing. Expected the label of the "
            "first name. Pass first_label=0, or first_label=1 where 0 is background."
        )
    else:
        names = {first_label + i: str(name) for i, name in enumerate(class_names)}
    unknown = [label for label in used.tolist() if label not in names]
    if unknown:
        raise ValueError(
            f"class_names: label {unknown[0]} has no name ({len(unknown)} such labels in all). "
            f"Known: {shorten(list(names))}. Name it, or check first_label."
        )
    if not names:
        raise ValueError(
            "class_names: there is neither a label nor a name. Expected at least one class. "
            "Pass the names."
        )
    return Categories(tuple(names), tuple(names.values()))


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
