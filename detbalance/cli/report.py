"""`detbalance report`: every figure of every class from two JSON files, and how sure it is."""

from __future__ import annotations

from pathlib import Path

import click

from detbalance.cli.evaluating import (
    DRAWS,
    Ground,
    check_images,
    compared,
    pictures,
    results_file,
    show,
    with_draws,
)
from detbalance.cli.options import EVALUATION, FILE, Evaluated, Real, command
from detbalance.data.messages import counted
from detbalance.evaluation import Evaluation
from detbalance.reporting.label_issues import label_issues_section, load_label_issues
from detbalance.reporting.terminal import Console

_MOST_DRAWS = 1_000_000


@command("report", "detbalance report val.json predictions.json --train train.json --output report")
@click.argument("files", nargs=-1, type=FILE, metavar="[GT.JSON PREDICTIONS.JSON]")
@click.option("--annotations", type=FILE, help="COCO file with the ground truth, as GT.JSON.")
@click.option("--predictions", type=FILE, help="COCO results file, as PREDICTIONS.JSON.")
@click.option(
    "--baseline",
    type=FILE,
    help="COCO results file of another detector to compare with; `detbalance compare` has more.",
)
@EVALUATION
@click.option(
    "--label-issues",
    type=FILE,
    help="Folder that `detbalance label-issues` wrote: the HTML and Markdown files show labels that"
    " look wrong.",
)
@click.option(
    "--num-bootstrap",
    default="auto",
    metavar="auto|N",
    help="Draws of images for intervals of AP and AR, 0 for none; auto: 1000 if that is quick.",
)
@click.option(
    "--beta",
    default=1.0,
    type=Real(0, min_open=True),
    help="How many times recall weighs as much as precision in F-beta.",
)
@click.option(
    "--min-precision",
    default=0.9,
    type=Real(0, 1),
    help="Precision at which recall is given as recall_at_precision.",
)
@click.option(
    "--max-fppi",
    default=0.1,
    type=Real(0),
    help="False positives of a class per image at which recall is given as recall_at_fppi.",
)
def report_command(
    files: tuple[Path, ...],
    annotations: Path | None,
    predictions: Path | None,
    baseline: Path | None,
    given: Evaluated,
    label_issues: Path | None,
    num_bootstrap: str,
    beta: float,
    min_precision: float,
    max_fppi: float,
) -> None:
    """Read, evaluate, print; write where a folder is given."""
    truth_file, found_file = _input_files(files, annotations, predictions)
    draws = _wanted_draws(num_bootstrap, baseline)
    check_images(given.images, given.output)
    if label_issues is not None and given.output is None:
        raise ValueError(
            "--label-issues: labels that look wrong are shown in files, and --output is missing. A"
            " folder to write into is expected. Add --output FOLDER."
        )
    labels = None if label_issues is None else label_issues_section(load_label_issues(label_issues))
    ground = Ground.read(truth_file, given)

    def measured(results: Path) -> tuple[Evaluation, str]:
        result = ground.evaluate(
            results_file(results), beta=beta, min_precision=min_precision, max_fppi=max_fppi
        )
        return with_draws(result, draws, given.seed)

    ours, hint = measured(found_file)
    report = ground.report(ours)
    gallery = None if given.images is None else pictures(ours, report, given.images)
    other = comparison = None
    if baseline is not None:
        theirs, _ = measured(baseline)
        number = ours.settings.num_bootstrap
        comparison, _, _ = compared(ground, [theirs], [ours], num_bootstrap=number)
        other = ground.report(theirs)
    show(
        report,
        given.output,
        baseline=other,
        comparison=comparison,
        gallery=gallery,
        label_issues=labels,
        as_json=given.as_json,
    )
    if hint and not given.as_json:
        Console().print(hint, style="dim", soft_wrap=True)


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


def _wanted_draws(number: str, baseline: Path | None) -> int | None:
    """How many draws of images are asked for; None for as many as are quick."""
    if number == "auto":
        return None if baseline is None else DRAWS
    digits = number if number.isascii() and number.isdigit() else "1"
    if len(digits) > len(str(_MOST_DRAWS)) or int(digits) == 1 or int(digits) > _MOST_DRAWS:
        raise ValueError(
            f"--num-bootstrap: is {number:.20}. auto is expected, or a number of draws: 0 for none,"
            f" or 2 to {_MOST_DRAWS:,}. 1000 give steady intervals."
        )
    if baseline is not None and int(number) == 0:
        raise ValueError(
            "--num-bootstrap: is 0, and --baseline is given. Whether a difference is real is judged"
            " by draws of the images; 2 or more are expected. Leave --num-bootstrap out."
        )
    return int(number)
