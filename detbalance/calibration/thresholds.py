"""A score threshold for each class: applied to detections, saved and read."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from detbalance.calibration.cross_fitting import Figures, Judged, Settings
from detbalance.data import Categories, Predictions
from detbalance.data.arrays import Float64
from detbalance.data.categories import shorten
from detbalance.data.faults import show
from detbalance.data.files import open_file, parse_json, replace_file
from detbalance.data.json_nan import nan_to_null
from detbalance.data.messages import counted

FloorStatus: TypeAlias = Literal["kept", "unsure", "missed"]
SCHEMA = "detbalance.thresholds/1"
_EXPECTED = f'Expected {{"schema": "{SCHEMA}", "thresholds": {{class name: score}}}}'


@dataclass(frozen=True)
class Thresholds:
    """The smallest score of each class that is shown.

    Attributes:
        values: threshold by class name, finite.
        source: where they came from, for errors.

    Example:
        >>> categories = Categories(ids=(1, 7), names=("cat", "owl"))
        >>> Thresholds({"owl": 0.2, "cat": 0.6}).by_label(categories)
        array([nan, 0.6, 0.2])
    """

    values: Mapping[str, float]
    source: str = "thresholds"

    def by_label(self, categories: Categories) -> Float64:
        """Return the thresholds in the order of labels.

        Args:
            categories: the classes of the detections; the same names are expected.

        Returns:
            float64 [K + 1], NaN for background.

        Raises:
            ValueError: if a class has no threshold, or there is one of an unknown class; with the
                nearest name of the other side.
        """
        faults = []
        for names, others, what in (
            (categories.names, self.values, "no threshold for {} of the classes"),
            (self.values, categories.names, "unknown classes with a threshold: {}"),
        ):
            if missing := [name for name in names if name not in others]:
                near = difflib.get_close_matches(missing[0], list(others), n=1)
                hint = f', nearest: "{near[0]}"' if near else ""
                faults.append(f'{what.format(len(missing))} (first: "{missing[0]}"{hint})')
        if faults:
            raise ValueError(
                f"{self.source}: {'; '.join(faults)}. Expected one for each of"
                f" {shorten(categories.names)}. Use the thresholds that were fitted for these"
                " classes."
            )
        return np.array([np.nan, *(self.values[name] for name in categories.names)])


def apply_thresholds(
    predictions: Predictions, thresholds: Thresholds, categories: Categories
) -> Predictions:
    """Keep the detections that reach the threshold of their class.

    AP and AR of what is left are lower than of all detections: they are about every score.

    Args:
        predictions: the detections.
        thresholds: by class name.
        categories: classes of the labels.

    Returns:
        The detections with score >= threshold, in the order that they were in.

    Raises:
        ValueError: if the classes are not those of the thresholds.
    """
    lowest = thresholds.by_label(categories)[predictions.labels]
    return predictions.take(predictions.scores >= lowest)


@dataclass(frozen=True)
class ClassThreshold:
    """The threshold of one class.

    Attributes:
        name: of the class.
        group, train_boxes: None without training data.
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


def save_thresholds(path: str | os.PathLike[str], fitted: ThresholdFit) -> None:
    """Write thresholds and how they were found.

    "thresholds" maps class names to scores, all that a program needs; "classes" has the figures of
    each class, "held_out" the comparison that decided. The file appears whole or not at all.

    Args:
        path: file to write or replace; its folder is made if need be.
        fitted: of `fit_thresholds`.

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
    document = {"schema": SCHEMA, **values, "classes": classes}
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(f"{text}\n".encode())
    except OSError as error:
        raise ValueError(
            f"{path}: the thresholds cannot be written ({error.strerror}). Expected a file to"
            " write. Choose another path."
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
        schema = show(document["schema"]) if "schema" in document else "missing"
        raise ValueError(
            f'{path}: "schema" is {schema}. {_EXPECTED}. Write it with: detbalance thresholds.'
        )
    values = document.get("thresholds")
    if not isinstance(values, dict) or not values:
        raise ValueError(f'{path}: "thresholds" is {show(values)}. {_EXPECTED}.')
    wrong = [name for name, value in values.items() if not _is_finite(value)]
    if wrong:
        number = counted(
            len(wrong), "threshold is no finite number", "thresholds are not finite numbers"
        )
        raise ValueError(
            f'{path}: {number} (first: "{wrong[0]}": {show(values[wrong[0]])}). {_EXPECTED}.'
            " Correct it."
        )
    return Thresholds({name: float(value) for name, value in values.items()}, str(path))


def _is_finite(value: object) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer of hundreds of digits
        return False
