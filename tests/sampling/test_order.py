"""Which image a factor is of, where a data set gives its images in another order than the file."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from labelled_images import METHOD_OPTIONS
from recipes import recipe
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2

from detbalance.data import load_annotations
from detbalance.integrations.pytorch import ResumableLoader
from detbalance.sampling import (
    FACTORS,
    BalancedBatchSampler,
    ClassAwareSampler,
    ImageLabels,
    RepeatFactorSampler,
    repeat_factors,
)
from detbalance.sampling.image_order import factors_of, image_ids_of, rows_in_order

# Class 2 is in two of twelve images: with power 1 and this threshold they get 3, all others 1.
RARE = {7, 31}
SHUFFLED = [40, 7, 12, 31, 3, 25, 18, 2, 36, 9, 21, 15]
OPTIONS = {"threshold": 0.5, "power": 1.0}


@pytest.fixture
def coco(tmp_path):
    """A file whose images are in no order, and torchvision's data set of it, sorted by id."""
    images = [{"id": i, "file_name": f"{i}.png", "width": 9, "height": 9} for i in SHUFFLED]
    boxes = [
        {"id": n, "image_id": i, "category_id": c, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
        for n, (i, c) in enumerate([(i, 1) for i in SHUFFLED] + [(i, 2) for i in RARE], 1)
    ]
    random.Random(0).shuffle(boxes)
    categories = [{"id": 1, "name": "bolt"}, {"id": 2, "name": "crack"}]
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    dataset = _Ids(tmp_path, path)
    assert dataset.ids == sorted(SHUFFLED)
    return load_annotations(path), dataset


class _Ids(CocoDetection):
    """Gives the id of an image in place of its pixels."""

    def __getitem__(self, index):
        return self.ids[index]


class _WithEpoch(DataLoader):
    """As Accelerate's: it tells the sampler the epoch."""

    def set_epoch(self, epoch):
        self.batch_sampler.set_epoch(epoch)


def _read(names, made):
    for batch in made:
        names["train"](batch)


def _run(framework, names):
    """One epoch of a recipe, or of what it makes for the framework."""
    if framework == "PyTorch":
        exec(recipe("PyTorch"), names | {"os": os, "state": None})
    elif framework == "Accelerate":
        same = SimpleNamespace(prepare=lambda loader: loader)
        whole = {"accelerator": same, "DataLoader": _WithEpoch, "first_epoch": 0, "step": 0}
        exec(recipe("Accelerate"), names | whole)
    elif framework == "Lightning":
        base = type("LightningDataModule", (), {"trainer": SimpleNamespace(global_rank=0)})
        base.trainer.world_size = 1
        names |= {"LightningDataModule": base, "Trainer": dict, "options": {}}
        exec(recipe("Lightning"), names)
        _read(names, names["Data"]().train_dataloader())
    else:
        base = type("Trainer", (), {"__init__": lambda self, callbacks: None})
        base.train_dataset, base.args = names["dataset"], SimpleNamespace(seed=0)
        names |= {"Trainer": base, "TrainerCallback": object, "options": {}}
        exec(recipe("Hugging Face"), names)
        sampler = names["trainer"]._get_train_sampler()
        _read(names, DataLoader(names["dataset"], batch_size=2, sampler=sampler))


@pytest.mark.parametrize("framework", ["PyTorch", "Lightning", "Accelerate", "Hugging Face"])
def test_recipe_repeats_the_rare_images_of_a_shuffled_file(coco, framework):
    annotations, dataset = coco
    seen = Counter()
    factors = repeat_factors(annotations, **OPTIONS)
    names = {"factors": factors, "dataset": dataset, "batch_size": 2, "epochs": 1}
    names["train"] = lambda batch: seen.update(batch.tolist())
    _run(framework, names)
    assert seen == Counter({image: 3 if image in RARE else 1 for image in SHUFFLED})


def test_without_the_data_set_the_wrong_images_would_be_repeated(coco):
    # What the recipes did: the file's rows taken for the data set's.
    annotations, dataset = coco
    plain = np.asarray(repeat_factors(annotations, **OPTIONS))
    seen = Counter(dataset[i] for i in RepeatFactorSampler(plain))
    assert {image for image, times in seen.items() if times == 3} != RARE


def test_class_aware_turns_follow_the_data_set(coco):
    annotations, dataset = coco
    sampler = ClassAwareSampler(annotations, target_length=24, dataset=dataset)
    seen = Counter(dataset[i] for i in sampler)
    # Class 2 has 12 turns of its 2 images, class 1 12 of all 12.
    assert seen == Counter({image: 7 if image in RARE else 1 for image in SHUFFLED})
    assert sampler.image_ids.tolist() == dataset.ids


@pytest.mark.parametrize("method", FACTORS)
def test_all_factors_carry_the_image_ids_through_arithmetic(coco, method):
    annotations, _ = coco
    factors = FACTORS[method](annotations, **METHOD_OPTIONS.get(method, {}))
    assert factors.image_ids.tolist() == SHUFFLED
    for changed in (factors * 2, 2 * factors, np.minimum(factors, 1.5), np.ones(12) * factors):
        assert changed.image_ids.tolist() == SHUFFLED
    factors *= 2
    assert factors.image_ids.tolist() == SHUFFLED
    # A place that may have moved says nothing any more.
    for moved in (factors[::-1], factors.copy(), np.sort(factors), factors[:3], factors > 1):
        assert getattr(moved, "image_ids", None) is None
    assert isinstance(factors.sum(), float)
    assert repr(factors) == repr(np.asarray(factors))


def test_factors_of_other_images_do_not_multiply(coco):
    annotations, _ = coco
    factors = repeat_factors(annotations, **OPTIONS)
    with pytest.raises(ValueError, match=r"in another order.*Compute both from one file"):
        factors * factors_of(np.ones(12), np.array(sorted(SHUFFLED)))
    assert (factors * repeat_factors([[1]] * 12, threshold=0.1)).image_ids.tolist() == SHUFFLED


@pytest.mark.parametrize("make", [copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_copies_are_numbers_all_the_same(coco, make):
    factors = repeat_factors(coco[0], **OPTIONS)
    assert make(factors).tolist() == factors.tolist()


def test_images_that_the_file_does_not_have_are_refused(coco):
    annotations, dataset = coco
    factors = repeat_factors(annotations, **OPTIONS)
    dataset.ids[3] = 999
    said = r"1 of 12 images of the data set have no factor \(first: dataset\[3\], image id 999\)"
    with pytest.raises(ValueError, match=f"RepeatFactorSampler: {said}"):
        RepeatFactorSampler(factors, dataset=dataset)
    with pytest.raises(ValueError, match=f"ClassAwareSampler: {said}"):
        ClassAwareSampler(annotations, dataset=dataset)


def test_another_number_of_images_is_refused_where_ids_are_not_told():
    said = "the data set has 3 images, and 2 are balanced"
    with pytest.raises(ValueError, match=said):
        RepeatFactorSampler([1.0, 2.0], dataset=[0, 0, 0])
    with pytest.raises(ValueError, match=said):
        ClassAwareSampler([[1], [2]], dataset=[0, 0, 0])
    assert RepeatFactorSampler([1.0, 2.0], dataset=[0, 0]).image_ids is None


def test_a_loader_refuses_a_sampler_that_means_another_order(coco):
    annotations, dataset = coco
    factors = repeat_factors(annotations, **OPTIONS)
    wrong = BalancedBatchSampler(RepeatFactorSampler(factors), 2)
    with pytest.raises(ValueError, match=r"in another order.*Pass dataset=dataset"):
        ResumableLoader(dataset, wrong)
    right = BalancedBatchSampler(RepeatFactorSampler(factors, dataset=dataset), 2)
    assert len(list(ResumableLoader(dataset, right))) == 8


def test_data_sets_tell_their_ids(coco):
    annotations, dataset = coco
    ids = sorted(SHUFFLED)
    assert image_ids_of(dataset).tolist() == ids
    assert image_ids_of(Subset(dataset, [5, 1])).tolist() == [ids[5], ids[1]]
    assert image_ids_of(wrap_dataset_for_transforms_v2(dataset)).tolist() == ids
    assert image_ids_of(SimpleNamespace(annotations=annotations)).tolist() == SHUFFLED
    assert image_ids_of(_Columns({"image_id": SHUFFLED})).tolist() == SHUFFLED
    for silent in ([1, 2], Subset([1, 2], [0]), SimpleNamespace(ids=["a", "b"]), _Columns({})):
        assert image_ids_of(silent) is None


class _Columns(dict):
    """A Hugging Face data set, as far as it is asked."""

    @property
    def column_names(self):
        return list(self)


def test_a_part_of_the_images_gets_its_factors(coco):
    annotations, dataset = coco
    part = Subset(dataset, [0, 1, 2, 9])
    sampler = RepeatFactorSampler(repeat_factors(annotations, **OPTIONS), dataset=part)
    expected = [3.0 if part[i] in RARE else 1.0 for i in range(4)]
    assert sampler.repeat_factors == pytest.approx(expected)


@given(st.lists(st.integers(0, 50), min_size=1, unique=True), st.data())
def test_rows_are_found_like_by_a_dictionary(ids, data):
    order = data.draw(st.lists(st.sampled_from(ids), min_size=1))
    rows, told = rows_in_order("x", len(ids), np.array(ids), SimpleNamespace(ids=order))
    if rows is None:
        assert order == ids
    else:
        assert rows.tolist() == [ids.index(image) for image in order]
    assert told.tolist() == order


@given(st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=8), st.data())
def test_labels_in_another_order_are_those_of_the_rows(labels, data):
    rows = data.draw(st.lists(st.integers(0, len(labels) - 1), min_size=1))
    moved = ImageLabels(labels).in_order(np.array(rows))
    expected = ImageLabels([sorted(labels[row]) for row in rows])
    assert moved.num_classes == ImageLabels(labels).num_classes
    assert moved.image_index.tolist() == expected.image_index.tolist()
    for image in range(len(rows)):
        mine = moved.labels[moved.image_index == image]
        assert sorted(mine.tolist()) == sorted(labels[rows[image]])


def test_a_threshold_that_repeats_nothing_is_noted(coco, caplog):
    annotations, _ = coco
    assert (repeat_factors(annotations, threshold=0.01) == 1).all()
    assert "threshold is 0.01, and no class has a smaller share than 0.167" in caplog.text
    caplog.clear()
    repeat_factors(annotations, threshold=0.5)
    repeat_factors(annotations, target_length=12)
    repeat_factors([[], []], threshold=0.5)
    assert not caplog.text


def test_torch_takes_factors_as_any_array(coco):
    factors = repeat_factors(coco[0], **OPTIONS)
    assert torch.as_tensor(factors).tolist() == factors.tolist()
