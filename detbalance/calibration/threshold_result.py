"""What fitting thresholds or choosing a strength gave, with the held-out figures beside it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from detbalance.calibration.threshold_curves import (
    Objective,
    shares,
)
from detbalance.calibration.thresholds import Thresholds
from detbalance.data.faults import show
from detbalance.data.files import open_file, parse_json, replace_file
from detbalance.data.json_nan import nan_to_null
from detbalance.data.messages import counted
from detbalance.evaluation.accumulate import mean_of_defined
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

    utility: float
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
    """Thresholds of all classes and what they are utility.

    Attributes:
        thresholds: to apply.
        objective: what they are for, as text.
        shared: the one threshold that is best for the mean class.
        is_per_class: whether the thresholds differ, or all are the shared one.
        shrink_boxes: n_0 of the shrinkage that cross-fitting chose, infinite for the shared one.
        gain: held-out utility of the shrunk thresholds less that of the shared one.
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
        utility=mean_of_defined(objective.utility(result.right, result.wrong, result.boxes)[1:]),
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


_PAID = {"recall": "precision", "precision": "recall"}


def verdict(
    objective: Objective,
    before: Judged,
    after: Judged,
    error: float,
    *,
    helps: bool,
    what: tuple[str, str],
    advice: str,
) -> str:
    """Say whether a change helps on held-out images, and what is done about it."""
    fitted, plain = what
    gain = after.utility - before.utility
    how = f"{gain:+.3f}, standard error {error:.3f}"
    if objective.is_floor:
        paid = _PAID[objective.kind]
        outcome = (
            f"{after.kept} of {counted(after.num_classes, 'class')} keep {objective} with"
            f" {fitted}, "
            f"{before.kept} with {plain}; mean {paid} {figure(getattr(after.means['all'], paid))} "
            f"against {figure(getattr(before.means['all'], paid))} ({paid} times how likely the "
            f"floor is kept: {how})"
        )
    else:
        name = str(objective).upper()
        outcome = (
            f"mean {name} is {figure(after.utility)} with {fitted}, {figure(before.utility)} with "
            f"{plain} ({how})"
        )
    opening = "On held-out images" if helps else f"No clear gain on held-out images by {fitted}:"
    return f"{opening} {outcome}. {advice}"


def figure(value: float) -> str:
    """Three decimals without the leading zero, "-" where undefined."""
    return "-" if value != value else f"{value:.3f}".removeprefix("0")


SCHEMA = "detbalance.thresholds/1"


_EXPECTED = f'Expected {{"schema": "{SCHEMA}", "thresholds": {{class name: score}}}}'


def save_thresholds(path: str | os.PathLike[str], fitted: ThresholdFit) -> None:
    """Write thresholds and how they were found.

    "thresholds" maps class names to scores, all that a program needs; "classes" has the figures of
    each class, "held_out" the comparison that decided. The file appears whole or not at all.

    Args:
        path: file to write; its folder is made if need be. An existing file is replaced.
        fitted: of `detbalance.calibration.fit_thresholds`.

    Raises:
        ValueError: if the file cannot be written.
    """
    values: dict[str, Any] = nan_to_null(asdict(fitted))
    values["thresholds"] = dict(fitted.thresholds.values)
    classes = {row["name"]: row for row in values.pop("classes")}
    for row in classes.values():
        del row["name"], row["threshold"]
    if math.isinf(fitted.shrink_boxes):
        values["shrink_boxes"] = None
    text = json.dumps(
        {"schema": SCHEMA, **values, "classes": classes},
        indent=1,
        ensure_ascii=False,
        allow_nan=False,
    )
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(f"{text}\n".encode())
    except OSError as error:
        raise ValueError(
            f"{path}: the thresholds cannot be written ({error.strerror}). Expected a file to "
            "write. Choose another path."
        ) from error


def load_thresholds(path: str | os.PathLike[str]) -> Thresholds:
    """Read thresholds by class name; whether the classes are right shows where they are used.

    Args:
        path: file of `save_thresholds`, or one written by hand with "schema" and "thresholds".

    Returns:
        The thresholds.

    Raises:
        ValueError: if the file cannot be read, is no such file, or a threshold is not a finite
            number.
    """
    document = parse_json(open_file(path), path)
    if not isinstance(document, dict):
        raise ValueError(f"{path}: the file holds {show(document)}. {_EXPECTED}.")
    if document.get("schema") != SCHEMA:
        found = show(document["schema"]) if "schema" in document else "missing"
        raise ValueError(
            f'{path}: "schema" is {found}. {_EXPECTED}. Write it with: detbalance thresholds.'
        )
    values = document.get("thresholds")
    if not isinstance(values, dict) or not values:
        raise ValueError(f'{path}: "thresholds" is {show(values)}. {_EXPECTED}.')
    wrong = [
        name
        for name, value in values.items()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite(value)
    ]
    if wrong:
        number = "1 threshold is no finite number"
        number = number if len(wrong) == 1 else f"{len(wrong)} thresholds are not finite numbers"
        raise ValueError(
            f"{path}: {number} (first: "
            f'"{wrong[0]}": {show(values[wrong[0]])}). {_EXPECTED}. Correct it.'
        )
    return Thresholds({name: float(value) for name, value in values.items()}, str(path))


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
