"""Second opinions on disk: the same when read again, and nothing run that should not be."""

from __future__ import annotations

import collections

import numpy as np
import pytest
import skops.io
import torch
from region_samples import made_samples
from sklearn.base import BaseEstimator

from detbalance.annotations import Categories
from detbalance.regions.estimators import ClassOpinion
from detbalance.regions.lifting import fit_lifts
from detbalance.regions.named_estimators import ONE_CLASS, make_classifier
from detbalance.regions.opinion_file import FORMAT, load_opinion, save_opinion

CATEGORIES = Categories(ids=(1, 2), names=("cat", "owl"))
SAMPLES = made_samples((60, 20, 12), width=6, shift=5.0)
SCORES = np.full((len(SAMPLES), 3), 0.2, np.float32)
SMALL = {
    "BalancedBaggingClassifier": {"n_estimators": 2},
    "EasyEnsembleClassifier": {"n_estimators": 1},
    "RUSBoostClassifier": {"n_estimators": 3},
    "BalancedRandomForestClassifier": {"n_estimators": 3},
    "HistGradientBoostingClassifier": {"max_iter": 3},
    "LogisticRegression": {},
    "KNeighborsClassifier": {},
    "LinearDiscriminantAnalysis": {},
    "GaussianNB": {},
}


def fitted(name="LogisticRegression"):
    estimator = make_classifier(name, SMALL[name]).fit(SAMPLES.features, SAMPLES.labels)
    return ClassOpinion(name, estimator, 0.3, 3, False)


def saved(path, opinion, weights="abc"):
    save_opinion(path, opinion, weights=weights, categories=CATEGORIES, width=6)
    return path


def said(opinion):
    return opinion(torch.from_numpy(SAMPLES.features), torch.from_numpy(SCORES))


@pytest.mark.parametrize("name", SMALL)
def test_a_classifier_says_the_same_when_it_is_read_again(tmp_path, name):
    opinion = fitted(name)
    path = saved(tmp_path / "opinion.skops", opinion)
    again = load_opinion(path, weights="abc", categories=CATEGORIES)
    assert not torch.equal(said(opinion), torch.from_numpy(SCORES))
    assert torch.equal(said(again), said(opinion))
    assert (again.method, again.weight, again.num_classes, again.shared) == (name, 0.3, 3, False)


@pytest.mark.parametrize("name", ONE_CLASS)
def test_one_class_models_say_the_same_when_they_are_read_again(tmp_path, name):
    rows = np.where(SAMPLES.labels > 0, np.arange(len(SAMPLES)), -1)
    opinion, _ = fit_lifts(SAMPLES, rows, SCORES, [1, 2], name, shared=True, max_fppi=0.5)
    assert opinion.lifts
    path = saved(tmp_path / "opinion.skops", opinion)
    again = load_opinion(path, weights="abc", categories=CATEGORIES)
    assert not torch.equal(said(opinion), torch.from_numpy(SCORES))
    assert torch.equal(said(again), said(opinion))


def test_an_opinion_without_weight_is_saved_too(tmp_path):
    opinion = ClassOpinion("any", None, 0.0, 3, True)
    again = load_opinion(saved(tmp_path / "o.skops", opinion), weights="abc", categories=CATEGORIES)
    assert again == opinion


class Foreign(BaseEstimator):
    """A model of nobody that is known."""

    def __init__(self):
        self.classes_ = np.arange(3)


def tampered(path, model):
    content = {"format": FORMAT, "kind": "classifier", "model": model, "weight": 0.5}
    path.write_bytes(skops.io.dumps(content))
    return path


@pytest.mark.parametrize(
    "model", [Foreign(), collections.Counter("ab"), np.load, skops.io.load, torch.nn.Linear]
)
def test_a_file_with_an_untrusted_type_is_refused_before_anything_is_built(tmp_path, model):
    path = tampered(tmp_path / "opinion.skops", model)
    with pytest.raises(ValueError, match=r"holds .*not trusted.*not\s+loaded") as error:
        load_opinion(path, weights="abc", categories=CATEGORIES)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_functions_of_trusted_libraries_are_not_trusted(tmp_path):
    from sklearn.datasets import fetch_openml

    path = tampered(tmp_path / "opinion.skops", fetch_openml)
    with pytest.raises(ValueError, match=r"sklearn\.datasets\._openml\.fetch_openml.*not trusted"):
        load_opinion(path, weights="abc", categories=CATEGORIES)


def test_a_model_that_could_not_be_read_again_is_not_saved(tmp_path):
    path = tmp_path / "opinion.skops"
    with pytest.raises(ValueError, match="Foreign, which would not be read again"):
        saved(path, ClassOpinion("Foreign", Foreign(), 0.5, 3, False))
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 half"])
def test_damaged_files_are_told(tmp_path, content):
    path = tmp_path / "opinion.skops"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no readable skops file"):
        load_opinion(path, weights="abc", categories=CATEGORIES)
    with pytest.raises(ValueError, match="cannot be read"):
        load_opinion(tmp_path / "missing", weights="abc", categories=CATEGORIES)
    (tmp_path / "cut").write_bytes(saved(path, fitted()).read_bytes()[:-200])
    with pytest.raises(ValueError, match="is no readable skops file"):
        load_opinion(tmp_path / "cut", weights="abc", categories=CATEGORIES)


def test_another_detector_or_other_classes_are_refused(tmp_path):
    path = saved(tmp_path / "opinion.skops", fitted())
    with pytest.raises(ValueError, match="the weights abc, those of the checkpoint are def"):
        load_opinion(path, weights="def", categories=CATEGORIES)
    other = Categories(ids=(1, 2), names=("owl", "cat"))
    with pytest.raises(ValueError, match="its classes are cat, owl"):
        load_opinion(path, weights="abc", categories=other)
    path.write_bytes(skops.io.dumps({"format": "detbalance.opinion/0"}))
    with pytest.raises(
        ValueError, match="has the format 'detbalance.opinion/0'".replace(".", r"\.")
    ):
        load_opinion(path, weights="abc", categories=CATEGORIES)
