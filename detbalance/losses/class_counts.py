"""What a loss is told about the training set: boxes and images per class, and the classes' names.

Arrays by class have length K + 1; index 0 is background and not used.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor

from detbalance.data.arrays import Float64
from detbalance.data.checks import check_number

CountsLike: TypeAlias = Any
"""A `ClassCounts`, a `detbalance.data.frequency.Frequency`, or boxes per class, [K + 1]."""
PerClass: TypeAlias = float | list[float] | dict[str, float]
"""One number for all classes, K numbers for the classes 1..K, or some classes by their name."""


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """The training set in numbers.

    Args:
        instance_counts: [K + 1], boxes of each class, >= 0.
        image_counts: [K + 1], images that show each class; some losses need them.
        num_images: all images, those without boxes included; some losses need it.
        class_names: of the classes 1..K, for values that are given by name.

    Raises:
        ValueError: if lengths differ, or an entry is negative or not finite.

    Example:
        >>> counts = ClassCounts([0, 900, 30], class_names=["bolt", "crack"])
        >>> counts.per_class({"crack": 4.0}, "loss", "weight").tolist()
        [1.0, 4.0]
    """

    instance_counts: Float64
    image_counts: Float64 | None = None
    num_images: int | None = None
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        counts = checked_counts(self.instance_counts)
        object.__setattr__(self, "instance_counts", counts)
        if self.image_counts is not None:
            images = checked_counts(self.image_counts, "image_counts")
            if len(images) != len(counts):
                raise ValueError(
                    f"image_counts: {len(images)} entries beside {len(counts)} class counts."
                    " Expected the same length. Count both on one file."
                )
            object.__setattr__(self, "image_counts", images)
        names = self.class_names
        if names is not None and len(names) != len(counts) - 1:
            raise ValueError(
                f"class_names: {len(names)} names for {len(counts) - 1} classes. Expected one per"
                " class 1..K. Leave background out."
            )

    @classmethod
    def of(cls, counts: CountsLike) -> ClassCounts:
        """Read a `ClassCounts`, a `Frequency`, or boxes per class [K + 1]."""
        if isinstance(counts, cls):
            return counts
        if hasattr(counts, "instance_counts"):
            return cls(
                counts.instance_counts,
                counts.image_counts,
                counts.num_images,
                tuple(counts.categories.names),
            )
        return cls(counts)

    def image_frequency(self, where: str) -> Float64:
        """Give the fraction of images that show each class, float64 [K + 1] in 0..1."""
        if self.image_counts is None or not self.num_images:
            raise ValueError(
                f"{where}: needs the images per class, only boxes per class were given. Expected"
                " image_counts and num_images. Pass detbalance.data.frequency.class_frequency(...)"
                " or losses.ClassCounts(instance_counts, image_counts, num_images)."
            )
        if self.image_counts[1:].max() > self.num_images:
            label = int(self.image_counts[1:].argmax()) + 1
            raise ValueError(
                f"{where}: class {label} is in {self.image_counts[label]:g} images of"
                f" {self.num_images}. Expected at most all images. Count both on one file."
            )
        return self.image_counts / self.num_images

    def per_class(
        self, value: PerClass, where: str, name: str, *, default: float = 1.0
    ) -> float | Float64:
        """Read a value that may differ by class: the number, or float64 [K].

        Classes that a mapping does not name have the default; `where` and `name` begin the error.
        """
        classes = len(self.instance_counts) - 1
        if isinstance(value, Mapping):
            values = np.full(classes, default)
            for key, number in value.items():
                values[self._row(key, where, name)] = number
            return values
        if isinstance(value, (int, float)):
            return float(value)
        values = np.asarray(value, dtype=np.float64)
        if values.shape != (classes,):
            raise ValueError(
                f"{where}: {name} has {values.size} values. Expected one number, or"
                f" {classes} for the classes 1..{classes}. Leave background out."
            )
        return values

    def _row(self, key: str, where: str, name: str) -> int:
        if self.class_names is None:
            raise ValueError(
                f'{where}: {name} names the class "{key}", but the loss was given counts without'
                " names. Expected names beside the counts. Pass a Frequency, or"
                " losses.ClassCounts(..., class_names=[...])."
            )
        names = list(self.class_names)
        if key in names:
            return names.index(key)
        near = difflib.get_close_matches(str(key), names, n=1)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise ValueError(
            f'{where}: {name} names the class "{key}". Known: {", ".join(names[:20])}'
            f"{', ...' if len(names) > 20 else ''}. Use the names of the annotation file.{hint}"
        )


def checked_counts(class_counts: Any, name: str = "class_counts") -> Float64:
    """Check counts per class."""
    # NumPy cannot see a tensor on another device.
    on_host = class_counts.cpu() if isinstance(class_counts, Tensor) else class_counts
    counts = np.asarray(on_host, dtype=np.float64)
    if counts.ndim != 1 or len(counts) < 2:
        raise ValueError(
            f"{name}: the shape is {counts.shape}. Expected one number per class with index "
            "0 for background, so at least 2. Pass detbalance.data.frequency's instance_counts."
        )
    bad = np.flatnonzero(~(np.isfinite(counts) & (counts >= 0)))
    if len(bad):
        raise ValueError(
            f"{name}: {len(bad)} entries are not counts (first: index {bad[0]} is "
            f"{counts[bad[0]]}). Expected finite numbers >= 0. Count the boxes of the training set."
        )
    return counts


WeightMethod = Literal["none", "inverse", "inverse_sqrt", "effective_number"]
ClassWeights: TypeAlias = WeightMethod | dict[str, float]
"""A method of `class_weights`, or weights by class name; classes that are not named weigh 1."""


def class_weights(
    class_counts: npt.ArrayLike | Tensor, method: WeightMethod, *, beta: float = 0.999
) -> Float64:
    """Weigh classes by how seldom they are, for a loss that counts rare classes more.

    With n boxes of a class, before normalising:

    - `none`: 1
    - `inverse`: 1 / n
    - `inverse_sqrt`: 1 / sqrt(n)
    - `effective_number`: (1 - beta) / (1 - beta^n); the ratio of any two stays below 1 / (1 - beta)

    Normalised so that the weights of the classes with boxes have mean 1 over those *classes*. Over
    the *boxes* the mean is then below 1 (frequent classes have the small weights), so the loss of
    frequent classes shrinks. Classes without a box get 1 and take no part in the mean.

    Args:
        class_counts: [K + 1] training boxes per class, >= 0; index 0 (background) is not used.
        method: one of the four above.
        beta: in [0, 1), for `effective_number` only; 0 gives equal weights.

    Returns:
        float64 [K + 1], positive and finite; index 0, the weight of background, is 1.

    Raises:
        ValueError: if the counts, the method or beta are not as described.

    Example:
        >>> class_weights([0, 100, 25, 0], "inverse_sqrt").round(3)
        array([1.   , 0.667, 1.333, 1.   ])

    Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019,
    arXiv:1901.05555, sec. 3-4 (`effective_number`). Differs: classes without boxes, whose weight
    would be infinite, get 1 and do not count in the normalisation.
    """
    counts = checked_counts(class_counts)
    if method not in get_args(WeightMethod):
        raise ValueError(
            f"class_weights(): method is {method!r}. "
            f"Known: {', '.join(get_args(WeightMethod))}. Choose one of them."
        )
    advice = 'Use method="inverse" for the limit at 1.'
    check_number("class_weights()", "beta", beta, least=0, below=1, advice=advice)
    weights = np.ones(len(counts))
    present = counts > 0
    present[0] = False
    if method == "none" or not present.any():
        return weights
    n = counts[present]
    if method == "inverse":
        raw = 1.0 / n
    elif method == "inverse_sqrt":
        raw = 1.0 / np.sqrt(n)
    else:
        # 1 - beta^n by expm1: exact where beta^n is close to 1. beta = 0 has no logarithm.
        log_beta = math.log(beta) if beta > 0.0 else -math.inf
        raw = (1.0 - beta) / -np.expm1(n * log_beta)
    weights[present] = raw / raw.mean()
    return weights


def label_weights(
    counts: ClassCounts, weights: ClassWeights, *, beta: float, where: str
) -> Float64 | None:
    """Weigh whole rows by their label, as a loss was asked to."""
    if not isinstance(weights, Mapping):
        values = class_weights(counts.instance_counts, weights, beta=beta)
        return None if weights == "none" else values
    by_class = np.asarray(counts.per_class(weights, where, "class_weights"))
    if not (np.isfinite(by_class) & (by_class >= 0)).all():
        raise ValueError(
            f"{where}: class_weights is {weights}. Expected finite weights >= 0. 1 leaves a class"
            " as it is."
        )
    return np.concatenate([[1.0], by_class])
