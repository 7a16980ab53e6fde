"""Thresholds as a JSON file: written with how they were found, read for what they are."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detbalance.calibration.threshold_result import ThresholdFit
from detbalance.calibration.thresholds import Thresholds
from detbalance.data.faults import show
from detbalance.data.files import open_file, parse_json, replace_file
from detbalance.data.json_nan import nan_to_null

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
