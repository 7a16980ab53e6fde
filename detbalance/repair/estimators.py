"""Classifiers and one-class models by their own names, with options that suit region features.

Trees hold the rows of their nodes as plain numbers, and the libraries follow them without a look:
a file that someone made can send them anywhere in memory, or round in circles.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.data.messages import needs

CLASSIFIERS: dict[str, dict[str, Any]] = {
    # Imbalanced-learn's own default of this one is to change, which it warns of.
    "BalancedRandomForestClassifier": {
        "n_estimators": 200,
        "sampling_strategy": "all",
        "replacement": True,
        "bootstrap": False,
    },
    "BalancedBaggingClassifier": {"n_estimators": 30},
    "RandomForestClassifier": {"n_estimators": 200, "class_weight": "balanced_subsample"},
    "ExtraTreesClassifier": {"n_estimators": 200, "class_weight": "balanced_subsample"},
    # Of trees of one split, their own default, most are worse than chance where there are ten
    # classes, and boosting gives up.
    "RUSBoostClassifier": {"n_estimators": 60, "max_depth": 8},
    "AdaBoostClassifier": {"n_estimators": 60, "max_depth": 8},
    "HistGradientBoostingClassifier": {"class_weight": "balanced", "max_iter": 40},
    "LogisticRegression": {"C": 0.01, "class_weight": "balanced", "max_iter": 200},
}
"""What is set where the options do not say else. The constructors' own values hold for the rest."""

ONE_CLASS: dict[str, dict[str, Any]] = {
    "Mahalanobis": {},
    "OneClassSVM": {"nu": 0.1},
    "IsolationForest": {"n_estimators": 100},
    "LocalOutlierFactor": {"n_neighbors": 10, "novelty": True},
}
"""The same of the one-class models."""

_BOOSTED = ("RUSBoostClassifier", "AdaBoostClassifier")
"""Whose trees an option of ours says the depth of, as an estimator is no plain value."""

_MODULES = (
    "imblearn.ensemble",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.discriminant_analysis",
    "sklearn.naive_bayes",
    "sklearn.neighbors",
    "sklearn.neural_network",
    "sklearn.svm",
    "sklearn.tree",
)


def classifier_names() -> list[str]:
    """The classifiers with `predict_proba` of the installed libraries."""
    return sorted(_classifiers())


def is_one_class(name: str) -> bool:
    """Whether a name is that of a one-class model."""
    return name in ONE_CLASS


def make_classifier(name: str, options: Mapping[str, Any], seed: int = 0) -> Any:
    """Build a classifier that sees standardised features."""
    known = _classifiers()
    if name not in known:
        near = get_close_matches(name, [*known, *ONE_CLASS], n=1)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise ValueError(
            f'--method: "{name}" is no classifier with predict_proba and no one-class model. Known:'
            f" {', '.join([*ONE_CLASS, *sorted(known)])}. Choose one.{hint}"
        )
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), _built(known[name], CLASSIFIERS, name, options, seed))


def make_one_class(name: str, options: Mapping[str, Any], samples: int, seed: int = 0) -> Any:
    """Build a one-class model, not fitted."""
    if name not in ONE_CLASS:
        raise ValueError(
            f'--method: "{name}" is no one-class model. Known: {", ".join(ONE_CLASS)}. Choose one.'
        )
    from sklearn.covariance import LedoitWolf
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import LocalOutlierFactor
    from sklearn.svm import OneClassSVM

    kinds = {
        "Mahalanobis": LedoitWolf,
        "OneClassSVM": OneClassSVM,
        "IsolationForest": IsolationForest,
        "LocalOutlierFactor": LocalOutlierFactor,
    }
    model = _built(kinds[name], ONE_CLASS, name, options, seed)
    neighbours = getattr(model, "n_neighbors", None)
    if isinstance(neighbours, int) and neighbours >= samples:
        model.set_params(n_neighbors=max(1, samples - 1))
    return model


def _built(
    kind: Any, defaults: Mapping[str, Any], name: str, options: Mapping[str, Any], seed: int
) -> Any:
    takes = set(inspect.signature(kind).parameters)
    if name in _BOOSTED:
        takes |= {"max_depth"}
    unknown = sorted(set(options) - takes)
    if unknown:
        near = get_close_matches(unknown[0], takes, n=1)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise ValueError(
            f'--param: {name} has no option "{unknown[0]}". Known: {", ".join(sorted(takes))}.'
            f" Correct it.{hint}"
        )
    given = {**defaults.get(name, {}), **options}
    if name in _BOOSTED:
        from sklearn.tree import DecisionTreeClassifier

        given.setdefault("estimator", DecisionTreeClassifier(max_depth=given.pop("max_depth")))
    if "random_state" in takes:
        given.setdefault("random_state", seed)
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"--param: {name} cannot be built with {dict(options)} ({error}). Options of its"
            " constructor are expected. Correct them."
        ) from error


