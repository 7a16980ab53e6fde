"""Tensors and arrays as inputs: the same figures as from files, and faults named in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_sets import as_arrays, evaluation_sets
from hypothesis import given, settings
from hypothesis import strategies as st

from detbalance.data import load_annotations, save_predictions
from detbalance.data.tensor_inputs import from_arrays, from_tensors
from detbalance.evaluation import evaluate
from detbalance.evaluation.accumulate import compute_grid
from detbalance.evaluation.average_precision import RECALL_LEVELS
from detbalance.evaluation.matching import match
from detbalance.evaluation.rules import IOU_THRESHOLDS

NAMES = ("precision", "recall", "scores")
Side = list[dict[str, Any]]


def per_image(truth: dict[str, Any], found: list[Any]) -> tuple[Side, Side]:
    """JSON as one dict of lists per image, boxes in xywh, in the order of the image list."""
    sides: list[Side] = []
    for entries, scored in ((found, True), (truth["annotations"], False)):
        side = []
        for image in truth["images"]:
            own = [entry for entry in entries if entry["image_id"] == image["id"]]
            values = {
                "boxes": [entry["bbox"] for entry in own],
                "labels": [entry["category_id"] for entry in own],
            }
            if scored:
                values["scores"] = [entry["score"] for entry in own]
            else:
                values["iscrowd"] = [entry.get("iscrowd", 0) for entry in own]
                values["area"] = [entry.get("area", np.nan) for entry in own]
            side.append(values)
        sides.append(side)
    return sides[0], sides[1]


def as_numpy(side: Side) -> Side:
    return [{key: np.array(values) for key, values in image.items()} for image in side]


def as_torch(side: Side) -> Side:
    torch = pytest.importorskip("torch")
    whole = ("labels", "iscrowd")
    return [
        {
            key: torch.tensor(values, dtype=torch.int64 if key in whole else torch.float64)
            for key, values in image.items()
        }
        for image in side
    ]


def names_of(truth: dict[str, Any]) -> dict[int, str]:
    return {category["id"]: category["name"] for category in truth["categories"]}


# The same as from files


@pytest.mark.parametrize("convert", [list, as_numpy, as_torch])
@given(data=evaluation_sets())
@settings(max_examples=30)
def test_tensors_give_what_the_files_give(
    convert: Callable[[Side], Side], data: tuple[dict[str, Any], list[Any]]
) -> None:
    truth, found = data
    truth["images"].sort(key=lambda image: image["id"])  # ties go by image id
    expected, _ = as_arrays(truth, found)
    predictions, targets = per_image(truth, found)
    annotations, detections = from_tensors(
        convert(predictions),
        convert(targets),
        class_names=names_of(truth),
        box_format="xywh",
    )
    assert annotations.categories == expected.categories
    for name in ("image_index", "labels", "is_crowd", "areas", "bbox", "boxes", "offsets"):
        np.testing.assert_array_equal(getattr(annotations, name), getattr(expected, name))
        assert getattr(annotations, name).dtype == getattr(expected, name).dtype
    one, other = compute_grid(annotations, detections), compute_grid(*as_arrays(truth, found))
    for name in NAMES:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@given(data=evaluation_sets(), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_flat_arrays_give_what_tensors_give(
    data: tuple[dict[str, Any], list[Any]], seed: int
) -> None:
    truth, found = data
    place = {image["id"]: i for i, image in enumerate(truth["images"])}
    predictions, targets = per_image(truth, found)
    names = names_of(truth)
    expected = from_tensors(predictions, targets, class_names=names, box_format="xywh")

    def flat(entries: list[Any]) -> dict[str, Any]:
        return {
            "boxes": np.array([entry["bbox"] for entry in entries]),
            "labels": [entry["category_id"] for entry in entries],
            "image_index": [place[entry["image_id"]] for entry in entries],
            "iscrowd": [entry.get("iscrowd", 0) for entry in entries],
            "area": [entry.get("area", np.nan) for entry in entries],
            "scores": [entry.get("score", 0) for entry in entries],
        }

    annotations, detections = from_arrays(
        flat(found),
        flat(truth["annotations"]),
        num_images=len(place),
        class_names=names,
        box_format="xywh",
    )
    for name in ("image_index", "labels", "is_crowd", "areas", "bbox", "offsets"):
        np.testing.assert_array_equal(getattr(annotations, name), getattr(expected[0], name))
    one, other = compute_grid(annotations, detections), compute_grid(*expected)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def corners(side: Side) -> Side:
    """The same with xyxy boxes."""
    changed = []
    for image in side:
        boxes = np.array(image["boxes"], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        changed.append({**image, "boxes": boxes.tolist()})
    return changed


def test_figures_of_torchmetrics_and_pycocotools(shared: Path) -> None:
    """The set that torchmetrics tests itself with, in the form that it takes."""
    torch = pytest.importorskip("torch")
    folder = shared / "eval/torchmetrics_small"
    truth = json.loads((folder / "gt.json").read_text())
    found = json.loads((folder / "dt.json").read_text())
    predictions, targets = (as_torch(corners(side)) for side in per_image(truth, found))
    for image in targets:
        del image["area"]
    expected = json.loads((folder / "expected_pycocotools.json").read_text())
    annotations, detections = from_tensors(predictions, targets)
    result = evaluate(annotations, detections)
    assert result.summary == pytest.approx(expected["overall"], abs=1e-9)
    for category, known in expected["per_class"].items():
        label = int(annotations.categories.labels([int(category)])[0])
        average = np.nan if known["AP"] == -1 else known["AP"]
        assert result.AP[label] == pytest.approx(average, abs=1e-9, nan_ok=True)

    torchmetrics = pytest.importorskip("torchmetrics.detection")
    # Its own thresholds went through float32, which moves a figure of so small a set.
    metric = torchmetrics.MeanAveragePrecision(
        iou_thresholds=list(IOU_THRESHOLDS),
        rec_thresholds=RECALL_LEVELS.tolist(),
        class_metrics=True,
    )
    metric.warn_on_many_detections = False
    single = [
        [{key: v.float() if v.is_floating_point() else v for key, v in i.items()} for i in side]
        for side in (predictions, targets)
    ]
    metric.update(*single)
    theirs = metric.compute()
    pairs = {"map": "AP", "map_50": "AP50", "map_75": "AP75", "mar_1": "AR1", "mar_100": "AR100"}
    ours = evaluate(*from_tensors(*single))
    for name, own in pairs.items():
        assert ours.summary[own] == pytest.approx(float(theirs[name]), abs=1e-6)
    assert torch.isfinite(theirs["map"])
    np.testing.assert_allclose(
        np.nan_to_num(ours.AP[1:], nan=-1), theirs["map_per_class"].numpy(), atol=1e-6
    )


# Formats, labels and devices

BOX = {"boxes": [[10, 20, 30, 60]], "labels": [1]}
SEEN = {**BOX, "scores": [0.5]}


@pytest.mark.parametrize(
    ("box_format", "box"),
    [("xyxy", [10, 20, 40, 80]), ("xywh", [10, 20, 30, 60]), ("cxcywh", [25, 50, 30, 60])],
)
def test_every_format_means_the_same_box(box_format: Any, box: list[float]) -> None:
    annotations, predictions = from_tensors(
        [{**SEEN, "boxes": [box]}], [{**BOX, "boxes": [box]}], box_format=box_format
    )
    assert annotations.bbox.tolist() == [[10, 20, 30, 60]]
    assert annotations.boxes.tolist() == [[10, 20, 40, 80]]
    assert annotations.areas.tolist() == [1800]
    assert predictions.bbox.tolist() == annotations.bbox.tolist()


def test_labels_count_from_where_it_is_said() -> None:
    names = ["cat", "owl"]
    for first, label in ((0, 2), (1, 1)):
        annotations, predictions = from_tensors(
            [SEEN], [BOX], class_names=names, first_label=first, box_format="xywh"
        )
        assert (annotations.labels.tolist(), predictions.labels.tolist()) == ([label], [label])
        assert annotations.categories.ids == (first, first + 1)
        assert annotations.categories.names == ("cat", "owl")
    annotations, _ = from_tensors([SEEN], [BOX], class_names={5: "elk", 1: "owl"})
    assert annotations.categories.name(1) == "owl"
    annotations, _ = from_tensors([{**SEEN, "labels": [7]}], [BOX])
    assert annotations.categories.names == ("1", "7")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int32"])
def test_tensors_of_any_dtype_with_gradients(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    boxes = torch.tensor([[8.0, 16.0, 40.0, 80.0]]).to(getattr(torch, dtype))
    if boxes.is_floating_point():
        boxes.requires_grad_()
    seen = {"boxes": boxes, "scores": torch.tensor([0.5]), "labels": torch.tensor([1])}
    target = {
        "boxes": boxes,
        "labels": torch.tensor([1], dtype=torch.int32),
        "iscrowd": torch.tensor([True]),
        "masks": torch.zeros(1, 90, 90),
    }
    annotations, predictions = from_tensors([seen], [target])
    assert annotations.bbox.tolist() == predictions.bbox.tolist() == [[8, 16, 32, 64]]
    assert annotations.is_crowd.tolist() == [True]


@pytest.mark.gpu
def test_tensors_on_a_gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    boxes = torch.tensor([[8.0, 16.0, 40.0, 80.0]], device="cuda")
    one = torch.ones(1, dtype=torch.int64, device="cuda")
    annotations, _ = from_tensors(
        [{"boxes": boxes, "scores": one.float(), "labels": one}], [{"boxes": boxes, "labels": one}]
    )
    assert annotations.bbox.tolist() == [[8, 16, 32, 64]]


def test_torch_is_not_imported() -> None:
    script = (
        "import sys; from detbalance.data.tensor_inputs import from_tensors as f;"
        "f([{'boxes': [[0, 0, 1, 1]], 'labels': [0], 'scores': [1]}],"
        " [{'boxes': [], 'labels': []}]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# Edges


def test_images_without_boxes() -> None:
    empty = {"boxes": np.zeros((0, 4)), "labels": [], "scores": np.zeros(0)}
    annotations, predictions = from_tensors([empty, SEEN, empty], [BOX, empty, empty])
    assert annotations.offsets.tolist() == [0, 1, 1, 1]
    assert predictions.image_index.tolist() == [1]
    annotations, predictions = from_tensors([], [], class_names={1: "cat"})
    assert (annotations.num_images, predictions.num_predictions) == (0, 0)


def test_boxes_of_zero_size_and_outside_are_judged_like_others() -> None:
    boxes = [[5, 5, 5, 9], [-90, -90, -50, -50], [0, 0, 10, 10]]
    found = {"boxes": boxes, "labels": [1, 1, 1], "scores": [0.9, 0.8, 0.7]}
    truth = {"boxes": boxes[1:], "labels": [1, 1]}
    annotations, predictions = from_tensors([found], [truth], image_sizes=[[50, 40]])
    matches = match(annotations, predictions)
    assert matches.is_true_positive[:, 0].tolist() == [False, True, True]
    assert annotations.sizes.tolist() == [[50, 40]]


def test_the_result_can_be_saved_and_read(tmp_path: Path) -> None:
    annotations, predictions = from_tensors([SEEN, SEEN], [BOX, BOX], box_format="xywh")
    annotations.save(tmp_path / "val.json")
    save_predictions(tmp_path / "results.json", predictions, annotations)
    again = load_annotations(tmp_path / "val.json")
    assert again.bbox.tolist() == annotations.bbox.tolist()
    assert again.categories == annotations.categories


# Wrong input


@pytest.mark.parametrize(
    ("predictions", "targets", "options", "message"),
    [
        ([SEEN], [], {}, r"1 predictions beside 0 targets\. Expected one of each per image"),
        ([SEEN, [1]], [BOX] * 2, {}, r"predictions\[1\]: this is a list\. Expected a dict with"),
        ([BOX], [BOX], {}, r'predictions\[0\]: "scores" is missing \(keys: boxes, labels\)'),
        ([SEEN], [{"labels": [1]}], {}, r'targets\[0\]: "boxes" is missing'),
        ([SEEN], [{**BOX, "boxes": [1, 2, 3, 4]}], {}, r"boxes is \[4\]\. Expected \[n, 4\]"),
        ([SEEN], [{**BOX, "boxes": [["a", 1, 1, 1]]}], {}, r"targets\[0\]: boxes is no array of"),
        ([SEEN], [{**BOX, "labels": [1, 2]}], {}, r"labels is \[2\] beside 1 box\. Expected \[1"),
        ([{**SEEN, "scores": [[0.5]]}], [BOX], {}, r"scores is \[1, 1\] beside 1 box"),
        ([SEEN], [{**BOX, "labels": [1.5]}], {}, r"labels has 1\.5\. Expected whole numbers >= 0"),
        ([SEEN], [{**BOX, "labels": [-1]}], {}, r"labels has -1\.0\. Expected whole numbers"),
        ([SEEN], [{**BOX, "iscrowd": [2]}], {}, r"iscrowd has 2\.0\. Expected 0 or 1"),
        ([{**SEEN, "scores": [np.nan]}], [BOX], {}, r"1 score is not finite \(first: nan in ima"),
        (
            [{**SEEN, "boxes": [[0, 0, np.inf, 1]]}],
            [BOX],
            {},
            r"predictions: 1 box is not finite or of negative size",
        ),
        (
            [SEEN, SEEN],
            [BOX, {**BOX, "boxes": [[40, 20, 30, 60]]}],
            {},
            r"targets: 1 box .*first: \[40.0, 20.0, 30.0, 60.0\] in image 1.*Expected xyxy boxes",
        ),
        (
            [SEEN] * 3,
            [BOX, {"boxes": [[0, 0, 9, 9], [5, 5, 5, 9], [5, 7, 9, 7]], "labels": [1] * 3}, BOX],
            {},
            r"targets: 2 boxes have no width or no height .first: \[5.0, 5.0, 5.0, 9.0\] in image",
        ),
        ([SEEN], [BOX], {"box_format": "yolo"}, r'"yolo" is unknown\. Known: xyxy, xywh, cxcywh'),
        ([SEEN], [BOX], {"class_names": ["a", "b"]}, r"first_label is missing\. .*first_label=0"),
        ([SEEN], [BOX], {"class_names": {0: "a"}}, r"label 1 has no name .*Known: 0\. Name it"),
        ([SEEN], [BOX], {"image_sizes": [5, 5]}, r"image_sizes: this is \[2\]\. Expected \[1, 2\]"),
        ([], [], {}, r"neither a label nor a name"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    predictions: Any, targets: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        from_tensors(predictions, targets, **options)
    assert "\n" not in str(caught.value)


def test_an_image_index_that_does_not_exist_is_refused() -> None:
    for side in ("predictions", "targets"):
        seen, truth = {**SEEN, "image_index": [0]}, {**BOX, "image_index": [0]}
        (seen if side == "predictions" else truth)["image_index"] = [3]
        with pytest.raises(ValueError, match=rf"{side}: image_index has 3\. Expected 0 to 2"):
            from_arrays(seen, truth, num_images=3)
    with pytest.raises(ValueError, match=r'targets: "image_index" is missing'):
        from_arrays({**SEEN, "image_index": [0]}, BOX, num_images=3)
