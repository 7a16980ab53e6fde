"""`detbalance report`: every figure of every class from two JSON files, and how sure it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from detbalance.annotations import load_annotations
from detbalance.evaluation import (
    Evaluation,
    Matches,
    Report,
    build_report,
    evaluate,
    with_replicates,
)
from detbalance.evaluation.rules import RulesChoice
from detbalance.frequency import class_frequency, frequency_groups
from detbalance.operating import load_thresholds
from detbalance.predictions import load_predictions
from detbalance.reporting.console import print_comparison, print_report
from detbalance.reporting.files import write_report

logger = logging.getLogger(__name__)

_DRAWS = 1000
# Seconds that draws may take without being asked for, and from which on their wait is shown.
_QUICK = 1.0


def report_command(
    *,
    files: tuple[Path, ...],
    annotations: Path | None,
    predictions: Path | None,
    train_file: Path | None,
    output: Path | None,
    images: Path | None,
    baseline: Path | None,
    score_floor: float,
    thresholds: Path | None,
    rules: RulesChoice,
    bootstrap: str,
    confidence: float,
    beta: float,
    min_precision: float,
    max_fppi: float,
    seed: int,
    rare: int | None,
    common: int | None,
    drop_invalid: bool,
    overwrite: bool,
) -> None:
    """Read, evaluate, print, and write the report where a folder is given."""
    truth_file, results_file = _input_files(files, annotations, predictions)
    draws = _wanted_draws(bootstrap)
    limits = _limits(rare, common, train_file)
    if images is not None and output is None:
        raise ValueError(
            "--images: the pictures go into report.html, and --output is missing. A folder to"
            " write into is expected. Add --output FOLDER."
        )
    check_output(output, overwrite)
    truth = load_annotations(truth_file, drop_invalid=drop_invalid)
    fitted = None if thresholds is None else load_thresholds(thresholds)
    frequency = groups = None
    if train_file is not None:
        frequency = class_frequency(load_annotations(train_file, drop_invalid=drop_invalid))
        groups = frequency_groups(frequency, limits=limits)

    def measured(results: Path) -> tuple[Evaluation, str]:
        result = evaluate(
            truth,
            load_predictions(results, truth),
            score_floor=score_floor if fitted is None else fitted.by_label(truth.categories),
            rules=rules,
            beta=beta,
            min_precision=min_precision,
            max_fppi=max_fppi,
            confidence=confidence,
            predictions_file=str(results),
            thresholds_file=None if thresholds is None else str(thresholds),
        )
        return _with_draws(result, draws, seed)

    def reported(result: Evaluation) -> Report:
        return build_report(result, truth, train_frequency=frequency, groups=groups)

    result, hint = measured(results_file)
    other = None if baseline is None else reported(measured(baseline)[0])
    show(reported(result), output, baseline=other)
    if hint:
        Console().print(hint, style="dim", highlight=False, soft_wrap=True)


def check_output(output: Path | None, overwrite: bool) -> None:
    """Refuse a folder that holds results already, before any work is done."""
    if output is not None and not overwrite and (output / "report.json").exists():
        raise ValueError(
            f"{output}: already holds a report. A new or empty folder is expected. Pass --overwrite"
            " to replace it."
        )


def show(report: Report, output: Path | None, *, baseline: Report | None = None) -> None:
    """Print a report, and write it where a folder is given."""
    console = Console()
    print_report(report, console=console)
    if baseline is not None:
        console.print()
        print_comparison({"baseline": baseline, "this run": report}, console=console)
    if output is not None:
        written = [*write_report(report, output), *_page(report, output, baseline)]
        console.print(f"Written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)


def _page(report: Report, output: Path, baseline: Report | None) -> list[Path]:
    """Write report.html; a report without it is better than none where its libraries lack."""
    path = output / "report.html"
    try:
        from detbalance.reporting.page import write_page

        return [write_page(report, path, baseline=baseline)]
    except ImportError as error:
        logger.warning("%s is not written: %s", path, error)
        return []


def _input_files(
    files: tuple[Path, ...], annotations: Path | None, predictions: Path | None
) -> tuple[Path, Path]:
    """The two files, given one after the other or by option."""
    named = [file for file in (annotations, predictions) if file is not None]
    if len(files) + len(named) != 2 or len(named) == 1:
        given = ", ".join(map(str, (*files, *named)))
        raise ValueError(
            f"report: {len(files) + len(named)} files are given{given and f' ({given})'}. Two are"
            " expected, the ground truth and the results of a detector. Run: detbalance report"
            " GT.JSON PREDICTIONS.JSON"
        )
    first, second = files or named
    return first, second


def _limits(
    rare: int | None, common: int | None, train_file: Path | None
) -> tuple[int, int] | None:
    """The limits of the groups; None for the usual rule."""
    if rare is None and common is None:
        return None
    if rare is None or common is None:
        raise ValueError(
            "--rare, --common: only one of them is given. Both limits are expected. Give both, for"
            " example --rare 10 --common 100."
        )
    if train_file is None:
        raise ValueError(
            "--rare, --common: are limits of training images, and --train is missing. A training"
            " file is expected. Add --train train.json."
        )
    return rare, common


def _wanted_draws(bootstrap: str) -> int | None:
    """How many draws of images are asked for; None for as many as are quick."""
    if bootstrap == "auto":
        return None
    if bootstrap.isascii() and bootstrap.isdigit() and int(bootstrap) != 1:
        return int(bootstrap)
    raise ValueError(
        f"--bootstrap: is {bootstrap}. auto is expected, or a number of draws: 0 for none, or 2 and"
        " more. 1000 give steady intervals."
    )


def _with_draws(result: Evaluation, draws: int | None, seed: int) -> tuple[Evaluation, str]:
    """Add the intervals of AP and AR, or say how to get them."""
    seconds = _seconds(result.matches, _DRAWS if draws is None else draws)
    if draws is None and seconds > _QUICK:
        return result, (
            f"AP and AR have no intervals: those take about {_rounded(seconds)}. Pass --bootstrap"
            f" {_DRAWS} for them."
        )
    if draws == 0:
        return result, ""
    with _waiting(f"drawing the images {draws or _DRAWS:,} times", seconds):
        return with_replicates(result, draws or _DRAWS, seed=seed), ""


def _seconds(matches: Matches, draws: int) -> float:
    """About how long draws take on one core: every detection is counted, right ones cost more."""
    right = int(matches.is_true_positive.sum())
    return draws * (4e-9 * len(matches.order) + 2e-8 * right)


def _rounded(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


@contextmanager
def _waiting(what: str, seconds: float) -> Iterator[None]:
    """Show on a terminal that something takes its time; say so in a line elsewhere."""
    console = Console(stderr=True)
    text = f"{what}: about {_rounded(seconds)}"
    if seconds <= _QUICK:
        yield
    elif console.is_terminal:
        with console.status(text):
            yield
    else:
        logger.info("%s", text)
        yield
