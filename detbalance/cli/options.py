"""Options that several commands have."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

FILE = click.Path(path_type=Path)


class Real(click.FloatRange):
    """A number in a range, and a finite one: a comparison lets NaN through every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse what is no such number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Whole(click.IntRange):
    """A whole number in a range that has an end: what a library would not take, or not end with."""

    def __init__(self, min: int, max: int = 2**31 - 1) -> None:
        super().__init__(min, max)


CONFIG = click.option(
    "--config", required=True, type=FILE, help="YAML file; examples are in configs/."
)
OVERRIDES = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a field, for example train.iterations=500. Repeatable.",
)
DATA_ROOT = click.option(
    "--data-root",
    type=FILE,
    help="Start of the relative paths in the config's data section. Default: the environment"
    " variable DETBALANCE_DATA.",
)
DROP_INVALID = click.option(
    "--drop-invalid", is_flag=True, help="Leave out invalid annotations and say how many."
)
SCORE_THRESHOLD = click.option(
    "--score-threshold",
    default=0.3,
    show_default=True,
    type=Real(0, 1),
    help="Recall and precision count detections with at least this score.",
)
THRESHOLDS = click.option(
    "--thresholds",
    type=FILE,
    help="File of `detbalance thresholds`: one for each class, for --score-threshold.",
)
SEED = click.option("--seed", default=0, show_default=True, type=Whole(0, 2**32 - 1))
RARE = click.option(
    "--rare",
    type=Whole(1),
    help="Classes in at most this many training images are rare.",
)
COMMON = click.option(
    "--common",
    type=Whole(1),
    help="Classes in at most this many training images are common.",
)
RULES = click.option(
    "--rules",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "coco", "lvis"]),
    help="Whose rules boxes are matched by; auto: what the annotation file asks for.",
)
CHECKPOINT = click.option(
    "--checkpoint", required=True, type=FILE, help="best.pt or last.pt of a run."
)
BATCH_SIZE = click.option("--batch-size", default=8, show_default=True, type=Whole(1, 4096))
WORKERS = click.option(
    "--workers",
    type=Whole(0, 512),
    help="Loader processes. Default: none without a GPU, else one a core up to 8.",
)
DEVICE = click.option(
    "--device", help="For example cuda, cuda:1, cpu. Default: a GPU where there is one."
)
