"""pycocotools as the oracle of matches, precision and recall, from annotations and predictions."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from detbalance.data import Annotations, Predictions
from detbalance.evaluation.accumulate import hotcoco_evaluator
from detbalance.evaluation.rules import COCO


def evaluator_of(library: str, annotations: Annotations, predictions: Predictions) -> Any:
    """The COCOeval of pycocotools or hotcoco; ids are rows + 1, as both take 0 for no match."""
    pytest.importorskip(library)
    if library == "pycocotools":
        return pycocotools_evaluator(annotations, predictions)
    labels = np.arange(1, annotations.categories.num_classes)
    rows = np.arange(len(predictions.scores))
    return hotcoco_evaluator(annotations, predictions, rows, COCO, labels)


def pycocotools_evaluator(annotations: Annotations, predictions: Predictions) -> Any:
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    ranks = np.argsort(np.argsort(annotations.image_ids, kind="stable")) + 1
    area = predictions.bbox[:, 2] * predictions.bbox[:, 3]
    no_crowds = np.zeros(len(area), dtype=np.bool_)
    dataset = {
        "images": [{"id": rank} for rank in ranks.tolist()],
        "categories": [{"id": k} for k in range(1, annotations.categories.num_classes)],
    }
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        for rows, areas, crowd in (
            (annotations, annotations.areas, annotations.is_crowd),
            (predictions, area, no_crowds),
        ):
            side = coco.COCO()
            side.dataset = {
                **dataset,
                "annotations": [
                    {
                        "id": i + 1,
                        "image_id": int(ranks[rows.image_index[i]]),
                        "category_id": int(rows.labels[i]),
                        "bbox": rows.bbox[i].tolist(),
                        "area": float(areas[i]),
                        "iscrowd": int(crowd[i]),
                    }
                    for i in range(len(rows.labels))
                ],
            }
            sides.append(side)
        for entry, score in zip(
            sides[1].dataset["annotations"], predictions.scores.tolist(), strict=True
        ):
            entry["score"] = score
        for side in sides:
            side.createIndex()
        return cocoeval.COCOeval(*sides, iouType="bbox")


def pycocotools_arrays(
    annotations: Annotations, predictions: Predictions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and scores of pycocotools, NaN for undefined."""
    evaluator = pycocotools_evaluator(annotations, predictions)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
        evaluator.accumulate()
    precision, recall, scores = (
        np.array(evaluator.eval[name]) for name in ("precision", "recall", "scores")
    )
    scores[precision < 0] = np.nan
    precision[precision < 0] = np.nan
    recall[recall < 0] = np.nan
    return precision, recall, scores
