"""The options that `detbalance report` and `detbalance compare` have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from detbalance.cli.options import (
    COMMON,
    DROP_INVALID,
    FILE,
    RARE,
    RULES,
    SCORE_THRESHOLD,
    SEED,
    THRESHOLDS,
    Real,
)
from detbalance.cli.outputs import COMPARISON, REPORT, Output

_OPTIONS = (
    click.option(
        "--train",
        "train_file",
        type=FILE,
        help="COCO file of the training data: frequencies and groups come from it.",
    ),
    click.option(
        "--output",
        type=Output(*REPORT, *COMPARISON, holds="a {}"),
        help="Folder for JSON, CSV, Markdown and HTML. Default: print only.",
    ),
    click.option(
        "--images",
        type=FILE,
        help="Folder of the images: the HTML file shows missed objects and confident mistakes.",
    ),
    SCORE_THRESHOLD,
    THRESHOLDS,
    RULES,
    click.option(
        "--confidence",
        default=0.95,
        show_default=True,
        type=Real(0, 1, min_open=True, max_open=True),
        help="How often intervals hold the true figure.",
    ),
    SEED,
    RARE,
    COMMON,
    DROP_INVALID,
    click.option("--overwrite", is_flag=True, help="Replace what the folder holds."),
)


def evaluation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of evaluation, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
