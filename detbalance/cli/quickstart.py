"""`detbalance quickstart`: a plain and a balanced detector on the embedded data, compared."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated

from detbalance.cli.evaluating import Evaluator, compare_runs, show_comparison
from detbalance.cli.options import Seed, command
from detbalance.cli.outputs import Output
from detbalance.cli.printing import say
from detbalance.data import load_annotations, load_predictions
from detbalance.data.digits import make_digits
from detbalance.data.frequency import class_frequency, frequency_groups

logger = logging.getLogger(__name__)

# What makes a run plain: every image once an epoch, nothing pasted. All else is equal.
PLAIN = ("sampling={method: none}", "augmentation.paste=null")


@command("digits", "detbalance digits --output digits")
def digits_command(
    *,
    output: Annotated[Path, Output("*", lock="beside"), "Folder for the data set."] = Path(
        "runs/quickstart/data"
    ),
    seed: Seed = 0,
    overwrite: Annotated[bool, "Replace digits of other settings."] = False,
) -> None:
    """Make the data set, or say that it is there."""
    paths = make_digits(output, seed=seed, overwrite=overwrite)
    logger.info("%s and %s are ready", paths.train, paths.val)


@command("quickstart", "detbalance quickstart --set train.iterations=100")
def quickstart_command(
    *,
    output: Annotated[
        Path,
        Output("data*", "plain*", "balanced*", "comparison*", "predictions.png"),
        "Folder for the data set and both runs.",
    ] = Path("runs/quickstart"),
    config: Annotated[Path, "The balanced configuration."] = Path("configs/digits.yaml"),
    seed: Seed = 0,
    overrides: Annotated[
        tuple[str, ...], "--set KEY=VALUE", "Override a field of both runs. Repeatable."
    ] = (),
    overwrite: Annotated[bool, "Replace the data and the runs that are there."] = False,
) -> None:
    """Make the data, train twice with equal iterations, print and draw both results."""
    from detbalance.cli.runs import is_finished, is_of, train_run
    from detbalance.reporting.pictures import draw_predictions
    from detbalance.training.config import load_config

    started = time.perf_counter()
    paths = make_digits(output / "data", seed=seed, overwrite=overwrite)
    common = [f"seed={seed}", f"data.root={output / 'data'}", *overrides]
    runs = {
        name: load_config(config, [*common, *changes, f"output={output / name}"])
        for name, changes in (("plain", PLAIN), ("balanced", ()))
    }
    # What was drawn from the same two runs is drawn again; anything else stays.
    there = [*(output / "comparison").glob("comparison.*"), *output.glob("predictions.png")]
    if there and not overwrite and not all(map(is_finished, runs.values())):
        raise ValueError(
            f"{there[0]}: is there already, and its runs are not. A new or empty folder is"
            " expected. Pass --overwrite to replace it, or another --output."
        )
    for run in runs.values():
        if is_finished(run) and not overwrite:
            logger.info("%s is there already; --overwrite trains again", run.output)
        else:
            train_run(run, resume=is_of(run) and not overwrite, overwrite=overwrite)
    truth = load_annotations(paths.val)
    frequency = class_frequency(load_annotations(paths.train))
    groups = frequency_groups(frequency)
    evaluator = Evaluator(
        truth,
        frequency,
        score_threshold=runs["plain"].evaluation.score_threshold,
        rules="coco",
        seed=seed,
    )
    # From the files, whether a run was trained now or earlier.
    files = {name: run.output / "predictions.json" for name, run in runs.items()}
    predictions = {name: load_predictions(file, truth) for name, file in files.items()}
    before, after = ([evaluator.evaluate(predictions[name], file=files[name])] for name in runs)
    comparison, before, after = compare_runs(evaluator, before, after)
    folder = output / "comparison"
    show_comparison(evaluator, comparison, before[0], after[0], folder, paths.val_images_dir)
    picture = draw_predictions(
        truth,
        paths.val_images_dir,
        predictions,
        output / "predictions.png",
        highlight={c for c in range(1, truth.categories.num_classes) if groups.group(c) == "rare"},
    )
    say(
        f"Boxes of both models on val images: {picture}",
        f"Reports per class: {output / 'plain'}, {output / 'balanced'}",
        f"Whole time: {(time.perf_counter() - started) / 60:.1f} minutes",
    )
