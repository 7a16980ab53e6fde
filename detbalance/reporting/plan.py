"""Show a plan on the console, and write it as JSON and CSV.

plan.csv has one line per class, rarest first: its fields in plan.json, then `exposure: NAME` for
each compared setting, boxes per epoch. A cell is empty where a number is undefined.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from detbalance.data.messages import counted, needs
from detbalance.planning import ClassPlan, FileSummary, Plan
from detbalance.planning.recommendation import LARGEST_REPEAT
from detbalance.reporting.console import GROUP_STYLES, name_cell, numbers_table, print_content
from detbalance.reporting.report_files import csv_lines, write_texts

try:
    from rich.console import Console, Group, RenderableType
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise needs("detbalance.reporting.plan", "rich", "plan") from error


_CHOSEN = "bold green"
# Rows of a table that does not show all classes: the rarest, and the most frequent.
_CLASS_ROWS = (20, 5)
_RARE_ROWS = (12, 0)
_SIZES = (
    "size: median of the root of width x height, in pixels. small, mid, large: COCO's, by area"
    " below 32^2, up to 96^2, above."
)
_HALF_WIDTH = (
    "+-: how well val will know a recall: half the 95% interval around 0.5 with so many boxes."
)
_SETTINGS = (
    "images: per epoch. max/min: boxes of the most over those of the least shown class. least:"
    " boxes of the least shown class in {} drawn images. rare/com./freq.: shares of all shown"
    " boxes. most: draws of the image that is drawn most. seldom: images drawn less than once in"
    " two epochs. variety: as many images, drawn evenly, would be as varied."
)


def print_plan(
    plan: Plan, *, console: Console | None = None, max_classes: int = 40, has_csv: bool = False
) -> None:
    """Print a plan: findings, classes, settings, the recommendation and its configuration."""
    print_content(plan_content(plan, max_classes=max_classes, has_csv=has_csv), console)


def plan_content(plan: Plan, *, max_classes: int = 40, has_csv: bool = False) -> Group:
    """Lay out a plan for the console."""
    where = ", see plan.csv" if has_csv else ""
    every = range(len(plan.classes))
    rare = [i for i in every if plan.classes[i].group == "rare" and plan.classes[i].boxes]
    parts: list[RenderableType] = [_header(plan), *_findings(plan)]
    parts += [_title("Classes, rarest first"), _classes(plan, every, max_classes, where)]
    parts.append(_legend(_SIZES if plan.val is None else f"{_SIZES} {_HALF_WIDTH}"))
    parts += _notes(plan.class_notes)
    if rare and plan.reference is not None:
        parts += [_title("What comes along when images of rare classes are repeated")]
        parts += [_beside(plan, rare, where)]
    if plan.reference is not None:
        parts += [_title(f"Boxes that {plan.train.images:,} drawn images show")]
        parts += [_shown(plan, every, max_classes, where)]
    legend = _legend(_SETTINGS.format(f"{plan.train.images:,}"))
    parts += [_title("Settings"), _settings(plan), legend, *_notes(plan.setting_notes)]
    return Group(*parts, *_advice(plan))


def _header(plan: Plan) -> Table:
    """What the figures are of: one line per fact."""
    facts = {"train": _file(plan.train)}
    if plan.val is not None:
        facts["val"] = _file(plan.val)
    present = [row for row in plan.classes if row.boxes]
    if len(present) > 1:
        facts["imbalance"] = (
            f"{_ratio(plan.box_ratio)} : 1 in boxes ({present[-1].boxes:,} {present[-1].name},"
            f" {present[0].boxes:,} {present[0].name}), {_ratio(plan.image_ratio)} : 1 in images"
        )
    facts["groups"] = plan.group_rule
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(Text(name, style="dim", no_wrap=True), Text(value, overflow="fold"))
    return grid


def _file(file: FileSummary) -> str:
    parts = [
        counted(file.images, "image"),
        counted(file.boxes, "box"),
        counted(file.categories, "class"),
    ]
    if file.background_images:
        images = counted(file.background_images, "image")
        parts.append(f"{images} ({_share(file.background_share)}) without boxes")
    if file.crowd_boxes:
        parts.append(f"{counted(file.crowd_boxes, 'crowd region')} not counted")
    return f"{file.source}: {', '.join(parts)}"


def _findings(plan: Plan) -> list[RenderableType]:
    """Faults in red with their number in front, notes after them."""
    if not plan.findings:
        return []
    number = len(plan.faults)
    title = f"{counted(number, 'finding')} to look at before training" if number else "Good to know"
    lines: list[RenderableType] = [
        Padding(
            Text.assemble(
                ("! " if finding.is_fault else "- ", "bold red" if finding.is_fault else "dim"),
                (f"{finding.file}: ", "bold"),
                finding.text,
            ),
            (0, 0, 0, 1),
        )
        for finding in plan.findings
    ]
    return [Text(), Text(title, style="bold red" if number else "bold"), *lines]


def _classes(plan: Plan, rows: Sequence[int], most: int, where: str) -> Table:
    titles = ["class", "group", "train\nimages", "\nboxes", "size", "small/mid\n/large %"]
    table = numbers_table(
        *titles, *(["val\nimages", "\nboxes", "+-"] if plan.val is not None else [])
    )

    def cells(row: ClassPlan) -> list[Text]:
        shares = (row.small, row.medium, row.large)
        size = "-" if math.isnan(row.median_size) else f"{row.median_size:.0f}"
        mix = "-" if row.boxes == 0 else "/".join(f"{100 * share:.0f}" for share in shares)
        texts = [f"{row.images:,}", f"{row.boxes:,}", size, mix]
        if row.val_boxes is not None:
            texts += [f"{row.val_images:,}", f"{row.val_boxes:,}", _decimals(row.half_width)]
        styles = ["bold red" if text == "0" else "" for text in texts]
        return [
            _name(row),
            Text(row.group or "-", style=GROUP_STYLES.get(row.group or "", "dim")),
            *(Text(text, style=style) for text, style in zip(texts, styles, strict=True)),
        ]

    _fill(table, plan, rows, cells, _CLASS_ROWS if len(rows) > most else None, where)
    return table


def _beside(plan: Plan, rows: Sequence[int], where: str) -> Table:
    table = numbers_table(
        "class", "most often beside", "in images", f"boxes of {plan.reference}\nper image"
    )

    def cells(row: ClassPlan) -> list[Text]:
        share = f"{row.companion_images:,} of {row.images:,}" if row.companion else "-"
        return [
            _name(row),
            Text(row.companion or "alone", no_wrap=True, overflow="ellipsis"),
            Text(share),
            Text(_decimals(row.reference_boxes)),
        ]

    _fill(table, plan, rows, cells, _RARE_ROWS if len(rows) > sum(_RARE_ROWS) else None, where)
    return table


def _shown(plan: Plan, rows: Sequence[int], most: int, where: str) -> Table:
    """The exposure by every setting, for equally many drawn images."""
    titles = [setting.name.replace("_", "\n").replace(" ", "\n") for setting in plan.settings]
    table = numbers_table("class", "group", *titles)
    chosen = plan.recommendation.setting
    scale = {s.name: plan.train.images / s.epoch_length for s in plan.settings if s.epoch_length}
    place = {row.name: i for i, row in enumerate(plan.classes)}
    for column, setting in zip(table.columns[2:], plan.settings, strict=True):
        column.header_style = _CHOSEN if setting.name == chosen else "bold"

    def cells(row: ClassPlan) -> list[Text]:
        return [
            _name(row),
            Text(row.group or "-", style=GROUP_STYLES.get(row.group or "", "dim")),
            *(
                Text(
                    _amount(setting.exposure[place[row.name]] * scale.get(setting.name, math.nan)),
                    style=_CHOSEN if setting.name == chosen else "",
                )
                for setting in plan.settings
            ),
        ]

    _fill(table, plan, rows, cells, _CLASS_ROWS if len(rows) > most else None, where)
    return table


def _settings(plan: Plan) -> Table:
    timed = any(not math.isnan(setting.seconds) for setting in plan.settings)
    titles = ["images", "max/min", "least", "rare/com.\n/freq. %", "most", "seldom", "variety"]
    table = numbers_table("setting", *titles)
    table.columns[1].justify = "right"
    if timed:
        table.add_column("time", justify="right", no_wrap=True)
    for setting in plan.settings:
        groups = setting.group_exposure.values()
        whole = sum(groups)
        texts = [
            setting.name,
            f"{setting.epoch_length:,.0f}",
            _ratio(setting.max_min),
            _amount(setting.least_boxes),
            "/".join(f"{_percent(boxes / whole)}" for boxes in groups) if whole else "-",
            f"{setting.largest_repeat:.1f}",
            f"{setting.seldom_images:,}",
            f"{setting.effective_images:,.0f}",
            *([_time(setting.seconds)] if timed else []),
        ]
        style = _CHOSEN if setting.name == plan.recommendation.setting else ""
        cells = [Text(text, style=style) for text in texts]
        if setting.largest_repeat > 1.001 * LARGEST_REPEAT:
            cells[5].stylize("bold red")
        table.add_row(*cells)
    return table


def _advice(plan: Plan) -> list[RenderableType]:
    advice = plan.recommendation
    return [
        Text(),
        Text.assemble(("Recommended: ", "bold"), (advice.setting, _CHOSEN)),
        Padding(Text(advice.reason), (0, 0, 0, 2)),
        Text(),
        Text("For the training configuration", style="bold"),
        # Not wrapped and not coloured: to be copied.
        *(Text(f"  {line}", no_wrap=True, overflow="ignore") for line in advice.lines.splitlines()),
    ]


def _fill(
    table: Table,
    plan: Plan,
    rows: Sequence[int],
    cells: Callable[[ClassPlan], list[Text]],
    ends: tuple[int, int] | None,
    where: str,
) -> None:
    """Add the rows, of long tables only both ends and how many lie between them."""
    first, last = (len(rows), 0) if ends is None else ends
    for i in rows[:first]:
        table.add_row(*cells(plan.classes[i]))
    if ends is None:
        return
    table.add_row(Text(f"... {len(rows) - first - last:,} more{where}", style="dim"))
    for i in rows[len(rows) - last :]:
        table.add_row(*cells(plan.classes[i]))


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _legend(text: str) -> Text:
    return Text(text, style="dim")


def _notes(notes: Sequence[str]) -> list[RenderableType]:
    return [Padding(Text(f"- {note}", style="yellow"), (0, 0, 0, 1)) for note in notes]


def _name(row: ClassPlan) -> Text:
    return name_cell(row.name)


def _share(value: float) -> str:
    """Whole percent, two digits for small shares."""
    return f"{value:.0%}" if value >= 0.1 or value == 0 else f"{100 * value:.1f}%"


def _percent(share: float) -> str:
    """Two digits; `g` alone would write 100 as 1e+02."""
    return "100" if share >= 0.995 else f"{100 * share:.2g}"


def _ratio(value: float) -> str:
    return "-" if not math.isfinite(value) else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _amount(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}"


def _decimals(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}".removeprefix("0")


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class PlanFiles(NamedTuple):
    """Where a plan was written."""

    json: Path
    csv: Path


def write_plan(plan: Plan, folder: str | Path) -> PlanFiles:
    """Write plan.json and plan.csv into a folder, which is made if need be."""
    folder = Path(folder)
    content = json.dumps(plan.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    files = PlanFiles(folder / "plan.json", folder / "plan.csv")
    write_texts("plan", folder, dict(zip(files, (content, _csv_text(plan)), strict=True)))
    return files


def _csv_text(plan: Plan) -> str:
    content = plan.to_dict()
    fields = [field.name for field in dataclasses.fields(ClassPlan)]
    rows = [[*fields, *(f"exposure: {setting.name}" for setting in plan.settings)]]
    for i, row in enumerate(content["classes"]):
        shown = (setting["exposure"][i] for setting in content["settings"])
        rows.append([*(row[field] for field in fields), *shown])
    return csv_lines(rows)
