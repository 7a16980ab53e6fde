"""Second classifiers on disk: the same when read again, and nothing run that should not be."""

from __future__ import annotations

import collections
import functools
import json
import zipfile

import numpy as np
import pytest
import skops.io
import torch
from region_samples import made_samples
from sklearn.base import BaseEstimator

from detbalance.data import Categories
from detbalance.repair.estimators import ONE_CLASS, make_classifier
from detbalance.repair.novelty import fit_gates
from detbalance.repair.second_classifier import SecondClassifier
from detbalance.repair.second_classifier_file import (
    FORMAT,
    load_second_classifier,
    save_second_classifier,
)

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


@functools.cache
def fitted(name="LogisticRegression"):
    estimator = make_classifier(name, SMALL[name]).fit(SAMPLES.features, SAMPLES.labels)
    return SecondClassifier(name, estimator, 0.3, 3, False)


def saved(path, opinion, weights="abc"):
    save_second_classifier(path, opinion, weights=weights, categories=CATEGORIES, width=6)
    return path


def said(opinion):
    return opinion(torch.from_numpy(SAMPLES.features), torch.from_numpy(SCORES))


@pytest.mark.parametrize("name", SMALL)
def test_a_classifier_says_the_same_when_it_is_read_again(tmp_path, name):
    opinion = fitted(name)
    path = saved(tmp_path / "second_classifier.skops", opinion)
    again = load_second_classifier(path, weights="abc", categories=CATEGORIES)
    assert not torch.equal(said(opinion), torch.from_numpy(SCORES))
    assert torch.equal(said(again), said(opinion))
    assert (again.method, again.weight, again.num_classes, again.shared) == (name, 0.3, 3, False)


@pytest.mark.parametrize("name", ONE_CLASS)
def test_one_class_models_say_the_same_when_they_are_read_again(tmp_path, name):
    rows = np.where(SAMPLES.labels > 0, np.arange(len(SAMPLES)), -1)
    opinion, _ = fit_gates(SAMPLES, rows, SCORES, [1, 2], name, shared=True, max_fppi=0.5)
    assert opinion.gates
    path = saved(tmp_path / "second_classifier.skops", opinion)
    again = load_second_classifier(path, weights="abc", categories=CATEGORIES)
    assert not torch.equal(said(opinion), torch.from_numpy(SCORES))
    assert torch.equal(said(again), said(opinion))


def test_an_opinion_without_weight_is_saved_too(tmp_path):
    opinion = SecondClassifier("any", None, 0.0, 3, True)
    again = load_second_classifier(
        saved(tmp_path / "o.skops", opinion), weights="abc", categories=CATEGORIES
    )
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
    path = tampered(tmp_path / "second_classifier.skops", model)
    with pytest.raises(ValueError, match=r"holds .*not trusted.*not\s+loaded") as error:
        load_second_classifier(path, weights="abc", categories=CATEGORIES)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_functions_of_trusted_libraries_are_not_trusted(tmp_path):
    from sklearn.datasets import fetch_openml

    path = tampered(tmp_path / "second_classifier.skops", fetch_openml)
    with pytest.raises(ValueError, match=r"sklearn\.datasets\._openml\.fetch_openml.*not trusted"):
        load_second_classifier(path, weights="abc", categories=CATEGORIES)


def test_a_model_that_could_not_be_read_again_is_not_saved(tmp_path):
    path = tmp_path / "second_classifier.skops"
    with pytest.raises(ValueError, match="Foreign, which would not be read again"):
        saved(path, SecondClassifier("Foreign", Foreign(), 0.5, 3, False))
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 half"])
def test_damaged_files_are_told(tmp_path, content):
    path = tmp_path / "second_classifier.skops"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no readable skops file"):
        load_second_classifier(path, weights="abc", categories=CATEGORIES)
    with pytest.raises(ValueError, match="cannot be read"):
        load_second_classifier(tmp_path / "missing", weights="abc", categories=CATEGORIES)
    (tmp_path / "cut").write_bytes(saved(path, fitted()).read_bytes()[:-200])
    with pytest.raises(ValueError, match="is no readable skops file"):
        load_second_classifier(tmp_path / "cut", weights="abc", categories=CATEGORIES)


def test_another_detector_or_other_classes_are_refused(tmp_path):
    path = saved(tmp_path / "second_classifier.skops", fitted())
    with pytest.raises(ValueError, match="the weights abc, those of the checkpoint are def"):
        load_second_classifier(path, weights="def", categories=CATEGORIES)
    other = Categories(ids=(1, 2), names=("owl", "cat"))
    with pytest.raises(ValueError, match="its classes are cat, owl"):
        load_second_classifier(path, weights="abc", categories=other)
    path.write_bytes(skops.io.dumps({"format": "detbalance.opinion/0"}))
    with pytest.raises(
        ValueError, match="has the format 'detbalance.opinion/0'".replace(".", r"\.")
    ):
        load_second_classifier(path, weights="abc", categories=CATEGORIES)


def rewritten(path, change):
    """A file with the same content but for a change, made by the means of skops."""
    data = path.read_bytes()
    content = skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
    change(content)
    path.write_bytes(skops.io.dumps(content))
    return path


@functools.cache
def one_class_opinion(name="Mahalanobis"):
    rows = np.where(SAMPLES.labels > 0, np.arange(len(SAMPLES)), -1)
    few = {"n_estimators": 2} if name == "IsolationForest" else {}
    return fit_gates(SAMPLES, rows, SCORES, [1, 2], name, few, shared=True, max_fppi=0.5)[0]


def refused(path, words):
    with pytest.raises(ValueError, match=words) as error:
        load_second_classifier(path, weights="abc", categories=CATEGORIES)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


