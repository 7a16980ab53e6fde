"""The work below the commands that train or run a detector: plain functions, no commands."""

from __future__ import annotations

import logging
import math
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import nn

from detbalance.cli.evaluating import Evaluator, with_draws
from detbalance.cli.printing import Tell, progress, rounded
from detbalance.data import Annotations, Predictions, save_predictions
from detbalance.data.arrays import Float64, Int64
from detbalance.data.frequency import Groups, frequency_groups
from detbalance.data.messages import counted
from detbalance.detection.dataset import DetectionDataset
from detbalance.detection.predict import predict
from detbalance.evaluation import Evaluation, Report, load_report
from detbalance.evaluation.figures import FIGURES
from detbalance.reporting.curve_figure import draw_curve
from detbalance.reporting.document import Document, Facts, lines
from detbalance.reporting.files import write_report
from detbalance.training.checkpoint import BEST, CONFIG_FILE, CURVE_FILE, LAST
from detbalance.training.config import Config
from detbalance.training.diagnosis import Circumstances, diagnose
from detbalance.training.gradient_ratio import by_label
from detbalance.training.loop import Step, train
from detbalance.training.metrics import METRICS_FILE, read_metrics
from detbalance.training.run import Interrupted
from detbalance.training.setup import Data, loader_workers

logger = logging.getLogger(__name__)
GROUPS = Groups.names


def train_run(config: Config, *, resume: bool = False, overwrite: bool = False) -> Report | None:
    """Train with a progress bar; returns the run's report (None on all but the main process)."""
    reports: list[Report] = []
    with progress("training") as tell:

        def evaluate(
            model: nn.Module, data: Data, positive_share: Float64
        ) -> Mapping[str, float | None]:
            report, highest = _report_of_run(config, model, data, positive_share, tell)
            reports[:] = [report]
            figures = _headline(report) | {"highest_score": highest}
            figures[config.evaluation.best_metric] = best_value(report, config)
            known = {
                name: None if value is None or math.isnan(value) else value
                for name, value in figures.items()
            }
            _say_evaluation(config, known)
            return known

        def on_step(step: Step) -> None:
            tell(step.iteration, step.iterations, note=_note(step))

        try:
            train(
                config,
                resume=resume,
                overwrite=overwrite,
                evaluate=evaluate,
                on_step=on_step,
                on_data=lambda data: _check_best_metric(config, data),
            )
        except Interrupted as error:
            raise KeyboardInterrupt(str(error)) from error
    if reports:
        with suppress(ImportError):  # no matplotlib, no picture
            draw_curve(read_metrics(config.output), config.output / CURVE_FILE)
        return reports[0]
    earlier = config.output / "report.json"
    is_main = os.environ.get("RANK", "0") == "0"
    return load_report(earlier) if is_main and earlier.exists() else None


def run_document(config: Config, config_file: str) -> Document:
    """What is said of a run that has ended: whether it learnt, what is where, what is next."""
    records = read_metrics(config.output)
    judged = [record for record in records if "val" in record]
    about = Circumstances(
        loads_weights=config.loads_weights,
        workers=loader_workers(config.train.workers),
        score_threshold=config.evaluation.score_threshold,
        config_file=shlex.quote(config_file),
    )
    name = config.evaluation.best_metric
    best = [(r["val"][name], r["iteration"]) for r in judged if r["val"].get(name) is not None]
    files = [BEST, LAST, "predictions.json", "report.json", METRICS_FILE, CURVE_FILE]
    there = [file for file in files if (config.output / file).exists()]
    facts = {
        "length": f"{config.train.iterations:,} iterations of"
        f" {counted(config.train.batch_size, 'image')}, {judged[-1]['epoch']:.1f} epochs"
        if judged and "epoch" in judged[-1]
        else None,
        "best": f"{name} {_shown(max(best)[0])} at iteration {max(best)[1]}" if best else None,
        "files": f"{config.output}: {', '.join(there)}",
    }
    val, train = config.data.path("val"), config.data.path("train")
    found = config.output / "predictions.json"
    files_of = ["--annotations", val, "--predictions", found, "--train", train]
    images = config.data.path("val_images")
    next_ones = [
        ["report", *files_of, "--images", images, "--output", config.output / "report"],
        ["thresholds", *files_of, "--output", config.output / "thresholds.json"],
    ]
    findings = diagnose(records, about)
    return Document(
        "The run",
        [
            *lines("note", *(finding.text for finding in findings)),
            Facts(facts),
            *lines("code", *(f"detbalance {shlex.join(map(str, words))}" for words in next_ones)),
        ],
    )


