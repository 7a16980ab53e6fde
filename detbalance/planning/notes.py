"""What a reader would overlook in the figures of a plan, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from detbalance.data.categories import shorten
from detbalance.data.messages import counted
from detbalance.planning.classes import FEW_VAL_BOXES, WANTED_HALF_WIDTH
from detbalance.planning.plan import ClassPlan, FileSummary, Setting
from detbalance.planning.recommendation import KEPT_VARIETY
from detbalance.planning.settings import LARGEST_REPEAT, LVIS_DEFAULT, LVIS_THRESHOLD

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
