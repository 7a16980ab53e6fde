"""How often each class occurs in a training file, and which classes are rare, common, frequent.

Counts leave crowd regions out. Arrays by class have length C = K + 1; index 0 is background.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detbalance.data.annotations import Annotations
from detbalance.data.arrays import Int64, ReadOnlyArrays
from detbalance.data.categories import Categories
from detbalance.data.messages import counted

LVIS_LIMITS = (10, 100)
THIRDS = (1 / 3, 2 / 3)
# From this many categories on, a set counts as LVIS-sized: LVIS has 1203, Objects365 365, and no
# set without a long tail (COCO 80, VOC 20) comes near.
LVIS_SIZED = 300


@dataclass(frozen=True, eq=False)
class Frequency(ReadOnlyArrays):
    """Images and boxes per class of one file, crowd regions left out.

    Attributes:
        categories: label <-> category_id <-> name.
        num_images: M, all images of the file, those without boxes included.
        image_counts: int64 [C], images that show the class; index 0 is 0.
        instance_counts: int64 [C], boxes of the class; index 0 is 0.
        source: path of the file that was counted.
    """

    categories: Categories
    num_images: int
    image_counts: Int64
    instance_counts: Int64
    source: str

    @property
    def super_categories(self) -> tuple[str, ...]:
        """Names of the categories without a box that are only the supercategory of others."""
        parents = set(self.categories.parents)
        names = self.categories.names
        counts = self.instance_counts[1:].tolist()
        return tuple(
            n for n, boxes in zip(names, counts, strict=True) if not boxes and n in parents
        )


@dataclass(frozen=True, eq=False)
class Groups(ReadOnlyArrays):
    """The classes in three groups by how many training images show them.

    A class without training boxes is in none of them: it is not rare but never learnt.

    Attributes:
        of_class: int64 [C], 0 rare, 1 common, 2 frequent; -1 for background and for classes without
            a training image.
        rule: the limits in words, to be printed beside every figure of a group.
        names: the groups, rarest first.
    """

    of_class: Int64
    rule: str
    names: tuple[str, str, str] = ("rare", "common", "frequent")

    def group(self, label: int) -> str | None:
        """Return the group of a label (1..K), None where `of_class` is -1.

        Raises:
            ValueError: if the label is not in 0..K.
        """
        if not 0 <= label < len(self.of_class):
            raise ValueError(
                f"Groups: label {label} does not exist. Labels are 0 to {len(self.of_class) - 1}."
            )
        index = int(self.of_class[label])
        return None if index < 0 else self.names[index]


def class_counts(
    *,
    image_index: npt.ArrayLike,
    labels: npt.ArrayLike,
    num_classes: int,
    is_crowd: npt.ArrayLike | None = None,
) -> tuple[Int64, Int64]:
    """Count images and boxes per class from plain arrays."""
    images = np.asarray(image_index, dtype=np.int64)
    classes = np.asarray(labels, dtype=np.int64)
    counted = classes >= 1
    if is_crowd is not None:
        crowd = np.asarray(is_crowd, dtype=np.bool_)
        if crowd.shape != classes.shape:
            raise ValueError(
                f"class_counts(): is_crowd is {list(crowd.shape)} beside {len(classes)} labels. "
                "Give one value per box."
            )
        counted &= ~crowd
    if images.shape != classes.shape:
        raise ValueError(
            f"class_counts(): image_index is {list(images.shape)} beside {len(classes)} labels. "
            "Give one image row per box."
        )
    images, classes = images[counted], classes[counted]
    if len(classes) and classes.max() >= num_classes:
        raise ValueError(
            f"class_counts(): label {classes.max()} in {num_classes} classes. "
            f"Labels are 1 to {num_classes - 1}; num_classes counts background."
        )
    # Equal (image, class) pairs become neighbours; the first of each run counts once.
    pairs = np.sort(images * num_classes + classes)
    first = np.ones(len(pairs), dtype=np.bool_)
    first[1:] = pairs[1:] != pairs[:-1]
    return (
        np.bincount(pairs[first] % num_classes, minlength=num_classes),
        np.bincount(classes, minlength=num_classes),
    )


def class_frequency(annotations: Annotations) -> Frequency:
    """Count the images and boxes of each class, crowd regions left out.

    Args:
        annotations: the training file; groups and weights never come from a validation file.

    Returns:
        The counts, with the path of the file that they come from.
    """
    image_counts, instance_counts = class_counts(
        image_index=annotations.image_index,
        labels=annotations.labels,
        num_classes=annotations.categories.num_classes,
        is_crowd=annotations.is_crowd,
    )
    return Frequency(
        categories=annotations.categories,
        num_images=annotations.num_images,
        image_counts=image_counts,
        instance_counts=instance_counts,
        source=annotations.source,
    )


def crowd_only(annotations: Annotations) -> dict[str, int]:
    """Find the classes whose annotations are all crowd regions."""
    size = annotations.categories.num_classes
    every = np.bincount(annotations.labels, minlength=size)
    regions = np.bincount(annotations.labels[annotations.is_crowd], minlength=size)
    only = np.flatnonzero((regions > 0) & (regions == every)).tolist()
    return {annotations.categories.name(label): int(regions[label]) for label in only}


def frequency_groups(
    frequency: Frequency,
    *,
    limits: tuple[int, int] | None = None,
    quantiles: tuple[float, float] | None = None,
) -> Groups:
    """Put each class into rare, common or frequent by its number of training images.

    Classes without a training image are not ranked and belong to no group. By limits (a, b): rare
    up to a images, common up to b, frequent above. By quantiles (p, q): the classes are ranked by
    image count; rare is the lower share p of them, frequent what lies above the share q. Classes
    with equal counts share their mean rank, so they share a group, and the largest count is always
    frequent: equal counts everywhere are all frequent.

    The default is the limits of LVIS, (10, 100), for sets with 300 classes to rank or more, and
    thirds of the classes for smaller ones, whose classes would nearly all be frequent by those
    limits.

    Args:
        frequency: counts of the training file.
        limits: two image counts, 0 <= a < b.
        quantiles: two shares of the classes, 0 < p < q < 1.

    Returns:
        The group of each class, and the rule in words with its source.

    Raises:
        ValueError: if both are given, or the two numbers are out of range or order.

    Example:
        >>> counts = np.array([0, 3, 40, 500])
        >>> three = Categories(ids=(1, 2, 3), names=("a", "b", "c"))
        >>> groups = frequency_groups(Frequency(three, 600, counts, counts, "train.json"))
        >>> groups.group(1), groups.group(3)
        ('rare', 'frequent')
        >>> print(groups.rule)
        rare: 3 train images, common: 40, frequent: 500 (3 classes of train.json ranked by
        train images, cut at 1/3 and 2/3)

    Source: Gupta et al., LVIS, 2019, arXiv:1908.03195, section 3; the limits (1-10, 11-100, more
    than 100) are those of the published category table. Differs: quantiles for small sets.
    """
    if limits is not None and quantiles is not None:
        raise ValueError(
            f"frequency_groups(): limits {limits} and quantiles {quantiles} are both given. "
            "Give one of them."
        )
    ranked = frequency.image_counts > 0
    counts = frequency.image_counts[ranked]
    if limits is None and quantiles is None:
        limits, quantiles = (LVIS_LIMITS, None) if len(counts) >= LVIS_SIZED else (None, THIRDS)
    of_class = np.full(len(ranked), -1, dtype=np.int64)
    if limits is not None:
        low, high = limits
        if not 0 <= low < high:
            raise ValueError(
                f"frequency_groups(): limits are {limits}. Expected two image counts a < b, a >= 0."
            )
        of_class[ranked] = np.searchsorted([low, high], counts, side="left")
        name = " (LVIS limits)" if (low, high) == LVIS_LIMITS else ""
        rule = (
            f"rare: up to {low} train images, common: {low + 1}-{high}, frequent: more than {high}"
            f"{name}, counted in {frequency.source}"
        )
    else:
        assert quantiles is not None
        groups = of_class[ranked] = _by_rank(counts, quantiles)
        spans = [_span(counts[groups == group]) for group in range(3)]
        unit = {"no class": "", "1": " train image"}.get(spans[0], " train images")
        cuts = " and ".join(
            {THIRDS[0]: "1/3", THIRDS[1]: "2/3"}.get(q, f"{q:g}") for q in quantiles
        )
        classes = counted(len(counts), "class")
        rule = (
            f"rare: {spans[0]}{unit}, common: {spans[1]}, frequent: {spans[2]}"
            f" ({classes} of {frequency.source} ranked by train images, cut at {cuts})"
        )
    absent = len(ranked) - 1 - len(counts)
    if absent:
        rule += f"; {absent} without train boxes in no group"
    return Groups(of_class, rule)


def _by_rank(counts: Int64, quantiles: tuple[float, float]) -> Int64:
    """Return 0, 1 or 2 for each class from its mean rank among all classes."""
    low, high = quantiles
    if not 0 < low < high < 1:
        raise ValueError(
            f"frequency_groups(): quantiles are {quantiles}. "
            "Expected two shares p < q of the classes, between 0 and 1."
        )
    ordered = np.sort(counts)
    below = np.searchsorted(ordered, counts, side="left")
    up_to = np.searchsorted(ordered, counts, side="right")
    share = (below + up_to) / (2 * len(counts))
    of_class = (share > low).astype(np.int64) + (share > high)
    of_class[counts == counts.max(initial=0)] = 2
    return of_class


def _span(counts: Int64) -> str:
    """Return the smallest and largest count in words."""
    if not len(counts):
        return "no class"
    low, high = int(counts.min()), int(counts.max())
    return f"{low}" if low == high else f"{low}-{high}"
