"""`detbalance quickstart`: a plain and a balanced detector on the embedded data, compared."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from detbalance.cli.evaluating import Ground, compared, show_comparison
from detbalance.cli.options import FILE, SEED, command
from detbalance.cli.outputs import Output
from detbalance.data import load_annotations, load_predictions
from detbalance.data.digits import make_digits
from detbalance.data.frequency import class_frequency, frequency_groups
from detbalance.reporting.terminal import Console

if TYPE_CHECKING:
    pass


logger = logging.getLogger(__name__)

# What makes a run plain: every image once an epoch, nothing pasted. All else is equal.
PLAIN = ("sampling={method: none}", "augmentation.paste=null")


@command("digits", "detbalance digits --output digits")
@click.option(
    "--output",
    default=Path("runs/quickstart/data"),
    type=Output("*", lock="beside"),
    help="Folder for the data set.",
)
@SEED
@click.option("--overwrite", is_flag=True, help="Replace digits of other settings.")
def digits_command(output: Path, seed: int, overwrite: bool) -> None:
    """Make the data set, or say that it is there."""
    paths = make_digits(output, seed=seed, overwrite=overwrite)
    logger.info("%s and %s are ready", paths.train, paths.val)


@command("quickstart", "detbalance quickstart --set train.iterations=100")
@click.option(
    "--output",
    default=Path("runs/quickstart"),
    type=Output("data*", "plain*", "balanced*", "comparison*", "predictions.png"),
    help="Folder for the data set and both runs.",
)
@click.option(
    "--config",
    default=Path("configs/digits.yaml"),
    type=FILE,
    help="The balanced configuration.",
)
@SEED
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of both runs."
)
@click.option("--overwrite", is_flag=True, help="Replace the data and the runs that are there.")
def quickstart_command(
    output: Path, config: Path, seed: int, overrides: tuple[str, ...], overwrite: bool
) -> None:
    """Make the data, train twice with equal iterations, print and draw both results."""
    from detbalance.cli.runs import finished, is_of, train_run
    from detbalance.reporting.pictures import draw_predictions
    from detbalance.training.config import load_config

    started = time.perf_counter()
    paths = make_digits(output / "data", seed=seed, overwrite=overwrite)
    common = [f"seed={seed}", f"data.root={output / 'data'}", *overrides]
    runs = {}
    for name, changes in (("plain", PLAIN), ("balanced", ())):
        runs[name] = load_config(config, [*common, *changes, f"output={output / name}"])
    # What was drawn from the same two runs is drawn again; anything else stays.
    there = [*(output / "comparison").glob("comparison.*"), *output.glob("predictions.png")]
    if there and not overwrite and not all(map(finished, runs.values())):
        raise ValueError(
            f"{there[0]}: is there already, and its runs are not. A new or empty folder is"
            " expected. Pass --overwrite to replace it, or another --output."
        )
    for run in runs.values():
        if finished(run) and not overwrite:
            logger.info("%s is there already; --overwrite trains again", run.output)
        else:
            train_run(run, resume=is_of(run) and not overwrite, overwrite=overwrite)
    truth = load_annotations(paths.val)
    frequency = class_frequency(load_annotations(paths.train))
    groups = frequency_groups(frequency)
    ground = Ground(
        truth,
        frequency,
        groups,
        score_threshold=runs["plain"].evaluation.score_threshold,
        rules="coco",
        seed=seed,
    )
    found = {name: output / name / "predictions.json" for name in runs}
    before, after = ([ground.evaluate(file)] for file in found.values())
    comparison, before, after = compared(ground, before, after)
    show_comparison(
        ground, comparison, before[0], after[0], output / "comparison", paths.val_images_dir
    )
    console = Console()
    picture = draw_predictions(
        truth,
        paths.val_images_dir,
        {name: load_predictions(file, truth) for name, file in found.items()},
        output / "predictions.png",
        highlight={c for c in range(1, truth.categories.num_classes) if groups.group(c) == "rare"},
    )
    console.print(f"Boxes of both models on val images: {picture}")
    console.print(f"Reports per class: {output / 'plain'}, {output / 'balanced'}")
    console.print(f"Whole time: {(time.perf_counter() - started) / 60:.1f} minutes")
