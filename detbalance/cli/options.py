"""How a command is declared: one function, each option once, in its signature.

`images: Annotated[Path | None, "Folder of the images."] = None` is an option `--images PATH`. The
type says what is accepted, the default whether the option must be given. Of what stands behind the
type, a text is the help, one like `--set KEY=VALUE` is the name, and a type of click narrows the
values. A parameter that is a dataclass stands for the options that its fields are.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import click

from detbalance.cli.commands import HELP
from detbalance.cli.outputs import COMPARISON, REPORT, Command, Output

if TYPE_CHECKING:
    from detbalance.training.config import Config

FILE = click.Path(path_type=Path)


class Positional(str):
    """What an argument without a name is called in the help."""

    __slots__ = ()


def sides(option: str, text: str, *, least: int = 1, most: int = 2**16) -> tuple[int, int]:
    """Two sides in pixels, written like 640x480."""
    parts = text.lower().split("x")
    found = [int(part) if part.isascii() and part.isdigit() else 0 for part in parts]
    if len(found) != 2 or not all(least <= side <= most for side in found):
        raise ValueError(
            f'{option}: is "{text}". Two sides of {least} to {most} pixels, such as 640x480, are'
            " expected. Write them with an x between them."
        )
    return found[0], found[1]


def command(
    name: str, example: str, *, overwrite: str = ""
) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command of a function: its help, its example and `--quiet` come with it.

    With a help for `--overwrite` that option is looked at before the function starts.
    """

    def declare(function: Callable[..., Any]) -> click.Command:
        parameters = inspect.signature(function, eval_str=True).parameters
        groups = {n: p.annotation for n, p in parameters.items() if _is_group(p)}

        def call(**values: Any) -> Any:
            for group, kind in groups.items():
                own = {field.name: values.pop(field.name) for field in dataclasses.fields(kind)}
                values[group] = kind(**own)
            return function(**values)

        words = (function.__doc__ or "").partition("\n")[2].strip()
        return Command(
            name,
            callback=call,
            params=[
                *map(_declared, _flattened(parameters.values())),
                *([_overwrite(overwrite)] if overwrite else []),
                *VERBOSITY,
            ],
            help=f"{HELP[name]}\n\n{words}",
            epilog=f"\b\nExample:\n  {example}",
        )

    return declare


def _is_group(parameter: inspect.Parameter) -> bool:
    return dataclasses.is_dataclass(parameter.annotation)


def _flattened(parameters: Any) -> Iterator[inspect.Parameter]:
    for parameter in parameters:
        if _is_group(parameter):
            yield from inspect.signature(parameter.annotation, eval_str=True).parameters.values()
        else:
            yield parameter


def _declared(parameter: inspect.Parameter) -> click.Parameter:
    """What click is told of a parameter."""
    kind, *about = get_args(parameter.annotation)
    is_several = get_origin(kind) is tuple
    if is_several or NoneType in get_args(kind):
        kind = next(one for one in get_args(kind) if one is not NoneType)
    accepted: Any = next((one for one in about if isinstance(one, click.ParamType)), None)
    if accepted is None and get_origin(kind) is Literal:
        accepted = click.Choice(get_args(kind))
    accepted = accepted or (FILE if kind is Path else kind)
    is_required = parameter.default is parameter.empty
    words = [one for one in about if isinstance(one, str)]
    if isinstance(words[0], Positional):
        nargs = -1 if is_several else 1
        return click.Argument(
            [parameter.name], type=accepted, required=is_required, nargs=nargs, metavar=words[0]
        )
    option, _, metavar = words[0].partition(" ") if words[0].startswith("--") else ("", "", "")
    has_default = not is_required and (kind is bool or parameter.default not in (None, ()))
    return click.Option(
        [parameter.name, option or f"--{parameter.name.replace('_', '-')}"],
        type=accepted,
        required=is_required,
        multiple=is_several,
        is_flag=kind is bool or None,
        metavar=metavar or None,
        help=words[-1],
        **({"default": parameter.default} if has_default else {}),
    )


def _overwrite(help: str) -> click.Option:
    return click.Option(
        ["--overwrite"],
        is_flag=True,
        help=help,
        expose_value=False,
        callback=lambda ctx, param, value: ctx.meta.update(overwrite=value),
    )


