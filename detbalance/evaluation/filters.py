"""Which detections take part in an evaluation: checks, caps, LVIS's lists of checked classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detbalance.data.arrays import Bool, Float64, Int64
from detbalance.data.messages import counted
from detbalance.evaluation.rules import Rules

if TYPE_CHECKING:
    from detbalance.data import Annotations, Predictions
    from detbalance.data.arrays import PackedLabels


def image_ranks(annotations: Annotations) -> Int64:
    """Return int64 [M], the place of each image row in ascending order of image id."""
    ranks = np.empty(annotations.num_images, dtype=np.int64)
    ranks[np.argsort(annotations.image_ids, kind="stable")] = np.arange(annotations.num_images)
    return ranks


def within_cap(predictions: Predictions, rules: Rules) -> Bool:
    """Return bool [D], the detections within the cap of their image."""
    inside = np.ones(len(predictions.scores), dtype=np.bool_)
    cap = rules.max_detections
    if cap is None or not len(inside):
        return inside
    crowded = np.bincount(predictions.image_index) > cap
    rows = np.flatnonzero(crowded[predictions.image_index])
    if not len(rows):
        return inside
    rows = rows[np.argsort(-predictions.scores[rows], kind="stable")]
    groups = predictions.image_index[rows]
    if rules.cap_is_per_class:
        groups = groups * (int(predictions.labels.max()) + 1) + predictions.labels[rows]
    inside[rows[places_in_group(groups) >= cap]] = False
    return inside


def reaches_floor(predictions: Predictions, score_threshold: float | Float64) -> Bool:
    """Return bool [D], the detections with at least a score."""
    floors = np.asarray(score_threshold, dtype=np.float64)
    floor = floors if floors.ndim == 0 else floors[predictions.labels]
    return np.asarray(predictions.scores >= floor)


def places_in_group(groups: Int64) -> Int64:
    """Count how many earlier entries of an array have the same value as each entry."""
    by_group = np.argsort(groups, kind="stable")
    new = np.flatnonzero(np.diff(groups[by_group], prepend=-1))
    places = np.empty(len(groups), dtype=np.int64)
    sizes = np.diff(np.append(new, len(groups)))
    places[by_group] = np.arange(len(groups)) - np.repeat(new, sizes)
    return places


def images_checked(annotations: Annotations, rules: Rules) -> Int64:
    """Count the images in which a detection of each class can be wrong."""
    num_classes = annotations.categories.num_classes
    if rules.name == "coco":
        return np.full(num_classes, annotations.num_images)
    return np.bincount(_looked_for(annotations) % num_classes, minlength=num_classes)


def _listed(lists: PackedLabels, num_classes: int) -> Int64:
    """A number for each image and class of LVIS's lists."""
    images = np.repeat(np.arange(len(lists)), np.diff(lists.offsets))
    return images * num_classes + lists.labels


def _looked_for(annotations: Annotations) -> Int64:
    """A number for each image and class that is annotated there or was looked for in vain."""
    assert annotations.neg_labels is not None
    num_classes = annotations.categories.num_classes
    present = annotations.image_index * num_classes + annotations.labels
    return np.unique(np.concatenate([present, _listed(annotations.neg_labels, num_classes)]))


def checked_classes(annotations: Annotations, predictions: Predictions) -> tuple[Bool, Bool]:
    """Say which detections an LVIS file can judge.

    Source: Gupta et al., LVIS, 2019, arXiv:1908.03195, section 2.4, and lvis-api.
    Differs: lvis-api leaves out annotations of no area too, as if their class were not there.
    """
    assert annotations.not_exhaustive_labels is not None
    num_classes = annotations.categories.num_classes
    own = predictions.image_index * num_classes + predictions.labels
    checked = np.isin(own, _looked_for(annotations)) & has_area(predictions)
    exhaustive = ~np.isin(own, _listed(annotations.not_exhaustive_labels, num_classes))
    return checked, exhaustive


def has_area(predictions: Predictions) -> Bool:
    """Return bool [D], the detections that are not of zero size; LVIS's rules drop the others."""
    return np.asarray(predictions.bbox[:, 2] * predictions.bbox[:, 3] > 0)


def check_predictions(annotations: Annotations, predictions: Predictions) -> None:
    """Check that detections can belong to these annotations, before an evaluator sees them."""
    num_images, num_categories = annotations.num_images, annotations.categories.num_categories
    rows = predictions.image_index
    labels = predictions.labels
    checks = (
        ((rows < 0) | (rows >= num_images), "image_index", rows, f"rows 0 to {num_images - 1}"),
        ((labels < 1) | (labels > num_categories), "labels", labels, f"1 to {num_categories}"),
        (~np.isfinite(predictions.scores), "scores", predictions.scores, "finite numbers"),
        (~np.isfinite(predictions.bbox).all(axis=1), "bbox", predictions.bbox, "finite numbers"),
    )
    for wrong, field, values, expected in checks:
        if wrong.any():
            first = int(np.argmax(wrong))
            raise ValueError(
                f"predictions: {counted(int(wrong.sum()), 'detection has', 'detections have')} an "
                f"impossible {field} "
                f"(first: detection {first}, {values[first].tolist()}). "
                f"Expected {expected} of {annotations.source}. "
                "Make the predictions on the images and classes of that file."
            )
