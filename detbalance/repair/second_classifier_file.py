"""Second classifiers on disk, as skops files: nothing in them is run when they are read.

A pickle runs what it holds. A skops file lists the types that it holds first; only those that a
second classifier is made of are built: plain values, arrays, and estimators of scikit-learn and
imbalanced-learn. What is built is then looked at and tried before it is used.
"""

from __future__ import annotations

import importlib
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.data import Categories
from detbalance.data.files import replace_file
from detbalance.data.messages import needs
from detbalance.repair.estimators import DamagedModel, check_parts
from detbalance.repair.novelty import ClassGate, OneClassModels, typicality
from detbalance.repair.second_classifier import SecondClassifier, probabilities

FORMAT = "detbalance.second_classifier/1"

Reclassifier = SecondClassifier | OneClassModels

# How skops builds what second classifiers are made of: nothing in it calls a function that a file
# names.
_LOADERS = {f"{kind}Node" for kind in (
    "Dict", "List", "Tuple", "Set", "Json", "Type", "NdArray", "MaskedArray", "DType", "Bytes",
    "RandomState", "RandomGenerator", "SparseMatrix", "Object", "Tree", "Loss",
)}  # fmt: skip
_PLAIN = {f"builtins.{kind.__name__}" for kind in (dict, list, tuple, set, str, bytes, slice)}
_PLAIN |= {f"builtins.{kind.__name__}" for kind in (int, float, bool)}
_PLAIN |= {"builtins.NoneType", "collections.OrderedDict", "numpy.dtype", "numpy.ndarray"}

_PARTS = {
    # Compiled or plain parts of fitted models, none of which does anything but compute.
    "sklearn.tree._tree.Tree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn._loss.loss.HalfMultinomialLoss",
    "sklearn._loss.loss.HalfBinomialLoss",
}


def save_second_classifier(
    path: Path, second: Reclassifier, *, weights: str, categories: Categories, width: int
) -> None:
    """Write a second classifier; the file appears whole or not at all."""
    io = _skops()
    content: dict[str, Any] = {
        "format": FORMAT,
        "weights": weights,
        "categories": list(categories.names),
        "width": width,
        "method": second.method,
        "num_classes": second.num_classes,
        "shared": second.shared,
    }
    if isinstance(second, SecondClassifier):
        content |= {"kind": "classifier", "model": second.estimator, "weight": second.weight}
        content["power"] = second.power
    else:
        content |= {
            "kind": "one-class",
            "model": second.space,
            "floor": second.floor,
            "gates": [
                {
                    "label": lift.label,
                    "model": lift.model,
                    "gate": lift.gate,
                    "threshold": lift.threshold,
                }
                for lift in second.gates
            ],
        }
    try:
        data = io.dumps(content)
        wrong = _untrusted(io, data)
    except Exception as error:  # whatever a model's own state makes of it
        raise ValueError(
            f"{path}: {second.method} cannot be saved without a pickle"
            f" ({' '.join(str(error).split())[:200]}). A model of plain arrays is expected. Use"
            " another --method."
        ) from error
    if wrong:
        raise ValueError(
            f"{path}: {second.method} holds {wrong[0]}, which would not be read again. Models of"
            " scikit-learn and imbalanced-learn are expected. Use another --method."
        )
    with replace_file(path) as file:
        file.write(data)


def load_second_classifier(path: Path, *, weights: str, categories: Categories) -> Reclassifier:
    """Read a second classifier."""
    io = _skops()
    remedy = "A file written by `detbalance reclassify` is expected. Make it again."
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). {remedy}") from error
    try:
        wrong = _untrusted(io, data)
    except Exception as error:  # skops raises whatever a damaged file leads to
        raise ValueError(f"{path}: is no readable skops file. {remedy}") from error
    if wrong:
        raise ValueError(
            f"{path}: holds {_shown(wrong[0])}, which is not trusted ({len(wrong)} such types), and"
            " was not loaded. Types of NumPy, scikit-learn and imbalanced-learn are expected. Do"
            " not use the file, unless you know where it is from."
        )
    try:
        content = io.loads(data, trusted=io.get_untrusted_types(data=data))
    except Exception as error:
        raise ValueError(
            f"{path}: is no readable skops file ({type(error).__name__}). {remedy}"
        ) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: has the format {found!r:.80}, not {FORMAT!r}. {remedy}")
    with _told(path, remedy):
        _check_keys(content, _KEYS)
    _check_detector(path, content, weights, categories)
    with _told(path, remedy):
        return _second(content)


def _shown(text: str) -> str:
    """A text of a file, in one line."""
    return " ".join(text.split())[:160]


@contextmanager
def _told(path: Path, remedy: str) -> Iterator[None]:
    """Say in our words what is wrong with the content of a file."""
    try:
        yield
    except DamagedModel as error:
        what = str(error)
    except Exception as error:  # models of a file that was changed raise what they like
        what = f"its model fails with {type(error).__name__}"
    else:
        return
    raise ValueError(f"{path}: cannot be used, as {what}. {remedy}")


def _in(kind: Any, low: float, high: float) -> Callable[[Any], bool]:
    """Whether a value is a number of a kind in a range, ends included; NaN is in none."""
    return lambda value: (
        isinstance(value, kind) and not isinstance(value, bool) and bool(low <= value <= high)
    )


