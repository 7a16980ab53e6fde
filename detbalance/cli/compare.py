"""`detbalance compare`: which differences between two detectors are real."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import click

from detbalance.cli.evaluating import (
    Evaluator,
    check_images,
    compare_runs,
    results_file,
    show_baselines,
    show_comparison,
)
from detbalance.cli.options import EvaluationOptions, Positional, Whole, command
from detbalance.data.messages import printable
from detbalance.evaluation import Comparison, Gate, parse_gate
from detbalance.evaluation.comparison import digits_for

# Exit status of a build that a condition ends; 2 is for wrong input.
GATE_STATUS = 1


@command(
    "compare",
    "detbalance compare plain balanced --annotations val.json --train train.json",
    overwrite="Replace what the folder holds.",
)
def compare_command(
    *,
    files: Annotated[tuple[Path, ...], Positional("[BASELINE.JSON... OURS.JSON]")] = (),
    baseline: Annotated[
        tuple[Path, ...],
        "COCO results file of a run of the baseline. Repeatable: one for each seed.",
    ] = (),
    ours: Annotated[tuple[Path, ...], "The same of the other detector."] = (),
    annotations: Annotated[Path, "COCO file with the ground truth."],
    figure: Annotated[
        Literal["AP", "AP50", "AR", "recall", "precision"], "What the verdict is of."
    ] = "AP",
    fail_if: Annotated[
        tuple[str, ...],
        "--fail-if CONDITION",
        'End with status 1 where it holds, for example "rare.recall < -0.01" (the difference),'
        ' "all.AP.low < -0.02" (an end of its interval), "copper.AP50.ours < 0.3". Repeatable.',
    ] = (),
    options: EvaluationOptions,
    num_bootstrap: Annotated[
        int, Whole(2, 100_000), "Draws of images that intervals and p-values come from."
    ] = 1000,
) -> int:
    """Read, evaluate every run, compare, print, write, and judge the conditions.

    A run's folder stands for its predictions.json. Of more than two files the last one is compared
    with each of the others, side by side.
    """
    if len(files) > 2 and not baseline and not ours:
        return _baselines(
            files, annotations, figure, fail_if, options=options, num_bootstrap=num_bootstrap
        )
    sides = _sides(files, baseline, ours)
    gates = [parse_gate(text) for text in fail_if]
    check_images(options.images, options.output)
    evaluator = Evaluator.read(annotations, options)
    for gate in gates:
        gate.check(evaluator.truth.categories.names, str(annotations))
    before, after = ([evaluator.evaluate(results_file(file)) for file in side] for side in sides)
    comparison, before, after = compare_runs(
        evaluator, before, after, figure=figure, num_bootstrap=num_bootstrap
    )
    show_comparison(
        evaluator,
        comparison,
        before[0],
        after[0],
        options.output,
        options.images,
        as_json=options.as_json,
    )
    return _judge(gates, comparison)


def _baselines(
    files: tuple[Path, ...],
    annotations: Path,
    figure: str,
    fail_if: tuple[str, ...],
    *,
    options: EvaluationOptions,
    num_bootstrap: int,
) -> int:
    """Compare the last file with each of the others."""
    twice = next((file for file in files if files.count(file) > 1), None)
    if twice is not None:
        raise ValueError(
            f"compare: {twice} is given {files.count(twice)} times. Two results files or more are"
            " expected, each once, and ours last. Leave the others out."
        )
    gates, names = [parse_gate(text) for text in fail_if], _names(files[:-1])
    if options.images is not None:
        raise ValueError(
            f"--images: {len(files) - 1} baselines are given, and no page shows so many. Pictures"
            " are expected with one baseline. Compare with that one, or leave --images out."
        )
    evaluator = Evaluator.read(annotations, options)
    for gate in gates:
        gate.check(evaluator.truth.categories.names, str(annotations))
    ours = [evaluator.evaluate(results_file(files[-1]))]
    comparisons = {}
    for name, file in names.items():
        before = [evaluator.evaluate(results_file(file))]
        comparisons[name], _, ours = compare_runs(
            evaluator, before, ours, figure=figure, num_bootstrap=num_bootstrap
        )
    show_baselines(comparisons, options.output, as_json=options.as_json)
    return max(_judge(gates, comparison, f"{name}: ") for name, comparison in comparisons.items())


def _names(files: tuple[Path, ...]) -> dict[str, Path]:
    """Short names of baselines: the folder of a run, or the file without its suffix."""
    short = [f.parent.name if f.name == "predictions.json" else f.stem for f in files]
    names = short if all(short) and len(set(short)) == len(files) else list(map(str, files))
    return dict(zip(names, files, strict=True))


def _sides(
    files: tuple[Path, ...], baseline: tuple[Path, ...], ours: tuple[Path, ...]
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The runs of both sides, given one after the other or by option."""
    if len(files) == 2 and not baseline and not ours:
        return files[:1], files[1:]
    if not files and baseline and ours:
        return baseline, ours
    raise ValueError(
        f"compare: {len(files)} files, {len(baseline)} --baseline and {len(ours)} --ours are given."
        " Two results files or more are expected, the baselines first, or one --baseline or more"
        " and one --ours or more. Run: detbalance compare BASELINE.JSON OURS.JSON --annotations"
        " GT.JSON"
    )


def _judge(gates: list[Gate], comparison: Comparison, against: str = "") -> int:
    """Say which conditions are met; exit status."""
    # A condition that cannot be judged is an error even where another one is met.
    judged = [(gate, gate.find(comparison), gate.fails(comparison)) for gate in gates]
    for gate, one, fails in judged:
        digits = digits_for(one.difference, one.low, one.high, least=3)
        change, low, high = (f"{v:+.{digits}f}" for v in (one.difference, one.low, one.high))
        line = (
            f"{'fails' if fails else 'holds'}: {against}{gate.who}.{gate.figure} is"
            f" {one.baseline:.3f} to {one.ours:.3f}, {change} [{low}, {high}] (--fail-if {gate})"
        )
        click.secho(printable(line), fg="red" if fails else None, err=True)
    return GATE_STATUS if any(fails for _, _, fails in judged) else 0
