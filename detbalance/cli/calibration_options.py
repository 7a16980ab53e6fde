"""The options that `detbalance thresholds` and `detbalance rescore` have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from detbalance.cli.options import DROP_INVALID, FILE, RULES, SEED, Real, Whole
from detbalance.cli.outputs import overwrite

_OPTIONS = (
    click.option(
        "--annotations",
        required=True,
        type=FILE,
        help="COCO file to calibrate on; not training data.",
    ),
    click.option(
        "--predictions", required=True, type=FILE, help="COCO results file of its images."
    ),
    click.option(
        "--for",
        "objective",
        default="f1",
        show_default=True,
        metavar="OBJECTIVE",
        help='f1, f2, f0.5; or a floor that each class shall keep: "recall>=0.9",'
        ' "precision>=0.8".',
    ),
    RULES,
    click.option(
        "--iou",
        default=0.5,
        show_default=True,
        type=Real(0.5, 0.95),
        help="Overlap that a right detection needs: 0.5, 0.55, ... 0.95.",
    ),
    click.option(
        "--confidence",
        default=0.9,
        show_default=True,
        type=Real(0.5, 1, min_open=True, max_open=True),
        help="How sure it shall be that a floor is kept, one-sided.",
    ),
    click.option(
        "--folds",
        default=5,
        show_default=True,
        type=Whole(3),
        help="Parts of the images; each is judged by what the others say.",
    ),
    SEED,
    DROP_INVALID,
    overwrite("Replace the output file."),
)


def calibration_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of calibration, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