def _classifiers() -> dict[str, Any]:
    try:
        modules = [importlib.import_module(name) for name in _MODULES]
    except ImportError as error:
        raise needs(
            "a second classifier on regions", "scikit-learn and imbalanced-learn", "refit"
        ) from error
    found: dict[str, Any] = {}
    for module in modules:
        for name in module.__all__:
            kind = getattr(module, name)
            if name.endswith(("Classifier", "NB", "Regression", "Analysis", "SVC")) and hasattr(
                kind, "predict_proba"
            ):
                found.setdefault(name, kind)
    # These are made of other estimators, which a name and plain values cannot say.
    return {n: k for n, k in found.items() if n not in ("StackingClassifier", "VotingClassifier")}


class DamagedModel(ValueError):
    """A model of a file is none that a fit makes; in words."""


def check_parts(model: Any, columns: int) -> None:
    """Refuse trees that point at what is not there, and build search trees anew."""
    for part in _parts(model):
        kind = type(part).__name__
        if kind == "Tree":
            if not 0 < part.node_count <= part.capacity:
                raise DamagedModel(f"a tree has {part.node_count} nodes of {part.capacity}")
            nodes = part.__getstate__()["nodes"]
            inner = nodes["left_child"] != -1
            _check_nodes(nodes, "left_child", "right_child", "feature", inner, part.n_features)
            if part.n_features > columns:
                raise DamagedModel(f"a tree looks at {part.n_features} of {columns} columns")
        elif kind == "TreePredictor":
            nodes = part.nodes
            inner = nodes["is_leaf"] == 0
            _check_nodes(nodes, "left", "right", "feature_idx", inner, columns)
            if (inner & (nodes["is_categorical"] != 0)).any():
                raise DamagedModel("a tree asks for categories, of which there are none")
        elif hasattr(part, "tree_") and part.tree_.n_features != part.n_features_in_:
            raise DamagedModel(f"a tree looks at {part.tree_.n_features} columns")
        elif hasattr(part, "_n_support"):
            _check_vectors(part)
        elif type(getattr(part, "_tree", None)).__name__ in ("KDTree", "BallTree"):
            part._tree = type(part._tree)(
                np.asarray(part._fit_X),
                leaf_size=part.leaf_size,
                metric=part.effective_metric_,
                **(part.effective_metric_params_ or {}),
            )


def _check_nodes(
    nodes: NDArray[Any], left: str, right: str, feature: str, inner: NDArray[Any], columns: int
) -> None:
    """Children come after their node, and so the way down ends."""
    rows = np.flatnonzero(inner)
    for name, least, end in ((left, rows + 1, len(nodes)), (right, rows + 1, len(nodes)),
                             (feature, 0, columns)):  # fmt: skip
        values = nodes[name][rows].astype(np.int64)
        if not len(nodes) or (values < least).any() or (values >= end).any():
            raise DamagedModel(f"{name} of a tree points at what is not there")


def _check_vectors(machine: Any) -> None:
    """A support vector machine's arrays have the sizes that each says of the others."""
    classes = max(2, len(getattr(machine, "classes_", ())))
    count, pairs = len(machine.support_vectors_), classes * (classes - 1) // 2
    shapes = {
        "support_": (count,),
        "support_vectors_": (count, machine.n_features_in_),
        "_n_support": (classes,),
        "_dual_coef_": (classes - 1, count),
        "_intercept_": (pairs,),
    }
    wrong = [name for name, shape in shapes.items() if getattr(machine, name).shape != shape]
    wrong += [
        name for name in ("_probA", "_probB") if len(getattr(machine, name)) not in (0, pairs)
    ]
    if (np.abs(machine._n_support) > count).any() or machine.kernel == "precomputed":
        wrong.append("_n_support")
    if hasattr(machine, "classes_") and machine._n_support.sum() != count:
        wrong.append("_n_support")
    if wrong or machine._sparse:
        raise DamagedModel(
            f"{(*wrong, '_sparse')[0]} of a support vector machine has another shape"
        )


def _parts(model: Any) -> Iterator[Any]:
    """A model and all that it holds, each once."""
    left, seen = [model], {id(model)}
    while left:
        part = left.pop()
        yield part
        if isinstance(part, np.ndarray):
            held = list(part.flat) if part.dtype == object else []
        elif isinstance(part, dict):
            held = list(part.values())
        elif isinstance(part, (list, tuple)):
            held = list(part)
        else:
            held = list(getattr(part, "__dict__", {}).values())
        for one in held:
            if id(one) not in seen:
                seen.add(id(one))
                left.append(one)
