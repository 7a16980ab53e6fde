"""`detbalance train`: train a detector, and report AP and recall per class."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from torch import nn

from detbalance.cli.outputs import RUN, refuse_configured
from detbalance.data import save_predictions
from detbalance.data.arrays import Float64
from detbalance.data.frequency import frequency_groups
from detbalance.detection.predict import predict
from detbalance.evaluation import Report, build_report, evaluate, load_report
from detbalance.reporting.console import print_report
from detbalance.reporting.report_files import write_report
from detbalance.reporting.terminal import Console
from detbalance.training.checkpoint import LAST
from detbalance.training.config import Config, load_config
from detbalance.training.gradient_ratio import by_label
from detbalance.training.loop import Step, train
from detbalance.training.run import Interrupted
from detbalance.training.setup import Data, loader_workers

logger = logging.getLogger(__name__)


def train_command(
    *,
    config: Path,
    overrides: tuple[str, ...],
    data_root: Path | None,
    output: Path | None,
    drop_invalid: bool,
    resume: bool,
    overwrite: bool,
) -> None:
    """Read the configuration, train, print the report of the last evaluation."""
    if resume and overwrite:
        raise ValueError("--resume, --overwrite: contradict each other. Give one of them.")
    values: dict[str, object] = {} if output is None else {"output": output}
    if drop_invalid:
        values["data.drop_invalid"] = True
    settings = load_config(config, overrides, values=values, data_root=data_root)
    if not (resume and (settings.output / LAST).exists()):
        refuse_configured(settings.output, RUN, settings.to_dict())
    report = run_training(settings, resume=resume, overwrite=overwrite)
    if report is not None:
        print_report(report, console=Console())


def run_training(config: Config, *, resume: bool = False, overwrite: bool = False) -> Report | None:
    """Train with a progress bar; returns the run's report (None on all but the main process)."""
    last: list[Report] = []

    def judge(model: nn.Module, data: Data, positive_share: Float64) -> Mapping[str, float | None]:
        report = evaluate_run(config, model, data, positive_share)
        last[:] = [report]
        return headline(report)

    with step_progress("training", config.train.iterations) as tell:
        try:
            train(config, resume=resume, overwrite=overwrite, evaluate=judge, on_step=tell)
        except Interrupted as error:
            raise KeyboardInterrupt(str(error)) from error
    if last:
        return last[0]
    finished = config.output / "report.json"
    is_main = os.environ.get("RANK", "0") == "0"
    return load_report(finished) if is_main and finished.exists() else None


def evaluate_run(config: Config, model: nn.Module, data: Data, positive_share: Float64) -> Report:
    """Predict val, evaluate, and write predictions and report into the run's folder."""
    options = config.evaluation
    predictions = predict(
        model,
        data.val_dataset,
        batch_size=options.batch_size,
        workers=loader_workers(config.train.workers),
    ).relabelled(data.val_labels)
    file = config.output / "predictions.json"
    save_predictions(file, predictions, data.val)
    result = evaluate(
        data.val, predictions, score_threshold=options.score_threshold, predictions_file=str(file)
    )
    report = build_report(
        result,
        data.val,
        train_frequency=data.frequency,
        groups=frequency_groups(data.frequency),
        positive_share=by_label(positive_share, data.val_labels, data.val),
    )
    write_report(report, config.output)
    return report


def headline(report: Report) -> dict[str, float | None]:
    """The figures of a report that are logged during training."""
    figures = {name: report.summary[name] for name in ("AP", "AP50", "AP75")}
    figures["AR100"] = report.groups["all"].AR  # its name here by LVIS's rules, too
    for group in ("rare", "common", "frequent"):
        figures[f"AP50_{group}"] = report.groups[group].AP50
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


@contextmanager
def step_progress(title: str, total: int) -> Iterator[Callable[[Step], None]]:
    """A bar with loss, images/s and time left on a terminal; a line now and then elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:.1f} images/s  left"),
        TimeRemainingColumn(),
    )
    every = max(1, total // 10)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total, loss=float("nan"), rate=0.0)

        def tell(step: Step) -> None:
            progress.update(
                task, completed=step.iteration, loss=step.loss, rate=step.images_per_second
            )
            if not console.is_terminal and step.iteration % every == 0:
                logger.info(
                    "iteration %d/%d  loss %.3f  %.1f images/s",
                    step.iteration,
                    step.iterations,
                    step.loss,
                    step.images_per_second,
                )

        yield tell
