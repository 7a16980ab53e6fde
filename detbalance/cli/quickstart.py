"""`detbalance quickstart`: a plain and a balanced detector on the embedded data, compared."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from detbalance.cli.compare import compare_command
from detbalance.cli.train import run_training
from detbalance.data import load_annotations, load_predictions
from detbalance.data.digits import make_digits
from detbalance.data.frequency import class_frequency, frequency_groups
from detbalance.evaluation import Report, load_report
from detbalance.reporting.pictures import draw_predictions
from detbalance.reporting.terminal import Console
from detbalance.training.checkpoint import CONFIG_FILE
from detbalance.training.config import Config, load_config
from detbalance.training.metrics import METRICS_FILE, read_metrics

logger = logging.getLogger(__name__)

# What makes a run plain: every image once an epoch, nothing pasted. All else is equal.
PLAIN = ("sampling={method: none}", "augmentation.paste=null")


def digits_command(*, output: Path, seed: int, overwrite: bool) -> None:
    """Make the data set, or say that it is there."""
    paths = make_digits(output, seed=seed, overwrite=overwrite)
    logger.info("%s and %s are ready", paths.train, paths.val)


def quickstart_command(
    *, output: Path, config: Path, seed: int, overrides: tuple[str, ...], overwrite: bool
) -> None:
    """Make the data, train twice with equal iterations, print and draw both results."""
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
        finished_or_trained(run, overwrite=overwrite)
    compare_command(
        files=(output / "plain", output / "balanced"),
        baseline=(),
        ours=(),
        annotations=paths.val,
        train_file=paths.train,
        output=output / "comparison",
        images=paths.val_images_dir,
        figure="AP",
        fail_if=(),
        score_threshold=runs["plain"].evaluation.score_threshold,
        thresholds=None,
        rules="coco",
        bootstrap=1000,
        confidence=0.95,
        seed=seed,
        rare=None,
        common=None,
        drop_invalid=False,
        overwrite=True,
    )
    console = Console()
    truth = load_annotations(paths.val)
    groups = frequency_groups(class_frequency(load_annotations(paths.train)))
    picture = draw_predictions(
        truth,
        paths.val_images_dir,
        {name: load_predictions(output / name / "predictions.json", truth) for name in runs},
        output / "predictions.png",
        highlight={c for c in range(1, truth.categories.num_classes) if groups.group(c) == "rare"},
    )
    console.print(f"Boxes of both models on val images: {picture}")
    console.print(f"Reports per class: {output / 'plain'}, {output / 'balanced'}")
    console.print(f"Whole time: {(time.perf_counter() - started) / 60:.1f} minutes")


def finished_or_trained(config: Config, *, overwrite: bool) -> Report:
    """The report of a run of this very configuration: of the finished one, or trained on."""
    if finished(config) and not overwrite:
        logger.info("%s is there already; --overwrite trains again", config.output)
        return load_report(config.output / "report.json")
    resume = _is_of(config) and not overwrite
    report = run_training(config, resume=resume, overwrite=overwrite)
    assert report is not None
    return report


def finished(config: Config) -> bool:
    """Whether the run of this very configuration is there, to its last iteration."""
    metrics = read_metrics(config.output) if (config.output / METRICS_FILE).exists() else []
    done = any("val" in r and r["iteration"] == config.train.iterations for r in metrics)
    return done and _is_of(config)


def _is_of(config: Config) -> bool:
    """Whether the folder's run is of this very configuration."""
    saved = config.output / CONFIG_FILE
    return saved.is_file() and config.is_written_in(saved.read_bytes())
