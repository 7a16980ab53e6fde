"""A classifier of scikit-learn beside a detector's scores: how it is weighed, asked and heard."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from region_samples import made_samples
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import average_precision_score

from detbalance.detection.models import build_detector
from detbalance.repair import second_classifier as estimators
from detbalance.repair.blend_scores import (
    Items,
    average_precision,
    best_power,
    blend_scores,
    class_precision,
    temperature_scaled,
)
from detbalance.repair.classifier import classifier_of
from detbalance.repair.estimators import (
    classifier_names,
    is_one_class,
    make_classifier,
    make_one_class,
)
from detbalance.repair.region_features import image_folds
from detbalance.repair.second_classifier import (
    SecondClassifier,
    advised,
    few_boxes,
    fit_second_classifier,
    out_of_fold,
    probabilities,
)

ISSUE = [
    "BalancedBaggingClassifier",
    "EasyEnsembleClassifier",
    "RUSBoostClassifier",
    "BalancedRandomForestClassifier",
    "HistGradientBoostingClassifier",
]
SMALL = {
    "BalancedBaggingClassifier": {"n_estimators": 3},
    "EasyEnsembleClassifier": {"n_estimators": 1},
    "RUSBoostClassifier": {"n_estimators": 5},
    "BalancedRandomForestClassifier": {"n_estimators": 10},
    "HistGradientBoostingClassifier": {"max_iter": 5},
    "LogisticRegression": {},
}


def rows_of(samples):
    """Each region with an object shows one of its own."""
    return np.where(samples.labels > 0, np.arange(len(samples)), -1)


def flat_scores(samples, classes, seed=0):
    """Scores of a detector that knows nothing."""
    scores = np.random.default_rng(seed).uniform(0.1, 0.9, (len(samples), classes))
    scores[:, 0] = 0.0
    return scores.astype(np.float32)


def knowing_scores(samples, classes):
    """Scores of a detector that knows all."""
    scores = np.full((len(samples), classes), 0.1, np.float32)
    scores[np.arange(len(samples)), samples.labels] = 0.9
    scores[:, 0] = 0.0
    return scores


class Spy(ClassifierMixin, BaseEstimator):
    """Reads the image from the first feature, and refuses to be asked about one that it saw."""

    asked: list[int]

    def fit(self, features, labels):
        self.seen_, self.classes_ = set(features[:, 0].tolist()), np.unique(labels)
        return self

    def predict_proba(self, features):
        assert not self.seen_ & set(features[:, 0].tolist())
        return np.full((len(features), len(self.classes_)), 1 / len(self.classes_))


def test_no_region_is_judged_by_a_classifier_that_saw_its_image(monkeypatch):
    samples = made_samples((60, 20, 12))
    samples.features[:, 0] = samples.images
    fitted = []

    def make(*args):
        fitted.append(Spy())
        return fitted[-1]

    monkeypatch.setattr(estimators, "make_classifier", make)
    fit_second_classifier(
        samples, rows_of(samples), flat_scores(samples, 3), "any", shared=False, folds=4
    )
    assert len(fitted) in (4, 5)
    # Together they are asked about every image, each of which three of them have seen.
    seen = [image for spy in fitted[:4] for image in spy.seen_]
    assert sorted(seen) == sorted([*np.unique(samples.images).tolist()] * 3)


@pytest.mark.parametrize("name", SMALL)
def test_every_named_estimator_learns_and_helps_a_detector_that_knows_nothing(name):
    samples = made_samples((120, 60, 9), shift=5.0)
    opinion, weighing = fit_second_classifier(
        samples,
        rows_of(samples),
        flat_scores(samples, 3),
        name,
        SMALL[name],
        shared=False,
        floor=0.0,  # scores of no meaning are free to fall
        folds=2,
    )
    assert opinion.weight == weighing.weight > 0
    alone, together = (np.nanmean(weighing.precision[w]) for w in (0.0, opinion.weight))
    assert together > alone + 0.1
    new = opinion(torch.from_numpy(samples.features), torch.from_numpy(flat_scores(samples, 3)))
    rare = samples.labels == 2
    assert new[rare, 2].mean() > new[~rare, 2].mean() + 0.1


def test_the_names_of_the_issue_are_known():
    assert set(ISSUE) <= set(classifier_names())


def test_where_nothing_helps_the_detector_is_left_alone():
    samples = made_samples((60, 20, 10), shift=0.0)  # features that say nothing
    scores = knowing_scores(samples, 3)
    opinion, weighing = fit_second_classifier(
        samples, rows_of(samples), scores, "LogisticRegression", shared=False
    )
    assert opinion.weight == 0.0
    assert opinion.estimator is None
    assert np.nanmean(weighing.precision[0.0]) == 1.0
    given = torch.from_numpy(scores)
    assert opinion(torch.from_numpy(samples.features), given) is given


def test_an_opinion_that_hides_boxes_is_not_taken(monkeypatch):
    """It ranks well, but is never sure: all scores would fall below the floor."""
    samples = made_samples((90, 30, 30), shift=6.0)
    scores = np.where(flat_scores(samples, 3) > 0, 0.35, 0.0).astype(np.float32)

    class Unsure(Spy):
        def predict_proba(self, features):
            near = 1 + 0.01 * features[:, [0, 1, 2]]
            return near / near.sum(axis=1, keepdims=True)

    monkeypatch.setattr(estimators, "make_classifier", lambda *args: Unsure())
    monkeypatch.setattr(estimators, "best_power", lambda said, labels: 1.0)
    rows = rows_of(samples)
    opinion, weighing = fit_second_classifier(
        samples, rows, scores, "any", shared=False, floor=0.3499
    )
    means = {w: np.nanmean(found) for w, found in weighing.precision.items()}
    assert means[0.5] > means[0.0] + 0.2
    assert weighing.shown[0.0] == 1.0
    assert weighing.shown[0.5] < 0.95
    assert opinion.weight == 0.0
    opinion, _ = fit_second_classifier(samples, rows, scores, "any", shared=False, floor=0.2)
    assert opinion.weight > 0.0


@pytest.mark.parametrize("detector", ["retinanet", "fcos", "fasterrcnn"])
def test_an_opinion_without_weight_leaves_detections_as_they_are(detector):
    torch.manual_seed(0)
    model = build_detector(4, detector=detector, backbone="tiny").eval()
    classifier = classifier_of(model)
    images = [torch.rand(3, 96, 128), torch.rand(3, 80, 80)]
    opinion = SecondClassifier("none", None, 0.0, 4, not classifier.sigmoid)
    with torch.no_grad():
        before = model(images)
        with advised(classifier, opinion, candidates=50):
            during = model(images)
    assert sum(len(found["scores"]) for found in before) > 0
    for a, b in zip(before, during, strict=True):
        # Through a logarithm and back, scores that are nearly equal may change places.
        first, second = (
            sorted(
                zip(f["labels"].tolist(), f["boxes"].tolist(), f["scores"].tolist(), strict=True)
            )
            for f in (a, b)
        )
        assert [one[:2] for one in first] == [one[:2] for one in second]
        for one, other in zip(first, second, strict=True):
            assert one[2] == pytest.approx(other[2], abs=1e-7)


@pytest.mark.parametrize("detector", ["retinanet", "fasterrcnn"])
def test_an_opinion_of_full_weight_is_what_a_detector_shows(detector):
    torch.manual_seed(0)
    model = build_detector(4, detector=detector, backbone="tiny").eval()
    classifier = classifier_of(model)
    width = classifier.weights()[0].shape[2]
    estimator = make_classifier("LogisticRegression", {})
    generator = np.random.default_rng(0)
    estimator.fit(generator.standard_normal((40, width)), np.arange(40) % 4)
    estimator[-1].coef_[:], estimator[-1].intercept_[:] = 0.0, [0.0, 0.0, 0.0, 3.0]
    opinion = SecondClassifier("any", estimator, 1.0, 4, not classifier.sigmoid)
    with torch.no_grad(), advised(classifier, opinion, candidates=10**6):
        found = model([torch.rand(3, 96, 128)])[0]
    sure = float(np.exp(3.0) / (3.0 + np.exp(3.0)))
    third = found["scores"][found["labels"] == 3]
    torch.testing.assert_close(third, torch.full_like(third, sure), rtol=1e-4, atol=1e-5)
    assert len(third) > 0


def test_pooling_follows_the_formulas():
    generator = np.random.default_rng(0)
    scores = generator.dirichlet(np.ones(4), 6)
    said = generator.dirichlet(np.ones(4), 6)
    both = scores**0.7 * said**0.3
    expected = both / both.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(blend_scores(scores, said, 0.3, True), expected, rtol=1e-6)
    odds = (scores / (1 - scores)) ** 0.7 * (said / (1 - said)) ** 0.3
    expected = odds / (1 + odds)
    found = blend_scores(scores, said, 0.3, False)
    np.testing.assert_allclose(found[:, 1:], expected[:, 1:], rtol=1e-6)
    np.testing.assert_array_equal(found[:, 0], scores[:, 0])


@pytest.mark.parametrize("shared", [True, False])
def test_pooling_leaves_what_nothing_is_said_of(shared):
    scores = np.random.default_rng(0).dirichlet(np.ones(4), 6)
    said = np.random.default_rng(1).dirichlet(np.ones(4), 6)
    said[2], said[:, 3] = np.nan, np.nan
    found = blend_scores(scores, said, 0.5, shared)
    np.testing.assert_array_equal(found[2], scores[2])
    if shared:
        np.testing.assert_allclose(found.sum(axis=1), 1.0)
    else:
        np.testing.assert_array_equal(found[:, 3], scores[:, 3])
    assert np.isfinite(found).all()
    # Impossible and certain are second classifiers as well.
    said[0, :3] = [1.0, 0.0, 0.0]
    assert np.isfinite(blend_scores(scores, said, 1.0, shared)).all()


def test_regions_that_are_not_finite_keep_their_scores_and_are_not_learned_from():
    samples = made_samples((60, 20, 12), shift=5.0)
    samples.features[[0, 65, 85]] = np.nan
    scores = flat_scores(samples, 3)
    opinion, _ = fit_second_classifier(
        samples, rows_of(samples), scores, "LogisticRegression", shared=False
    )
    assert opinion.weight > 0
    new = opinion(torch.from_numpy(samples.features), torch.from_numpy(scores))
    assert torch.isfinite(new).all()
    np.testing.assert_array_equal(new[[0, 65, 85]].numpy(), scores[[0, 65, 85]])
    assert (new[1:60] != torch.from_numpy(scores)[1:60]).any()


@pytest.mark.parametrize("boxes", [0, 1, 2])
def test_classes_with_few_boxes_keep_their_scores_and_are_named(boxes):
    samples = made_samples((60, 20, boxes, 15), shift=5.0)
    scores = flat_scores(samples, 4)
    opinion, weighing = fit_second_classifier(
        samples, rows_of(samples), scores, "LogisticRegression", shared=False
    )
    assert weighing.few == [2]
    assert opinion.weight > 0
    new = opinion(torch.from_numpy(samples.features), torch.from_numpy(scores))
    np.testing.assert_array_equal(new[:, 2].numpy(), scores[:, 2])
    assert (new[:, 3].numpy() != scores[:, 3]).all()


def test_boxes_are_counted_once_however_many_regions_they_have():
    samples = made_samples((4, 6, 6))
    rows = np.array([-1] * 4 + [0, 0, 0, 1, 1, -1] + [2, 3, 4, 5, 6, 7])
    assert few_boxes(samples, rows, 4, 3) == [1, 3]


def test_data_of_one_class_is_refused_in_one_line():
    samples = made_samples((0, 20))
    with pytest.raises(ValueError, match="At least two are expected"):
        fit_second_classifier(
            samples, rows_of(samples), flat_scores(samples, 2), "GaussianNB", shared=False
        )


def test_a_classifier_that_does_not_know_a_class_says_nothing_of_it():
    samples = made_samples((20, 10, 10))
    estimator = make_classifier("GaussianNB", {}).fit(
        samples.features[samples.labels != 1], samples.labels[samples.labels != 1]
    )
    said = probabilities(estimator, samples.features, 4)
    assert np.isnan(said[:, [1, 3]]).all()
    np.testing.assert_allclose(said[:, [0, 2]].sum(axis=1), 1.0, rtol=1e-5)


def test_every_region_is_judged_once():
    samples = made_samples((30, 10, 10))
    fold = image_folds(samples, 3)
    fit = make_classifier("GaussianNB", {})
    said = out_of_fold(
        samples, fold, lambda rows: fit.fit(samples.features[rows], samples.labels[rows]), 3, 3
    )
    assert np.isfinite(said).all()


def test_average_precision_agrees_with_scikit_learn_where_precision_only_falls():
    generator = np.random.default_rng(0)
    for _ in range(20):
        positive = generator.random(30) < 0.3
        positive[0] = True
        scores, weights = generator.random(30), generator.random(30) + 0.1
        ours = average_precision(scores, positive, weights)
        twin = average_precision_score(positive, scores, sample_weight=weights)
        assert ours >= twin - 1e-12
        # With all positives on top nothing is made monotone.
        scores[positive] += 1
        assert average_precision(scores, positive, weights) == pytest.approx(1.0)
    tied = average_precision(np.zeros(4), np.array([True, False, False, False]), np.ones(4))
    assert tied == pytest.approx(0.25)


def test_the_regions_of_one_object_are_one_item():
    samples = made_samples((2, 3, 3))
    rows = np.array([-1, -1, 7, 7, 7, 9, -1, 9])  # one region is of an augmented look
    samples.weights[:] = [5, 6, 2, 2, 2, 2, 2, 2]
    items = Items.of(samples, rows)
    assert items.labels.tolist() == [1, 2, 0, 0]
    assert items.weights.tolist() == [1, 1, 5, 6]
    assert items.of_region.tolist() == [2, 3, 0, 0, 0, 1, -1, 1]
    values = np.array([0.1, 0.2, 0.3, 0.9, np.nan, 0.4, 1.0, 0.5])
    assert items.highest(values).tolist() == [0.9, 0.5, 0.1, 0.2]
    scores = np.stack([0 * values, values, values[::-1]], axis=1)
    assert class_precision(scores, items)[1] == 1.0
    assert np.isnan(class_precision(scores, items)[0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("LogisticRegresion", {}, 'Did you mean "LogisticRegression"'),
        ("StackingClassifier", {}, "is no classifier"),
        ("GaussianNB", {"var_smothing": 1}, 'Did you mean "var_smoothing"'),
    ],
)
def test_wrong_names_and_options_are_told(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_classifier(name, options)


def test_values_that_an_estimator_refuses_are_told_in_one_line():
    samples = made_samples((30, 20, 10))
    with pytest.raises(ValueError, match="LogisticRegression: cannot be fitted"):
        fit_second_classifier(
            samples,
            rows_of(samples),
            flat_scores(samples, 3),
            "LogisticRegression",
            {"C": -1.0},
            shared=False,
        )


def test_one_class_models_have_names_of_their_own():
    assert is_one_class("Mahalanobis")
    assert not is_one_class("GaussianNB")
    assert not is_one_class("NoSuchThing")
    assert make_one_class("LocalOutlierFactor", {}, 4).n_neighbors == 3
    with pytest.raises(ValueError, match="is no one-class model"):
        make_one_class("NoSuchThing", {}, 4)


def test_what_a_library_warns_of_while_fitting_is_not_passed_on():
    samples = made_samples((30, 20, 10))
    estimator = make_classifier("MLPClassifier", {"hidden_layer_sizes": [4], "max_iter": 2})
    estimators.fit_to(estimator, samples, np.arange(60), "MLPClassifier")
    assert estimator[-1].n_iter_ == 2


def test_a_fit_has_no_more_objects_than_memory_is_for(monkeypatch):
    monkeypatch.setattr(estimators, "MOST_OBJECTS", 100)
    samples = made_samples((300, 4000, 40, 5))
    few = []
    rows = estimators.fitted_rows(samples, np.arange(len(samples)), few, 50, seed=0)
    kept = np.bincount(samples.labels[rows])
    # Small classes are whole, the large one comes down to what is left for it.
    assert kept[[0, 2, 3]].tolist() == [50, 40, 5]
    assert 30 <= kept[1] <= 85
    monkeypatch.setattr(estimators, "MOST_OBJECTS", 4045)
    rows = estimators.fitted_rows(samples, np.arange(len(samples)), few, 50, seed=0)
    assert np.bincount(samples.labels[rows]).tolist() == [50, 4000, 40, 5]


@pytest.mark.parametrize("true", [1.0, 3.0, 12.0])
def test_an_opinion_is_made_as_sure_as_serves_it(true):
    generator = np.random.default_rng(0)
    chances = generator.dirichlet(np.ones(4), 6000)
    labels = np.array([generator.choice(4, p=row) for row in chances])
    said = temperature_scaled(chances, 1 / true)
    assert best_power(said, labels) == true
    np.testing.assert_allclose(temperature_scaled(said, true), chances, atol=2e-3)
    # A class that nothing is said of is left out of it.
    said[:, 3] = np.nan
    assert best_power(said, labels) > 0
    assert best_power(np.full((5, 3), np.nan), np.array([0, 1, 2, 1, 1])) == 1.0


def test_sharpening_keeps_sums_and_order():
    said = np.random.default_rng(0).dirichlet(np.ones(5), 50)
    said[:10, 3] = np.nan
    said[3] = np.nan
    new = temperature_scaled(said, 4.0)
    np.testing.assert_array_equal(np.isnan(new), np.isnan(said))
    np.testing.assert_allclose(np.nansum(new, axis=1), np.nansum(said, axis=1))
    rows = np.arange(50) != 3
    np.testing.assert_array_equal(
        np.nan_to_num(new[rows], nan=-1).argsort(), np.nan_to_num(said[rows], nan=-1).argsort()
    )


def test_a_classifier_that_is_never_sure_is_heard_all_the_same():
    """As AdaBoost is: right, and with all classes at nearly the same probability."""
    samples = made_samples((400, 60, 40, 20), width=6, shift=6.0, spread=1.0)
    generator = np.random.default_rng(0)
    scores = generator.uniform(0.2, 0.6, (len(samples), 4)).astype(np.float32)
    scores[:, 0] = 0.0
    options = {"n_estimators": 3}
    opinion, found = fit_second_classifier(
        samples, rows_of(samples), scores, "EasyEnsembleClassifier", options, shared=False
    )
    assert found.power > 2
    assert found.weight > 0
    said = opinion(torch.from_numpy(samples.features), torch.from_numpy(scores)).numpy()
    items = Items.of(samples, rows_of(samples))
    before, after = (np.nanmean(class_precision(s, items)) for s in (scores, said))
    assert after > before + 0.3


@pytest.mark.parametrize("name", ["RUSBoostClassifier", "AdaBoostClassifier"])
def test_boosting_has_trees_that_can_tell_many_classes(name):
    samples = made_samples((400, *[60] * 9), width=12, shift=3.0)
    options = {"n_estimators": 10}
    found = make_classifier(name, options).fit(samples.features, samples.labels)
    assert (found.predict(samples.features) == samples.labels).mean() > 0.6
    tree = make_classifier(name, {"max_depth": 3}).steps[-1][1].estimator
    assert tree.max_depth == 3
    with pytest.raises(ValueError, match='has no option "depth"'):
        make_classifier(name, {"depth": 3})


def test_an_opinion_is_never_made_less_sure():
    generator = np.random.default_rng(0)
    chances = generator.dirichlet(np.ones(4), 3000)
    labels = np.array([generator.choice(4, p=row) for row in chances])
    assert best_power(temperature_scaled(chances, 3.0), labels) == 1.0
