"""`detbalance plan`: how imbalanced a training set is, what to do about it, what that costs."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import click

from detbalance.cli.evaluating import check_folder, group_limits
from detbalance.cli.options import Common, Json, Positional, Rare, Real, Whole, command, sides
from detbalance.cli.outputs import Output
from detbalance.cli.printing import progress, say
from detbalance.data import load_annotations
from detbalance.data.files import replace_file
from detbalance.planning import Plan, duplicate_findings, make_plan
from detbalance.planning.patching import patched
from detbalance.reporting.console import print_document
from detbalance.reporting.files import json_text, write_plan
from detbalance.reporting.plan_document import plan_document


@command(
    "plan",
    "detbalance plan train.json --val val.json",
    overwrite="Replace a plan that the folder holds.",
)
def plan_command(
    *,
    train_file: Annotated[Path, Positional("TRAIN.JSON")],
    val_file: Annotated[Path | None, "--val", "COCO file of the validation data."] = None,
    images: Annotated[
        Path | None, "Folder of the training images, to find images that occur twice."
    ] = None,
    val_images: Annotated[
        Path | None, "Folder of the validation images, to find those in training."
    ] = None,
    output: Annotated[
        Path | None,
        Output("plan.json", "plan.csv", "plan.png", "plan.svg", holds="a plan"),
        "Folder for plan.json, plan.csv, plan.png and plan.svg. Default: print only.",
    ] = None,
    target_length: Annotated[
        int | None,
        Whole(1),
        "Images per epoch to compare settings at. Default: chosen from the data.",
    ] = None,
    images_per_second: Annotated[
        float | None,
        Real(0, min_open=True),
        "Speed of your training, to show how long an epoch takes.",
    ] = None,
    input_size: Annotated[
        str | None,
        "--input-size LONGxSHORT",
        "Sides of an image as the detector sees it, such as 640x480, for what is said of small"
        " objects. Default: chosen from the boxes.",
    ] = None,
    write: Annotated[
        Path | None,
        "--write CONFIG.YAML",
        "Put the recommended lines into this configuration, and show what changes.",
    ] = None,
    rare: Rare = None,
    common: Common = None,
    as_json: Json = False,
) -> None:
    """Read, plan, print, and write the plan with its figure where a folder is given."""
    limits = group_limits(rare, common)
    size = None if input_size is None else sides("--input-size", input_size)
    before = None if write is None else _text_of(write)
    _check_folders(val_file, images, val_images)
    if output is not None:  # a missing library is said before any work
        from detbalance.reporting.plan_figure import draw_plan, import_figure

        import_figure()
    with _in_the_plan_instead():
        train = load_annotations(train_file, drop_invalid=True)
        val = None if val_file is None else load_annotations(val_file, drop_invalid=True)
    duplicates = None
    if images is not None:
        with progress("comparing images") as tell:
            duplicates = duplicate_findings(train, images, val, val_images, progress=tell)
    plan = make_plan(
        train,
        val=val,
        limits=limits,
        target_length=target_length,
        images_per_second=images_per_second,
        duplicates=duplicates,
        input_size=None if size is None else (max(size), min(size)),
    )
    line = (
        "Nothing is written. --output DIR keeps plan.json, plan.csv with every class, plan.png and"
        " plan.svg."
    )
    if as_json:
        click.echo(json_text(plan.to_dict()))
    else:
        print_document(plan_document(plan, has_csv=output is not None))
    if output is not None:
        written = [*write_plan(plan, output)]
        written += [draw_plan(plan, output / f"plan.{kind}") for kind in ("png", "svg")]
        line = f"Written: {', '.join(map(str, written))}"
    if not as_json:
        say("", line)
    if write is not None and before is not None:
        _patch(write, before, plan)


def _text_of(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
        patched(text, {"sampling": {}})
    except OSError as error:
        raise ValueError(
            f"--write: {file} cannot be read ({error.strerror}). A configuration is expected."
            " detbalance init writes one."
        ) from error
    except ValueError as error:
        raise ValueError(f"--write: {file}: {error}") from error
    return text


def _patch(file: Path, before: str, plan: Plan) -> None:
    after = patched(before, plan.recommendation.config)
    if after == before:
        say(f"{file}: says so already")
        return
    with replace_file(file) as target:
        target.write(after.encode())
    lines = (before.splitlines(), after.splitlines())
    changes = difflib.unified_diff(*lines, lineterm="", n=1)
    say(f"{file}: changed", *(line for line in changes if not line.startswith(("---", "+++"))))


def _check_folders(val: Path | None, images: Path | None, val_images: Path | None) -> None:
    if val_images is not None and (val is None or images is None):
        missing = "--val" if val is None else "--images"
        raise ValueError(
            f"--val-images: is {val_images}, and {missing} is missing. Images of val are compared"
            f" with those of training. Add {missing}."
        )
    if images is not None and val is not None and val_images is None:
        raise ValueError(
            f"--images: is {images}, and --val-images is missing. Both folders are expected to"
            " compare the images. Add --val-images, the same folder if they share one."
        )
    check_folder("--images", images)
    check_folder("--val-images", val_images)


@contextmanager
def _in_the_plan_instead() -> Iterator[None]:
    """Keep what loading leaves out off the log: it is a finding of the plan."""
    logger = logging.getLogger("detbalance.data")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
