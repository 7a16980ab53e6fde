"""One-class models of rare classes: how typical, from where on, what comes back, what is left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from region_samples import made_samples
from scipy.stats import binom
from sklearn.base import BaseEstimator

from detbalance.detection.models import build_detector
from detbalance.repair import novelty as lifting
from detbalance.repair.classifier import classifier_of
from detbalance.repair.estimators import ONE_CLASS, make_one_class
from detbalance.repair.novelty import (
    ClassGate,
    OneClassModels,
    embed,
    fit_gates,
    fit_pca,
    fit_quietly,
    lowest_threshold,
    recovered,
    typicality,
)
from detbalance.repair.second_classifier import advised


def rows_of(samples):
    return np.where(samples.labels > 0, np.arange(len(samples)), -1)


def hidden_scores(samples, classes, low=0.2):
    """Scores of a detector that sees something everywhere and shows nothing."""
    scores = np.full((len(samples), classes), low, np.float32)
    scores[:, 0] = 0.0
    return scores


def test_mahalanobis_agrees_with_a_float64_twin():
    """Ledoit and Wolf, A well-conditioned estimator, 2004, sec. 3.3, and the distance by hand."""
    x = np.random.default_rng(0).standard_normal((12, 5)) @ np.diag([1.0, 2, 3, 4, 5])
    n, p = x.shape
    centred = x - x.mean(axis=0)
    s = centred.T @ centred / n
    m = np.trace(s) / p
    d2 = ((s - m * np.eye(p)) ** 2).sum() / p
    b2 = sum(((np.outer(c, c) - s) ** 2).sum() for c in centred) / p / n**2
    share = min(b2, d2) / d2
    shape = share * m * np.eye(p) + (1 - share) * s
    asked = np.random.default_rng(1).standard_normal((7, p))
    away = asked - x.mean(axis=0)
    expected = -np.einsum("ij,ij->i", away, np.linalg.solve(shape, away.T).T)
    found = typicality(make_one_class("Mahalanobis", {}, n).fit(x), asked)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ONE_CLASS)
def test_the_middle_of_a_class_is_more_typical_than_far_away(name):
    samples = made_samples((100, 30), width=6, shift=6.0)
    space = fit_pca(samples, np.arange(130))
    own = np.flatnonzero(samples.labels == 1)
    model = fit_quietly(make_one_class(name, {}, 30), embed(space, samples, own))
    here = typicality(model, space.transform(samples.features[own].mean(axis=0)[None]))
    there = typicality(model, space.transform(np.full((1, 6), 30.0)))
    assert here > there
    typical = typicality(model, embed(space, samples, np.arange(130)))
    assert typical[100:].mean() > typical[:100].mean()


@pytest.mark.parametrize("method", ["Mahalanobis", "LocalOutlierFactor"])
def test_no_more_false_ones_come_back_than_allowed(method):
    """On images that nothing was chosen on; the threshold itself is known from n regions only."""
    samples = made_samples((1500, 30, 60), width=6, shift=3.0, seed=1)
    fresh = made_samples((3000, 0, 120), width=6, shift=3.0, seed=2)
    rate = 0.1
    opinion, figures = fit_gates(
        samples,
        rows_of(samples),
        hidden_scores(samples, 3),
        [1],
        method,
        shared=False,
        max_fppi=rate,
    )
    assert figures[0].used
    assert figures[0].false_per_image == pytest.approx(rate, abs=0.05)
    before = torch.from_numpy(hidden_scores(fresh, 3))
    after = opinion(torch.from_numpy(fresh.features), before)
    false = int((after[:, 1] > opinion.floor).sum())
    images = len(np.unique(fresh.images))
    share = rate * len(np.unique(samples.images)) / int((samples.labels != 1).sum())
    low, high = binom.ppf([0.0005, 0.9995], len(fresh), share)
    noise = 3 * np.sqrt(share / len(samples)) * len(fresh)
    assert low - noise <= false <= high + noise
    assert false / images == pytest.approx(rate, abs=0.05)
    np.testing.assert_array_equal(after[:, 2], before[:, 2])


def test_boxes_that_are_typical_come_back_and_nothing_else_changes():
    samples = made_samples((400, 20, 60), width=6, shift=8.0)
    scores = hidden_scores(samples, 3)
    scores[:, 2] = 0.6
    opinion, figures = fit_gates(
        samples, rows_of(samples), scores, [1], "Mahalanobis", shared=False, max_fppi=0.02
    )
    (one,) = figures
    assert (one.boxes, one.shown, one.used) == (20, 0, True)
    assert one.regained >= 18
    assert one.by_score == 0  # all scores are alike
    after = opinion(torch.from_numpy(samples.features), torch.from_numpy(scores)).numpy()
    own = samples.labels == 1
    assert (after[own, 1] > 0.3).sum() >= 18
    assert (after[:, 1] < 0.35).all()
    assert (after[~own, 1] > 0.3).sum() <= 0.02 * 240 + 1
    np.testing.assert_array_equal(after[:, 2], scores[:, 2])


@pytest.mark.parametrize("boxes", [0, 1, 2])
def test_classes_with_few_boxes_are_left_alone_and_told(boxes):
    samples = made_samples((60, boxes, 20), width=6, shift=6.0)
    scores = hidden_scores(samples, 3)
    opinion, figures = fit_gates(
        samples, rows_of(samples), scores, [1, 2], "Mahalanobis", shared=False, max_fppi=0.1
    )
    assert [lift.label for lift in opinion.gates] == [2]
    assert (figures[0].boxes, figures[0].used, figures[0].why) == (
        boxes,
        False,
        "fewer than 3 boxes",
    )
    after = opinion(torch.from_numpy(samples.features), torch.from_numpy(scores))
    np.testing.assert_array_equal(after[:, 1], scores[:, 1])


def test_a_class_that_looks_like_the_others_is_left_alone():
    samples = made_samples((300, 5, 60), width=6, shift=0.0)
    scores = hidden_scores(samples, 3)
    opinion, figures = fit_gates(
        samples, rows_of(samples), scores, [1], "Mahalanobis", shared=False, max_fppi=0.0
    )
    assert not figures[0].used
    assert "no box came back" in figures[0].why
    given = torch.from_numpy(scores)
    assert opinion(torch.from_numpy(samples.features), given) is given


def test_scores_above_the_floor_and_below_the_gate_stay():
    model = make_one_class("Mahalanobis", {}, 20).fit(np.eye(6)[[0] * 20] + 0.1 * np.eye(20, 6))
    samples = made_samples((50,), width=6)
    space = fit_pca(samples, np.arange(50), 6)
    lift = ClassGate(1, model, 0.1, -np.inf)
    opinion = OneClassModels("Mahalanobis", space, [lift], 0.3, 3, False)
    scores = torch.tensor([[0, 0.05, 0.9], [0, 0.1, 0.9], [0, 0.29, 0.0], [0, 0.3, 0], [0, 0.9, 0]])
    features = torch.from_numpy(samples.features[:5])
    new = opinion(features, scores)
    assert (new[1:3, 1] > 0.3).all()
    assert new[2, 1] > new[1, 1]
    torch.testing.assert_close(new[[0, 3, 4]], scores[[0, 3, 4]])
    torch.testing.assert_close(new[:, 2], scores[:, 2])
    features[1] = torch.nan
    assert opinion(features, scores)[1, 1] == pytest.approx(0.1)


def test_lifting_keeps_the_sum_of_shared_scores_and_the_order():
    scores = np.random.default_rng(0).dirichlet(np.ones(4), 200)
    scores = scores[scores[:, 2] < 0.3]
    new = recovered(scores, 2, 0.3, True)
    np.testing.assert_allclose(new.sum(axis=1), 1.0)
    assert (new >= 0).all()
    assert ((new[:, 2] > 0.3) & (new[:, 2] < 0.32)).all()
    order = np.argsort(scores[:, 2])
    assert (np.diff(new[order, 2]) >= 0).all()
    np.testing.assert_allclose(new[:, 1] / new[:, 3], scores[:, 1] / scores[:, 3])


@pytest.mark.parametrize("detector", ["retinanet", "fcos", "fasterrcnn"])
def test_a_lifted_class_is_shown_by_a_detector(detector):
    torch.manual_seed(0)
    model = build_detector(4, detector=detector, backbone="tiny").eval()
    classifier = classifier_of(model)
    width = classifier.weights()[0].shape[2]
    samples = made_samples((50,), width=width)
    space = fit_pca(samples, np.arange(50), 4)
    model_of_class = make_one_class("Mahalanobis", {}, 50).fit(space.transform(samples.features))
    gates = [ClassGate(2, model_of_class, 0.0, -np.inf)]
    shared = not classifier.sigmoid
    opinion = OneClassModels("Mahalanobis", space, gates, 0.6, 4, shared)
    images = [torch.rand(3, 96, 128)]
    with torch.no_grad():
        before = model(images)[0]
        with advised(classifier, opinion, candidates=10**6):
            after = model(images)[0]
        nothing = OneClassModels("Mahalanobis", None, [], 0.6, 4, shared)
        with advised(classifier, nothing):
            same = model(images)[0]
    shown = after["labels"] == 2
    # An FCOS takes the root of the product with its centerness.
    assert (after["scores"][shown] > (0.3 if detector == "fcos" else 0.6)).any()
    assert not (before["scores"][before["labels"] == 2] > 0.6).any()
    assert torch.equal(same["boxes"], before["boxes"])
    torch.testing.assert_close(same["scores"], before["scores"], rtol=0, atol=1e-7)


class Watcher(BaseEstimator):
    """Notes the images that it is fitted to, by the first feature."""

    def fit(self, places):
        self.images = set(places[:, 0].tolist())
        return self

    def score_samples(self, places):
        return np.ones(len(places))


def test_models_of_a_fold_do_not_see_the_other_images(monkeypatch):
    samples = made_samples((60, 30), width=6)
    samples.features[:, 0] = samples.images
    watchers, spaces = [], []

    class Same:
        def transform(self, features):
            return features

    def space(samples, rows, components):
        spaces.append(set(samples.images[rows].tolist()))
        return Same()

    def make(*args):
        watchers.append(Watcher())
        return watchers[-1]

    monkeypatch.setattr(lifting, "fit_pca", space)
    monkeypatch.setattr(lifting, "make_one_class", make)
    fit_gates(
        samples, rows_of(samples), hidden_scores(samples, 2), [1], "any", shared=False, max_fppi=99
    )
    folds = lifting.image_folds(samples, 3, 0)
    for number in range(3):
        outside = set(samples.images[folds == number].tolist())
        assert not outside & watchers[1 + number].images
        assert not outside & spaces[number]


def test_the_threshold_lets_through_what_is_allowed_and_not_more():
    generator = np.random.default_rng(0)
    for _ in range(50):
        values = generator.choice([0.1, 0.4, 0.5, 0.9, -np.inf], 20)
        negative, weights = generator.random(20) < 0.7, generator.random(20)
        allowed = float(generator.random() * 5)
        least = lowest_threshold(values, negative, weights, allowed)
        through = negative & (values > least)
        assert weights[through].sum() <= allowed + 1e-12
        more = negative & (values >= least) & np.isfinite(values)
        if least > -1e300:
            assert weights[more].sum() > allowed
    assert lowest_threshold(np.array([0.5]), np.array([True]), np.ones(1), 0.0) == 0.5
