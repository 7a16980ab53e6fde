"""Second opinions on disk, as skops files: nothing in them is run when they are read.

A pickle runs what it holds. A skops file lists the types that it holds first; only those of NumPy,
SciPy, scikit-learn and imbalanced-learn (and of PyOD, where such a model was fitted) are built.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from detbalance.annotations import Categories
from detbalance.annotations.files import replace_file
from detbalance.installation import needs
from detbalance.regions.estimators import ClassOpinion
from detbalance.regions.one_class import ClassLift, OneClassOpinion

FORMAT = "detbalance.opinion/2"

Opinion = ClassOpinion | OneClassOpinion

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


def save_opinion(
    path: Path, opinion: Opinion, *, weights: str, categories: Categories, width: int
) -> None:
    """Write an opinion; the file appears whole or not at all.

    Args:
        path: of the file.
        opinion: fitted.
        weights: digest of the detector's weights, which the features are of.
        categories: of the detector.
        width: F.

    Raises:
        ValueError: if the model cannot be saved without a pickle.
        ImportError: if skops is missing.
    """
    io = _skops()
    content: dict[str, Any] = {
        "format": FORMAT,
        "weights": weights,
        "categories": list(categories.names),
        "width": width,
        "method": opinion.method,
        "num_classes": opinion.num_classes,
        "shared": opinion.shared,
    }
    if isinstance(opinion, ClassOpinion):
        content |= {"kind": "classifier", "model": opinion.estimator, "weight": opinion.weight}
        content["power"] = opinion.power
    else:
        content |= {
            "kind": "one-class",
            "model": opinion.space,
            "floor": opinion.floor,
            "lifts": [
                {
                    "label": lift.label,
                    "model": lift.model,
                    "gate": lift.gate,
                    "threshold": lift.threshold,
                }
                for lift in opinion.lifts
            ],
        }
    try:
        data = io.dumps(content)
        wrong = _untrusted(io, data)
    except Exception as error:  # whatever a model's own state makes of it
        raise ValueError(
            f"{path}: {opinion.method} cannot be saved without a pickle"
            f" ({' '.join(str(error).split())[:200]}). A model of plain arrays is expected. Use"
            " another --method."
        ) from error
    if wrong:
        raise ValueError(
            f"{path}: {opinion.method} holds {wrong[0]}, which would not be read again. Models of"
            " scikit-learn and imbalanced-learn are expected. Use another --method."
        )
    with replace_file(path) as file:
        file.write(data)


def load_opinion(path: Path, *, weights: str, categories: Categories) -> Opinion:
    """Read an opinion.

    Args:
        path: written by `save_opinion`.
        weights: digest of the detector that it will be asked about.
        categories: of that detector.

    Raises:
        ValueError: if the file is missing, damaged, holds a type that is not trusted, or is about
            another detector or other classes.
        ImportError: if skops is missing.
    """
    io = _skops()
    remedy = "A file written by `detbalance opinion` is expected. Make it again."
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
            f"{path}: holds {wrong[0]}, which is not trusted ({len(wrong)} such types), and was not"
            " loaded. Types of NumPy, scikit-learn and imbalanced-learn are expected. Do not use"
            " the file, unless you know where it is from."
        )
    try:
        content = io.loads(data, trusted=io.get_untrusted_types(data=data))
    except Exception as error:
        raise ValueError(
            f"{path}: is no readable skops file ({type(error).__name__}). {remedy}"
        ) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: has the format {found!r}, not {FORMAT!r}. {remedy}")
    _check(path, content, weights, categories)
    return _opinion(content)


def _check(path: Path, content: dict[str, Any], weights: str, categories: Categories) -> None:
    if content["categories"] != list(categories.names):
        raise ValueError(
            f"{path}: its classes are {', '.join(content['categories'][:5])} ..., those of the"
            f" checkpoint {', '.join(categories.names[:5])} .... The same are expected. Use the"
            " checkpoint that it was made with."
        )
    if content["weights"] != weights:
        raise ValueError(
            f"{path}: is about a detector with the weights {content['weights']}, those of the"
            f" checkpoint are {weights}. The same are expected, as features are of one detector."
            " Use the checkpoint that it was made with, or make the opinion again."
        )


def _opinion(content: dict[str, Any]) -> Opinion:
    if content["kind"] == "classifier":
        return ClassOpinion(
            content["method"],
            content["model"],
            content["weight"],
            content["num_classes"],
            content["shared"],
            content["power"],
        )
    lifts = [
        ClassLift(lift["label"], lift["model"], lift["gate"], lift["threshold"])
        for lift in content["lifts"]
    ]
    return OneClassOpinion(
        content["method"],
        content["model"],
        lifts,
        content["floor"],
        content["num_classes"],
        content["shared"],
    )


def _untrusted(io: Any, data: bytes) -> list[str]:
    """Names of the types in a file that are not built."""
    return [name for name in io.get_untrusted_types(data=data) if not _trusted(name)]


def _trusted(name: str) -> bool:
    """Whether a type is a known part, or an estimator of a known library."""
    if name in _PARTS:
        return True
    module, _, kind = name.rpartition(".")
    try:
        if module.startswith(("sklearn.", "imblearn.")):
            parent: Any = importlib.import_module("sklearn.base").BaseEstimator
        elif module.startswith("pyod.models."):
            parent = importlib.import_module("pyod.models.base").BaseDetector
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
        raise needs("saving a second opinion", "skops", "refit") from error
