"""What thresholds, a strength of rescoring and a fusion say: the verdict, and the figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from detbalance.calibration import ClassThreshold, StrengthChoice, ThresholdFit, parse_objective
from detbalance.calibration.cross_fitting import Figures, Judged, Settings
from detbalance.calibration.fusion_choice import FusedClass, FusionChoice, Way
from detbalance.calibration.rescoring import RescoredClass
from detbalance.data.messages import counted
from detbalance.evaluation.report import GROUP_NAMES
from detbalance.reporting.document import (
    CHOSEN,
    KEPT_OF_MANY,
    MANY_CLASSES,
    AnyCell,
    Block,
    Cell,
    Column,
    Document,
    Facts,
    Number,
    Table,
    count,
    group_cell,
    lines,
    title,
)

_FLOOR_STYLES = {"kept": "green", "unsure": "yellow", "missed": "red", None: "dim"}
_NO_TRAIN = " The order is by boxes here, as no training file was given."
_UNDEFINED = "A class without detections has no precision, and is left out of that mean."
_WAYS: dict[Way, str] = {
    "as they are": "equal weights, scores as they are",
    "equal": "equal weights, calibrated",
    "chosen": "chosen setting, calibrated",
}
_Row = TypeVar("_Row", ClassThreshold, RescoredClass, FusedClass)


def thresholds_document(fitted: ThresholdFit) -> Document:
    """Thresholds per class, how they compare on held-out images, and what to know."""
    goal = parse_objective(fitted.objective)
    columns = [*_class_columns("train\nboxes"), Column("thresh-\nold"), Column("\nown")]
    columns += _pair_columns("shared", "chosen", f"F{goal.beta:g}")
    columns += [Column("floor")] if goal.is_floor else []

    def cells(row: ClassThreshold) -> list[AnyCell]:
        floor = Cell(row.floor or "-", _FLOOR_STYLES[row.floor])
        return [
            *_class_cells(row.name, row.group, row.train_boxes, row.boxes),
            Number(row.threshold, style="bold"),
            Number(row.own, style="dim"),
            *_pairs(row.shared, row.held_out),
            *([floor] if goal.is_floor else []),
        ]

    boxes = fitted.shrink_boxes
    strength = "infinite" if math.isinf(boxes) else counted(round(boxes), "box")
    ways = {
        "one shared threshold": "shared",
        "own, not shrunk": "own",
        f"own, shrunk (n0 {strength})": "shrunk",
    }
    used = "shrunk" if fitted.is_per_class else "shared"
    has_train = any(row.train_boxes is not None for row in fitted.classes)
    return Document(
        "Score thresholds",
        [
            *_verdict(fitted.verdict, fitted.notes),
            title("Thresholds"),
            _table(columns, fitted.classes, [cells(row) for row in fitted.classes]),
            *lines(
                "legend",
                "own: what the class alone would choose. shared, chosen: held-out figures with the"
                " threshold that is shared by all classes, and with the one in the column"
                f" threshold.{'' if has_train else _NO_TRAIN}",
            ),
            title("On images that thresholds were not fitted on"),
            _ways(
                fitted.objective,
                {title: (fitted.held_out[key], key == used) for title, key in ways.items()},
            ),
            *lines(
                "legend",
                "shrunk: a class with n boxes has n / (n + n0) of its own; n0 is chosen on the"
                f" other folds. {_UNDEFINED}",
            ),
            _facts(fitted.objective, fitted.settings),
        ],
    )


def strength_document(choice: StrengthChoice) -> Document:
    """What every strength of rescoring is worth, and what the choice does to each class."""
    name = f"F{parse_objective(choice.objective).beta:g}"
    columns = [*_class_columns("train\nimages"), Column(".500\nbecomes")]
    columns += _pair_columns("before", "after", name)

    def cells(row: RescoredClass) -> list[AnyCell]:
        own = _class_cells(row.name, row.group, row.train_images, row.boxes)
        return [*own, Number(row.half, style="bold"), *_pairs(row.before, row.after)]

    ways = {
        "scores as they are": (choice.held_out["before"], choice.gamma == 0),
        "rebalanced": (choice.held_out["after"], choice.gamma > 0),
    }
    strengths = [Column("gamma", numeric=False)]
    strengths += [
        Column(f"{gamma:g}", style=CHOSEN if gamma == choice.gamma else "")
        for gamma in choice.utility
    ]
    return Document(
        "Rebalanced scores",
        [
            *_verdict(choice.verdict, choice.notes),
            title(f"What gamma {choice.best_gamma:g} does"),
            _table(columns, choice.classes, [cells(row) for row in choice.classes]),
            *lines(
                "legend",
                "before, after: held-out figures, with the score threshold for all classes that is"
                " best before and after.",
            ),
            title("What each strength is worth"),
            Table(strengths, [[Cell("held out"), *map(Number, choice.utility.values())]]),
            title("On images that neither strength nor threshold was chosen on"),
            _ways(choice.objective, ways),
            *lines("legend", _UNDEFINED),
            _facts(choice.objective, choice.settings),
        ],
    )


def fusion_document(choice: FusionChoice, warnings: Sequence[str] = ()) -> Document:
    """What was chosen to fuse detections by, and what it gives."""
    settings = choice.settings
    numbers = [str(i) for i in range(1, len(choice.alone) + 1)]
    weighted = choice.used == "chosen"
    columns = [*_class_columns("train\nboxes"), *map(Column, (*numbers, "equal", "used"))]
    columns += [Column(f"weight\n{i}") for i in numbers] if weighted else []
    rows: list[list[AnyCell]] = [
        [
            *_class_cells(row.name, row.group, row.train_boxes, row.boxes),
            *map(Number, (*row.members, row.equal, row.used)),
            *(map(Number, row.weights) if weighted else ()),
        ]
        for row in choice.classes
    ]
    every = [*choice.alone, *choice.ways.values()]
    groups = [name for name in GROUP_NAMES if any(name in one.groups for one in every)]
    titles = [f"{i} {one.name}" for i, one in enumerate(choice.alone, start=1)]
    titles += [_WAYS[way] for way in choice.ways]
    ways: list[list[AnyCell]] = [
        [Cell(way), *(Number(one.groups.get(n, math.nan)) for n in groups), Number(one.mean)]
        for way, one in zip(titles, every, strict=True)
    ]
    used = every.index(choice.ways[choice.used])
    heads = [Column("mean of classes", numeric=False), *map(Column, (*groups, "all"))]
    return Document(
        "Fused detections",
        [
            *_verdict(choice.verdict, choice.notes),
            title("AP50 on images that nothing was chosen on"),
            Table(heads, ways, styles={used: CHOSEN}),
            title("Classes"),
            _table(columns, choice.classes, rows),
            *lines(
                "legend",
                "1, 2, ...: each file alone. equal: with equal weights and calibrated scores. used:"
                " the way in green.",
            ),
            Facts(
                {
                    "calibrated on": settings.annotations,
                    "method": f"{settings.method}, {choice.setting}",
                    "judged by": f"{settings.folds} folds of images, seed {settings.seed}, by"
                    f" {settings.rules.upper()}'s rules",
                    "groups": settings.group_rule,
                    "frequencies": settings.frequency_source,
                }
            ),
        ],
    )


def _verdict(verdict: str, notes: Sequence[str]) -> list[Block]:
    return [*lines("verdict", verdict), *lines("note", *notes)]


def _facts(objective: str, settings: Settings) -> Facts:
    confidence = settings.confidence
    sure = "" if confidence is None else f", with {confidence:.0%} confidence"
    return Facts(
        {
            "annotations": settings.annotations,
            "predictions": settings.predictions,
            "for": f"{objective} at IoU {settings.iou:g}{sure}, by {settings.rules.upper()}'s"
            " rules",
            "judged by": f"{settings.folds} folds of images, seed {settings.seed}",
            "groups": settings.group_rule,
            "frequencies": settings.frequency_source,
        }
    )


def _ways(objective: str, ways: Mapping[str, tuple[Judged, bool]]) -> Table:
    """One row for each way of choosing, the one that is used in green."""
    goal = parse_objective(objective)
    key = "f_score" if goal.kind == "f" else goal.kind
    short = {"recall": "recall", "precision": "prec.", "f_score": f"F{goal.beta:g}"}
    present = [n for n in GROUP_NAMES if any(n in judged.means for judged, _ in ways.values())]
    columns = [
        Column("mean of classes", numeric=False),
        *(Column(f"{name}\n{short[key]}") for name in present),
        *(Column(f"{'all' if title == 'recall' else ''}\n{title}") for title in short.values()),
        *([Column("classes that\nkeep the floor")] if goal.is_floor else []),
    ]
    nothing = Figures(math.nan, math.nan, math.nan)
    rows: list[list[AnyCell]] = []
    for way, (judged, _) in ways.items():
        row: list[AnyCell] = [Cell(way)]
        row += [Number(getattr(judged.means.get(name, nothing), key)) for name in present]
        row += [Number(getattr(judged.means["all"], name)) for name in short]
        row += [Cell(f"{judged.kept} of {judged.num_classes}")] if goal.is_floor else []
        rows.append(row)
    used = [i for i, (_, is_used) in enumerate(ways.values()) if is_used]
    return Table(columns, rows, styles=dict.fromkeys(used, CHOSEN))


def _table(
    columns: Sequence[Column], rows: Sequence[_Row], cells: Sequence[Sequence[AnyCell]]
) -> Table:
    """The classes; of very many a console shows the rarest with boxes."""
    if len(rows) <= MANY_CLASSES:
        return Table(columns, cells)
    order = sorted(range(len(rows)), key=lambda i: not rows[i].boxes)
    few, rest = order[:KEPT_OF_MANY], order[KEPT_OF_MANY:]
    without = sum(not rows[i].boxes for i in rest)
    frequent = len(rest) - without
    parts = [counted(frequent, "more frequent class")] if frequent else []
    parts += [f"{without} without boxes in the calibration file"] if without else []
    return Table(columns, cells, few=few, left_out=f"not listed: {', '.join(parts)}")


def _class_columns(train: str) -> list[Column]:
    names = [Column("class", numeric=False), Column("group", numeric=False)]
    return [*names, Column(train), Column("calib.\nboxes")]


def _class_cells(name: str, group: str | None, train: int | None, boxes: int) -> list[AnyCell]:
    return [Cell(name, name=True), group_cell(group), count(train), count(boxes)]


def _pair_columns(before: str, after: str, f_name: str) -> list[Column]:
    titles = ("recall", "prec.", f_name)
    return [Column(t) for name in titles for t in (f"{name}\n{before}", f"\n{after}")]


def _pairs(before: Figures, after: Figures) -> Iterator[Number]:
    """Recall, precision and F before and after, green or red where they differ."""
    for key in ("recall", "precision", "f_score"):
        old, new = getattr(before, key), getattr(after, key)
        same = f"{old:.3f}" == f"{new:.3f}" or math.isnan(new - old)
        yield Number(old)
        yield Number(new, style="" if same else "green" if new > old else "red")
