"""Samplers of imbalanced-learn, and Gaussian ones, on region features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from region_samples import made_samples

from detbalance.repair.rebalance import gaussian_regions, rebalance, sampler_names
from detbalance.repair.region_features import linear

SMOTE = pytest.importorskip("imblearn.over_sampling").SMOTE

# One class has a single region, one has two, one has none.
COUNTS = (200, 60, 12, 2, 1, 0)
OVER = ("SMOTE", "BorderlineSMOTE", "SVMSMOTE", "KMeansSMOTE", "ADASYN", "RandomOverSampler")
UNDER = ("RandomUnderSampler", "NearMiss", "ClusterCentroids")
QUICK = [name for name in sampler_names() if name != "InstanceHardnessThreshold"]


def with_logits(samples, classes=6, seed=1):
    """The same with the logits of a linear classifier, and it."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(1, classes, samples.features.shape[1], generator=generator)
    bias = torch.randn(1, classes, generator=generator)
    slots = np.zeros(len(samples), np.int64)
    logits = linear(
        torch.from_numpy(samples.features), torch.from_numpy(slots), weight, bias
    ).numpy()
    return replace(samples, logits=logits, slots=slots), (weight, bias)


@pytest.mark.parametrize("name", QUICK)
def test_no_class_is_lost_and_none_appears(name):
    samples, _ = with_logits(made_samples(COUNTS))
    if name == "OneSidedSelection":  # which needs more than one region of the smallest class
        with pytest.raises(ValueError, match="OneSidedSelection cannot work on these regions"):
            rebalance(samples, name)
        return
    found = rebalance(samples, name)
    before, after = (np.bincount(s.labels, minlength=6) for s in (samples, found))
    assert ((before > 0) == (after > 0)).all()
    assert np.isfinite(found.features).all()
    # Objects count as much as before, each the same.
    objects = found.weights[found.labels > 0]
    assert objects.sum() == pytest.approx(samples.weights[samples.labels > 0].sum(), rel=1e-4)
    assert np.ptp(objects) == 0


@pytest.mark.parametrize("name", OVER)
def test_over_samplers_bring_all_classes_to_the_largest_and_keep_what_there_is(name):
    samples, _ = with_logits(made_samples(COUNTS))
    found = rebalance(samples, name)
    after = np.bincount(found.labels, minlength=6)
    if name in ("BorderlineSMOTE", "SVMSMOTE"):
        # These make regions only near a border, and as many as they find room for.
        assert (after >= np.array(COUNTS)).all()
        assert after.max() == 200
        assert after[4] == 60
    else:
        # ADASYN aims at a density, so its counts are about right.
        assert (abs(after[1:5] - 60) <= (15 if name == "ADASYN" else 0)).all()
    assert after[0] == 200
    rows = {row.tobytes() for row in found.features}
    assert all(row.tobytes() in rows for row in samples.features)
    background = found.labels == 0
    np.testing.assert_array_equal(
        np.sort(found.weights[background]), np.sort(samples.weights[samples.labels == 0])
    )


@pytest.mark.parametrize("name", UNDER)
def test_under_samplers_bring_classes_down_to_the_middle_one(name):
    found = rebalance(made_samples((200, 60, 12, 4)), name)
    assert np.bincount(found.labels).tolist() == [200, 12, 12, 4]


@pytest.mark.parametrize("name", ["SMOTE", "RandomOverSampler", "RandomUnderSampler", "TomekLinks"])
def test_the_frozen_classifier_says_of_made_regions_what_its_weights_give(name):
    samples, (weight, bias) = with_logits(made_samples(COUNTS))
    found = rebalance(samples, name)
    slots = torch.zeros(len(found), dtype=torch.int64)
    expected = linear(torch.from_numpy(found.features), slots, weight, bias).numpy()
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-4)


def test_what_travels_with_the_features_has_no_say_in_distances():
    plain = made_samples((40, 20, 6))
    loud = replace(
        plain, logits=1e4 * np.random.default_rng(0).standard_normal((66, 3), np.float32)
    )
    a, b = rebalance(plain, "SMOTE"), rebalance(loud, "SMOTE")
    np.testing.assert_allclose(a.features, b.features, atol=1e-6)


