"""Annotations of data sets that are no files: torchvision's, those of Hugging Face, one's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from detbalance.data import Annotations
from detbalance.data.tensor_inputs import ClassNames, from_tensors


def annotations_of(
    dataset: Any, *, class_names: ClassNames | None = None, first_label: int | None = None
) -> Annotations:
    """Read the boxes of a data set, for sampling factors, plans and reports.

    Args:
        dataset: with a length and items of one of these forms:
            (image, target) as `torchvision.datasets.wrap_dataset_for_transforms_v2` gives them,
            `boxes` [n, 4] as corners and `labels` [n] in the target, and maybe `iscrowd`;
            or a mapping as Hugging Face's object detection sets have: `objects` with `bbox` (left,
            top, width, height) and `category`, and `image` or `width` and `height`.
            Image i of the annotations is item i. Every item is read once.
        class_names: name of each label of the data set: `{0: "cat", 1: "owl"}`, or a list together
            with `first_label`. Of a Hugging Face set whose features name its classes they are
            taken from there. Without names, the labels are the names.
        first_label: label of the first name of a list.

    Returns:
        The annotations. Image ids are 0 to M - 1, file names are empty.

    Raises:
        ValueError: if an item has neither form, or its boxes and labels do not fit.

    Example:
        >>> objects = {"bbox": [[1, 2, 9, 9]], "category": [1]}
        >>> items = [{"width": 64, "height": 48, "objects": objects}]
        >>> annotations = annotations_of(items, class_names={0: "cat", 1: "owl"})
        >>> annotations.categories.names, annotations.labels, annotations.sizes.tolist()
        (('cat', 'owl'), array([2]), [[64, 48]])
    """
    if class_names is None:
        class_names = _named_by_features(dataset)
    read = list(_targets(dataset))
    sizes = np.array([size for _, size in read], dtype=np.int64).reshape(-1, 2)
    empty: list[dict[str, Any]] = [{"boxes": [], "labels": [], "scores": []}] * len(read)
    annotations, _ = from_tensors(
        empty,
        [target for target, _ in read],
        class_names=class_names,
        first_label=first_label,
        image_sizes=sizes,
    )
    return annotations


def _named_by_features(dataset: Any) -> ClassNames | None:
    """The names of a Hugging Face data set's classes."""
    try:
        objects = dataset.features["objects"]
        objects = getattr(objects, "feature", objects)
        category = objects["category"]
        names: Sequence[str] = getattr(category, "feature", category).names
    except (AttributeError, KeyError, TypeError):
        return None
    return dict(enumerate(names))


def _targets(dataset: Any) -> Iterator[tuple[dict[str, Any], tuple[int, int]]]:
    for i in range(len(dataset)):
        item = dataset[i]
        if isinstance(item, Mapping) and isinstance(item.get("objects"), Mapping):
            yield _of_mapping(item)
        elif isinstance(item, Sequence) and len(item) == 2 and isinstance(item[1], Mapping):
            image, target = item
            known = ("boxes", "labels", "iscrowd")
            # An image without objects has no boxes there.
            empty: dict[str, Any] = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0)}
            yield {**empty, **{k: target[k] for k in known if k in target}}, _size(image)
        else:
            raise ValueError(
                f"annotations_of(): item {i} is a {type(item).__name__}. An image with a dict of"
                " boxes and labels, or a dict with objects (bbox, category), is expected. Wrap the"
                " data set (torchvision.datasets.wrap_dataset_for_transforms_v2)."
            )


def _of_mapping(item: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[int, int]]:
    objects = item["objects"]
    boxes = np.asarray(objects["bbox"], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    has_size = "width" in item and "height" in item
    size = (int(item["width"]), int(item["height"])) if has_size else _size(item["image"])
    return {"boxes": boxes, "labels": np.asarray(objects["category"], dtype=np.int64)}, size


def _size(image: Any) -> tuple[int, int]:
    """Width and height of a Pillow image or a tensor [..., H, W]."""
    size = image.size
    if callable(size):
        return int(image.shape[-1]), int(image.shape[-2])
    return int(size[0]), int(size[1])
