"""The evaluators of others behind one function: hotcoco (compiled) and pycocotools (the reference).

Both give the same figures bit for bit, as does our own grid ("numpy"), which needs neither. None
sees the ids of the user's files: evaluators take an annotation id of 0 for "no match", so
annotations and detections are numbered from 1 here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from detbalance.data.messages import needs
from detbalance.evaluation.filters import image_ranks
from detbalance.evaluation.rules import COCO, Rules

if TYPE_CHECKING:
    from detbalance.data import Annotations, Predictions

Backend = Literal["auto", "hotcoco", "pycocotools", "numpy"]
BackendName = Literal["hotcoco", "pycocotools", "numpy"]
_EXTRAS = {"hotcoco": "fast", "pycocotools": "report"}


def choose_backend(backend: Backend = "auto", rules: Rules = COCO) -> BackendName:
    """Name the evaluator to use, from the wish and from what is installed."""
    known = ("auto", "hotcoco", "pycocotools", "numpy")
    if backend not in known:
        raise ValueError(f'backend is "{backend}". Known: {", ".join(known)}.')
    if backend == "pycocotools" and rules.name == "lvis":
        raise ValueError(
            'backend is "pycocotools", which has no LVIS rules. Expected "hotcoco" or "numpy" for '
            "them. Choose one, or evaluate by COCO's rules."
        )
    if backend == "numpy":
        return "numpy"
    name: BackendName = "hotcoco" if backend == "auto" else backend
    if importlib.util.find_spec(name) is not None:
        return name
    if backend == "auto":
        return "numpy"
    raise needs("detbalance.evaluation", name, _EXTRAS[name])


def build_evaluator(
    name: BackendName,
    annotations: Annotations,
    predictions: Predictions,
    rows: npt.NDArray[np.int64],
    rules: Rules = COCO,
    labels: npt.NDArray[np.int64] | None = None,
) -> Any:
    """Build the COCOeval of either library, with annotation and detection ids from 1."""
    lvis = rules.name == "lvis"
    ranks = image_ranks(annotations)
    if labels is None:
        labels = np.arange(1, annotations.categories.num_classes)
    categories = [{"id": label, "name": str(label)} for label in labels.tolist()]
    areas = annotations.areas
    if lvis and annotations.is_ignored is not None:
        # An area that belongs to no size range is ignored in the same way.
        areas = np.where(annotations.is_ignored, np.inf, areas)
    truth = _Columns(
        image_ids=ranks[annotations.image_index] + 1,
        category_ids=annotations.labels,
        bbox=annotations.bbox,
        areas=areas,
        is_crowd=annotations.is_crowd & (not lvis),
    )
    bbox, scores = predictions.bbox[rows], predictions.scores[rows]
    found = _Columns(
        image_ids=ranks[predictions.image_index[rows]] + 1,
        category_ids=predictions.labels[rows],
        bbox=bbox,
        areas=bbox[:, 2] * bbox[:, 3],
        is_crowd=np.zeros(len(rows), dtype=np.bool_),
    )
    images = _images(annotations, ranks, with_lists=lvis)
    if name == "hotcoco":
        return _hotcoco_evaluator(images, categories, truth, found, scores, lvis)
    return _pycocotools_evaluator(images, categories, truth, found, scores)


@dataclass(frozen=True, eq=False)
class _Columns:
    """Boxes as columns, one row each, in the evaluator's own ids."""

    image_ids: npt.NDArray[np.int64]
    category_ids: npt.NDArray[np.int64]
    bbox: npt.NDArray[np.float64]
    areas: npt.NDArray[np.float64]
    is_crowd: npt.NDArray[np.bool_]


def _images(
    annotations: Annotations, ranks: npt.NDArray[np.int64], *, with_lists: bool
) -> list[dict[str, Any]]:
    """Entries of images, with LVIS's lists of labels where they are asked for."""
    images: list[dict[str, Any]] = [{"id": rank + 1} for rank in ranks.tolist()]
    if with_lists:
        neg, not_exhaustive = annotations.neg_labels, annotations.not_exhaustive_labels
        assert neg is not None
        assert not_exhaustive is not None
        for row, image in enumerate(images):
            image["neg_category_ids"] = neg[row].tolist()
            image["not_exhaustive_category_ids"] = not_exhaustive[row].tolist()
    return images


def _hotcoco_evaluator(
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    truth: _Columns,
    found: _Columns,
    scores: npt.NDArray[np.float64],
    lvis: bool,
) -> Any:
    import hotcoco

    gt = hotcoco.COCO.from_arrays(
        images,
        categories,
        truth.image_ids,
        truth.category_ids,
        truth.bbox,
        area=truth.areas,
        iscrowd=truth.is_crowd,
    )
    table = np.column_stack([found.image_ids, found.bbox, scores, found.category_ids])
    return hotcoco.COCOeval(gt, gt.load_res(table), "bbox", lvis_style=lvis)


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
