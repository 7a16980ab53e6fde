"""Sets of annotations and detections made by hypothesis, with every edge that evaluators have."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from detbalance.data import Annotations, Predictions, load_annotations, load_predictions

# Areas on, just below and just above the edges of the size ranges, 32^2 and 96^2.
EDGES = (1024.0, 9216.0, np.nextafter(1024.0, 0), np.nextafter(9216.0, 1e9), 0.0, 2e10)
side = st.sampled_from([4, 8, 16, 20, 32, 64, 96])  # 32 x 32 and 96 x 96 lie on an edge
corner = st.sampled_from([0, 3, 5, 7.5, 40, 90])
box = st.tuples(corner, corner, side, side).map(list)


@st.composite
def evaluation_sets(draw: st.DrawFn, *, lvis: bool = False) -> tuple[dict[str, Any], list[Any]]:
    """A ground truth and detections as JSON: gaps in ids, id 0, ties, copies, absent classes."""
    image_ids = draw(st.lists(st.integers(0, 60), min_size=1, max_size=4, unique=True))
    category_ids = draw(st.lists(st.integers(0, 30), min_size=1, max_size=3, unique=True))
    images = []
    for image_id in image_ids:
        image = {"id": image_id}
        if lvis:
            for key in ("neg_category_ids", "not_exhaustive_category_ids"):
                image[key] = draw(st.lists(st.sampled_from(category_ids), unique=True))
        images.append(image)
    kinds = st.fixed_dictionaries(
        {
            "image_id": st.sampled_from(image_ids),
            "category_id": st.sampled_from(category_ids),
            "bbox": box,
            "iscrowd": st.sampled_from([0, 0, 0, 1]),
            "ignore": st.sampled_from([0, 0, 0, 1]),
        },
        optional={"area": st.sampled_from(EDGES)},
    )
    notes = draw(st.lists(kinds, max_size=12))
    if notes:
        notes += draw(st.lists(st.sampled_from(notes), max_size=3))  # copies
    first_id = draw(st.sampled_from([0, 1, 7]))
    annotations = [{"id": first_id + 2 * i, **note} for i, note in enumerate(notes)]
    found = draw(st.lists(_detections(image_ids, category_ids, notes), max_size=25))
    if found:
        found += draw(st.lists(st.sampled_from(found), max_size=4))
    categories = [{"id": i, "name": f"class {i}"} for i in category_ids]
    return {"images": images, "categories": categories, "annotations": annotations}, found


def _detections(
    image_ids: list[int], category_ids: list[int], notes: list[dict[str, Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    """Detections anywhere, of zero size too, or on an annotation, moved a little or not."""
    score = st.sampled_from([0.0, 0.25, 0.5, 0.5, 1.0, -1.0])
    zero_size = st.tuples(corner, corner, st.just(0), side).map(list)
    anywhere = st.fixed_dictionaries(
        {
            "image_id": st.sampled_from(image_ids),
            "category_id": st.sampled_from(category_ids),
            "bbox": st.one_of(box, box, zero_size),
            "score": score,
        }
    )
    if not notes:
        return anywhere
    close = st.builds(
        lambda note, step, score: {
            "image_id": note["image_id"],
            "category_id": note["category_id"],
            "bbox": [note["bbox"][0] + step, *note["bbox"][1:]],
            "score": score,
        },
        st.sampled_from(notes),
        st.sampled_from([0, 0, 1, 2, 4]),
        score,
    )
    return st.one_of(anywhere, close, close)


def as_arrays(truth: dict[str, Any], found: list[Any]) -> tuple[Annotations, Predictions]:
    """Both as a user would read them from files."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "val.json").write_text(json.dumps(truth))
        (Path(folder) / "results.json").write_text(json.dumps(found))
        annotations = load_annotations(Path(folder) / "val.json")
        return annotations, load_predictions(Path(folder) / "results.json", annotations)
