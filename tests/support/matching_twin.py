"""Matching in plain loops, written from the rules: an oracle for the vectorised one."""

from __future__ import annotations

import numpy as np

from detbalance.data import Annotations, Predictions
from detbalance.evaluation.rules import Rules


def iou(found: list[float], truth: list[float], crowd: bool) -> float:
    """Overlap of two xywh boxes; for a crowd region, over the detection's own area."""
    width = min(found[0] + found[2], truth[0] + truth[2]) - max(found[0], truth[0])
    height = min(found[1] + found[3], truth[1] + truth[3]) - max(found[1], truth[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared, own = width * height, found[2] * found[3]
    return shared / (own if crowd else own + truth[2] * truth[3] - shared)


def twin_match(
    annotations: Annotations, predictions: Predictions, rules: Rules
) -> tuple[np.ndarray, np.ndarray]:
    """Row of the annotation of each detection [D, T] (-1: none), and whether it is ignored."""
    lvis = rules.name == "lvis"
    marked = annotations.is_ignored
    if marked is None:
        marked = np.zeros(annotations.num_annotations, bool)
    ignored = marked if lvis else annotations.is_crowd
    count, thresholds = len(predictions.scores), rules.iou_thresholds
    annotation = np.full((count, len(thresholds)), -1)
    is_ignored = np.ones((count, len(thresholds)), bool)
    for image in range(annotations.num_images):
        rows = [d for d in range(count) if predictions.image_index[d] == image]
        rows.sort(key=lambda d: -predictions.scores[d])
        truth_rows = range(annotations.offsets[image], annotations.offsets[image + 1])
        if lvis and rules.max_detections is not None:
            rows = rows[: rules.max_detections]
        for label in range(1, annotations.categories.num_classes):
            boxes = [a for a in truth_rows if annotations.labels[a] == label]
            own = [d for d in rows if predictions.labels[d] == label]
            excused = False
            if lvis:
                assert annotations.neg_labels is not None
                assert annotations.not_exhaustive_labels is not None
                if not boxes and label not in annotations.neg_labels[image]:
                    continue
                excused = label in annotations.not_exhaustive_labels[image]
            elif rules.max_detections is not None:
                own = own[: rules.max_detections]
            for t, threshold in enumerate(thresholds):
                free = set(boxes)
                for d in own:
                    best, best_iou = -1, min(threshold, 1 - 1e-10)
                    for a in sorted(boxes, key=lambda a: bool(ignored[a])):
                        if a not in free:
                            continue
                        if best >= 0 and not ignored[best] and ignored[a]:
                            break
                        overlap = iou(
                            predictions.bbox[d].tolist(),
                            annotations.bbox[a].tolist(),
                            bool(annotations.is_crowd[a]) and not lvis,
                        )
                        if overlap >= best_iou:
                            best, best_iou = a, overlap
                    annotation[d, t] = best
                    is_ignored[d, t] = bool(ignored[best]) if best >= 0 else excused
                    if best >= 0 and (lvis or not annotations.is_crowd[best]):
                        free.discard(best)
    return annotation, is_ignored
