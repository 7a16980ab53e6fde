"""How detections of several files were fused, on the console."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from detbalance.calibration.fusion_result import FusedClass, FusionChoice, Way
from detbalance.calibration.threshold_result import GROUP_NAMES
from detbalance.data.messages import printable
from detbalance.reporting.console import (
    GROUP_STYLES,
    KEPT_OF_MANY,
    count,
    facts_table,
    figure,
    name_cell,
    numbers_table,
    said,
)

_MOST_CLASSES = 60
_CHOSEN = "bold green"
_WAYS: dict[Way, str] = {
    "as they are": "equal weights, scores as they are",
    "equal": "equal weights, calibrated",
    "chosen": "chosen setting, calibrated",
}


def fusion_content(choice: FusionChoice) -> Group:
    """Lay out what was chosen and what it gives."""
    settings = choice.settings
    facts = {
        "calibrated on": settings.annotations,
        "method": f"{settings.method}, {choice.setting}",
        "judged by": f"{settings.folds} folds of images, seed {settings.seed}, by"
        f" {settings.rules.upper()}'s rules",
        "groups": settings.group_rule,
        "frequencies": settings.frequency_source,
    }
    return Group(
        facts_table({name: value for name, value in facts.items() if value}),
        Text("\nAP50 on images that nothing was chosen on", style="bold"),
        _ways_table(choice),
        Text("\nClasses", style="bold"),
        *_class_table(choice),
        Text(
            "1, 2, ...: each file alone. equal: with equal weights and calibrated scores. used: the"
            " way in green.",
            style="dim",
        ),
        Text(),
        said(choice.verdict, "bold"),
        *(said(f"Note: {note}", "yellow") for note in choice.notes),
    )


def _ways_table(choice: FusionChoice) -> Table:
    every = [*choice.alone, *choice.ways.values()]
    groups = [name for name in GROUP_NAMES if any(name in one.groups for one in every)]
    table = numbers_table("mean of classes", *groups, "all")
    for column in table.columns[1:]:
        column.justify = "right"
    titles = [f"{i} {one.name}" for i, one in enumerate(choice.alone, start=1)]
    titles += [_WAYS[way] for way in choice.ways]
    used = choice.ways[choice.used]
    for title, one in zip(titles, every, strict=True):
        cells = [figure(one.groups.get(name, float("nan"))) for name in groups]
        table.add_row(
            Text(printable(title), overflow="fold"),
            *cells,
            figure(one.mean),
            style=_CHOSEN if one is used else "",
        )
    return table


def _class_table(choice: FusionChoice) -> list[Table | Text]:
    numbers = [str(i) for i in range(1, len(choice.alone) + 1)]
    weights = [f"weight\n{i}" for i in numbers] if choice.used == "chosen" else []
    table = numbers_table(
        "class", "group", "train\nboxes", "calib.\nboxes", *numbers, "equal", "used", *weights
    )
    rows: Sequence[FusedClass] = choice.classes
    left_out: list[Table | Text] = []
    if len(rows) > _MOST_CLASSES:
        rows = sorted(rows, key=lambda row: not row.boxes)[:KEPT_OF_MANY]
        number = len(choice.classes) - len(rows)
        left_out.append(Text(f"not listed: {number} more frequent or without boxes", style="dim"))
    for row in rows:
        table.add_row(
            name_cell(row.name),
            Text(row.group or "-", style=GROUP_STYLES.get(row.group or "", "dim")),
            count(row.train_boxes),
            count(row.boxes),
            *map(figure, (*row.members, row.equal, row.used)),
            *(map(figure, row.weights) if weights else ()),
        )
    return [table, *left_out]