def _note(step: Step) -> str:
    """How a training goes, in a line."""
    parts = ", ".join(
        f"{name.removeprefix('loss_')} {value:.3f}" for name, value in step.losses.items()
    )
    memory = "" if math.isnan(step.memory) else f"  {step.memory:.1f} GB"
    return (
        f"loss {step.loss:.3f}{f' ({parts})' if parts else ''}  rate {step.learning_rate:.1e}"
        f"  {step.images_per_second:.1f} images/s{memory}  {rounded(step.seconds_left)} left"
    )


def _say_evaluation(config: Config, figures: Mapping[str, float | None]) -> None:
    """The figures of the groups, and the best so far."""
    name = config.evaluation.best_metric
    earlier = [
        (record["val"].get(name), record["iteration"])
        for record in read_metrics(config.output)
        if "val" in record
    ]
    groups = ", ".join(f"{group} {_shown(figures[f'AP50_{group}'])}" for group in GROUPS)
    own = "" if name == "AP50" else f", {name} {_shown(figures[name])}"
    known = [(value, iteration) for value, iteration in earlier if value is not None]
    best = ""
    if known:
        value, iteration = max(known)
        best = f"; best {name} before: {_shown(value)} at iteration {iteration}"
    logger.info("AP50 %s (%s)%s%s", _shown(figures["AP50"]), groups, own, best)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}".removeprefix("0")


def _check_best_metric(config: Config, data: Data) -> None:
    """Refuse a figure or a group that val cannot tell, before anything is trained."""
    name = config.evaluation.best_metric
    group, dot, figure = name.partition(".")
    where = f'evaluation.best_metric is "{name}"'
    if not dot:
        return
    known = [key for key, entry in FIGURES.items() if entry.group and entry.compute is not None]
    if figure not in known:
        raise ValueError(
            f"{where}: there is no figure {figure} of a group. Known: {', '.join(known)}. Choose"
            " one of them."
        )
    boxes = np.bincount(data.val.labels[~data.val.is_crowd], minlength=1)
    own = np.where(data.val_labels > 0, np.append(boxes, 0)[data.val_labels], 0)
    of_class = frequency_groups(data.frequency).of_class
    in_val = {g: int(own[of_class == i].sum()) for i, g in enumerate(GROUPS)}
    if group != "all" and not in_val[group]:
        there = [f"{g}.{figure}" for g, number in in_val.items() if number]
        raise ValueError(
            f"{where}: {data.val.source} has no box of a {group} class. A group that it shows is"
            f" expected: {', '.join([f'all.{figure}', *there])}. Change evaluation.best_metric."
        )


def best_value(report: Report, config: Config) -> float:
    """The figure that best.pt is the best in; NaN where it is not defined."""
    name = config.evaluation.best_metric
    group, dot, figure = name.partition(".")
    if not dot:
        return _headline(report)[name]
    return float(getattr(report.groups[group], figure))


def _report_of_run(
    config: Config, model: nn.Module, data: Data, positive_share: Float64, tell: Tell
) -> tuple[Report, float]:
    """Judge a model on the val data of its run; predictions and report go to the run's folder."""
    options = config.evaluation
    predictions = predict(
        model,
        data.val_dataset,
        batch_size=options.batch_size,
        workers=loader_workers(config.train.workers),
        progress=lambda done, total: tell(done, total, stage="evaluating"),
    ).relabelled(data.val_labels)
    file = config.output / "predictions.json"
    save_predictions(file, predictions, data.val)
    evaluator = Evaluator(data.val, data.frequency, score_threshold=options.score_threshold)
    shares = by_label(positive_share, data.val_labels, data.val)
    report, _ = judge(evaluator, predictions, shares, draws=0, file=file)
    write_report(report, config.output)
    return report, float(predictions.scores.max(initial=0.0))


def _headline(report: Report) -> dict[str, float]:
    """The figures of a report that are logged during training."""
    figures = {name: report.summary[name] for name in ("AP", "AP50", "AP75")}
    figures["AR100"] = report.groups["all"].AR  # its name here by LVIS's rules, too
    for group in GROUPS:
        figures[f"AP50_{group}"] = report.groups[group].AP50
    return figures


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
