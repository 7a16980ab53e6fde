"""`detbalance report`: AP and recall per class from two JSON files."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from detbalance.annotations import load_annotations
from detbalance.evaluation import Report, build_report, evaluate
from detbalance.frequency import class_frequency, frequency_groups
from detbalance.predictions import load_predictions
from detbalance.reporting.console import print_report
from detbalance.reporting.files import write_report


def report_command(
    *,
    annotations: Path,
    predictions: Path,
    train_file: Path | None,
    output: Path | None,
    score_floor: float,
    rare: int | None,
    common: int | None,
    drop_invalid: bool,
    overwrite: bool,
) -> None:
    """Read, evaluate, print, and write the report where a folder is given."""
    if (rare is None) != (common is None):
        raise ValueError(
            "--rare, --common: only one of them is given. Both limits are expected. Give both, for"
            " example --rare 10 --common 100."
        )
    if rare is not None and train_file is None:
        raise ValueError(
            "--rare, --common: are limits of training images, and --train is missing. A training"
            " file is expected. Add --train train.json."
        )
    check_output(output, overwrite)
    truth = load_annotations(annotations, drop_invalid=drop_invalid)
    detections = load_predictions(predictions, truth)
    frequency = groups = None
    if train_file is not None:
        frequency = class_frequency(load_annotations(train_file, drop_invalid=drop_invalid))
        limits = None if rare is None or common is None else (rare, common)
        groups = frequency_groups(frequency, limits=limits)
    report = build_report(
        evaluate(truth, detections, score_floor=score_floor, predictions_file=str(predictions)),
        truth,
        train_frequency=frequency,
        groups=groups,
    )
    show(report, output)


def check_output(output: Path | None, overwrite: bool) -> None:
    """Refuse a folder that holds results already, before any work is done."""
    if output is not None and not overwrite and (output / "report.json").exists():
        raise ValueError(
            f"{output}: already holds a report. A new or empty folder is expected. Pass --overwrite"
            " to replace it."
        )


def show(report: Report, output: Path | None) -> None:
    """Print a report, and write it where a folder is given."""
    console = Console()
    print_report(report, console=console)
    if output is not None:
        write_report(report, output)
        console.print(f"Written: {output / 'report.json'}, {output / 'report.csv'}")
