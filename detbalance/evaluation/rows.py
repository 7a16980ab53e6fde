"""The rows of a report: the figures of one class, and their means over a group of classes.

Undefined figures are NaN. Fields with a default are of files that earlier versions wrote without
them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

NAN = math.nan
GROUP_NAMES = ("rare", "common", "frequent")
# Figures that rows of classes and of groups share; a group's are means over its classes.
FIGURES = (
    "AP",
    "AP50",
    "AP75",
    "APs",
    "APm",
    "APl",
    "fixed_AP",
    "AR",
    "AR1",
    "AR10",
    "ARs",
    "ARm",
    "ARl",
    "recall",
    "precision",
    "recall75",
    "precision75",
    "f_score",
    "recall_at_precision",
    "recall_at_fppi",
    "best_f",
)
# Figures that have intervals: all of them where images were drawn, the last two in any case.
SPREAD = ("AP", "AP50", "AR", "recall", "precision")
ERROR_KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")


@dataclass(frozen=True)
class ErrorKind:
    """One kind of error of one class."""

    count: int
    shown: int
    cost: float = NAN


@dataclass(frozen=True)
class Figures:
    """The figures that classes and groups share, as the report's file format describes them."""

    AP: float
    AP50: float
    AR: float
    recall: float
    precision: float
    AP75: float = NAN
    APs: float = NAN
    APm: float = NAN
    APl: float = NAN
    fixed_AP: float = NAN
    AR1: float = NAN
    AR10: float = NAN
    ARs: float = NAN
    ARm: float = NAN
    ARl: float = NAN
    recall75: float = NAN
    precision75: float = NAN
    f_score: float = NAN
    recall_at_precision: float = NAN
    recall_at_fppi: float = NAN
    best_f: float = NAN
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    errors: dict[str, ErrorKind] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ClassRow(Figures):
    """One class of the report; the fields are those of the file format."""

    name: str
    category_id: int
    group: str | None
    train_images: int | None
    train_boxes: int | None
    val_boxes: int
    val_images: int = 0
    true_positives: int
    false_positives: int
    score_threshold: float = NAN
    score_at_precision: float = NAN
    score_at_fppi: float = NAN
    best_f_score: float = NAN
    positive_share: float = NAN
    design_effect: float = NAN
    more_boxes: int | None = None


@dataclass(frozen=True, kw_only=True)
class GroupRow(Figures):
    """One group of classes; figures are means over the classes where they are defined."""

    num_categories: int
    num_evaluated: int
    train_boxes: int | None
    val_boxes: int
