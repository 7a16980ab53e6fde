"""The evaluators that do the matching, behind one function.

Two are known, and both give the same figures bit for bit: hotcoco (compiled, used where it is
installed) and pycocotools (the reference). Neither sees the ids of the user's files: both take an
annotation id of 0 for "no match", so annotations and detections are numbered from 1 here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from detbalance.annotations import Annotations
    from detbalance.predictions import Predictions

Backend = Literal["auto", "hotcoco", "pycocotools"]
BackendName = Literal["hotcoco", "pycocotools"]


def choose_backend(backend: Backend = "auto") -> BackendName:
    """Name the evaluator to use, from the wish and from what is installed.

    Args:
        backend: "auto" takes hotcoco where it is installed and pycocotools otherwise.

    Returns:
        "hotcoco" or "pycocotools".

    Raises:
        ValueError: if the name is not one of the three.
        ImportError: if the evaluator asked for, or any at all, is not installed.
    """
    known = ("auto", "hotcoco", "pycocotools")
    if backend not in known:
        raise ValueError(f'backend is "{backend}". Known: {", ".join(known)}.')
    names: tuple[BackendName, ...] = ("hotcoco", "pycocotools")
    for name in names:
        if backend in ("auto", name) and importlib.util.find_spec(name) is not None:
            return name
    extra = "fast" if backend == "hotcoco" else "report"
    missing = "pycocotools or hotcoco" if backend == "auto" else backend
    raise ImportError(
        f'detbalance.evaluation needs {missing}. Install it with: pip install "detbalance[{extra}]"'
    )


def _image_ranks(annotations: Annotations) -> npt.NDArray[np.int64]:
    """Place of each image row in ascending order of image id; the order breaks ties of scores."""
    ranks = np.empty(annotations.num_images, dtype=np.int64)
    ranks[np.argsort(annotations.image_ids, kind="stable")] = np.arange(annotations.num_images)
    return ranks


def build_evaluator(
    name: BackendName,
    annotations: Annotations,
    predictions: Predictions,
    rows: npt.NDArray[np.int64],
) -> Any:
    """Build the COCOeval of either library, with annotation and detection ids from 1.

    Args:
        name: which library.
        annotations: the ground truth.
        predictions: detections on the same images.
        rows: int64, the detections to take; detection id i + 1 is `rows[i]`.

    Returns:
        An evaluator ready for `evaluate()`. Annotation id i + 1 is row i of the annotations, the
        category id is the label, and image ids follow the order of the file's image ids.
    """
    ranks = _image_ranks(annotations)
    images = [{"id": i + 1} for i in range(annotations.num_images)]
    labels = range(1, annotations.categories.num_classes)
    categories = [{"id": label, "name": str(label)} for label in labels]
    truth = _Columns(
        image_ids=ranks[annotations.image_index] + 1,
        category_ids=annotations.labels,
        bbox=annotations.bbox,
        areas=annotations.areas,
        is_crowd=annotations.is_crowd,
    )
    bbox, scores = predictions.bbox[rows], predictions.scores[rows]
    found = _Columns(
        image_ids=ranks[predictions.image_index[rows]] + 1,
        category_ids=predictions.labels[rows],
        bbox=bbox,
        areas=bbox[:, 2] * bbox[:, 3],
        is_crowd=np.zeros(len(rows), dtype=np.bool_),
    )
    if name == "hotcoco":
        return _hotcoco_evaluator(images, categories, truth, found, scores)
    return _pycocotools_evaluator(images, categories, truth, found, scores)


@dataclass(frozen=True, eq=False)
class _Columns:
    """Boxes as columns, one row each, in the evaluator's own ids."""

    image_ids: npt.NDArray[np.int64]
    category_ids: npt.NDArray[np.int64]
    bbox: npt.NDArray[np.float64]
    areas: npt.NDArray[np.float64]
    is_crowd: npt.NDArray[np.bool_]


def _hotcoco_evaluator(
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    truth: _Columns,
    found: _Columns,
    scores: npt.NDArray[np.float64],
) -> Any:
    import hotcoco

    gt = hotcoco.COCO.from_arrays(
        images,
        categories,
        truth.image_ids,
        truth.category_ids,
        truth.bbox,
        ids=np.arange(1, len(truth.areas) + 1),
        area=truth.areas,
        iscrowd=truth.is_crowd,
    )
    table = np.column_stack([found.image_ids, found.bbox, scores, found.category_ids])
    return hotcoco.COCOeval(gt, gt.load_res(table), "bbox")


def _pycocotools_evaluator(
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    truth: _Columns,
    found: _Columns,
    scores: npt.NDArray[np.float64],
) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sides = []
    with contextlib.redirect_stdout(io.StringIO()):
        # COCO.loadRes fails on an empty list and adds a polygon per box: the index is enough.
        for columns, extra in ((truth, None), (found, scores.tolist())):
            entries = [
                {
                    "id": i + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": bbox,
                    "area": area,
                    "iscrowd": int(crowd),
                }
                for i, (image_id, category_id, bbox, area, crowd) in enumerate(
                    zip(
                        columns.image_ids.tolist(),
                        columns.category_ids.tolist(),
                        columns.bbox.tolist(),
                        columns.areas.tolist(),
                        columns.is_crowd.tolist(),
                        strict=True,
                    )
                )
            ]
            if extra is not None:
                for entry, score in zip(entries, extra, strict=True):
                    entry["score"] = score
            side = COCO()
            side.dataset = {"images": images, "categories": categories, "annotations": entries}
            side.createIndex()
            sides.append(side)
        return COCOeval(*sides, iouType="bbox")
