"""Features of a whole data set: which regions are kept, how they lie on disk, how it goes on."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from detbalance.augmentation import StandardAugmentation
from detbalance.data import load_annotations
from detbalance.detection.dataset import DetectionDataset
from detbalance.detection.models import build_detector
from detbalance.repair.classifier import classifier_of
from detbalance.repair.collecting import (
    RegionQuota,
    choose_regions,
    collect_features,
    kept_share,
    rare_repeats,
)
from detbalance.repair.region_features import (
    REGION,
    FeatureWriter,
    RegionFeatures,
    linear,
    read_samples,
)

LIMITS = RegionQuota(boxes_per_class=1000, hard=5, random=6)


@given(
    labels=st.lists(st.integers(-1, 3), min_size=1, max_size=60),
    hard=st.integers(0, 8),
    random=st.integers(1, 8),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_kept_background_stands_for_all_of_it_and_holds_the_hardest(labels, hard, random, seed):
    labels = np.array(labels)
    scores = np.random.default_rng(seed).permutation(len(labels)) / 100
    objects = np.where(labels > 0, np.arange(len(labels)), -1)
    background = max(1, int((labels == 0).sum()) // 2)
    rows, weights = choose_regions(
        labels, objects, scores, background, np.ones(4), (hard, random, 1.0),
        np.random.default_rng(seed),
    )  # fmt: skip
    assert (np.diff(rows) > 0).all()
    assert (weights > 0).all()
    assert set(rows[labels[rows] > 0]) == set(np.flatnonzero(labels > 0))
    assert not (labels[rows] == -1).any()
    negative = np.flatnonzero(labels == 0)
    if len(negative):
        kept = rows[labels[rows] == 0]
        assert len(kept) == min(len(negative), hard + random)
        assert weights[labels[rows] == 0].sum() == pytest.approx(background)
        hardest = negative[np.argsort(-scores[negative])][:hard]
        assert set(hardest) <= set(kept)
        assert len(set(weights[np.isin(rows, hardest)])) <= 1


@pytest.mark.parametrize("some", [(5, 6, 1.0), (0, 1, 0.3)])
def test_sums_over_kept_regions_are_on_average_those_over_all(some):
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [300, 40, 20])
    objects = np.r_[np.full(300, -1), np.repeat(np.arange(10), 4), np.repeat(np.arange(10, 15), 4)]
    values, scores = generator.random(360), generator.random(360)
    share = np.array([1.0, 0.3, 1.0])
    found = np.zeros((4000, 3))
    for i in range(len(found)):
        rows, weights = choose_regions(labels, objects, scores, 300, share, some, generator)
        found[i] = np.bincount(labels[rows], weights * values[rows], minlength=3)
        # Regions of one object are there together or not at all.
        assert set(np.bincount(objects[rows][labels[rows] > 0])) <= {0, 4}
    exact = np.bincount(labels, values)
    error = found.std(axis=0) / np.sqrt(len(found))
    assert (abs(found.mean(axis=0) - exact) <= 4 * error + 1e-9).all()
    assert error[1] > 0
    assert kept_share(np.array([0, 10, 5000]), RegionQuota(1000)).tolist() == [1, 1, 0.2]


@given(
    counts=st.lists(st.integers(0, 50), min_size=1, max_size=12),
    total=st.integers(1, 300),
)
def test_the_largest_classes_are_thinned_out_until_the_total_is_met(counts, total):
    counts = np.array([0, *counts])
    limits = RegionQuota(boxes_per_class=1000, boxes=total)
    kept = counts * kept_share(counts, limits)
    assert kept.sum() == pytest.approx(min(total, counts.sum()))
    thinned = kept < counts - 1e-9
    # One level: whoever is above it comes down to it, and nobody below is touched.
    assert np.ptp(kept[thinned]) == pytest.approx(0) if thinned.any() else True
    assert (kept[~thinned] <= kept[thinned].min() + 1e-9).all() if thinned.any() else True


@given(
    hard=st.integers(0, 40),
    random=st.integers(1, 40),
    looks=st.integers(1, 10**6),
    background=st.integers(1, 10**6),
)
def test_background_in_all_is_bounded(hard, random, looks, background):
    limits = RegionQuota(hard=hard, random=random, background=background)
    most_hard, drawn, chance = limits.of_background(looks)
    assert (most_hard + drawn) * looks * chance <= background * (1 + 1e-9)
    assert drawn >= 1
    assert most_hard <= hard
    if (hard + random) * looks <= background:
        assert (most_hard, drawn, chance) == (hard, random, 1.0)
    elif looks <= background // 2:
        # No more is given up than must be.
        assert (most_hard + drawn + 1) * looks > background


def test_rare_repeats_round_and_are_bounded():
    assert rare_repeats(np.array([1.0, 1.4, 1.6, 40.0]), most=3).tolist() == [0, 0, 1, 3]
    assert rare_repeats(np.array([1.0, 1.4, 1.6, 40.0]), most=0).tolist() == [0, 0, 0, 0]


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = build_detector(3, backbone="tiny", min_size=64, max_size=64).eval()
    nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.1)
    return classifier_of(model)


def dataset(data):
    return DetectionDataset(load_annotations(data / "train.json"), data / "images")


def collect(classifier, data, folder, **options):
    return collect_features(
        classifier, dataset(data), folder, limits=LIMITS, batch_size=3, **options
    )


def test_stored_features_give_the_logits_and_name_their_boxes(classifier, data, tmp_path):
    told = []
    stored = collect(classifier, data, tmp_path / "f", progress=lambda *n: told.append(n))
    notes = dataset(data).annotations
    assert told[-1] == (notes.num_images, notes.num_images)
    samples = read_samples(stored, classifier)
    weight, bias = classifier.weights()
    exact = classifier.regions(*(list(x) for x in zip(*[dataset(data)[0]], strict=True)))[0]
    first = stored.regions["image"] == 0
    found = linear(
        torch.from_numpy(np.asarray(stored.features[first], np.float32)),
        torch.from_numpy(samples.slots[first]),
        weight,
        bias,
    )
    torch.testing.assert_close(found, torch.from_numpy(samples.logits[first]))
    # float16 on disk, so about three digits.
    scores = classifier.scores(exact.logits)[:, 1:].amax(dim=1)
    own = torch.from_numpy(stored.regions["score"][first])
    assert (own[:, None] - scores[None]).abs().amin(dim=1).max() < 1e-5
    torch.testing.assert_close(
        classifier.scores(found)[:, 1:].amax(dim=1), own, rtol=0.02, atol=0.005
    )
    regions = stored.regions[stored.regions["label"] > 0]
    assert (notes.labels[regions["row"]] == regions["label"]).all()
    assert (notes.image_index[regions["row"]] == regions["image"]).all()
    centre = (regions["box"][:, :2] + regions["box"][:, 2:]) / 2
    boxes = notes.boxes[regions["row"]]
    assert ((centre > boxes[:, :2] - 8) & (centre < boxes[:, 2:] + 8)).all()
    assert (stored.regions["row"][stored.regions["label"] == 0] == -1).all()


def folder_content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != "state.json"}


def test_a_pass_that_was_stopped_goes_on_as_if_it_had_not_been(classifier, data, tmp_path):
    repeats = np.arange(dataset(data).annotations.num_images) % 2
    again = {"augmentation": StandardAugmentation(), "repeats": repeats}
    whole = collect(classifier, data, tmp_path / "whole", **again)
    calls = iter([False, True])
    assert collect(classifier, data, tmp_path / "f", stop=lambda: next(calls), **again) is None
    # A kill between two writes leaves a tail that no state speaks of.
    with (tmp_path / "f" / "features.f16").open("ab") as file:
        file.write(b"half a region")
    done = json.loads((tmp_path / "f" / "state.json").read_text())["images"]
    assert 0 < done < len(repeats)
    told = []
    collect(classifier, data, tmp_path / "f", progress=lambda *n: told.append(n), **again)
    assert told[0][0] == done + 3
    assert folder_content(tmp_path / "f") == folder_content(tmp_path / "whole")
    # A pass that is done is not done again.
    seen = []
    stored = collect(classifier, data, tmp_path / "f", progress=lambda *n: seen.append(n), **again)
    assert not seen
    assert len(stored) == len(whole)


def test_augmented_looks_are_further_ones_and_none_of_the_file(classifier, data, tmp_path):
    count = dataset(data).annotations.num_images
    plain = collect(classifier, data, tmp_path / "a")
    more = collect(
        classifier,
        data,
        tmp_path / "b",
        augmentation=StandardAugmentation(horizontal_flip=1),
        repeats=np.r_[2, np.zeros(count - 1, np.int64)],
    )
    for name in ("image", "row", "label", "slot", "weight", "box"):
        np.testing.assert_array_equal(more.regions[name][: len(plain)], plain.regions[name])
    further = more.regions[len(plain) :]
    assert set(further["image"]) == {0}
    assert (further["row"] == -1).all()
    assert (further["label"] > 0).any()


def test_features_of_something_else_are_refused(classifier, data, tmp_path):
    collect(classifier, data, tmp_path, source={"weights": "abc"})
    with pytest.raises(ValueError, match=r"weights 'abc', now it is 'xyz'.*Delete the folder"):
        collect(classifier, data, tmp_path, source={"weights": "xyz"})
    with pytest.raises(ValueError, match="made with seed 0, now it is 1"):
        collect(classifier, data, tmp_path, source={"weights": "abc"}, seed=1)


def test_a_full_disk_is_said_and_what_was_done_stays(classifier, data, tmp_path, monkeypatch):
    whole = collect(classifier, data, tmp_path / "whole")
    real = Path.open
    writes = []

    def full(self, mode="r", *args, **kwargs):
        if mode == "ab" and self.name == "features.f16" and (tmp_path / "f") in self.parents:
            writes.append(self)
            if len(writes) == 4:  # the first opens the file, the second and third write
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(ValueError, match=r"\(No space left on device\) after 6 images.*goes on fr"):
        collect(classifier, data, tmp_path / "f")
    monkeypatch.setattr(Path, "open", real)
    stored = collect(classifier, data, tmp_path / "f")
    assert folder_content(tmp_path / "f") == folder_content(tmp_path / "whole")
    assert len(stored) == len(whole)


def broken(classifier, value, monkeypatch, images):
    """Features of some images have a value that is not finite."""
    real = classifier.regions
    seen = []

    def regions(pixels, targets):
        found = real(pixels, targets)
        for i, image in enumerate(found):
            if len(seen) + i in images:
                give = image.features

                def bad(rows, give=give):
                    features = give(rows)
                    features[0, 0] = value
                    return features

                object.__setattr__(image, "features", bad)
        seen.extend(found)
        return found

    monkeypatch.setattr(classifier, "regions", regions)


def test_features_that_are_not_finite_are_left_out_and_counted(
    classifier, data, tmp_path, monkeypatch, caplog
):
    whole = collect(classifier, data, tmp_path / "whole")
    broken(classifier, float("nan"), monkeypatch, {4})
    stored = collect(classifier, data, tmp_path / "f")
    assert len(stored) == len(whole) - 1
    assert np.isfinite(stored.features).all()
    assert "1 regions have features that are not finite (first in image row 4)" in caplog.text


def test_values_beyond_float16_are_cut_and_counted(classifier, data, tmp_path, monkeypatch, caplog):
    broken(classifier, 1e6, monkeypatch, {0, 1})
    stored = collect(classifier, data, tmp_path / "f")
    assert np.isfinite(stored.features).all()
    assert stored.features.max() == np.finfo(np.float16).max
    assert "2 values are beyond what float16 holds" in caplog.text


def test_a_detector_that_has_diverged_is_refused(data, tmp_path):
    model = build_detector(3, backbone="tiny", min_size=64, max_size=64).eval()
    nn.init.constant_(model.head.classification_head.conv[0][0].weight, float("nan"))
    with pytest.raises(ValueError, match=r"none of the .* region features is finite"):
        collect(classifier_of(model), data, tmp_path / "f")


def test_limits_out_of_range_are_refused(classifier, data, tmp_path):
    with pytest.raises(ValueError, match="limits of region features: random is 0"):
        collect_features(classifier, dataset(data), tmp_path, limits=RegionQuota(5, 5, 0))


def test_a_folder_without_features_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        RegionFeatures(tmp_path)
    (tmp_path / "state.json").write_text('{"format": "other/1"}')
    with pytest.raises(ValueError, match=r"is not of the format detbalance\.regions/1"):
        RegionFeatures(tmp_path)


def test_rows_are_read_from_disk_when_asked_for(tmp_path):
    writer = FeatureWriter(tmp_path, 4, {})
    for i in range(3):
        records = np.zeros(2, REGION)
        records["label"] = i
        writer.append(np.full((2, 4), i, np.float16), records, images=1)
    stored = RegionFeatures(tmp_path)
    assert isinstance(stored.features, np.memmap)
    assert stored.features[3].tolist() == [1, 1, 1, 1]
    assert stored.regions["label"].tolist() == [0, 0, 1, 1, 2, 2]
    assert len(stored) == 6
    assert len(RegionFeatures(_empty(tmp_path / "none"))) == 0


def _empty(folder):
    none = np.zeros((0, 4), np.float16), np.zeros(0, REGION)
    FeatureWriter(folder, 4, {}).append(*none, images=0)
    return folder
