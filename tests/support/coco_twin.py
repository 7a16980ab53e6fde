"""COCO's and LVIS's evaluation in plain loops over JSON, written from the rules: an oracle.

Letters: T IoU thresholds, R recall levels, K categories, A area ranges, M detection caps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0, 1, 101)
AREA_RANGES = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))
Entry = dict[str, Any]
# A detection after matching: its score, and True (right), False (wrong) or None (ignored).
Verdict = tuple[float, bool | None]


def overlap(one: Sequence[float], other: Sequence[float], other_is_crowd: bool) -> float:
    """Intersection over union of two xywh boxes; for a crowd region, over the first one's area."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared, area = width * height, one[2] * one[3]
    return shared / (area if other_is_crowd else area + other[2] * other[3] - shared)


def twin_grid(
    truth: dict[str, Any], found: list[Entry], *, lvis: bool = False, caps: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """precision [T, R, K, A, M], recall [T, K, A, M] and scores [T, R, K, A, M]."""
    categories = sorted(category["id"] for category in truth["categories"])
    shape = (len(categories), len(AREA_RANGES), len(caps))
    precision = np.full((10, 101, *shape), np.nan)
    recall, scores = np.full((10, *shape), np.nan), precision.copy()
    images = sorted(truth["images"], key=lambda image: image["id"])
    best = {image["id"]: _best_first(found, image["id"]) for image in images}
    if lvis:
        best = {
            image_id: [d for d in ranked[: caps[-1]] if d["bbox"][2] * d["bbox"][3] > 0]
            for image_id, ranked in best.items()
        }
    for k, category in enumerate(categories):
        boxes = [a for a in truth["annotations"] if a["category_id"] == category]
        for a, area_range in enumerate(AREA_RANGES):
            total = sum(not _is_ignored(box, area_range, lvis) for box in boxes)
            if not total:
                continue
            for t, threshold in enumerate(IOU_THRESHOLDS):
                judged = [
                    _judge(image, category, boxes, best[image["id"]], threshold, area_range, lvis)
                    for image in images
                ]
                for m, cap in enumerate(caps):
                    blend_scores = [verdict for verdicts in judged for verdict in verdicts[:cap]]
                    curve = _curve(sorted(blend_scores, key=lambda verdict: -verdict[0]), total)
                    precision[t, :, k, a, m], scores[t, :, k, a, m], recall[t, k, a, m] = curve
    return precision, recall, scores


def _best_first(found: list[Entry], image_id: int) -> list[Entry]:
    """Detections of an image from the highest score down; equal scores as in the file."""
    return sorted((d for d in found if d["image_id"] == image_id), key=lambda d: -d["score"])


def _area(entry: Entry) -> float:
    return entry.get("area", entry["bbox"][2] * entry["bbox"][3])


def _is_ignored(box: Entry, area_range: tuple[float, float], lvis: bool) -> bool:
    """Whether an annotation need not be found: COCO leaves out crowds, LVIS what is marked."""
    marked = box.get("ignore", 0) if lvis else box.get("iscrowd", 0)
    return bool(marked) or not area_range[0] <= _area(box) <= area_range[1]


def _judge(
    image: Entry,
    category: int,
    boxes: list[Entry],
    best: list[Entry],
    threshold: float,
    area_range: tuple[float, float],
    lvis: bool,
) -> list[Verdict]:
    """The detections of one image and class, each with what became of it."""
    boxes = [box for box in boxes if box["image_id"] == image["id"]]
    own = [detection for detection in best if detection["category_id"] == category]
    if lvis and not boxes and category not in image["neg_category_ids"]:
        return []  # nobody looked whether the class is there
    not_all_marked = lvis and category in image["not_exhaustive_category_ids"]
    wanted = [box for box in boxes if not _is_ignored(box, area_range, lvis)]
    ignored = [box for box in boxes if _is_ignored(box, area_range, lvis)]
    taken: list[int] = []
    verdicts: list[Verdict] = []
    for detection in own:
        outside = not area_range[0] <= detection["bbox"][2] * detection["bbox"][3] <= area_range[1]
        verdict: bool | None = None if outside or not_all_marked else False
        for group, outcome in ((wanted, True), (ignored, None)):
            at_best, chosen = min(threshold, 1 - 1e-10), None
            for box in group:
                crowd = bool(box.get("iscrowd", 0)) and not lvis
                if id(box) in taken and not crowd:
                    continue
                shared = overlap(detection["bbox"], box["bbox"], crowd)
                if shared >= at_best:  # of equal overlaps the later annotation wins
                    at_best, chosen = shared, box
            if chosen is not None:
                taken.append(id(chosen))
                verdict = outcome
                break
        verdicts.append((detection["score"], verdict))
    return verdicts


def _curve(ranked: list[Verdict], total: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Interpolated precision and score at each recall level, and the recall reached."""
    precision, scores = np.zeros(101), np.zeros(101)
    points = []  # recall, precision and score after each detection, ignored ones too
    right = wrong = 0
    for score, verdict in ranked:
        right += verdict is True
        wrong += verdict is False
        points.append((right / total, right / (right + wrong + np.spacing(1)), score))
    for r, level in enumerate(RECALL_LEVELS):
        beyond = [point for point in points if point[0] >= level]
        if beyond:
            precision[r] = max(point[1] for point in beyond)
            scores[r] = beyond[0][2]
    return precision, scores, points[-1][0] if points else 0.0
