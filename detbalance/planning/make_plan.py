"""Make a plan: put together what the parts of this room compute."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from detbalance.data import Annotations
from detbalance.data.checks import check_number
from detbalance.data.frequency import class_frequency, frequency_groups
from detbalance.planning.classes import (
    FEW_VAL_BOXES,
    class_notes,
    class_rows,
    setting_notes,
    summarize,
)
from detbalance.planning.findings import (
    UNSOUND,
    copies_in_both,
    file_findings,
    near_names,
    same_names,
)
from detbalance.planning.objects import no_room_notes, small_notes
from detbalance.planning.plan import Finding, Plan
from detbalance.planning.recommendation import (
    compare_settings,
    fitted_length,
    pasted_classes,
    recommend,
)
from detbalance.sampling import ImageLabels

_FIRST = "Mend the findings above first, the figures are of little worth until then."


def make_plan(
    train: Annotations,
    *,
    val: Annotations | None = None,
    limits: tuple[int, int] | None = None,
    target_length: int | None = None,
    images_per_second: float | None = None,
    duplicates: Sequence[Finding] | None = None,
    input_size: tuple[int, int] | None = None,
) -> Plan:
    """Say how imbalanced a training set is, what to do about it, and what that costs.

    Nothing is trained and no image is opened. Load the files with `drop_invalid=True`, so that
    their faults become findings of the plan.

    Args:
        train: the training file.
        val: the validation file; its classes are found by name.
        limits: (a, b): classes in up to a training images are rare, in up to b common; by default
            those of `detbalance.data.frequency.frequency_groups`.
        target_length: images per epoch to fit the compared settings to; by default chosen from the
            data, see `detbalance.planning.recommendation.fitted_length`.
        images_per_second: that training processes, for the time of an epoch.
        duplicates: what `duplicate_findings` found in the image files; without it equal file names
            in both files are a finding.
        input_size: longer and shorter side of an image as the detector sees it, for what is said of
            small objects; by default what `choose_input_size` chooses.

    Returns:
        The plan; `recommendation` is its point.

    Raises:
        ValueError: if `target_length` is below 1, `images_per_second` not above 0, or the limits
            are not in order.

    Example:
        >>> plan = make_plan(load_annotations("train.json"))  # doctest: +SKIP
        >>> print(plan.recommendation.lines)  # doctest: +SKIP
        sampling:
          method: balanced_exposure
          strength: 0.5
          target_length: 1534
          cap: 10.0
    """
    if target_length is not None:
        check_number("make_plan()", "target_length", target_length, least=1)
    if images_per_second is not None:
        check_number("make_plan()", "images_per_second", images_per_second, above=0)
    image_labels = ImageLabels(train)
    frequency = class_frequency(train)
    groups, default_groups = frequency_groups(frequency, limits=limits), frequency_groups(frequency)
    labels, classes = class_rows(train, image_labels, groups, val)
    length = fitted_length(image_labels) if target_length is None else target_length
    settings, impossible = compare_settings(
        image_labels, groups, labels, target_length=length, images_per_second=images_per_second
    )
    train_summary = summarize(train, image_labels)
    val_summary = None if val is None else summarize(val, ImageLabels(val))
    names = train.categories.names
    pasted = {name for i, name in enumerate(names, 1) if default_groups.group(i) != "frequent"}
    advice = recommend(train_summary, classes, settings, pasted)
    findings = _findings(train, val, duplicates)
    if any(finding.file == train.source and finding.kind in UNSOUND for finding in findings):
        advice = dataclasses.replace(advice, reason=f"{_FIRST} {advice.reason}")
    present = [row for row in classes if row.boxes]
    paste = advice.config.get("augmentation", {}).get("paste", {})
    few = [row for row in present if 0 < (row.val_boxes or 0) < FEW_VAL_BOXES]
    unknown = () if val is None else tuple(n for n in val.categories.names if n not in names)
    return Plan(
        train=train_summary,
        val=val_summary,
        box_ratio=_ratio([row.boxes for row in present]),
        image_ratio=_ratio([row.images for row in present]),
        reference=present[-1].name if present else None,
        group_rule=groups.rule,
        target_length=length,
        classes=classes,
        settings=settings,
        recommendation=advice,
        findings=findings,
        absent_in_val=tuple(row.name for row in present if row.val_boxes == 0),
        few_in_val=tuple(row.name for row in few),
        unknown_to_train=unknown,
        class_notes=(
            *class_notes(train_summary, val_summary, classes, unknown, frequency.super_categories),
            *small_notes(train, input_size),
            *no_room_notes(train, pasted_classes(present, paste, pasted)),
        ),
        setting_notes=setting_notes(train_summary, settings, impossible, advice.setting),
    )


def _ratio(counts: Sequence[int]) -> float:
    return max(counts) / min(counts) if counts else math.nan


def _findings(
    train: Annotations, val: Annotations | None, duplicates: Sequence[Finding] | None
) -> tuple[Finding, ...]:
    findings = [*file_findings(train), *near_names(train, val)]
    if val is not None:
        findings += [*file_findings(val), *copies_in_both(train, val)]
    if duplicates is not None:
        findings += duplicates
    elif val is not None:
        findings += same_names(train, val)
    return tuple(sorted(findings, key=lambda finding: not finding.is_fault))
