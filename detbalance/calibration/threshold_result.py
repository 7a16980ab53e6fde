"""What fitting thresholds or choosing a strength gave, with the held-out figures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from detbalance.calibration.objectives import Objective, shares
from detbalance.calibration.thresholds import Thresholds
from detbalance.evaluation.grid_figures import mean_of_defined
from detbalance.evaluation.operating_points import f_score

if TYPE_CHECKING:
    from detbalance.calibration.cross_fitting import HeldOut

FloorStatus: TypeAlias = Literal["kept", "unsure", "missed"]
GROUP_NAMES = ("rare", "common", "frequent")


@dataclass(frozen=True)
class Figures:
    """Recall, precision and F-beta of one class or the means of several; NaN where undefined."""

    recall: float
    precision: float
    f_score: float


@dataclass(frozen=True)
class Judged:
    """What a way of choosing thresholds gives on images that had no part in it."""

    worth: float
    kept: int | None
    num_classes: int
    means: dict[str, Figures]


@dataclass(frozen=True)
class Settings:
    """What was fitted on, and how."""

    annotations: str
    predictions: str | None
    frequency_source: str | None
    group_rule: str | None
    rules: str
    iou: float
    confidence: float | None
    folds: int
    seed: int


@dataclass(frozen=True)
class ClassThreshold:
    """The threshold of one class.

    Attributes:
        name: of the class.
        group: rare, common or frequent, None without training data.
        train_boxes: None without training data.
        boxes: of the calibration file.
        threshold: the smallest score to show.
        own: what the class alone would choose, without shrinkage.
        floor: whether its own detections say that the floor is kept at `threshold`: "kept" with
            the confidence asked for, "unsure" by the estimate only, "missed" not at all; None
            without a floor, and where there is nothing to say it by.
        held_out: figures with the thresholds that were chosen, on images not fitted on.
        shared: the same with the shared threshold.
    """

    name: str
    group: str | None
    train_boxes: int | None
    boxes: int
    threshold: float
    own: float
    floor: FloorStatus | None
    held_out: Figures
    shared: Figures


@dataclass(frozen=True)
class ThresholdFit:
    """Thresholds of all classes and what they are worth.

    Attributes:
        thresholds: to apply.
        objective: what they are for, as text.
        shared: the one threshold that is best for the mean class.
        is_per_class: whether the thresholds differ, or all are the shared one.
        shrink_boxes: n_0 of the shrinkage that cross-fitting chose, infinite for the shared one.
        gain: held-out worth of the shrunk thresholds less that of the shared one.
        standard_error: of the gain.
        classes: rarest first.
        held_out: by way of choosing: "shared", "own" (not shrunk), "shrunk".
        verdict: the outcome in words.
        settings: what it was fitted on.
        notes: what to know before using it.
    """

    thresholds: Thresholds
    objective: str
    shared: float
    is_per_class: bool
    shrink_boxes: float
    gain: float
    standard_error: float
    classes: tuple[ClassThreshold, ...]
    held_out: dict[str, Judged]
    verdict: str
    settings: Settings
    notes: tuple[str, ...]


def judge(result: HeldOut, objective: Objective, groups: Sequence[str | None]) -> Judged:
    """Average held-out counts over classes."""
    figures = class_figures(result, objective)
    present = [label for label in range(1, len(figures)) if result.boxes[label]]
    members = {"all": present}
    for name in GROUP_NAMES:
        if own := [label for label in present if groups[label] == name]:
            members[name] = own
    kept = None
    if objective.is_floor:
        found, trials = objective.kept(result.right, result.wrong, result.boxes)
        holds = (trials > 0) & (found >= objective.amount * trials - 1e-9)
        kept = int(holds[present].sum())
    return Judged(
        worth=mean_of_defined(objective.worth(result.right, result.wrong, result.boxes)[1:]),
        kept=kept,
        num_classes=len(present),
        means={
            name: Figures(
                *(
                    mean_of_defined(np.array([getattr(figures[label], key) for label in labels]))
                    for key in ("recall", "precision", "f_score")
                )
            )
            for name, labels in members.items()
        },
    )


def class_figures(result: HeldOut, objective: Objective) -> list[Figures]:
    """Figures of each label, index 0 for background, from held-out counts."""
    recall, precision = shares(result.right, result.wrong, result.boxes)
    f = f_score(precision, recall, beta=objective.beta)
    return [Figures(*map(float, row)) for row in zip(recall, precision, f, strict=True)]
