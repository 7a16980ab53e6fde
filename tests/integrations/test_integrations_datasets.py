"""Data sets of other libraries: read, sampled from, and transformed."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes

from detbalance.data import load_annotations
from detbalance.detection.dataset import DetectionDataset, collate
from detbalance.integrations.datasets import annotations_of
from detbalance.sampling import ImageLabels, RepeatFactorSampler, repeat_factors


@pytest.fixture
def truth(data):
    return load_annotations(data / "train.json")


def assert_same_boxes(ours, truth):
    np.testing.assert_array_equal(ours.bbox, truth.bbox)
    np.testing.assert_array_equal(ours.labels, truth.labels)
    np.testing.assert_array_equal(ours.image_index, truth.image_index)
    np.testing.assert_array_equal(ours.sizes, truth.sizes)
    assert ours.categories.names == truth.categories.names


def test_torchvisions_coco_is_read_and_sampled_from(data, truth):
    stock = wrap_dataset_for_transforms_v2(
        CocoDetection(data / "images", data / "train.json"), target_keys=["boxes", "labels"]
    )
    ours = annotations_of(stock, class_names={1: "red", 2: "green"})
    assert_same_boxes(ours, truth)
    factors = repeat_factors(ImageLabels(ours), threshold=0.9)
    np.testing.assert_array_equal(factors, repeat_factors(ImageLabels(truth), threshold=0.9))
    sampler = RepeatFactorSampler(factors, seed=0, rank=0, world_size=1)
    loader = DataLoader(stock, batch_size=2, sampler=sampler, collate_fn=lambda b: b)
    assert sum(len(batch) for batch in loader) == len(sampler)


def test_hugging_faces_layout_is_read(truth):
    items = []
    for i in range(truth.num_images):
        rows = truth.rows(i)
        objects = {"bbox": truth.bbox[rows].tolist(), "category": (truth.labels[rows] - 1).tolist()}
        items.append({"image": SimpleNamespace(size=(64, 64)), "objects": objects})

    class Set(list):
        """With features, as theirs have."""

    named = Set(items)
    category = SimpleNamespace(feature=SimpleNamespace(names=["red", "green"]))
    named.features = {"objects": {"category": category}}
    assert_same_boxes(annotations_of(named), truth)
    assert_same_boxes(annotations_of(items, class_names={0: "red", 1: "green"}), truth)


def test_items_of_another_form_are_refused():
    with pytest.raises(ValueError, match=r"item 0 is a list. An image with a dict of boxes"):
        annotations_of([[1, 2, 3]])


def test_a_transform_of_torchvision_moves_the_boxes_with_the_image(data, truth):
    """A flip that mirrors the image and leaves the boxes would teach wrong places, silently."""
    image, target = DetectionDataset(truth, data / "images")[0]
    assert isinstance(target["boxes"], BoundingBoxes)
    flipped, moved = v2.RandomHorizontalFlip(p=1.0)(image, target)
    assert torch.equal(flipped, image.flip(-1))
    x1, y1, x2, y2 = target["boxes"][0].tolist()
    assert moved["boxes"][0].tolist() == [64 - x2, y1, 64 - x1, y2]
    assert torch.equal(moved["labels"], target["labels"])
    half, scaled = v2.Resize(32)(image, target)
    assert half.shape == (3, 32, 32)
    torch.testing.assert_close(torch.Tensor(scaled["boxes"]), torch.Tensor(target["boxes"]) / 2)


def test_a_detector_gets_plain_tensors(data, truth):
    dataset = DetectionDataset(truth, data / "images")
    _, targets = collate([dataset[0], dataset[1]])
    assert all(type(value) is torch.Tensor for target in targets for value in target.values())
    assert json.dumps(targets[0]["boxes"].tolist()) == json.dumps(
        truth.boxes[truth.rows(0)].tolist()
    )