def _set_level(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        logging.getLogger().setLevel(logging.WARNING if param.name == "quiet" else logging.DEBUG)


# Of the program and of every command.
VERBOSITY = [
    click.Option([f"--{name}"], is_flag=True, expose_value=False, callback=_set_level, help=words)
    for name, words in (
        ("quiet", "Show results and warnings, no progress."),
        ("verbose", "Show what the libraries below have to say, too."),
    )
]


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


# Options of several commands.
DropInvalid = Annotated[bool, "Leave out invalid annotations and say how many."]
Seed = Annotated[int, Whole(0, 2**32 - 1), "Where random draws start."]
Json = Annotated[bool, "--json", "Print the JSON document alone, for scripts."]
Rules = Annotated[
    Literal["auto", "coco", "lvis"],
    "Whose rules boxes are matched by; auto: what the annotation file asks for.",
]
ScoreThreshold = Annotated[
    float, Real(0, 1), "Recall and precision count detections with at least this score."
]
Thresholds = Annotated[
    Path | None, "File of `detbalance thresholds`: one for each class, for --score-threshold."
]
Rare = Annotated[int | None, Whole(1), "Classes in at most this many training images are rare."]
Common = Annotated[int | None, Whole(1), "Classes in at most this many training images are common."]
Folds = Annotated[
    int, Whole(3), "Parts of the calibration images; each is judged by what the others say."
]
Device = Annotated[str | None, "For example cuda, cuda:1, cpu. Default: a GPU where there is one."]
# Of the commands that repair a detector.
STORED = Output("features.f16", "regions.bin", "state.json", lock="")
COMPARED = ("predictions.json", "predictions_before.json", "comparison/*")
TrainedOn = Annotated[Path, "COCO file of the training images."]
Features = Annotated[
    Path | None,
    STORED,
    "Folder of the region features, made if it is not there: several calls can share it. Default:"
    " features/ in the output.",
]
Params = Annotated[
    tuple[str, ...],
    "--param NAME=VALUE",
    "Option of the method, for example k_neighbors=3. Repeatable.",
]
Before = Annotated[
    Path | None,
    "COCO results of the detector as it was on the images to compare on, for example the"
    " predictions.json of its run. Default: it is asked anew.",
]
MaxLoss = Annotated[
    float, Real(0, 1), "A group that loses more AP50 or recall than this is named at the end."
]
ShownFrom = Annotated[
    float, Real(0, 1, min_open=True, max_open=True), "Score from which a detection is shown."
]


@dataclass(frozen=True)
class Configured:
    """A training as it is configured."""

    config: Annotated[Path, "YAML file; examples are in configs/."]
    overrides: Annotated[
        tuple[str, ...],
        "--set KEY=VALUE",
        "Override a field, for example train.iterations=500. Repeatable.",
    ] = ()
    data_root: Annotated[
        Path | None,
        "Start of the relative paths in the config's data section. Default: the environment"
        " variable DETBALANCE_DATA.",
    ] = None

    def load(self, *more: str, **values: object) -> Config:
        """Read the configuration, with more overrides, and values by their dotted names."""
        from detbalance.training.config import load_config

        overrides = [*self.overrides, *more]
        return load_config(self.config, overrides, values=values, data_root=self.data_root)


@dataclass(frozen=True)
class DetectorOptions:
    """A trained detector, and how it is run."""

    checkpoint: Annotated[Path, "best.pt or last.pt of a run."]
    batch_size: Annotated[int, Whole(1, 4096), "Images at a time."] = 8
    workers: Annotated[
        int | None,
        Whole(0, 512),
        "Loader processes. Default: none without a GPU, else one a core up to 8.",
    ] = None
    device: Device = None
    drop_invalid: DropInvalid = False


@dataclass(frozen=True)
class EvaluationOptions:
    """What `report` and `compare` are asked for alike."""

    train_file: Annotated[
        Path | None,
        "--train",
        "COCO file of the training data: frequencies and groups come from it.",
    ] = None
    output: Annotated[
        Path | None,
        Output(*REPORT, *COMPARISON, holds="a {}"),
        "Folder for JSON, CSV, Markdown and HTML. Default: print only.",
    ] = None
    images: Annotated[
        Path | None,
        "Folder of the images: the HTML file shows missed objects and confident mistakes.",
    ] = None
    score_threshold: ScoreThreshold = 0.3
    thresholds: Thresholds = None
    rules: Rules = "auto"
    confidence: Annotated[
        float, Real(0, 1, min_open=True, max_open=True), "How often intervals hold the true figure."
    ] = 0.95
    seed: Seed = 0
    rare: Rare = None
    common: Common = None
    drop_invalid: DropInvalid = False
    as_json: Json = False


@dataclass(frozen=True)
class CalibrationOptions:
    """What `thresholds` and `rescore` are asked for alike."""

    annotations: Annotated[Path, "COCO file to calibrate on; not training data."]
    predictions: Annotated[Path, "COCO results file of its images."]
    objective: Annotated[
        str,
        "--for OBJECTIVE",
        'f1, f2, f0.5; or a floor that each class shall keep: "recall>=0.9", "precision>=0.8".',
    ] = "f1"
    rules: Rules = "auto"
    iou: Annotated[
        float, Real(0.5, 0.95), "Overlap that a right detection needs: 0.5, 0.55, ... 0.95."
    ] = 0.5
    confidence: Annotated[
        float,
        Real(0.5, 1, min_open=True, max_open=True),
        "How sure it shall be that a floor is kept, one-sided.",
    ] = 0.9
    folds: Folds = 5
    seed: Seed = 0
    drop_invalid: DropInvalid = False
