"""Show fitted thresholds, or a chosen strength of rescoring, on the console.

Figures of both are held-out ones: each image is judged by thresholds that it had no part in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from detbalance.data.messages import counted, needs

try:
    from rich.console import Console, Group, RenderableType
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise needs("detbalance.reporting.thresholds_console", "rich", "report") from error

from detbalance.calibration import ClassThreshold, StrengthChoice, ThresholdFit, parse_objective
from detbalance.calibration.rescoring_strength import RescoredClass
from detbalance.calibration.threshold_result import GROUP_NAMES, Figures, Judged, Settings, figure
from detbalance.reporting.console import (
    GROUP_STYLES,
    facts_table,
    name_cell,
    numbers_table,
    print_content,
    said,
)

_CHOSEN = "bold green"
_FLOOR_STYLES = {"kept": "green", "unsure": "yellow", "missed": "red", None: "dim"}
_KEPT_OF_MANY = 40
_NO_TRAIN = " The order is by boxes here, as no training file was given."
_UNDEFINED = "A class without detections has no precision, and is left out of that mean."
_Row = TypeVar("_Row", ClassThreshold, RescoredClass)


def print_thresholds(
    fitted: ThresholdFit, *, console: Console | None = None, max_classes: int = 60
) -> None:
    """Print thresholds per class, how they compare on held-out images, and what to know."""
    print_content(thresholds_content(fitted, max_classes=max_classes), console)


def print_strength(
    choice: StrengthChoice, *, console: Console | None = None, max_classes: int = 60
) -> None:
    """Print what every strength of rescoring is worth, and what the choice does to each class."""
    print_content(strength_content(choice, max_classes=max_classes), console)


def thresholds_content(fitted: ThresholdFit, *, max_classes: int = 60) -> Group:
    """Lay out thresholds for the console."""
    goal = parse_objective(fitted.objective)
    name = f"F{goal.beta:g}"
    has_train = any(row.train_boxes is not None for row in fitted.classes)
    titles = ["class", "group", "train\nboxes", "calib.\nboxes", "thresh-\nold", "\nown"]
    titles += [
        "recall\nshared",
        "\nchosen",
        "prec.\nshared",
        "\nchosen",
        f"{name}\nshared",
        "\nchosen",
    ]
    table = numbers_table(*titles, *(["floor"] if goal.is_floor else []))

    def cells(row: ClassThreshold) -> list[Text]:
        return [
            *_class_cells(row.name, row.group, row.train_boxes, row.boxes),
            Text(figure(row.threshold), style="bold"),
            Text(figure(row.own), style="dim"),
            *_pairs(row.shared, row.held_out),
            *([Text(row.floor or "-", style=_FLOOR_STYLES[row.floor])] if goal.is_floor else []),
        ]

    left_out = _fill(table, fitted.classes, cells, max_classes)
    boxes = fitted.shrink_boxes
    strength = "infinite" if math.isinf(boxes) else counted(round(boxes), "box")
    ways = {
        "one shared threshold": "shared",
        "own, not shrunk": "own",
        f"own, shrunk (n0 {strength})": "shrunk",
    }
    used = "shrunk" if fitted.is_per_class else "shared"
    return Group(
        _header(fitted.objective, fitted.settings),
        _title("Thresholds"),
        table,
        *left_out,
        _legend(
            "own: what the class alone would choose. shared, chosen: held-out figures with the"
            " threshold that is shared by all classes, and with the one in the column threshold."
            + ("" if has_train else _NO_TRAIN)
        ),
        _title("On images that thresholds were not fitted on"),
        _comparison(
            fitted.objective,
            {title: (fitted.held_out[key], key == used) for title, key in ways.items()},
        ),
        _legend(
            "shrunk: a class with n boxes has n / (n + n0) of its own; n0 is chosen on the other"
            f" folds. {_UNDEFINED}"
        ),
        *_ending(fitted.verdict, fitted.notes),
    )


def strength_content(choice: StrengthChoice, *, max_classes: int = 60) -> Group:
    """Lay out a strength of rescoring for the console."""
    name = f"F{parse_objective(choice.objective).beta:g}"
    titles = ["class", "group", "train\nimages", "calib.\nboxes", ".500\nbecomes"]
    titles += [
        "recall\nbefore",
        "\nafter",
        "prec.\nbefore",
        "\nafter",
        f"{name}\nbefore",
        "\nafter",
    ]
    table = numbers_table(*titles)

    def cells(row: RescoredClass) -> list[Text]:
        return [
            *_class_cells(row.name, row.group, row.train_images, row.boxes),
            Text(figure(row.half), style="bold"),
            *_pairs(row.before, row.after),
        ]

    left_out = _fill(table, choice.classes, cells, max_classes)
    strengths = numbers_table("gamma", *(f"{gamma:g}" for gamma in choice.utility))
    for column, gamma in zip(strengths.columns[1:], choice.utility, strict=True):
        column.justify = "right"
        column.header_style = _CHOSEN if gamma == choice.gamma else "bold"
    strengths.add_row(Text("held out"), *(Text(figure(value)) for value in choice.utility.values()))
    ways = {
        "scores as they are": (choice.held_out["before"], choice.gamma == 0),
        "rebalanced": (choice.held_out["after"], choice.gamma > 0),
    }
    return Group(
        _header(choice.objective, choice.settings),
        _title(f"What gamma {choice.best_gamma:g} does"),
        table,
        *left_out,
        _legend(
            "before, after: held-out figures, with the score threshold for all classes that is"
            " best before and after."
        ),
        _title("What each strength is worth"),
        strengths,
        _title("On images that neither strength nor threshold was chosen on"),
        _comparison(choice.objective, ways),
        _legend(_UNDEFINED),
        *_ending(choice.verdict, choice.notes),
    )


def _header(objective: str, settings: Settings) -> Table:
    confidence = settings.confidence
    sure = "" if confidence is None else f", with {confidence:.0%} confidence"
    facts = {
        "annotations": settings.annotations,
        "predictions": settings.predictions,
        "for": f"{objective} at IoU {settings.iou:g}{sure}, by {settings.rules.upper()}'s rules",
        "judged by": f"{settings.folds} folds of images, seed {settings.seed}",
        "groups": settings.group_rule,
        "frequencies": settings.frequency_source,
    }
    return facts_table({name: value for name, value in facts.items() if value})


def _comparison(objective: str, ways: Mapping[str, tuple[Judged, bool]]) -> Table:
    """One row for each way of choosing, the one that is used in green."""
    goal = parse_objective(objective)
    key = "f_score" if goal.kind == "f" else goal.kind
    short = {"recall": "recall", "precision": "prec.", "f_score": f"F{goal.beta:g}"}
    present = [n for n in GROUP_NAMES if any(n in judged.means for judged, _ in ways.values())]
    table = numbers_table(
        "mean of classes",
        *(f"{name}\n{short[key]}" for name in present),
        *(f"{'all' if title == 'recall' else ''}\n{title}" for title in short.values()),
        *(["classes that\nkeep the floor"] if goal.is_floor else []),
    )
    for column in table.columns[1:]:
        column.justify = "right"
    nothing = Figures(math.nan, math.nan, math.nan)
    for title, (judged, is_used) in ways.items():
        texts = [figure(getattr(judged.means.get(name, nothing), key)) for name in present]
        texts += [figure(getattr(judged.means["all"], name)) for name in short]
        if goal.is_floor:
            texts.append(f"{judged.kept} of {judged.num_classes}")
        style = _CHOSEN if is_used else ""
        table.add_row(*(Text(text, style=style) for text in (title, *texts)))
    return table


def _fill(
    table: Table, rows: Sequence[_Row], cells: Callable[[_Row], list[Text]], max_classes: int
) -> list[RenderableType]:
    """Add the rows, of very many the rarest classes with boxes, and say how many are left out."""
    most = len(rows)
    if most > max_classes:
        most, rows = min(_KEPT_OF_MANY, max_classes), sorted(rows, key=lambda row: not row.boxes)
    for row in rows[:most]:
        table.add_row(*cells(row))
    if most == len(rows):
        return []
    without = sum(not row.boxes for row in rows[most:])
    frequent = len(rows) - most - without
    parts = [counted(frequent, "more frequent class")] if frequent else []
    parts += [f"{without} without boxes in the calibration file"] if without else []
    return [_legend(f"not listed: {', '.join(parts)}")]


def _class_cells(name: str, group: str | None, train: int | None, boxes: int) -> list[Text]:
    return [
        name_cell(name),
        Text(group or "-", style=GROUP_STYLES.get(group or "", "dim")),
        Text("-" if train is None else f"{train}"),
        Text(f"{boxes}"),
    ]


def _pairs(before: Figures, after: Figures) -> Iterable[Text]:
    """Recall, precision and F before and after, green or red where they differ."""
    for key in ("recall", "precision", "f_score"):
        old, new = figure(getattr(before, key)), figure(getattr(after, key))
        gain = getattr(after, key) - getattr(before, key)
        style = "" if old == new or math.isnan(gain) else "green" if gain > 0 else "red"
        yield Text(old)
        yield Text(new, style=style)


def _ending(verdict: str, notes: Sequence[str]) -> list[RenderableType]:
    return [
        Text(),
        said(verdict, "bold"),
        *(said(f"Note: {note}", "yellow") for note in notes),
    ]


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _legend(text: str) -> Text:
    return Text(text, style="dim")
