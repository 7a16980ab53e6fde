"""The plan of a training set, and its file format.

`plan.json`, schema "detbalance.plan/2". A later version 2 file may have more keys, never fewer.
Undefined numbers are null. Crowd regions are neither images nor boxes of a class.

    schema    "detbalance.plan/2"
    train     source, images, boxes, crowd_boxes, background_images (without boxes),
              background_share (0..1), categories (without those that only stand above others)
    val       the same of the validation file; null without one
    box_ratio, image_ratio    most over fewest boxes (images) of a class, classes without a box
              left out; null without classes
    reference   name of the class with most boxes; null without boxes
    group_rule  the limits of rare, common, frequent in words
    target_length   images per epoch that the compared settings were fitted to
    classes   list, rarest first: by boxes, then images. Each entry:
        name, category_id, group     group is "rare", "common" or "frequent", null without boxes
        images, boxes                in the training file
        median_size                  median of sqrt(width x height) in pixels
        small, medium, large         shares of the boxes by annotated area: below 32^2, up to 96^2,
                                     above (COCO's limits)
        companion, companion_images  the other class that shares most images with it, and how many
        reference_boxes              mean boxes of the reference class in an image of this one
        val_images, val_boxes        null without a validation file
        half_width                   half the 95 % interval of a recall of 0.5 measured on val_boxes
        val_boxes_missing            boxes more in val that give +-0.10
        crowd_boxes                  crowd regions of the class in the training file
    settings  list; the first is "none". Each entry:
        name, config                 config is the `sampling` section of a training configuration
        epoch_length, relative_length   expected images per epoch, and over the images of the file
        exposure                     list, boxes of each class per epoch, in the order of `classes`
        max_min                      most over least shown class; null where a class is never shown
        least_boxes                  boxes of the least shown class in as many draws as the file has
                                     images
        group_exposure               object, boxes per epoch of "rare", "common", "frequent"
        largest_repeat               draws per epoch of the image that is drawn most
        seldom_images, never_images  images drawn less than once in two epochs; never
        effective_images             (sum f)^2 / sum f^2 of the factors f: as many images, drawn
                                     evenly, would give as much variety
        seconds                      time of an epoch, null without a speed
    recommendation   setting (its name), verdict ("balance", "too few boxes", "sampling cannot
              help", "nothing is rare", "nothing to balance"), reason, config, lines (config as
              YAML text)
    findings  list: file, kind, count, text, is_fault (false: a note)
    absent_in_val, few_in_val, unknown_to_train   class names; empty without a validation file
    class_notes, setting_notes   sentences about what a reader would overlook in the figures, such
              as settings that these data cannot have
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from detbalance.data.files import open_file, parse_json
from detbalance.data.json_nan import null_to_nan

SCHEMA = "detbalance.plan/2"  # in 1, sampling methods had other names


@dataclass(frozen=True)
class FileSummary:
    """What an annotation file holds; the fields are those of the file format."""

    source: str
    images: int
    boxes: int
    crowd_boxes: int
    background_images: int
    background_share: float
    categories: int


@dataclass(frozen=True)
class ClassPlan:
    """One class of the training file; the fields are those of the file format."""

    name: str
    category_id: int
    group: str | None
    images: int
    boxes: int
    median_size: float
    small: float
    medium: float
    large: float
    companion: str | None
    companion_images: int
    reference_boxes: float
    val_images: int | None
    val_boxes: int | None
    half_width: float
    val_boxes_missing: int | None
    crowd_boxes: int = 0

    @property
    def is_crowd_only(self) -> bool:
        """Whether every annotation of the class is a crowd region."""
        return not self.boxes and self.crowd_boxes > 0


@dataclass(frozen=True)
class Setting:
    """What one way of sampling shows; the fields are those of the file format."""

    name: str
    config: dict[str, Any]
    epoch_length: float
    relative_length: float
    exposure: tuple[float, ...]
    max_min: float
    least_boxes: float
    group_exposure: dict[str, float]
    largest_repeat: float
    seldom_images: int
    never_images: int
    effective_images: float
    seconds: float


@dataclass(frozen=True)
class Recommendation:
    """What to train with, and why; the fields are those of the file format."""

    setting: str
    verdict: str
    reason: str
    config: dict[str, Any]
    lines: str


@dataclass(frozen=True)
class Finding:
    """Something wrong with the files, or worth knowing (`is_fault` false)."""

    file: str
    kind: str
    count: int
    text: str
    is_fault: bool


@dataclass(frozen=True)
class Plan:
    """How imbalanced a training set is, what to do about it, and what that costs.

    Build it with `detbalance.planning.make_plan`. The fields are those of the file format, with NaN
    for undefined numbers; see the module's text for every one.
    """

    train: FileSummary
    val: FileSummary | None
    box_ratio: float
    image_ratio: float
    reference: str | None
    group_rule: str
    target_length: float
    classes: tuple[ClassPlan, ...]
    settings: tuple[Setting, ...]
    recommendation: Recommendation
    findings: tuple[Finding, ...]
    absent_in_val: tuple[str, ...]
    few_in_val: tuple[str, ...]
    unknown_to_train: tuple[str, ...]
    class_notes: tuple[str, ...]
    setting_notes: tuple[str, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that should be mended before training."""
        return tuple(finding for finding in self.findings if finding.is_fault)

    @property
    def recommended(self) -> Setting:
        """The setting that is recommended."""
        return self.setting(self.recommendation.setting)

    def setting(self, name: str) -> Setting:
        """Return a setting by its name.

        Raises:
            ValueError: if no setting is called so.
        """
        for setting in self.settings:
            if setting.name == name:
                return setting
        known = ", ".join(setting.name for setting in self.settings)
        raise ValueError(f'Plan: no setting is called "{name}". Known: {known}.')

    def to_dict(self) -> dict[str, Any]:
        """Give the content of plan.json: plain JSON values, None for undefined."""
        return {"schema": SCHEMA, **_plain(dataclasses.asdict(self))}

    @classmethod
    def from_dict(cls, content: Any, *, where: str = "plan") -> Plan:
        """Read what `to_dict` gave.

        Args:
            content: the decoded JSON.
            where: what to call it in an error, usually the file's name.

        Returns:
            The plan, with NaN for undefined figures.

        Raises:
            ValueError: if the schema is not this one, or a field is missing or of a wrong type.
        """
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            written = f"schema {json.dumps(schema)}" if schema is not None else "no schema"
            raise ValueError(
                f'{where}: {written}. Expected a plan with schema "{SCHEMA}". Write it again with'
                " detbalance plan."
            )
        try:
            return msgspec.convert(null_to_nan(content, cls), cls)
        except msgspec.ValidationError as error:
            raise ValueError(
                f"{where}: not a valid {SCHEMA} plan: {error}. Expected the fields that"
                " detbalance.planning.plan lists. Write it again with detbalance plan."
            ) from error


def load_plan(path: str | Path) -> Plan:
    """Read a plan.json.

    Args:
        path: the file.

    Raises:
        ValueError: in one line that names the file, if it cannot be read, is not JSON, or is not a
            plan of this schema.
    """
    return Plan.from_dict(parse_json(open_file(path), path), where=str(path))


def _plain(value: Any) -> Any:
    """The same nested value for JSON: lists for tuples, None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