def test_smote_makes_regions_between_two_of_their_class():
    samples = made_samples((50, 30, 7))
    found = rebalance(samples, "SMOTE")
    own = samples.features[samples.labels == 2].astype(np.float64)
    made = found.features[found.labels == 2][7:].astype(np.float64)
    assert len(made) == 23
    for row in made:
        # On a segment, the distances to its ends sum to its length.
        to = np.linalg.norm(own - row, axis=1)
        lengths = np.linalg.norm(own[:, None] - own[None], axis=2)
        gap = to[:, None] + to[None] - lengths
        np.fill_diagonal(gap, np.inf)
        assert gap.min() < 1e-4


@given(counts=st.lists(st.integers(0, 9), min_size=2, max_size=4), seed=st.integers(0, 9))
@settings(max_examples=25)
def test_smote_works_with_any_number_of_regions(counts, seed):
    samples = made_samples((20, *counts), seed=seed)
    found = rebalance(samples, "SMOTE", seed=seed)
    after = np.bincount(found.labels, minlength=len(counts) + 1)
    assert after[1:].tolist() == [max(counts) if n else 0 for n in counts]


def test_options_of_the_sampler_are_its_own():
    samples = made_samples((50, 30, 7))
    found = rebalance(samples, "SMOTE", {"sampling_strategy": {2: 9}, "k_neighbors": 1})
    assert np.bincount(found.labels).tolist() == [50, 30, 9]
    with pytest.raises(ValueError, match=r"SMOTE does not take these options .*Known: .*k_neighb"):
        rebalance(samples, "SMOTE", {"neighbours": 3})
    with pytest.raises(ValueError, match=r'the sampler is "SMOT".*SMOTE'):
        rebalance(samples, "SMOT")


def test_only_so_much_background_is_shown_to_the_sampler_and_none_is_lost(monkeypatch):
    samples = made_samples((300, 30, 7))
    seen = []
    real = SMOTE.fit_resample

    def told(self, table, labels):
        seen.append(int((labels == 0).sum()))
        return real(self, table, labels)

    monkeypatch.setattr(SMOTE, "fit_resample", told)
    for most, shown in ((50, 50), (300, 300), (10**9, 300)):
        seen.clear()
        found = rebalance(samples, "SMOTE", most_background=most)
        assert set(seen) == {shown}
        assert np.bincount(found.labels).tolist() == [300, 30, 30]
        own, kept = (s.features[s.labels == 0] for s in (samples, found))
        assert sorted(row.tobytes() for row in kept) == sorted(row.tobytes() for row in own)


def test_a_class_that_a_sampler_cannot_work_on_is_repeated_and_named(caplog):
    samples = made_samples((60, 30, 1, 3))
    found = rebalance(samples, "KMeansSMOTE")
    assert np.bincount(found.labels).tolist() == [60, 30, 30, 30]
    assert any("class 3" in record.getMessage() for record in caplog.records)
    own = {row.tobytes() for row in samples.features[samples.labels == 2]}
    assert {row.tobytes() for row in found.features[found.labels == 2]} == own


def test_gaussian_regions_have_the_mean_and_the_deviation_of_their_class():
    samples, (weight, bias) = with_logits(made_samples((50, 4000, 60), spread=0.5, shift=9.0), 3)
    samples = replace(samples, features=samples.features.clip(0))
    found = gaussian_regions(samples, (weight, bias))
    assert np.bincount(found.labels).tolist() == [50, 4000, 4000]
    made = found.take(np.arange(len(samples), len(found)))
    assert (made.labels == 2).all()
    assert (made.images == -1).all()
    own = samples.features[samples.labels == 2]
    # Feature 2 is far from 0, where nothing is cut.
    assert made.features[:, 2].mean() == pytest.approx(own[:, 2].mean(), abs=0.05)
    assert made.features[:, 2].std() == pytest.approx(own[:, 2].std(), rel=0.1)
    assert (made.features >= own.min(axis=0)).all()
    expected = linear(
        torch.from_numpy(made.features), torch.from_numpy(made.slots), weight, bias
    ).numpy()
    np.testing.assert_allclose(made.logits, expected, rtol=1e-4, atol=1e-4)


def test_gaussian_regions_need_two_of_a_class():
    samples, classifier = with_logits(made_samples((50, 30, 1, 0)), 4)
    assert np.bincount(gaussian_regions(samples, classifier).labels).tolist() == [50, 30, 1]
