"""How a command is declared, and the options that several commands have."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detbalance.cli.commands import EVERY
from detbalance.cli.outputs import COMPARISON, REPORT, Command, Output, overwrite

if TYPE_CHECKING:
    from detbalance.evaluation.rules import RulesChoice

FILE = click.Path(path_type=Path)
_Declared = Callable[..., Any]


def command(name: str, example: str) -> Callable[[_Declared], click.Command]:
    """Make a command of a function: its help, its example and `--quiet` come with it."""

    def declared(function: _Declared) -> click.Command:
        words = (function.__doc__ or "").partition("\n")[2].strip()
        return click.command(
            name,
            cls=Command,
            help="\n\n".join([EVERY[name][0], words]),
            epilog=f"\b\nExample:\n  {example}",
        )(verbosity(function))

    return declared


def verbosity(function: _Declared) -> _Declared:
    """Give a command `--quiet` and `--verbose`."""

    def set_level(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value:
            logging.getLogger().setLevel(
                logging.WARNING if param.name == "quiet" else logging.DEBUG
            )

    for name, words in (
        ("verbose", "Show what the libraries below have to say, too."),
        ("quiet", "Show results and warnings, no progress."),
    ):
        option = click.option(
            f"--{name}", is_flag=True, expose_value=False, callback=set_level, help=words
        )
        function = option(function)
    return function


def collected(
    kind: type, name: str, *declared: Callable[[_Declared], _Declared]
) -> Callable[[_Declared], _Declared]:
    """Several options as one decorator, which hands them over as one frozen object."""

    def decorate(function: _Declared) -> _Declared:
        @functools.wraps(function)
        def call(**values: Any) -> Any:
            own = {field.name: values.pop(field.name) for field in dataclasses.fields(kind)}
            return function(**values, **{name: kind(**own)})

        command: _Declared = call
        for option in reversed(declared):
            command = option(command)
        return command

    return decorate


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

    def _describe_range(self) -> str:
        return f"x>={self.min}" if self.max == 2**31 - 1 else super()._describe_range()


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
    type=Real(0, 1),
    help="Recall and precision count detections with at least this score.",
)
THRESHOLDS = click.option(
    "--thresholds",
    type=FILE,
    help="File of `detbalance thresholds`: one for each class, for --score-threshold.",
)
SEED = click.option("--seed", default=0, type=Whole(0, 2**32 - 1))
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
    type=click.Choice(["auto", "coco", "lvis"]),
    help="Whose rules boxes are matched by; auto: what the annotation file asks for.",
)
CHECKPOINT = click.option(
    "--checkpoint", required=True, type=FILE, help="best.pt or last.pt of a run."
)
BATCH_SIZE = click.option("--batch-size", default=8, type=Whole(1, 4096))
WORKERS = click.option(
    "--workers",
    type=Whole(0, 512),
    help="Loader processes. Default: none without a GPU, else one a core up to 8.",
)
DEVICE = click.option(
    "--device", help="For example cuda, cuda:1, cpu. Default: a GPU where there is one."
)
JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print the JSON document alone, for scripts."
)


@dataclass(frozen=True)
class Evaluated:
    """What `report` and `compare` are asked for alike."""

    train_file: Path | None
    output: Path | None
    images: Path | None
    score_threshold: float
    thresholds: Path | None
    rules: RulesChoice
    confidence: float
    seed: int
    rare: int | None
    common: int | None
    drop_invalid: bool
    as_json: bool


EVALUATION = collected(
    Evaluated,
    "given",
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
        type=Real(0, 1, min_open=True, max_open=True),
        help="How often intervals hold the true figure.",
    ),
    SEED,
    RARE,
    COMMON,
    DROP_INVALID,
    JSON,
    overwrite("Replace what the folder holds."),
)


@dataclass(frozen=True)
class Calibrated:
    """What `thresholds` and `rescore` are asked for alike."""

    annotations: Path
    predictions: Path
    objective: str
    rules: RulesChoice
    iou: float
    confidence: float
    folds: int
    seed: int
    drop_invalid: bool


CALIBRATION = collected(
    Calibrated,
    "given",
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
        metavar="OBJECTIVE",
        help='f1, f2, f0.5; or a floor that each class shall keep: "recall>=0.9",'
        ' "precision>=0.8".',
    ),
    RULES,
    click.option(
        "--iou",
        default=0.5,
        type=Real(0.5, 0.95),
        help="Overlap that a right detection needs: 0.5, 0.55, ... 0.95.",
    ),
    click.option(
        "--confidence",
        default=0.9,
        type=Real(0.5, 1, min_open=True, max_open=True),
        help="How sure it shall be that a floor is kept, one-sided.",
    ),
    click.option(
        "--folds",
        default=5,
        type=Whole(3),
        help="Parts of the images; each is judged by what the others say.",
    ),
    SEED,
    DROP_INVALID,
    overwrite("Replace the output file."),
)
# Of the commands that repair a detector.
COMPARED = ("predictions.json", "predictions_before.json", "comparison/*")
STORED = Output("features.f16", "regions.bin", "state.json", lock="")

TRAINED_ON = click.option(
    "--annotations", required=True, type=FILE, help="COCO file of the training images."
)
FEATURES = click.option(
    "--features",
    type=STORED,
    help="Folder of the region features, for example one that refit made; made if it is not there."
    " Default: features/ in the output.",
)
BEFORE = click.option(
    "--before",
    type=FILE,
    help="COCO results of the detector as it was on the images to compare on, for example the"
    " predictions.json of its run. Default: it is asked anew.",
)
SHOWN_FROM = click.option(
    "--score-threshold",
    default=0.3,
    type=Real(0, 1, min_open=True, max_open=True),
    help="Score from which a detection is shown.",
)
