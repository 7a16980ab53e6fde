"""What the files say about each class: how much, how large, beside what, and how measurable.

Arrays by class have length C = K + 1; index 0 is background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from detbalance.data import Annotations
from detbalance.data.arrays import Float64, Int64, offsets_of, take_slices
from detbalance.data.categories import shorten
from detbalance.data.frequency import Groups, class_frequency
from detbalance.data.intervals import boxes_for_half_width, wilson_half_width
from detbalance.data.messages import counted
from detbalance.planning.plan import ClassPlan, FileSummary, Setting
from detbalance.planning.recommendation import (
    KEPT_VARIETY,
    LARGEST_REPEAT,
    LVIS_DEFAULT,
)
from detbalance.sampling import ImageLabels
from detbalance.sampling.repeat_factors import LVIS_THRESHOLD

# COCO's limits between small, medium and large, square pixels.
AREA_LIMITS = (32.0**2, 96.0**2)
# Recall is known well enough for most uses to +-0.10; to +-0.20 with 20 boxes, and a class with
# fewer can be compared between two models only where the difference is plain to see anyway.
WANTED_HALF_WIDTH = 0.10
FEW_VAL_BOXES = 20


def summarize(annotations: Annotations, image_labels: ImageLabels) -> FileSummary:
    """Count what a file holds; images with crowd regions only are background."""
    background = int((~image_labels.shows_boxes).sum())
    return FileSummary(
        source=annotations.source,
        images=annotations.num_images,
        boxes=len(image_labels.labels),
        crowd_boxes=int(annotations.is_crowd.sum()),
        background_images=background,
        background_share=background / annotations.num_images,
        categories=annotations.categories.num_categories
        - len(class_frequency(annotations).super_categories),
    )


def class_rows(
    train: Annotations, image_labels: ImageLabels, groups: Groups, val: Annotations | None
) -> tuple[list[int], tuple[ClassPlan, ...]]:
    """Describe every class of the training file, but for mere supercategories."""
    categories = train.categories
    median_sizes, size_shares = box_sizes(train)
    companion_labels, companion_images = companions(image_labels)
    # The class with most boxes, then most images, then the highest label.
    reference = int(np.lexsort((image_labels.image_counts, image_labels.instance_counts))[-1])
    reference_boxes = boxes_beside(image_labels, reference)
    val_counts = {}
    if val is not None:
        counts = class_frequency(val)
        both = zip(
            counts.image_counts[1:].tolist(), counts.instance_counts[1:].tolist(), strict=True
        )
        val_counts = dict(zip(val.categories.names, both, strict=True))
    enough = boxes_for_half_width(WANTED_HALF_WIDTH)
    above = set(class_frequency(train).super_categories)
    crowd = np.bincount(train.labels[train.is_crowd], minlength=categories.num_classes)
    rows = []
    labels = [k for k in range(1, categories.num_classes) if categories.name(k) not in above]
    for label in labels:
        name = categories.name(label)
        val_images, val_boxes = (None, None) if val is None else val_counts.get(name, (0, 0))
        small, medium, large = size_shares[label].tolist()
        companion = int(companion_labels[label])
        rows.append(
            ClassPlan(
                name=name,
                category_id=categories.ids[label - 1],
                group=groups.group(label),
                images=int(image_labels.image_counts[label]),
                boxes=int(image_labels.instance_counts[label]),
                median_size=float(median_sizes[label]),
                small=small,
                medium=medium,
                large=large,
                companion=categories.name(companion) if companion else None,
                companion_images=int(companion_images[label]),
                reference_boxes=float(reference_boxes[label]),
                val_images=val_images,
                val_boxes=val_boxes,
                half_width=math.nan if not val_boxes else wilson_half_width(val_boxes),
                val_boxes_missing=None if val_boxes is None else max(0, enough - val_boxes),
                crowd_boxes=int(crowd[label]),
            )
        )
    order = sorted(range(len(rows)), key=lambda i: (rows[i].boxes, rows[i].images))
    return [labels[i] for i in order], tuple(rows[i] for i in order)


def box_sizes(annotations: Annotations) -> tuple[Float64, Float64]:
    """Median size [C] and shares of small, medium, large [C, 3] of each class's boxes, or NaN."""
    num_classes = annotations.categories.num_classes
    is_object = ~annotations.is_crowd
    labels = annotations.labels[is_object]
    counts = np.bincount(labels, minlength=num_classes)
    size = np.sqrt(annotations.bbox[is_object, 2] * annotations.bbox[is_object, 3])
    sorted_size = size[np.lexsort((size, labels))]
    starts = np.cumsum(counts) - counts
    present = counts > 0
    median = np.full(num_classes, np.nan)
    lower, upper = ((starts + half)[present] for half in ((counts - 1) // 2, counts // 2))
    median[present] = (sorted_size[lower] + sorted_size[upper]) / 2
    # A box of just 32^2 is medium and one of just 96^2 still is.
    area = annotations.areas[is_object]
    of_box = (area >= AREA_LIMITS[0]).astype(np.int64) + (area > AREA_LIMITS[1])
    by_class = np.bincount(labels * 3 + of_box, minlength=3 * num_classes).reshape(-1, 3)
    with np.errstate(invalid="ignore"):
        return median, by_class / counts[:, None]


def companions(image_labels: ImageLabels) -> tuple[Int64, Int64]:
    """The class that each class is most often seen with, and in how many images, [C] each."""
    images, labels, _ = image_labels.pairs
    offsets = offsets_of(np.bincount(images, minlength=image_labels.num_images))
    images_of_class = images[np.argsort(labels, kind="stable")]
    ends = np.cumsum(image_labels.image_counts)
    best = np.zeros(image_labels.num_classes, dtype=np.int64)
    shared = np.zeros(image_labels.num_classes, dtype=np.int64)
    for label in range(1, image_labels.num_classes):
        rows = images_of_class[ends[label - 1] : ends[label]]
        positions, _ = take_slices(offsets, rows)
        counts = np.bincount(labels[positions], minlength=image_labels.num_classes)
        counts[label] = 0
        shared[label] = counts.max()
        best[label] = counts.argmax() if shared[label] else 0
    return best, shared


def boxes_beside(image_labels: ImageLabels, label: int) -> Float64:
    """Count the boxes of one class that an image of each class holds on average."""
    per_image = np.bincount(
        image_labels.image_index[image_labels.labels == label], minlength=image_labels.num_images
    )
    images, labels, _ = image_labels.pairs
    total = np.bincount(labels, weights=per_image[images], minlength=image_labels.num_classes)
    with np.errstate(invalid="ignore"):
        return total / image_labels.image_counts


# However they are sampled, so few images of a class are learnt by heart.
FEW_IMAGES = 10
MUCH_BACKGROUND = 0.5
_NAMED = 5


def class_notes(
    train: FileSummary,
    val: FileSummary | None,
    classes: Sequence[ClassPlan],
    unknown_to_train: Sequence[str],
    above: Sequence[str],
) -> tuple[str, ...]:
    """Say what the counts mean for training and for measuring."""
    notes = []
    if above:
        notes.append(
            f"{_classes(above, 'is', 'are')} only the supercategory of others, without a box: no"
            " class of the data, and in no table or group here. Exports put such a category first."
        )
    absent = [row.name for row in classes if not row.boxes and not row.is_crowd_only]
    if absent:
        notes.append(
            f"{_classes(absent, 'has', 'have')} no box in {train.source}: no sampling can show"
            f" {_it(absent)}. Label some, or take {_it(absent)} out of the categories."
        )
    few = [row.name for row in classes if 0 < row.images < FEW_IMAGES]
    if few:
        notes.append(
            f"{_classes(few, 'is', 'are')} in fewer than {FEW_IMAGES} train images: however often"
            " these are drawn, they are the same pictures. Label more, if you can."
        )
    crowded = any(row.is_crowd_only for row in classes)
    if train.background_share >= MUCH_BACKGROUND and train.boxes and not crowded:
        notes.append(
            f"{train.background_share:.0%} of the train images show no box. To draw fewer of them,"
            " use method background with the share that you want."
        )
    if val is not None:
        notes += _val_notes(val, classes, unknown_to_train)
    return tuple(notes)


def _val_notes(
    val: FileSummary, classes: Sequence[ClassPlan], unknown_to_train: Sequence[str]
) -> list[str]:
    notes = []
    absent = [row.name for row in classes if row.val_boxes == 0 and row.boxes]
    if absent:
        notes.append(
            f"{_classes(absent, 'has', 'have')} no box in {val.source}: nothing will be known about"
            f" {_it(absent)}. Split again with detbalance split, or label some."
        )
    few = [row for row in classes if 0 < (row.val_boxes or 0) < FEW_VAL_BOXES]
    if few:
        worst = min(few, key=lambda row: row.val_boxes or 0)
        names = [row.name for row in few]
        notes.append(
            f"{_classes(names, 'has', 'have')} fewer than {FEW_VAL_BOXES} val boxes, too few to"
            f" measure: recall of {worst.name} will be known to +-{worst.half_width:.2f}. Compare"
            f" models by means over the group and several seeds;"
            f" {counted(worst.val_boxes_missing or 0, 'box')} more of {worst.name} would"
            f" give +-{WANTED_HALF_WIDTH:.2f}."
        )
    if unknown_to_train:
        notes.append(
            f"{_classes(unknown_to_train, 'is', 'are')} in {val.source} but no"
            f" {'category' if len(unknown_to_train) == 1 else 'categories'} of the training file:"
            " never learnt, so never found. Check the spelling of the names."
        )
    return notes


def setting_notes(
    train: FileSummary, settings: Sequence[Setting], impossible: Sequence[str], chosen: str
) -> tuple[str, ...]:
    """Say what the settings do that their figures do not say at once."""
    notes = [
        "Training counts iterations, so no setting makes it longer: a longer epoch only means fewer"
        " epochs. Compare settings at equal iterations."
    ]
    by_name = {setting.name: setting for setting in settings}
    default = by_name.get(LVIS_DEFAULT)
    if default is not None and default.largest_repeat <= 1:
        notes.append(
            f"Repeat factors at the default of LVIS do nothing here: no class is in less than"
            f" {LVIS_THRESHOLD:g} of the images. A threshold must be fitted to the data."
        )
    for setting in settings:
        if setting.largest_repeat > 1.001 * LARGEST_REPEAT:
            notes.append(
                f"{setting.name} draws one image {setting.largest_repeat:.0f} times an epoch: above"
                f" {LARGEST_REPEAT:g}, expect it to be learnt by heart. Not recommended."
            )
        elif setting.effective_images < KEPT_VARIETY * train.images:
            notes.append(
                f"{setting.name} draws so unevenly that {train.images:,} images are worth only"
                f" {setting.effective_images:,.0f}: expect these to be learnt by heart. Not"
                " recommended."
            )
        if setting.least_boxes < 0.99 * settings[0].least_boxes:
            notes.append(
                f"{setting.name} shows the least shown class less than no sampling does"
                f" ({counted(setting.least_boxes, 'box')} in {train.images:,} drawn images"
                f" instead of {settings[0].least_boxes:,.0f}): it prefers images with few boxes."
            )
    setting = by_name[chosen]
    if setting.seldom_images:
        never = f", {setting.never_images:,} of them never" if setting.never_images else ""
        notes.append(
            f"{setting.name} draws {setting.seldom_images:,} of {train.images:,} images less than"
            f" once in two epochs{never}."
        )
    return (*notes, *impossible)


def _classes(names: Sequence[str], one: str, several: str) -> str:
    """Like "3 classes (a, b, c) have", or "a has"."""
    if len(names) == 1:
        return f"{names[0]} {one}"
    return f"{len(names)} classes ({shorten(names, _NAMED)}) {several}"


def _it(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"
