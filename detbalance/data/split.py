"""`split_annotations`: the two parts, the share of each class, and what did not go."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from detbalance.data.annotations import Annotations
from detbalance.data.arrays import Bool, Int64
from detbalance.data.categories import shorten
from detbalance.data.duplicates import COPY, sources_of_copies
from detbalance.data.frequency import crowd_only
from detbalance.data.grouping import image_groups
from detbalance.data.split_choice import Holdings, choose_groups


def deal_images(labels: Int64, image_index: Int64, num_images: int, folds: int, seed: int) -> Int64:
    """Deal images out like cards, those of the rarest classes first, so that each fold has some."""
    counts = np.bincount(labels, minlength=1)
    rarest = np.full(num_images, counts.max() + 1)
    np.minimum.at(rarest, image_index, counts[labels])
    shuffled = np.random.default_rng(seed).permutation(num_images)
    order = shuffled[np.argsort(rarest[shuffled], kind="stable")]
    fold = np.empty(num_images, np.int64)
    fold[order] = np.arange(num_images) % folds
    return fold


# What is off by more than this share of the images, or of the boxes of a class, gets a note.
_SIZE_OFF = 0.02
_CLASS_OFF = 0.1


@dataclass(frozen=True)
class ClassShare:
    """One class in both parts, crowd boxes left out.

    Attributes:
        name: of the class.
        num_groups: groups that show it; images without grouping.
        train_images: images of the training part that show it.
        val_images: images of the validation part that show it.
        train_boxes: boxes of the training part.
        val_boxes: boxes of the validation part.
    """

    name: str
    num_groups: int
    train_images: int
    val_images: int
    train_boxes: int
    val_boxes: int

    @property
    def image_share(self) -> float:
        """Share of its images that are in the validation part; NaN without any."""
        images = self.train_images + self.val_images
        return self.val_images / images if images else math.nan

    @property
    def box_share(self) -> float:
        """Share of its boxes that are in the validation part; NaN without any."""
        boxes = self.train_boxes + self.val_boxes
        return self.val_boxes / boxes if boxes else math.nan


@dataclass(frozen=True, eq=False)
class Split:
    """What `split_annotations` returns.

    Attributes:
        train: the training part.
        val: the validation part.
        is_val: bool [M], the part of each image of the whole.
        groups: int64 [M], the group of each image.
        classes: the shares of each class, in the order of the labels.
        notes: what could not be satisfied, in words; empty if all was.
    """

    train: Annotations
    val: Annotations
    is_val: Bool
    groups: Int64
    classes: tuple[ClassShare, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def num_groups(self) -> int:
        """How many groups there are, which are never divided."""
        return int(self.groups.max()) + 1


def split_annotations(
    annotations: Annotations,
    *,
    val_share: float = 0.2,
    group_by: str | re.Pattern[str] | None = None,
    seed: int = 0,
) -> Split:
    """Split images into a training and a validation part that both show every class.

    Images of one group stay together, for groups cut in two would have validation images that
    training knows. The images and the boxes of every class, images without boxes, and all images
    are shared out as near to `val_share` as the groups allow; a class that two groups or more show
    is on both sides unless that is impossible. A class that only one group shows stays in training.

    Args:
        annotations: of all images, at least two groups.
        val_share: share of the images and boxes for validation, in (0, 1).
        group_by: what makes images belong together: a key of the image entries in the file, like
            "patient" or "extra.patient"; or a compiled regular expression to find in file names,
            whose first group (the whole match if it has none) is the same for images that belong
            together. None: each image is on its own, but for augmented copies of one picture
            (`<source>.rf.<hash>.jpg`). Images with one file name are together in any case.
        seed: another seed gives another split, the same seed the same one.

    Returns:
        Both parts, images in the order of the file, the share of each class, and notes.

    Raises:
        ValueError: if `val_share` is out of range, an image belongs to no group, there is one group
            only, or each group has a class of its own, so that nothing can go to validation.

    Source: iterative stratification, Sechidis et al., ECML PKDD 2011. Differs: as
    `detbalance.data.split_choice.choose_groups` says step by step.
    """
    if not 0 < val_share < 1:
        raise ValueError(
            f"split_annotations(): val_share is {val_share}. Expected a share in (0, 1), for "
            "example 0.2. Give 20% as 0.2."
        )
    groups, names = image_groups(annotations, group_by)
    if len(names) < 2:
        number = annotations.num_images
        every = "the only image is" if number == 1 else f"all {number} images are"
        raise ValueError(
            f"{annotations.source}: {every} one group ({shorten(names)}). At least two groups are"
            " needed. Group by something finer."
        )
    holdings = Holdings(annotations, groups)
    chosen = choose_groups(holdings, val_share, seed)
    if not chosen.any():
        raise ValueError(
            f"{annotations.source}: each of the {len(names)} groups has a class that no other has. "
            "Such groups stay in training, so nothing is left for validation. Group by something "
            "finer, or leave these classes out with select()."
        )
    is_val = chosen[groups]
    train_totals, val_totals = holdings.totals(~chosen), holdings.totals(chosen)
    num_classes = holdings.num_classes
    classes = tuple(
        ClassShare(
            name=annotations.categories.name(label),
            num_groups=int(holdings.groups_with[label]),
            train_images=int(train_totals[label]),
            val_images=int(val_totals[label]),
            train_boxes=int(train_totals[num_classes + label]),
            val_boxes=int(val_totals[num_classes + label]),
        )
        for label in range(1, num_classes)
    )
    return Split(
        train=annotations.subset(~is_val),
        val=annotations.subset(is_val),
        is_val=is_val,
        groups=groups,
        classes=classes,
        notes=(
            *_notes_on_copies(annotations, is_val, group_by is None),
            *_notes_on_classes(classes, val_share, crowd_only(annotations)),
            *_notes_on_size(is_val, groups, names, val_share),
        ),
    )


def _notes_on_copies(annotations: Annotations, is_val: Bool, by_source: bool) -> Iterator[str]:
    counts = Counter(annotations.file_names)
    twice = [name.decode() for name, count in counts.items() if count > 1 and name]
    if twice:
        are = "file name is" if len(twice) == 1 else "file names are"
        yield (
            f"{len(twice)} {are} listed under several image ids and kept on one side:"
            f" {shorten(twice)}."
        )
    copies = [rows for rows in sources_of_copies(annotations).values() if len(rows) > 1]
    cut = [rows for rows in copies if is_val[rows].any() and not is_val[rows].all()]
    if copies and by_source:
        pictures = "1 picture" if len(copies) == 1 else f"{len(copies)} pictures"
        yield (
            f"{sum(map(len, copies))} images are augmented copies (.rf. in their names) of"
            f" {pictures}: those of one picture are on one side."
        )
    elif cut:
        have = "1 picture has" if len(cut) == 1 else f"{len(cut)} pictures have"
        yield (
            f"{have} augmented copies (.rf. in their names) on both sides, so validation knows"
            f" training's pictures. Leave the grouping out, or pass --group-regex '{COPY.pattern}'."
        )


def _notes_on_classes(
    classes: tuple[ClassShare, ...], val_share: float, crowded: dict[str, int]
) -> Iterator[str]:
    if crowded:
        listed = shorten([f"{name} ({number})" for name, number in crowded.items()])
        yield (
            f"Crowd regions only (iscrowd 1), which do not count: {listed}. Set iscrowd to 0 for"
            " annotations of single objects, masks too."
        )
    unseen = [c.name for c in classes if not c.num_groups and c.name not in crowded]
    if unseen:
        yield f"Without boxes, so on neither side: {shorten(unseen)}."
    lone = [c.name for c in classes if c.num_groups == 1]
    if lone:
        yield f"Shown by one group only, which stays in training: {shorten(lone)}."
    several = [c for c in classes if c.num_groups > 1]
    for side, missing in (
        ("training", [c.name for c in several if not c.train_images]),
        ("validation", [c.name for c in several if not c.val_images]),
    ):
        if missing:
            yield (
                f"Missing from {side}, because their groups are needed on the other side for other"
                f" classes: {shorten(missing)}."
            )
    shown = [c for c in several if c.train_images and c.val_images]
    off = [c for c in shown if _boxes_off(c, val_share) > _CLASS_OFF]
    if off:
        worst = max(off, key=lambda c: _boxes_off(c, val_share))
        yield (
            f"The share of the boxes in validation is off by more than {_CLASS_OFF:.0%} of them for"
            f" {shorten([c.name for c in off])} (most: {worst.name}, {worst.box_share:.1%} of"
            f" {worst.train_boxes + worst.val_boxes} boxes in {worst.num_groups} groups)."
        )


def _boxes_off(row: ClassShare, val_share: float) -> float:
    """How far the share of the boxes is off; 0 for less than two boxes, which says nothing."""
    boxes = row.train_boxes + row.val_boxes
    off = abs(row.val_boxes - val_share * boxes)
    return off / boxes if off >= 2 else 0.0


def _notes_on_size(
    is_val: Bool, groups: Int64, names: list[str], val_share: float
) -> Iterator[str]:
    off = abs(int(is_val.sum()) - val_share * len(is_val))
    if off >= 1 and off > _SIZE_OFF * len(is_val):
        sizes = np.bincount(groups)
        largest = int(sizes.argmax())
        yield (
            f"Validation has {is_val.mean():.1%} of the images instead of {val_share:.1%}: whole"
            " groups that show every class on both sides came no nearer (the largest,"
            f" {names[largest]}, has {sizes[largest] / len(is_val):.1%})."
        )
