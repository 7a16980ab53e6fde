"""`detbalance report`: every figure of every class from two JSON files, and how sure it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from detbalance.cli.evaluating import (
    DRAWS,
    Evaluator,
    check_images,
    compare_runs,
    pictures,
    results_file,
    show,
    why_no_draws,
    with_draws,
)
from detbalance.cli.options import EvaluationOptions, Positional, Real, command
from detbalance.data.messages import counted
from detbalance.evaluation import Evaluation, image_slices, slice_rows

_MOST_DRAWS = 1_000_000


@command(
    "report",
    "detbalance report val.json predictions.json --train train.json --output report",
    overwrite="Replace what the folder holds.",
)
def report_command(
    *,
    files: Annotated[tuple[Path, ...], Positional("[GT.JSON PREDICTIONS.JSON]")] = (),
    annotations: Annotated[Path | None, "COCO file with the ground truth, as GT.JSON."] = None,
    predictions: Annotated[Path | None, "COCO results file, as PREDICTIONS.JSON."] = None,
    baseline: Annotated[
        Path | None,
        "COCO results file of another detector to compare with; `detbalance compare` has more.",
    ] = None,
    options: EvaluationOptions,
    label_issues: Annotated[
        Path | None,
        "Folder that `detbalance label-issues` wrote: the HTML and Markdown files show labels that"
        " look wrong.",
    ] = None,
    slices: Annotated[
        tuple[str, ...],
        "--slice KEY",
        "AP50 and recall for each value of a key of the images, such as camera; dots between nested"
        " keys. Repeatable.",
    ] = (),
    num_bootstrap: Annotated[
        str,
        "--num-bootstrap auto|N",
        "Draws of images for intervals of AP and AR, 0 for none; auto: 1000 if that is quick.",
    ] = "auto",
    beta: Annotated[
        float,
        Real(0, min_open=True),
        "How many times recall weighs as much as precision in F-beta.",
    ] = 1.0,
    min_precision: Annotated[
        float, Real(0, 1), "Precision at which recall is given as recall_at_precision."
    ] = 0.9,
    max_fppi: Annotated[
        float,
        Real(0),
        "False positives of a class per image at which recall is given as recall_at_fppi.",
    ] = 0.1,
) -> None:
    """Read, evaluate, print; write where a folder is given."""
    truth_file, predictions_file = _input_files(files, annotations, predictions)
    draws = _number_of_draws(num_bootstrap, baseline)
    check_images(options.images, options.output)
    if label_issues is not None and options.output is None:
        raise ValueError(
            "--label-issues: labels that look wrong are shown in files, and --output is missing. A"
            " folder to write into is expected. Add --output FOLDER."
        )
    section = None
    if label_issues is not None:
        from detbalance.reporting.label_issues import label_issues_section, load_label_issues

        section = label_issues_section(load_label_issues(label_issues))
    evaluator = Evaluator.read(truth_file, options)
    sliced = image_slices(evaluator.truth, slices)

    def evaluated(file: Path) -> Evaluation:
        result = evaluator.evaluate(
            results_file(file), beta=beta, min_precision=min_precision, max_fppi=max_fppi
        )
        return with_draws(result, draws, options.seed)

    ours = evaluated(predictions_file)
    report = replace(evaluator.report(ours), slices=slice_rows(ours, sliced))
    gallery = None if options.images is None else pictures(ours, report, options.images)
    baseline_report = comparison = None
    if baseline is not None:
        theirs = evaluated(baseline)
        number = ours.settings.num_bootstrap
        comparison, _, _ = compare_runs(evaluator, [theirs], [ours], num_bootstrap=number)
        baseline_report = evaluator.report(theirs)
    show(
        report,
        options.output,
        baseline=baseline_report,
        comparison=comparison,
        gallery=gallery,
        label_issues=section,
        hint=why_no_draws(ours) if draws is None else "",
        as_json=options.as_json,
    )


def _input_files(
    files: tuple[Path, ...], annotations: Path | None, predictions: Path | None
) -> tuple[Path, Path]:
    """The two files, given one after the other or by option."""
    named = [file for file in (annotations, predictions) if file is not None]
    if len(files) + len(named) != 2 or len(named) == 1:
        names = ", ".join(map(str, (*files, *named)))
        raise ValueError(
            f"report: {counted(len(files) + len(named), 'file is', 'files are')} given"
            f"{names and f' ({names})'}. Two are expected, the ground truth and the results of a"
            " detector. Run: detbalance report GT.JSON PREDICTIONS.JSON"
        )
    first, second = files or named
    return first, second


def _number_of_draws(number: str, baseline: Path | None) -> int | None:
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
