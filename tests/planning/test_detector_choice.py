"""Input size and anchors: against torchvision's own resizing and a brute-force search."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import load

from detbalance.data import Annotations
from detbalance.planning.detector_choice import (
    InputSize,
    choose_input_size,
    fit_anchors,
    judge_anchors,
    scales,
)

SIZE = InputSize(320, 448, 0.0, 0.0, 0.0, "boxes", 448, 448)


def document(boxes, *, width=640, height=480, labels=None):
    """One image for each box [x, y, width, height]."""
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": width, "height": height}
            for i in range(len(boxes))
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1 if labels is None else labels[i], "bbox": box}
            for i, box in enumerate(boxes)
        ],
    }


def annotations(tmp_path, boxes, **options) -> Annotations:
    return load(tmp_path / "a.json", document(boxes, **options))


def squares(side, number=60, *, width=640, height=480):
    draw = np.random.default_rng(number)
    places = draw.uniform(0, [width - side, height - side], (number, 2)).round()
    return [[float(x), float(y), side, side] for x, y in places]


@pytest.mark.parametrize("side", [12, 30, 90, 250])
def test_boxes_are_as_large_as_torchvision_makes_them(tmp_path, side):
    torch = pytest.importorskip("torch")
    transform_of = pytest.importorskip("torchvision.models.detection.transform")
    truth = annotations(tmp_path, squares(side))
    size = choose_input_size(truth)
    transform = transform_of.GeneralizedRCNNTransform(size.min_size, size.max_size, [0.0], [1.0])
    target = {"boxes": torch.tensor(truth.boxes[:1])}
    _, (scaled,) = transform([torch.zeros(1, 480, 640)], [target])
    width, height = (scaled["boxes"][0, 2:] - scaled["boxes"][0, :2]).tolist()
    # Torchvision rounds the sides of the image to whole pixels.
    assert size.median == pytest.approx((width * height) ** 0.5, rel=0.01)
    assert scales(truth, size.min_size, size.max_size)[0] * side == pytest.approx(size.median)
    assert size.small == float(size.median < 16)


def test_smaller_boxes_ask_for_larger_images(tmp_path):
    sizes = [choose_input_size(annotations(tmp_path, squares(side))) for side in (150, 60, 30)]
    longest = [size.max_size for size in sizes]
    assert longest == sorted(longest)
    assert longest[0] < longest[-1] <= 640
    assert sizes[0].limit == "boxes"
    on_gpu = choose_input_size(annotations(tmp_path, squares(60)), has_gpu=True)
    assert on_gpu.max_size > longest[1]


def test_what_keeps_the_size_from_being_larger_is_said(tmp_path):
    tiny = annotations(tmp_path, squares(5, width=4000, height=3000), width=4000, height=3000)
    size = choose_input_size(tiny)
    assert size.limit == "cost"
    assert size.min_size * size.max_size <= 200_000
    assert size.tiny == 1
    little = annotations(tmp_path, squares(12, width=96, height=96), width=96, height=96)
    size = choose_input_size(little)
    assert (size.limit, size.max_size <= 192) == ("images", True)  # not enlarged beyond twice


def test_a_rare_class_of_small_objects_is_not_given_up_for_the_others(tmp_path):
    boxes = [*squares(200, 97), *squares(24, 3)]
    alone = choose_input_size(annotations(tmp_path, boxes[:97]))
    both = choose_input_size(annotations(tmp_path, boxes, labels=[1] * 97 + [2] * 3))
    assert both.small <= 0.05
    assert both.max_size > alone.max_size


def test_a_file_without_boxes_is_refused(tmp_path):
    empty = document(squares(20, 2))
    empty["annotations"] = []
    with pytest.raises(ValueError, match=r"a\.json: has no box to learn from"):
        choose_input_size(load(tmp_path / "a.json", empty))


def brute_force_overlap(box, sizes, ratios, strides, extent):
    """The highest IoU of one box (centre and size) with all anchors of the feature maps."""
    best = 0.0
    for stride, own in zip(strides, sizes, strict=True):
        places = np.arange(0, extent + stride, stride, dtype=float)
        for size in own:
            for ratio in ratios:
                w, h = size / ratio**0.5, size * ratio**0.5
                for x in places:
                    for y in places:
                        left = max(x - w / 2, box[0] - box[2] / 2)
                        right = min(x + w / 2, box[0] + box[2] / 2)
                        top = max(y - h / 2, box[1] - box[3] / 2)
                        bottom = min(y + h / 2, box[1] + box[3] / 2)
                        shared = max(0.0, right - left) * max(0.0, bottom - top)
                        best = max(best, shared / (w * h + box[2] * box[3] - shared))
    return best


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(20, 100)] * 2, *[st.floats(2, 90)] * 2), min_size=1, max_size=4)
)
def test_best_possible_recall_is_that_of_all_anchors(boxes):
    sizes, ratios, strides = [[12.0, 17.0], [40.0, 61.0]], [0.5, 1.0, 1.7], [8, 16]
    judged = judge_anchors(np.array(boxes), sizes, ratios, strides)
    overlaps = [brute_force_overlap(box, sizes, ratios, strides, 128) for box in boxes]
    assert judged.overlap == pytest.approx(np.mean(overlaps), abs=1e-9)
    near = any(abs(overlap - 0.5) < 1e-9 for overlap in overlaps)
    assert near or judged.recall == np.mean(np.array(overlaps) >= 0.5)


def test_anchors_lie_where_torchvision_puts_them():
    torch = pytest.importorskip("torch")
    anchor_utils = pytest.importorskip("torchvision.models.detection.anchor_utils")
    from torchvision.models.detection.image_list import ImageList
    from torchvision.ops import box_iou

    sizes, strides = ((16.0, 22.0), (32.0, 44.0)), (8, 16)
    generator = anchor_utils.AnchorGenerator(sizes, ((1.0,),) * 2)
    images = ImageList(torch.zeros(1, 3, 128, 128), [(128, 128)])
    maps = [torch.zeros(1, 1, 128 // stride, 128 // stride) for stride in strides]
    (anchors,) = generator(images, maps)
    draw = np.random.default_rng(3)
    boxes = np.hstack([draw.uniform(20, 100, (50, 2)), draw.uniform(8, 50, (50, 2))])
    corners = np.hstack([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2])
    best = box_iou(torch.as_tensor(corners), anchors.double()).amax(dim=1).numpy()
    judged = judge_anchors(boxes, sizes, [1.0], strides)
    assert judged.overlap == pytest.approx(best.mean(), abs=1e-6)
    assert judged.recall == (best >= 0.5).mean()


@pytest.mark.parametrize("shape", [(10, 10), (60, 60), (200, 200), (60, 15), (8, 48)])
def test_fitted_anchors_find_at_least_what_the_usual_ones_find(tmp_path, shape):
    draw = np.random.default_rng(0)
    sides = np.array(shape) * np.exp(draw.normal(0, 0.2, (80, 2)))
    places = draw.uniform(0, 400 - sides)
    fitted, usual = fit_anchors(annotations(tmp_path, np.hstack([places, sides]).tolist()), SIZE)
    assert fitted.recall >= usual.recall - 0.005
    assert fitted.recall > 0.9 or min(shape) < 16  # the finest feature map has a stride of 8
    assert fitted.overlap >= usual.overlap - 0.02
    assert len(fitted.sizes) == len(fitted.strides) <= 5
    assert list(fitted.strides) == [8 * 2**i for i in range(len(fitted.strides))]


def test_long_boxes_get_anchors_of_their_own_shape(tmp_path):
    fitted, _ = fit_anchors(
        annotations(tmp_path, [[100, 50, 20, 160]] * 30 + [[50, 80, 100, 90]] * 10), SIZE
    )
    assert max(fitted.ratios) > 2
    square, _ = fit_anchors(annotations(tmp_path, squares(50)), SIZE)
    assert square.ratios == (1.0,)


def test_crowd_regions_are_no_boxes_to_fit_to(tmp_path):
    file = document(squares(50))
    file["annotations"][0] |= {"iscrowd": 1, "bbox": [0, 0, 640, 480]}
    with_crowd = fit_anchors(load(tmp_path / "a.json", file), SIZE)
    del file["annotations"][0]
    without = fit_anchors(load(tmp_path / "a.json", file), SIZE)
    assert dataclasses.astuple(with_crowd[0]) == dataclasses.astuple(without[0])
