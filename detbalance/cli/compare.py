"""`detbalance compare`: which differences between two detectors are real."""

from __future__ import annotations

from pathlib import Path

import click

from detbalance.cli.evaluating import Ground, check_output, drawing_seconds, results_file, waiting
from detbalance.cli.report import check_images, pictures, write_html
from detbalance.data.messages import printable
from detbalance.evaluation import Comparison, Gate, compare, parse_gate, with_bootstrap
from detbalance.evaluation.compare import check_room
from detbalance.evaluation.comparison import digits_for
from detbalance.evaluation.rules import RulesChoice
from detbalance.reporting.comparison import print_comparison, write_comparison
from detbalance.reporting.terminal import Console

# Exit status of a build that a condition ends; 2 is for wrong input.
GATE_STATUS = 1


def compare_command(
    *,
    files: tuple[Path, ...],
    baseline: tuple[Path, ...],
    ours: tuple[Path, ...],
    annotations: Path,
    train_file: Path | None,
    output: Path | None,
    images: Path | None,
    figure: str,
    fail_if: tuple[str, ...],
    score_threshold: float,
    thresholds: Path | None,
    rules: RulesChoice,
    bootstrap: int,
    confidence: float,
    seed: int,
    rare: int | None,
    common: int | None,
    drop_invalid: bool,
    overwrite: bool,
) -> int:
    """Read, evaluate every run, compare, print, write, and judge the conditions."""
    sides = _sides(files, baseline, ours)
    gates = [parse_gate(text) for text in fail_if]
    check_images(images, output)
    check_output(output, overwrite, "comparison")
    ground = Ground.read(
        annotations,
        train_file=train_file,
        score_threshold=score_threshold,
        thresholds=thresholds,
        rare=rare,
        common=common,
        drop_invalid=drop_invalid,
    )
    for gate in gates:
        gate.check(ground.truth.categories.names, str(annotations))
    runs = [
        [ground.evaluate(results_file(f), rules=rules, confidence=confidence) for f in side]
        for side in sides
    ]
    every = [run for side in runs for run in side]
    check_room(len(every), bootstrap, ground.truth.categories.num_classes)
    seconds = sum(drawing_seconds(run.matches, bootstrap) for run in every)
    what = f"drawing the images {bootstrap:,} times for {len(every)} runs"
    with waiting(what, seconds):
        before, after = (
            [with_bootstrap(run, bootstrap, seed=seed) for run in side] for side in runs
        )
        comparison = compare(
            before,
            after,
            train_frequency=ground.frequency,
            groups=ground.groups,
            figure=figure,
            num_bootstrap=bootstrap,
            seed=seed,
        )
    console = Console()
    print_comparison(comparison, console=console)
    if output is not None:
        written: list[Path] = [*write_comparison(comparison, output)]
        report, other = ground.report(after[0]), ground.report(before[0])
        page = write_html(
            report,
            output / "comparison.html",
            baseline=other,
            comparison=comparison,
            gallery=None if images is None else pictures(after[0], report, images),
        )
        written += [] if page is None else [page]
        console.print(f"Written: {', '.join(map(str, written))}", soft_wrap=True)
    return _judge(gates, comparison)


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
        " Two results files are expected, the baseline first, or one --baseline or more and one"
        " --ours or more. Run: detbalance compare BASELINE.JSON OURS.JSON --annotations GT.JSON"
    )


def _judge(gates: list[Gate], comparison: Comparison) -> int:
    """Say which conditions are met; exit status."""
    # A condition that cannot be judged is an error even where another one is met.
    found = [(gate, gate.find(comparison), gate.fails(comparison)) for gate in gates]
    for gate, one, fails in found:
        end = "fails" if fails else "holds"
        digits = digits_for(one.difference, one.low, one.high, least=3)
        change, low, high = (f"{v:+.{digits}f}" for v in (one.difference, one.low, one.high))
        line = (
            f"{end}: {gate.who}.{gate.figure} is {one.baseline:.3f} to {one.ours:.3f},"
            f" {change} [{low}, {high}] (--fail-if {gate})"
        )
        click.secho(printable(line), fg="red" if fails else None, err=True)
    return GATE_STATUS if any(fails for _, _, fails in found) else 0