WRONG = {
    "kind": (None, "both", 1, []),
    "method": (None, 3),
    "weights": (None, 7),
    "categories": (None, "cat", [1, 2], {}),
    "width": (None, 0, "6", 6.5, 7, True),
    "num_classes": (None, 1, 4, "3", 2**40),
    "shared": (None, 1, "no"),
    "weight": (None, -0.1, 1.1, float("nan"), "0.3", True),
    "power": (None, 0, -1.0, float("inf"), float("nan"), []),
    "model": (None, 3, [], "LogisticRegression"),
    "floor": (None, float("nan"), 2, "x"),
    "gates": (None, {}, [1], [None], [{}], "x"),
}


@pytest.mark.parametrize("key", WRONG)
def test_content_that_is_missing_or_wrong_is_told_in_our_words(tmp_path, key):
    one_class = key in ("floor", "gates")
    opinion = one_class_opinion() if one_class else fitted()
    for value in WRONG[key]:
        path = saved(tmp_path / "o.skops", opinion)
        refused(rewritten(path, lambda c, v=value: c.update({key: v})), "Make it again|expected")
    path = saved(tmp_path / "o.skops", opinion)
    refused(rewritten(path, lambda content: content.pop(key)), "Make it again|expected")


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("label", (None, 0, 3, 1.0, "1")),
        ("gate", (None, float("nan"), "x")),
        ("threshold", (None, float("nan"), [])),
        ("model", (None, 1)),
    ],
)
def test_lifts_that_are_missing_something_are_told_in_our_words(tmp_path, key, values):
    for value in values:
        path = saved(tmp_path / "o.skops", one_class_opinion())
        refused(rewritten(path, lambda c, v=value: c["gates"][0].update({key: v})), "Make it again")
    path = saved(tmp_path / "o.skops", one_class_opinion())
    refused(rewritten(path, lambda content: content["gates"][0].pop(key)), "Make it again")


class Redirected:
    """Changes one field of one node of a compiled tree."""

    def __init__(self, node, field, value):
        self.node, self.field, self.value = node, field, value

    def __call__(self, tree):
        state = tree.__getstate__()
        state["nodes"] = state["nodes"].copy()
        state["nodes"][self.field][self.node] = self.value
        tree.__setstate__(state)


@pytest.mark.parametrize(
    ("field", "value"),
    [("left_child", 10**6), ("right_child", -7), ("left_child", 0), ("feature", 10**7),
     ("feature", -3)],
)  # fmt: skip
def test_trees_that_point_at_what_is_not_there_are_never_walked(tmp_path, field, value):
    change = Redirected(0, field, value)
    path = saved(tmp_path / "o.skops", one_class_opinion("IsolationForest"))
    for_lift = rewritten(path, lambda c: change(c["gates"][1]["model"].estimators_[0].tree_))
    refused(for_lift, "a tree|not there")
    path = saved(tmp_path / "o.skops", fitted("BalancedRandomForestClassifier"))
    forest = rewritten(path, lambda c: change(c["model"].steps[-1][1].estimators_[1].tree_))
    refused(forest, "a tree|not there")


@pytest.mark.parametrize(("field", "value"), [("left", 10**6), ("right", 0), ("feature_idx", 99)])
def test_trees_of_histograms_are_looked_at_too(tmp_path, field, value):
    def change(content):
        nodes = content["model"].steps[-1][1]._predictors[0][0].nodes
        nodes[field][0] = value

    path = saved(tmp_path / "o.skops", fitted("HistGradientBoostingClassifier"))
    refused(rewritten(path, change), "not there")


def test_arrays_of_a_support_vector_machine_fit_together(tmp_path):
    def change(content):
        machine = content["gates"][0]["model"]
        machine._n_support = machine._n_support[:1]

    path = saved(tmp_path / "o.skops", one_class_opinion("OneClassSVM"))
    refused(rewritten(path, change), "_n_support of a support vector machine")


def test_a_stored_search_tree_is_not_trusted(tmp_path):
    def change(content):
        tree = content["model"].steps[-1][1]._tree
        rows = np.asarray(tree.get_arrays()[1])
        state = list(tree.__getstate__())
        place = next(i for i, part in enumerate(state) if np.array_equal(part, rows))
        state[place] = rows + 10**9
        tree.__setstate__(tuple(state))

    opinion = fitted("KNeighborsClassifier")
    path = rewritten(saved(tmp_path / "o.skops", opinion), change)
    again = load_second_classifier(path, weights="abc", categories=CATEGORIES)
    assert torch.equal(said(again), said(opinion))


def with_schema(path, change):
    """The same file with another description of how to build it."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(parts["schema.json"])
    change(schema)
    parts["schema.json"] = json.dumps(schema).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "loader", ["OperatorFuncNode", "MethodNode", "FunctionNode", "PartialNode"]
)
def test_ways_of_building_that_no_opinion_needs_are_refused(tmp_path, loader):
    path = saved(tmp_path / "o.skops", fitted())
    refused(
        with_schema(path, lambda schema: schema["content"]["model"].update(__loader__=loader)),
        "not trusted|no readable skops file",
    )


@pytest.mark.parametrize(
    ("key", "words"), [("__class__", "not trusted"), ("weights", "a b"), ("categories", "a b")]
)
def test_texts_of_a_file_stay_in_the_line(tmp_path, key, words):
    path = saved(tmp_path / "o.skops", fitted())
    if key == "__class__":
        refused(with_schema(path, lambda schema: schema.update({key: "a\nb"})), words)
    else:
        value = "a\nb" if key == "weights" else ["a\nb", "c"]
        refused(rewritten(path, lambda content: content.update({key: value})), words)


def test_a_file_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    path = saved(tmp_path / "o.skops", fitted())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.npy", bytes(10**7))
    refused(path, "no readable skops file")
