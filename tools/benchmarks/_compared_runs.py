"""Trainings of several methods on one data set, each compared with one of them over several seeds.

A seed changes first weights and draws; the data and the images to be judged on stay, so that
intervals can pair the runs. One run per core at a time, one thread each. A run that is there
already is not trained again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from _digits_runs import train_missing

from detbalance.cli.evaluating import Evaluator
from detbalance.data import load_annotations
from detbalance.data.frequency import class_frequency
from detbalance.evaluation import compare, with_bootstrap
from detbalance.training.config import Config, load_config
from detbalance.training.metrics import read_metrics

SEEDS = (0, 1, 2)
GROUPS = ("rare", "common", "frequent")
FIGURES = ("AP50", "AR", "recall")
DRAWS = 500


def compared(
    folder: Path,
    config: str,
    methods: Mapping[str, Sequence[str]],
    iterations: int,
    *,
    reference: str,
    common: Sequence[str] = (),
) -> dict[str, Any]:
    """Train each method on every seed with equal iterations, and compare it with `reference`.

    Args:
        folder: of the runs.
        config: configuration file.
        methods: overrides by the name of the method.
        iterations: of every run.
        reference: the method to compare with.
        common: overrides of all methods.

    Returns:
        What `table` takes: by method, group and figure `mean` and `sd` over the seeds, and
        `difference`, `low` and `high`, its 95 % interval, from the reference.
    """
    runs = [(method, seed) for seed in SEEDS for method in methods]

    def changes(method: str, seed: int) -> list[str]:
        output = folder / method.replace(" ", "_").replace(",", "") / str(seed)
        own = (f"seed={seed}", f"train.iterations={iterations}", f"output={output}")
        return [*common, *methods[method], *own, "train.workers=0"]

    def train(run: tuple[str, int]) -> None:
        train_missing(config, changes(*run))
        print(f"{run[0]}, seed {run[1]}: done", flush=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(train, runs))
    settings = load_config(config, changes(reference, 0))
    outputs = {
        method: [load_config(config, changes(method, seed)).output for seed in SEEDS]
        for method in methods
    }
    results = {
        method: [output / "predictions.json" for output in runs] for method, runs in outputs.items()
    }
    figures, boxes = differences(settings, results, reference)
    for method, runs in outputs.items():
        pasted = sum(
            sum(record.get("pasted", {}).values())
            for output in runs
            for record in read_metrics(output)
        )
        figures[method]["pasted_per_image"] = pasted / _images(settings, iterations)
    result = {
        "seeds": list(SEEDS),
        "iterations": iterations,
        "reference": reference,
        "val_boxes": boxes,
        "methods": figures,
    }
    print(table(result))
    return result


def differences(
    settings: Config, results: Mapping[str, Sequence[Path]], reference: str
) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """Judge the detections of several methods, and compare each with one of them.

    Args:
        settings: whose val they are of.
        results: by method a results file for each seed.
        reference: the method to compare with.

    Returns:
        By method, group and figure `mean` and `sd` over the seeds, and `difference`, `low` and
        `high`, its 95 % interval, from the reference; and the val boxes of each group.
    """
    frequency = class_frequency(load_annotations(settings.data.path("train")))
    evaluator = Evaluator(
        load_annotations(settings.data.path("val")),
        frequency,
        score_threshold=settings.evaluation.score_threshold,
        rules="coco",
    )
    evaluations = {
        method: [with_bootstrap(evaluator.evaluate(file), DRAWS) for file in files]
        for method, files in results.items()
    }
    figures: dict[str, dict[str, Any]] = {}
    for method, ours in evaluations.items():
        against = compare(
            evaluations[reference],
            ours,
            train_frequency=evaluator.frequency,
            groups=evaluator.groups,
            num_bootstrap=DRAWS,
        )
        reports = [evaluator.report(run) for run in ours]
        figures[method] = {}
        for group in GROUPS:
            for name in FIGURES:
                each = [float(getattr(report.groups[group], name)) for report in reports]
                found = against.groups[group].figures[name]
                figures[method][f"{name} {group}"] = {
                    "mean": mean(each),
                    # A single run has no spread.
                    **({"sd": stdev(each)} if len(each) > 1 else {}),
                    "difference": found.difference,
                    "low": found.low,
                    "high": found.high,
                }
    return figures, {group: against.groups[group].val_boxes for group in GROUPS}


def _images(settings: Any, iterations: int) -> int:
    return len(SEEDS) * iterations * int(settings.train.batch_size)


def table(figures: Mapping[str, Any]) -> str:
    """Rows: methods. Columns: the figures of the groups, below each its difference's interval."""
    columns = [f"{name} {group}" for name in FIGURES for group in GROUPS]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for method, row in figures["methods"].items():
        cells = [_cell(row[c], method == figures["reference"]) for c in columns]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(figure: Mapping[str, float], is_reference: bool) -> str:
    shown = f"{figure['mean']:.2f}"
    if "sd" in figure:
        shown += f" ± {figure['sd']:.2f}"
    if is_reference:
        return shown
    real = "**" if figure["low"] > 0 or figure["high"] < 0 else ""
    return (
        f"{shown}<br>{real}{figure['difference']:+.2f}{real}"
        f" [{figure['low']:+.2f}, {figure['high']:+.2f}]"
    )
