"""`detbalance report`: every figure of every class from two JSON files, and how sure it is."""

from __future__ import annotations

import logging
from pathlib import Path

from detbalance.cli.evaluating import (
    QUICK,
    Ground,
    check_output,
    drawing_seconds,
    results_file,
    rounded,
    waiting,
)
from detbalance.data.messages import counted
from detbalance.evaluation import Comparison, Evaluation, Report, compare, with_bootstrap
from detbalance.evaluation.bootstrap import drawn_bytes
from detbalance.evaluation.rules import RulesChoice
from detbalance.reporting.comparison import print_comparison, write_comparison
from detbalance.reporting.console import print_report
from detbalance.reporting.gallery import Gallery
from detbalance.reporting.label_issues import SuspectSection, load_suspects, suspect_section
from detbalance.reporting.report_files import write_report
from detbalance.reporting.terminal import Console

logger = logging.getLogger(__name__)

_DRAWS, _MOST_DRAWS = 1000, 1_000_000
# Bytes that draws may take without being asked for.
_SMALL = 1e9


def report_command(
    *,
    files: tuple[Path, ...],
    annotations: Path | None,
    predictions: Path | None,
    train_file: Path | None,
    output: Path | None,
    images: Path | None,
    suspects: Path | None,
    baseline: Path | None,
    score_threshold: float,
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
    truth_file, found_file = _input_files(files, annotations, predictions)
    draws = _wanted_draws(bootstrap, baseline)
    check_images(images, output)
    check_output(output, overwrite)
    labels = None if suspects is None else _suspect_labels(suspects, output)
    ground = Ground.read(
        truth_file,
        train_file=train_file,
        score_threshold=score_threshold,
        thresholds=thresholds,
        rare=rare,
        common=common,
        drop_invalid=drop_invalid,
    )

    def measured(results: Path) -> tuple[Evaluation, str]:
        result = ground.evaluate(
            results_file(results),
            rules=rules,
            confidence=confidence,
            beta=beta,
            min_precision=min_precision,
            max_fppi=max_fppi,
        )
        return with_draws(result, draws, seed)

    ours, hint = measured(found_file)
    report = ground.report(ours)
    gallery = None if images is None else pictures(ours, report, images)
    if baseline is None:
        show(report, output, gallery=gallery, suspects=labels)
    else:
        theirs, _ = measured(baseline)
        comparison = compare(
            [theirs],
            [ours],
            train_frequency=ground.frequency,
            groups=ground.groups,
            num_bootstrap=ours.settings.num_bootstrap,
            seed=seed,
        )
        other = ground.report(theirs)
        show(
            report,
            output,
            baseline=other,
            comparison=comparison,
            gallery=gallery,
            suspects=labels,
        )
    if hint:
        Console().print(hint, style="dim", soft_wrap=True)


def check_images(images: Path | None, output: Path | None) -> None:
    """Refuse pictures without a page to show them on, and a folder that is none."""
    if images is not None and output is None:
        raise ValueError(
            "--images: the pictures go into an HTML file, and --output is missing. A folder to"
            " write into is expected. Add --output FOLDER."
        )
    if images is not None and not images.is_dir():
        raise ValueError(
            f"--images: {images} is no folder. The folder that the file names of the annotations"
            " start from is expected. Correct the path."
        )


def _suspect_labels(suspects: Path, output: Path | None) -> SuspectSection:
    """What the report says of labels that look wrong; read before any work."""
    if output is None:
        raise ValueError(
            "--suspects: labels that look wrong are shown in files, and --output is missing. A"
            " folder to write into is expected. Add --output FOLDER."
        )
    return suspect_section(load_suspects(suspects))


def pictures(evaluation: Evaluation, report: Report, images: Path) -> Gallery | None:
    """Thumbnails of what is missed and of what is wrong; None where their library lacks."""
    from detbalance.reporting.gallery import build_gallery

    try:
        return build_gallery(evaluation, images, rarest_first=[row.name for row in report.classes])
    except ImportError as error:
        logger.warning("There are no pictures: %s", error)
        return None


def show(
    report: Report,
    output: Path | None,
    *,
    baseline: Report | None = None,
    comparison: Comparison | None = None,
    gallery: Gallery | None = None,
    suspects: SuspectSection | None = None,
) -> None:
    """Print a report, and write it where a folder is given."""
    console = Console()
    print_report(report, console=console)
    if comparison is not None:
        console.print()
        print_comparison(comparison, console=console)
    if output is not None:
        written: list[Path] = [*write_report(report, output, suspects=suspects)]
        if comparison is not None:
            written += write_comparison(comparison, output)
        page = write_html(
            report,
            output / "report.html",
            baseline=baseline,
            comparison=comparison,
            gallery=gallery,
            suspects=suspects,
        )
        written += [] if page is None else [page]
        console.print(f"Written: {', '.join(map(str, written))}", soft_wrap=True)


def write_html(
    report: Report,
    path: Path,
    *,
    baseline: Report | None = None,
    comparison: Comparison | None = None,
    gallery: Gallery | None = None,
    suspects: SuspectSection | None = None,
) -> Path | None:
    """Write the page; a report without it is better than none where its libraries lack."""
    try:
        from detbalance.reporting.page import write_page

        return write_page(
            report,
            path,
            baseline=baseline,
            comparison=comparison,
            gallery=gallery,
            suspects=suspects,
        )
    except ImportError as error:
        logger.warning("%s is not written: %s", path, error)
        return None


def _input_files(
    files: tuple[Path, ...], annotations: Path | None, predictions: Path | None
) -> tuple[Path, Path]:
    """The two files, given one after the other or by option."""
    named = [file for file in (annotations, predictions) if file is not None]
    if len(files) + len(named) != 2 or len(named) == 1:
        given = ", ".join(map(str, (*files, *named)))
        raise ValueError(
            f"report: {counted(len(files) + len(named), 'file is', 'files are')} given"
            f"{given and f' ({given})'}. Two are expected, the ground truth and the results of a"
            " detector. Run: detbalance report GT.JSON PREDICTIONS.JSON"
        )
    first, second = files or named
    return first, second


def _wanted_draws(bootstrap: str, baseline: Path | None) -> int | None:
    """How many draws of images are asked for; None for as many as are quick."""
    if bootstrap == "auto":
        return None if baseline is None else _DRAWS
    digits = bootstrap if bootstrap.isascii() and bootstrap.isdigit() else "1"
    if len(digits) > len(str(_MOST_DRAWS)) or int(digits) == 1 or int(digits) > _MOST_DRAWS:
        raise ValueError(
            f"--bootstrap: is {bootstrap:.20}. auto is expected, or a number of draws: 0 for none,"
            f" or 2 to {_MOST_DRAWS:,}. 1000 give steady intervals."
        )
    if baseline is not None and int(bootstrap) == 0:
        raise ValueError(
            "--bootstrap: is 0, and --baseline is given. Whether a difference is real is judged by"
            " draws of the images; 2 or more are expected. Leave --bootstrap out."
        )
    return int(bootstrap)


def with_draws(result: Evaluation, draws: int | None, seed: int) -> tuple[Evaluation, str]:
    """Add the intervals of AP and AR, or say how to get them."""
    seconds = drawing_seconds(result.matches, _DRAWS if draws is None else draws)
    needed = drawn_bytes(1, _DRAWS, len(result.val_boxes))
    if draws is None and (seconds > QUICK or needed > _SMALL):
        room = f" and {needed / 1e9:.1f} GB of memory" if needed > _SMALL else ""
        return result, (
            f"AP and AR have no intervals: those take about {rounded(seconds)}{room}. Pass"
            f" --bootstrap {_DRAWS} for them."
        )
    if draws == 0:
        return result, ""
    with waiting(f"drawing the images {draws or _DRAWS:,} times", seconds):
        return with_bootstrap(result, draws or _DRAWS, seed=seed), ""
