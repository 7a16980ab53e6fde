"""Compiled parts of fitted models that come from a file: what they point at is there.

Trees hold the rows of their nodes as plain numbers, and the libraries follow them without a look:
a file that someone made can send them anywhere in memory, or round in circles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
