"""What no detector can reach, because only so many detections of an image count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from detbalance.data.categories import shorten
from detbalance.evaluation.average_precision import RECALL_LEVELS
from detbalance.evaluation.matching import ignored_annotations
from detbalance.evaluation.rules import Rules

if TYPE_CHECKING:
    from detbalance.data import Annotations

Int64 = npt.NDArray[np.int64]
_NAMED = 3


def cap_notes(annotations: Annotations, rules: Rules) -> tuple[str, ...]:
    """Say which boxes nobody can find under the cap of detections, and how high figures can be."""
    cap = rules.max_detections
    if cap is None:
        return ()
    positive = ~ignored_annotations(annotations, rules)[0]
    images, labels = annotations.image_index[positive], annotations.labels[positive]
    if not rules.cap_is_per_class:
        return _of_images(np.bincount(images), cap)
    num_classes = annotations.categories.num_classes
    pairs, boxes = np.unique(images * num_classes + labels, return_counts=True)
    over = boxes > cap
    if not over.any():
        return ()
    label = pairs % num_classes
    total = np.bincount(label, boxes, num_classes)
    findable = np.bincount(label, np.minimum(boxes, cap), num_classes)
    capped = np.unique(label[over])
    share = findable[capped] / total[capped]
    order = np.argsort(share, kind="stable")
    levels = np.searchsorted(RECALL_LEVELS, share, side="right") / len(RECALL_LEVELS)
    names = annotations.categories.names
    listed = [
        f"{_below(share[i])} (AP {_below(levels[i])}) for {names[capped[i] - 1]}" for i in order
    ]
    number = len(np.unique(pairs[over] // num_classes))
    whose = "a class" if len(capped) == 1 else f"one of {len(capped)} classes"
    return (
        f"{_images(number, cap)} of {whose} (up to {boxes.max():,}), and of an image and class at"
        f" most {cap} detections count: whatever the detector, recall and AR are at most"
        f" {shorten(listed, _NAMED)}.",
    )


def _of_images(boxes: Int64, cap: int) -> tuple[str, ...]:
    number = int((boxes > cap).sum())
    if not number:
        return ()
    total, findable = int(boxes.sum()), int(np.minimum(boxes, cap).sum())
    return (
        f"{_images(number, cap)} (up to {boxes.max():,}), and of an image at most {cap} detections"
        f" count: whatever the detector, at most {findable:,} of all {total:,} boxes are found, a"
        f" share of {_below(findable / total)}.",
    )


def _images(number: int, cap: int) -> str:
    images = "1 image has" if number == 1 else f"{number:,} images have"
    return f"{images} more than {cap} box{'es' if cap > 1 else ''} to find"


def _below(share: float) -> str:
    """Three decimals of a share below 1, never rounded up to it."""
    return f"{min(share, 0.999):.3f}".removeprefix("0")