_KEYS: dict[str, Callable[[Any], bool]] = {
    "kind": lambda value: value in ("classifier", "one-class"),
    "method": lambda value: isinstance(value, str),
    "weights": lambda value: isinstance(value, str),
    "categories": lambda value: (
        isinstance(value, list) and all(isinstance(name, str) for name in value)
    ),
    "width": _in(Integral, 1, 2**31),
    "num_classes": _in(Integral, 2, 2**31),
    "shared": lambda value: isinstance(value, bool),
    "model": lambda value: True,
}
_CLASSIFIER_KEYS = {"weight": _in(Real, 0, 1), "power": _in(Real, 1e-9, 1e9)}
_ONE_CLASS_KEYS = {
    "floor": _in(Real, 0, 1),
    "gates": lambda value: (
        isinstance(value, list) and all(isinstance(lift, dict) for lift in value)
    ),
}
_LIFT_KEYS = {
    "label": _in(Integral, 1, 2**31),
    "model": lambda value: True,
    "gate": _in(Real, -1, 2),
    "threshold": _in(Real, -np.inf, np.inf),
}


def _check_keys(content: dict[str, Any], keys: dict[str, Callable[[Any], bool]]) -> None:
    for key, is_good in keys.items():
        if key not in content or not is_good(content[key]):
            shown = f"is {content[key]!r:.80}" if key in content else "is missing"
            raise DamagedModel(f"{key} {shown}, which it is in no second classifier")


def _check_detector(
    path: Path, content: dict[str, Any], weights: str, categories: Categories
) -> None:
    if content["categories"] != list(categories.names):
        raise ValueError(
            f"{path}: its classes are {_shown(', '.join(content['categories'][:5]))} ..., those of"
            f" the checkpoint {', '.join(categories.names[:5])} .... The same are expected. Use the"
            " checkpoint that it was made with."
        )
    if content["weights"] != weights:
        raise ValueError(
            f"{path}: is about a detector with the weights {_shown(content['weights'])}, those of"
            f" the checkpoint are {weights}. The same are expected, as features are of one"
            " detector. Use the checkpoint that it was made with, or make it again."
        )


def _second(content: dict[str, Any]) -> Reclassifier:
    """Put the parts together, when each has been looked at and asked about some regions."""
    method, model, classes = content["method"], content["model"], content["num_classes"]
    if classes != len(content["categories"]) + 1:
        raise DamagedModel(f"num_classes is {classes}")
    width = int(content["width"])
    asked = np.random.default_rng(0).standard_normal((4, width), np.float32)
    if content["kind"] == "classifier":
        _check_keys(content, _CLASSIFIER_KEYS)
        check_parts(model, width)
        if content["weight"]:
            _try_classifier(model, asked, classes)
        return SecondClassifier(
            method, model, content["weight"], classes, content["shared"], content["power"]
        )
    _check_keys(content, _ONE_CLASS_KEYS)
    check_parts(model, width)
    gates = []
    for lift in content["gates"]:
        _check_keys(lift, _LIFT_KEYS)
        if lift["label"] >= classes:
            raise DamagedModel(f"it gates class {lift['label']} of {classes - 1}")
        places = np.asarray(model.transform(asked))
        check_parts(lift["model"], places.shape[1])
        if typicality(lift["model"], places).shape != (len(asked),):
            raise DamagedModel("what it says of regions has another shape")
        gates.append(ClassGate(lift["label"], lift["model"], lift["gate"], lift["threshold"]))
    return OneClassModels(method, model, gates, content["floor"], classes, content["shared"])


def _try_classifier(model: Any, asked: NDArray[np.float32], classes: int) -> None:
    labels = np.asarray(model.classes_)
    if labels.dtype.kind not in "iu" or labels.min() < 0 or len(set(labels)) != labels.size:
        raise DamagedModel(f"it knows the classes {labels!r:.80}")
    try:
        said = probabilities(model, asked, classes)[:, labels]
    except ValueError as error:
        if "No neighbors found" in str(error):  # as these regions are like none that it has seen
            return
        raise
    if not (said >= 0).all():
        raise DamagedModel("what it says are no probabilities")


def _untrusted(io: Any, data: bytes) -> list[str]:
    """Names of the types in a file that are not built, or not in the way that the file asks for."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        if sum(part.file_size for part in archive.infolist()) > len(data):
            raise ValueError("it is larger than it looks")  # skops does not compress
        left = [json.loads(archive.read("schema.json"))]
    found = set(io.get_untrusted_types(data=data))
    wrong = set()
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            left += value.values()
            if "__loader__" in value:
                name = f"{value['__module__']}.{value['__class__']}"
                found.add(name)
                if value["__loader__"] not in _LOADERS:
                    wrong.add(name)
    return sorted(wrong | {name for name in found if not _trusted(name)})


def _trusted(name: str) -> bool:
    """Whether a type is plain, a known part, or an estimator of a known library."""
    if name in _PARTS or name in _PLAIN:
        return True
    module, _, kind = name.rpartition(".")
    try:
        if module in ("numpy", "numpy.random._generator", "numpy.random.mtrand"):
            parent: Any = (np.generic, np.random.Generator, np.random.RandomState)
        elif module.startswith("numpy.random."):
            parent = np.random.BitGenerator
        elif module.startswith("scipy.sparse."):
            parent = importlib.import_module("scipy.sparse").spmatrix
        elif module.startswith(("sklearn._loss.", "sklearn.linear_model._sgd_fast")):
            parent = object  # compiled losses and links: numbers alone
        elif module.startswith(("sklearn.", "imblearn.")):
            parent = importlib.import_module("sklearn.base").BaseEstimator
        else:
            return False
        found = getattr(importlib.import_module(module), kind, None)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, parent)


def _skops() -> Any:
    try:
        return importlib.import_module("skops.io")
    except ImportError as error:
        raise needs("saving a second classifier", "skops", "refit") from error
