"""The comparison of two detectors, and its file format.

`comparison.json`, schema "detbalance.comparison/2". A later version 2 file may have more keys,
never fewer. Undefined numbers are null.

    schema    "detbalance.comparison/2"
    verdict   the comparison in words
    classes   list, rarest first, as in report.json. Each entry:
        name, category_id, group, train_images, train_boxes, val_images, val_boxes
                                     as in report.json
        figures                      object by figure (AP, AP50, AR, recall, precision):
            baseline, ours           means over the runs of each side
            difference               ours less baseline
            low, high                its interval at settings.confidence
            p                        the smallest 1 - confidence whose interval leaves 0 out
            p_adjusted               the same for all classes together (Benjamini and Hochberg); of
                                     a group for all groups (Holm)
    groups    object with "rare", "common", "frequent", "all"; each entry:
        num_categories               classes of the group
        num_evaluated                those of them with boxes to find
        train_boxes, val_boxes       sums
        figures                      as above; means over the classes where both sides have the
                                     figure
    settings  annotations, baseline and ours (lists of files; null: from memory), rules,
              score_threshold, thresholds, iou_thresholds, recall_iou_threshold, max_detections,
              figure (that the verdict is of), confidence, num_bootstrap, seed, frequency_source,
              group_rule
    notes     list of sentences about what a reader could not see from the figures
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from detbalance.data.json_nan import nan_to_null
from detbalance.evaluation.rules import RulesName

SCHEMA = "detbalance.comparison/2"


@dataclass(frozen=True)
class Difference:
    """One figure of two sides; the fields are those of the file format, NaN where undefined."""

    baseline: float
    ours: float
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float


@dataclass(frozen=True, kw_only=True)
class ClassDifferences:
    """One class; the fields are those of the file format."""

    name: str
    category_id: int
    group: str | None
    train_images: int | None
    train_boxes: int | None
    val_images: int
    val_boxes: int
    figures: dict[str, Difference]


@dataclass(frozen=True, kw_only=True)
class GroupDifferences:
    """Means over the classes of one group; the fields are those of the file format."""

    num_categories: int
    num_evaluated: int
    train_boxes: int | None
    val_boxes: int
    figures: dict[str, Difference]


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """What was compared, and how; the fields are those of the file format."""

    annotations: str
    baseline: tuple[str | None, ...]
    ours: tuple[str | None, ...]
    rules: RulesName
    score_threshold: float
    thresholds: str | None
    iou_thresholds: tuple[float, ...]
    recall_iou_threshold: float
    max_detections: tuple[int, ...]
    figure: str
    confidence: float
    num_bootstrap: int
    seed: int
    frequency_source: str | None
    group_rule: str | None


@dataclass(frozen=True)
class Comparison:
    """Two detectors on the same images; see the module's text for every field.

    Attributes:
        verdict: the comparison in words.
        classes: one row per class, rarest first.
        groups: rows "rare", "common", "frequent" and "all".
        settings: what was compared, and how.
        notes: sentences for the reader.
    """

    verdict: str
    classes: tuple[ClassDifferences, ...]
    groups: dict[str, GroupDifferences]
    settings: ComparisonSettings
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give the content of comparison.json: plain JSON values, None for undefined."""
        return {"schema": SCHEMA, **nan_to_null(self)}
