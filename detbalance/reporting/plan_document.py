"""What a plan says: what to begin with, what is wrong, the classes, what settings would show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from detbalance.data.messages import counted
from detbalance.planning import ClassPlan, FileSummary, Plan
from detbalance.planning.recommendation import LARGEST_REPEAT, yaml_line
from detbalance.reporting.document import (
    CHOSEN,
    AnyCell,
    Block,
    Cell,
    Column,
    Document,
    Facts,
    Table,
    group_cell,
    lines,
    title,
)

# Rows of long tables: the rarest, and the most frequent.
_CLASS_ROWS = (20, 5)
_RARE_ROWS = (12, 0)
_MANY = 40
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


def plan_document(plan: Plan, *, has_csv: bool = False) -> Document:
    """Make the document of a plan."""
    gap = f"... {{number:,}} more{', see plan.csv' if has_csv else ''}"
    every = range(len(plan.classes))
    rare = [i for i in every if plan.classes[i].group == "rare" and plan.classes[i].boxes]
    advice = plan.recommendation
    images = f"{plan.train.images:,}"
    blocks: list[Block] = [
        *lines("verdict", f"Recommended: {advice.setting}"),
        *lines("sentence", advice.reason),
        title("For the training configuration"),
        *lines("code", *advice.lines.splitlines()),
        *_findings(plan),
        title("Classes, rarest first"),
        _classes(plan, every, gap),
        *lines("legend", _SIZES if plan.val is None else f"{_SIZES} {_HALF_WIDTH}"),
        *lines("remark", *plan.class_notes),
    ]
    if rare and plan.reference is not None:
        what = "What comes along when images of rare classes are repeated"
        blocks += [title(what), _beside(plan, rare, gap)]
    if plan.reference is not None:
        blocks += [title(f"Boxes that {images} drawn images show"), _shown(plan, every, gap)]
    blocks += [
        title("Settings"),
        _settings(plan),
        *lines("legend", _SETTINGS.format(images)),
        *lines("remark", *plan.setting_notes),
        title("Lines of the other settings"),
        *lines("code", *_other_lines(plan)),
        _facts(plan),
    ]
    return Document("Plan", blocks)


def _facts(plan: Plan) -> Facts:
    """What the figures are of."""
    present = [row for row in plan.classes if row.boxes]
    imbalance = None
    if len(present) > 1:
        imbalance = (
            f"{_ratio(plan.box_ratio)} : 1 in boxes ({present[-1].boxes:,} {present[-1].name},"
            f" {present[0].boxes:,} {present[0].name}), {_ratio(plan.image_ratio)} : 1 in images"
        )
    val = None if plan.val is None else _file(plan.val)
    facts = {"train": _file(plan.train), "val": val, "imbalance": imbalance}
    return Facts({**facts, "groups": plan.group_rule})


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


def _findings(plan: Plan) -> list[Block]:
    """Faults with their number in front, notes after them."""
    number = len(plan.faults)
    what = f"{counted(number, 'finding')} to look at before training" if number else "Good to know"
    blocks: list[Block] = [title(what)] if plan.findings else []
    for finding in plan.findings:
        kind = "fault" if finding.is_fault else "remark"
        blocks += lines(kind, f"{finding.file}: {finding.text}", lead="file")  # type: ignore[arg-type]
    return blocks


def _table(
    plan: Plan,
    rows: Sequence[int],
    columns: Sequence[Column],
    cells: Callable[[ClassPlan], list[AnyCell]],
    ends: tuple[int, int] | None,
    gap: str,
) -> Table:
    """The rows, of long tables on a console only both ends and how many lie between them."""
    few = None
    if ends is not None:
        first, last = ends
        few = [*range(first), *range(len(rows) - last, len(rows))]
    return Table(columns, [cells(plan.classes[i]) for i in rows], few=few, gap=gap)


def _ends(rows: Sequence[int]) -> tuple[int, int] | None:
    return _CLASS_ROWS if len(rows) > _MANY else None


def _named(*titles: str) -> list[Column]:
    return [Column("class", numeric=False), Column(titles[0], numeric=False)] + [
        Column(title) for title in titles[1:]
    ]


def _classes(plan: Plan, rows: Sequence[int], gap: str) -> Table:
    titles = ["group", "train\nimages", "\nboxes", "size", "small/mid\n/large %"]
    titles += ["val\nimages", "\nboxes", "+-"] if plan.val is not None else []

    def cells(row: ClassPlan) -> list[AnyCell]:
        shares = (row.small, row.medium, row.large)
        size = "-" if math.isnan(row.median_size) else f"{row.median_size:.0f}"
        mix = "-" if row.boxes == 0 else "/".join(f"{100 * share:.0f}" for share in shares)
        texts = [f"{row.images:,}", f"{row.boxes:,}", size, mix]
        if row.val_boxes is not None:
            texts += [f"{row.val_images:,}", f"{row.val_boxes:,}", _decimals(row.half_width)]
        numbers = [Cell(text, "bold red" if text == "0" else "") for text in texts]
        return [Cell(row.name, name=True), group_cell(row.group), *numbers]

    return _table(plan, rows, _named(*titles), cells, _ends(rows), gap)


def _beside(plan: Plan, rows: Sequence[int], gap: str) -> Table:
    columns = _named("most often beside", "in images", f"boxes of {plan.reference}\nper image")

    def cells(row: ClassPlan) -> list[AnyCell]:
        share = f"{row.companion_images:,} of {row.images:,}" if row.companion else "-"
        beside = Cell(row.companion or "alone", name=True)
        return [
            Cell(row.name, name=True),
            beside,
            Cell(share),
            Cell(_decimals(row.reference_boxes)),
        ]

    ends = _RARE_ROWS if len(rows) > sum(_RARE_ROWS) else None
    return _table(plan, rows, columns, cells, ends, gap)


def _shown(plan: Plan, rows: Sequence[int], gap: str) -> Table:
    """The exposure by every setting, for equally many drawn images."""
    chosen = plan.recommendation.setting
    columns = [Column("class", numeric=False), Column("group", numeric=False)]
    for setting in plan.settings:
        title = setting.name.replace("_", "\n").replace(" ", "\n")
        columns.append(Column(title, style=CHOSEN if setting.name == chosen else ""))
    scale = {s.name: plan.train.images / s.epoch_length for s in plan.settings if s.epoch_length}
    place = {row.name: i for i, row in enumerate(plan.classes)}

    def cells(row: ClassPlan) -> list[AnyCell]:
        shown = [
            Cell(
                _amount(setting.exposure[place[row.name]] * scale.get(setting.name, math.nan)),
                CHOSEN if setting.name == chosen else "",
            )
            for setting in plan.settings
        ]
        return [Cell(row.name, name=True), group_cell(row.group), *shown]

    return _table(plan, rows, columns, cells, _ends(rows), gap)


def _settings(plan: Plan) -> Table:
    timed = any(not math.isnan(setting.seconds) for setting in plan.settings)
    titles = ["images", "max/min", "least", "rare/com.\n/freq. %", "most", "seldom", "variety"]
    columns = [Column("setting", numeric=False), *map(Column, titles)]
    columns += [Column("time")] if timed else []
    rows: list[list[AnyCell]] = []
    styles = {}
    for i, setting in enumerate(plan.settings):
        groups = setting.group_exposure.values()
        whole = sum(groups)
        often = setting.largest_repeat > 1.001 * LARGEST_REPEAT
        shares = "/".join(f"{_percent(boxes / whole)}" for boxes in groups) if whole else "-"
        rows.append(
            [
                Cell(setting.name),
                Cell(f"{setting.epoch_length:,.0f}"),
                Cell(_ratio(setting.max_min)),
                Cell(_amount(setting.least_boxes)),
                Cell(shares),
                Cell(f"{setting.largest_repeat:.1f}", "bold red" if often else ""),
                Cell(f"{setting.seldom_images:,}"),
                Cell(f"{setting.effective_images:,.0f}"),
                *([Cell(_time(setting.seconds))] if timed else []),
            ]
        )
        if setting.name == plan.recommendation.setting:
            styles[i] = CHOSEN
    return Table(columns, rows, styles=styles)


def _other_lines(plan: Plan) -> list[str]:
    """A line for the configuration of each setting that is not recommended."""
    others = [s for s in plan.settings if s.name != plan.recommendation.setting]
    return [f"{yaml_line({'sampling': setting.config})}  # {setting.name}" for setting in others]


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
