"""The work below the commands that train or run a detector: plain functions, no commands."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from detbalance.cli.evaluating import Evaluator, with_draws
from detbalance.cli.printing import progress
from detbalance.data import Annotations, Predictions, save_predictions
from detbalance.data.arrays import Float64, Int64
from detbalance.detection.dataset import DetectionDataset
from detbalance.detection.predict import predict
from detbalance.evaluation import Evaluation, Report, load_report
from detbalance.reporting.files import write_report
from detbalance.training.checkpoint import CONFIG_FILE
from detbalance.training.config import Config
from detbalance.training.gradient_ratio import by_label
from detbalance.training.loop import Step, train
from detbalance.training.metrics import METRICS_FILE, read_metrics
from detbalance.training.run import Interrupted
from detbalance.training.setup import Data, loader_workers


def train_run(config: Config, *, resume: bool = False, overwrite: bool = False) -> Report | None:
    """Train with a progress bar; returns the run's report (None on all but the main process)."""
    reports: list[Report] = []

    def evaluate(
        model: nn.Module, data: Data, positive_share: Float64
    ) -> Mapping[str, float | None]:
        reports[:] = [_report_of_run(config, model, data, positive_share)]
        return _headline(reports[0])

    with progress("training") as tell:

        def on_step(step: Step) -> None:
            note = f"loss {step.loss:.3f}  {step.images_per_second:.1f} images/s"
            tell(step.iteration, step.iterations, note=note)

        try:
            train(config, resume=resume, overwrite=overwrite, evaluate=evaluate, on_step=on_step)
        except Interrupted as error:
            raise KeyboardInterrupt(str(error)) from error
    if reports:
        return reports[0]
    earlier = config.output / "report.json"
    is_main = os.environ.get("RANK", "0") == "0"
    return load_report(earlier) if is_main and earlier.exists() else None


def _report_of_run(config: Config, model: nn.Module, data: Data, positive_share: Float64) -> Report:
    """Judge a model on the val data of its run; predictions and report go to the run's folder."""
    options = config.evaluation
    predictions = predict(
        model,
        data.val_dataset,
        batch_size=options.batch_size,
        workers=loader_workers(config.train.workers),
    ).relabelled(data.val_labels)
    file = config.output / "predictions.json"
    save_predictions(file, predictions, data.val)
    evaluator = Evaluator(data.val, data.frequency, score_threshold=options.score_threshold)
    shares = by_label(positive_share, data.val_labels, data.val)
    report, _ = judge(evaluator, predictions, shares, draws=0, file=file)
    write_report(report, config.output)
    return report


def _headline(report: Report) -> dict[str, float | None]:
    """The figures of a report that are logged during training."""
    figures = {name: report.summary[name] for name in ("AP", "AP50", "AP75")}
    figures["AR100"] = report.groups["all"].AR  # its name here by LVIS's rules, too
    for group in ("rare", "common", "frequent"):
        figures[f"AP50_{group}"] = report.groups[group].AP50
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def detect(
    model: nn.Module,
    truth: Annotations,
    images: Path,
    labels: Int64,
    *,
    batch_size: int,
    workers: int | None,
    autocast: bool = False,
) -> Predictions:
    """Run a detector over the images of a file; labels are then those of the file."""
    with progress("predicting") as tell:
        return predict(
            model,
            DetectionDataset(truth, images),
            batch_size=batch_size,
            workers=loader_workers(workers),
            autocast=autocast,
            progress=tell,
        ).relabelled(labels)


def judge(
    evaluator: Evaluator,
    predictions: Predictions,
    positive_share: Float64 | None = None,
    *,
    draws: int | None = None,
    file: Path | None = None,
) -> tuple[Report, Evaluation]:
    """The report of detections, and what it was made of."""
    result = with_draws(evaluator.evaluate(predictions, file=file), draws, evaluator.seed)
    return evaluator.report(result, positive_share), result


def chosen_device(name: str | None) -> torch.device:
    """The device of an option, or a GPU where there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f'--device: "{name}" cannot be used here. A device that torch sees is expected, for'
            " example cpu or cuda:0. Leave the option out to choose one."
        ) from error


def is_finished(config: Config) -> bool:
    """Whether the run of this very configuration is there, to its last iteration."""
    metrics = read_metrics(config.output) if (config.output / METRICS_FILE).exists() else []
    done = any("val" in r and r["iteration"] == config.train.iterations for r in metrics)
    return done and is_of(config)


def is_of(config: Config) -> bool:
    """Whether the folder's run is of this very configuration."""
    saved = config.output / CONFIG_FILE
    return saved.is_file() and config.is_written_in(saved.read_bytes())
