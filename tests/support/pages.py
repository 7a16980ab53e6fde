"""Reports and comparisons with made-up figures, to look at their HTML page."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from detbalance.evaluation import (
    ClassDifferences,
    ClassRow,
    Comparison,
    ComparisonSettings,
    Difference,
    GroupDifferences,
    GroupRow,
    Report,
    ReportSettings,
)
from detbalance.evaluation.figures import GROUP_FIGURES, WITH_INTERVALS
from detbalance.evaluation.report import (
    ERROR_KINDS,
    FROC,
    GROUP_NAMES,
    Cell,
    Details,
    ErrorKind,
    Histogram,
    PRCurve,
)

HOSTILE = (
    "<script>window.hacked=1</script>",
    "</script><img src=x onerror=window.hacked=1>",
    '"><svg onload=window.hacked=1>',
    "<!--<script>",
    "{{ 7 * 7 }} ${window.hacked=1} &lt;b&gt;",
    "\u202eright to left \u05e9\u05dc\u05d5\u05dd \N{TURTLE}",
    "w" * 200,
)


def made_report(names: Sequence[str], *, seed: int = 0, name: str = "ours") -> Report:
    """A report in which the last class, of four or more, has no boxes to find and no figures."""
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(9)  # boxes are the same in all reports
    counts = np.stack(
        [np.sort(fixed.integers(1, 5000, len(names))), fixed.integers(1, 90, len(names))]
    )
    if len(names) > 3:
        counts[1, -1] = 0
    rows = [
        _row(rng, name, place, GROUP_NAMES[3 * place // len(names)], *boxes)
        for place, (name, boxes) in enumerate(zip(names, counts.T.tolist(), strict=True))
    ]
    members = {
        group: [row for row in rows if group in (row.group, "all")]
        for group in (*GROUP_NAMES, "all")
    }
    return Report(
        classes=tuple(rows),
        groups={group: _group(rng, found) for group, found in members.items()},
        summary={},
        settings=ReportSettings(
            annotations="data/val.json",
            predictions=f"runs/{name}/predictions.json",
            backend="numpy",
            iou_thresholds=tuple(np.linspace(0.5, 0.95, 10).tolist()),
            recall_iou_threshold=0.5,
            score_threshold=0.3,
            max_detections=(1, 10, 100),
            area_ranges={},
            num_bootstrap=1000,
            frequency_source="data/train.json",
            group_rule="rare: up to 9 images",
        ),
        notes=(f"A note about {name}.",),
        details=_details(rng, [row.name for row in rows if row.val_boxes]),
    )


def made_comparison(
    report: Report, baseline: Report, *, p_adjusted: float = 0.001, runs: int = 1
) -> Comparison:
    """The differences of two reports, all with the same interval and p-value."""
    others = {row.name: row for row in baseline.classes}

    def figures(ours: ClassRow | GroupRow, theirs: ClassRow | GroupRow) -> dict[str, Difference]:
        return {
            figure: _difference(getattr(ours, figure), getattr(theirs, figure), p_adjusted)
            for figure in WITH_INTERVALS
        }

    shared = ("name", "category_id", "group", "train_images", "train_boxes")
    sums = ("num_categories", "num_evaluated", "train_boxes", "val_boxes")
    settings = {
        key: getattr(report.settings, key)
        for key in (
            *("annotations", "rules", "score_threshold", "thresholds", "iou_thresholds"),
            *("recall_iou_threshold", "max_detections", "frequency_source", "group_rule"),
        )
    }
    return Comparison(
        verdict="AP: the tail gained at no measurable cost to the head.",
        classes=tuple(
            ClassDifferences(
                **{key: getattr(row, key) for key in (*shared, "val_images", "val_boxes")},
                figures=figures(row, others[row.name]),
            )
            for row in report.classes
        ),
        groups={
            name: GroupDifferences(
                **{key: getattr(row, key) for key in sums},
                figures=figures(row, baseline.groups[name]),
            )
            for name, row in report.groups.items()
        },
        settings=ComparisonSettings(
            **settings,
            baseline=tuple(f"runs/plain{i}/predictions.json" for i in range(runs)),
            ours=tuple(f"runs/ours{i}/predictions.json" for i in range(runs)),
            figure="AP",
            confidence=0.95,
            num_bootstrap=1000,
            seed=0,
        ),
        notes=("A note about the comparison.",),
    )


def with_names(report: Report, names: Sequence[str]) -> Report:
    """The same report with other names of its first classes."""
    new = dict(zip([row.name for row in report.classes], names, strict=False))
    details = report.details
    assert details is not None

    def renamed(name: str | None) -> str | None:
        return None if name is None else new.get(name, name)

    return dataclasses.replace(
        report,
        classes=tuple(
            dataclasses.replace(row, name=new.get(row.name, row.name)) for row in report.classes
        ),
        details=Details(
            {new.get(name, name): curve for name, curve in details.curves.items()},
            {new.get(name, name): bins for name, bins in details.histograms.items()},
            [Cell(renamed(c.true), renamed(c.found), c.count) for c in details.confusion],
            {new.get(name, name): curve for name, curve in details.froc.items()},
        ),
    )


def _row(
    rng: np.random.Generator, name: str, place: int, group: str, boxes: int, val_boxes: int
) -> ClassRow:
    absent = val_boxes == 0
    figures = {
        name: math.nan if absent else float(rng.uniform(0.05, 0.9)) for name in GROUP_FIGURES
    }
    spread = {figure: (figures[figure] - 0.04, figures[figure] + 0.07) for figure in WITH_INTERVALS}
    figures |= {"score_at_precision": figures["AP"], "score_at_fppi": figures["AP50"]}
    figures |= {"best_f_score": figures["AR"], "more_boxes": math.nan if absent else 12.0}
    figures |= {"positive_share": math.nan, "design_effect": math.nan}
    return ClassRow(
        name=name,
        category_id=place + 1,
        group=group,
        train_images=boxes,
        train_boxes=boxes,
        val_boxes=val_boxes,
        val_images=val_boxes,
        true_positives=0 if absent else val_boxes // 2,
        false_positives=0 if absent else 7,
        score_threshold=0.3,
        intervals={} if absent else spread,
        errors={
            kind: ErrorKind(5, 3, math.nan if absent else float(rng.uniform(0, 0.3)))
            for kind in ERROR_KINDS
        },
        figures=figures,
    )


def _group(rng: np.random.Generator, rows: list[ClassRow]) -> GroupRow:
    figures = {name: float(rng.uniform(0.05, 0.9)) if rows else math.nan for name in GROUP_FIGURES}
    return GroupRow(
        num_categories=len(rows),
        num_evaluated=sum(row.val_boxes > 0 for row in rows),
        train_boxes=sum(row.train_boxes or 0 for row in rows),
        val_boxes=sum(row.val_boxes for row in rows),
        intervals={
            figure: (figures[figure] - 0.04, figures[figure] + 0.07) for figure in WITH_INTERVALS
        },
        figures=figures,
    )


def _details(rng: np.random.Generator, names: list[str]) -> Details:
    curves, histograms = {}, {}
    for place, name in enumerate(names):
        reached = int(rng.integers(5, 101))
        level = 1 - 0.9 * place / len(names)  # far enough apart to be pointed at
        precision = np.linspace(level, 0.9 * level, 101) * (np.arange(101) <= reached)
        scores = np.sort(rng.uniform(0.01, 1, 101))[::-1] * (np.arange(101) <= reached)
        curves[name] = PRCurve(precision.round(4).tolist(), scores.round(4).tolist())
        right, wrong = rng.integers(0, 40, (2, 20)).tolist()
        histograms[name] = Histogram(right, wrong)
    sides = [*names, None]
    pairs = [(true, found) for true in sides[-18:] for found in sides[-18:] if true != found]
    cells = [Cell(true, found, 400 - k) for k, (true, found) in enumerate(pairs[:300])]
    froc = {
        name: FROC(np.linspace(0, top, 9).tolist(), [math.nan, *np.linspace(0.9, 0.1, 8).tolist()])
        for name, top in zip(names, np.linspace(0.9, 0.2, len(names)), strict=True)
    }
    return Details(curves, histograms, cells, froc)


def _difference(ours: float, theirs: float, p_adjusted: float) -> Difference:
    change = ours - theirs
    if math.isnan(change):
        return Difference(theirs, ours, *[math.nan] * 5)
    return Difference(theirs, ours, change, change - 0.03, change + 0.03, 0.001, p_adjusted)


def with_figure(row: Any, name: str, value: float) -> Any:
    """The row with another value of one figure."""
    return dataclasses.replace(row, figures={**row.figures, name: value})
