"""What a report says: the answer first, groups and classes, errors, and what its figures are of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from detbalance.data.messages import counted
from detbalance.evaluation.figures import FIGURES
from detbalance.evaluation.report import ERROR_KINDS, GROUP_NAMES, ErrorKind
from detbalance.evaluation.slices import SLICE_FIGURES
from detbalance.reporting.document import (
    CLASS_COLUMNS,
    GROUP_STYLES,
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
    class_cells,
    count,
    ends_of_groups,
    group_cells,
    lines,
    title,
)
from detbalance.reporting.sentences import (
    KINDS_IN_WORDS,
    ROW_MEANS,
    SHOWN_FIGURES,
    SLICE_MEANS,
    boxes_needed,
    confusions,
    figure_title,
    least_found,
    report_facts,
    shown_from,
    shown_groups,
)

if TYPE_CHECKING:
    from detbalance.evaluation import ClassRow, GroupRow, Report
    from detbalance.reporting.label_issues import LabelIssuesSection

_SHARE = (
    "pos. share: the part of the class's gradient in training that raised it; near 0, other classes"
    " and background only pushed it down"
)
_NAMED_ISSUES = 3  # boxes of a class that Markdown names; the HTML page shows more


def report_document(report: Report, label_issues: LabelIssuesSection | None = None) -> Document:
    """Make the document of a report, with labels that look wrong where they are given."""
    settings = report.settings
    shown = _shown(report)
    blocks: list[Block] = [
        *lines("verdict", verdict(report)),
        *lines("sentence", least_found(report)),
        _figures(report, shown),
        *lines("legend", ROW_MEANS, _SHARE if "positive_share" in shown else None),
        *_errors(report),
        *lines("sentence", confusions(report), boxes_needed(report)),
        *_slices(report),
        title(f"{settings.rules.upper()} summary"),
        Table(
            [Column(name) for name in report.summary],
            [[Number(value) for value in report.summary.values()]],
        ),
        *lines("note", *report.notes),
        *([] if label_issues is None else _label_issues(label_issues)),
        Facts(report_facts(report)),
    ]
    return Document("Detection report", blocks)


def verdict(report: Report) -> str | None:
    """Say how well the groups are found, what costs most, and whether val can tell."""
    groups = shown_groups(report.groups, report.settings.group_rule)
    known = [(name, group) for name, group in groups if not math.isnan(group.AP50)]
    if not known:
        return None
    parts = [f"{_two(group.AP50)} for {name} classes" for name, group in known]
    sentence = f"AP50 is {', '.join(parts)}"
    rarest, worst = next((one for one in known if one[0] in GROUP_NAMES), known[-1])
    costs = {kind: one.cost for kind, one in worst.errors.items() if one.cost > 0}
    if costs:
        kind = max(costs, key=lambda one: costs[one])
        what = "missed boxes" if kind == "missed" else f"{kind} errors"
        sentence += f"; {what} cost {rarest} classes most ({_two(costs[kind])} of AP50)"
    return f"{sentence}.{_told_by_val(report)}"


def _told_by_val(report: Report) -> str:
    told = [row for row in report.classes if row.val_boxes and not math.isnan(row.more_boxes)]
    unsure = sum(row.more_boxes > 0 for row in told)
    if not unsure:
        return " Val has enough boxes to know recall of each to +-.05." if told else ""
    number = counted(len(told), "class")
    return f" For {unsure:,} of {number} val has too few boxes to know recall to +-.05."


def _two(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def _shown(report: Report) -> list[str]:
    """The figures that there is room for; only the report of some runs knows those of training."""
    return [
        name
        for name in SHOWN_FIGURES
        if FIGURES[name].group or not all(math.isnan(row.figures[name]) for row in report.classes)
    ]


def _figures(report: Report, shown: Sequence[str]) -> Table:
    """Groups, then classes; names of 11 letters fit in 80 columns, of 30 in 100."""
    # There is room for two intervals, beside a figure of training for one.
    of_groups = all(FIGURES[name].group for name in shown)
    second = "AP" if report.settings.num_bootstrap else "precision" if of_groups else "recall"
    percent = f"{report.settings.confidence:.0%}"
    columns = [*CLASS_COLUMNS]
    for name in shown:
        title = FIGURES[name].short or figure_title(name, report.settings)
        wide = name in ("recall", second)
        columns.append(
            Column(f"{title:<{12 - len(percent)}}[{percent}]" if wide else title, interval=wide)
        )

    def figures(row: ClassRow | GroupRow) -> list[AnyCell]:
        return [
            Number(row.figures[name], row.intervals.get(name), digits=FIGURES[name].digits)
            if name in row.figures
            else Cell("")
            for name in shown
        ]

    rows: list[list[AnyCell]] = [[*class_cells(row), *figures(row)] for row in report.classes]
    head: list[list[AnyCell]] = [
        [*group_cells(name, group), *figures(group)]
        for name, group in shown_groups(report.groups, report.settings.group_rule)
    ]
    few = _few(report.classes)
    return Table(
        columns,
        rows,
        head,
        ends=ends_of_groups(report.classes),
        few=few,
        left_out="" if few is None else _left_out(report, len(few)),
        fold=f"All {len(rows)} classes, rarest first",
    )


def _few(rows: Sequence[ClassRow]) -> list[int] | None:
    """Of very many classes the rarest that have figures to show."""
    if len(rows) <= MANY_CLASSES:
        return None
    measured = [i for i, row in enumerate(rows) if row.val_boxes or row.false_positives]
    return measured[:KEPT_OF_MANY]


def _left_out(report: Report, shown: int) -> str:
    number = len(report.classes) - shown
    empty = sum(not row.val_boxes for row in report.classes)
    without = f", {empty:,} of all classes {'has' if empty == 1 else 'have'} no box to find"
    return (
        f"{counted(number, 'class is', 'classes are')} not listed{without if empty else ''};"
        f" report.csv has all {len(report.classes):,}, the group rows count all"
    )


def _errors(report: Report) -> list[Block]:
    """What each kind of error costs every group, and how many of them a user would see."""
    every = shown_groups(report.groups, report.settings.group_rule)
    groups = [(name, group) for name, group in every if group.errors]
    if not groups:
        return []

    def cell(error: ErrorKind) -> Number:
        return Number(error.cost, remark=f"({error.shown})")

    what = f": AP50 that each kind costs, (number of them with {shown_from(report.settings)})"
    rows: list[list[AnyCell]] = [
        [Cell(name, GROUP_STYLES.get(name, "bold")), *(cell(group.errors[k]) for k in ERROR_KINDS)]
        for name, group in groups
    ]
    columns = [Column("group", numeric=False), *(Column(kind) for kind in ERROR_KINDS)]
    return [
        title("Errors", what),
        Table(columns, rows),
        *lines("legend", *KINDS_IN_WORDS),
    ]


def _slices(report: Report) -> list[Block]:
    """AP50 and recall on parts of the images, a table for each key."""
    blocks: list[Block] = []
    numbers = (Column("images"), Column("classes"), Column("val\nboxes"))
    percent = f"[{report.settings.confidence:.0%}]"
    for key in dict.fromkeys(row.key for row in report.slices):
        rows: list[list[AnyCell]] = [
            [
                Cell("(without)", "dim") if row.value is None else Cell(row.value, name=True),
                *map(count, (row.val_images, row.num_evaluated, row.val_boxes)),
                *(Number(row.figures[name], row.intervals.get(name)) for name in SLICE_FIGURES),
            ]
            for row in report.slices
            if row.key == key
        ]
        columns = [Column("slice", numeric=False), *numbers]
        columns += [Column(f"{name:<8}{percent}", interval=True) for name in SLICE_FIGURES]
        blocks += [title("Slices", f" by {key}"), Table(columns, rows)]
    return [*blocks, *lines("legend", SLICE_MEANS)] if blocks else []


def _label_issues(section: LabelIssuesSection) -> list[Block]:
    """Labels that look wrong, the first boxes of each class."""
    rows: list[list[AnyCell]] = []
    for one in section.classes:
        named = "; ".join(
            f"{box.annotation_id}{'' if box.looks_like is None else f' like {box.looks_like}'}"
            f" ({box.suspicion:.2f})"
            for box in one.boxes[:_NAMED_ISSUES]
        )
        numbers = [count(one.suspicious), count(one.judged)]
        rows.append([Cell(one.name, name=True), Cell(named), *numbers])
    columns = [
        Column("class", numeric=False),
        Column("most suspicious annotations", numeric=False),
        *(Column("look wrong"), Column("judged")),
    ]
    novel = ", ".join(f"{one.file_name} ({one.ood_score:.2f})" for one in section.novel)
    return [
        title("Labels that look wrong"),
        *lines("sentence", *section.about),
        *lines("note", *section.notes),
        *([Table(columns, rows)] if rows else []),
        *lines("sentence", section.rest),
        *lines("sentence", novel and f"Images with objects of no known class: {novel}."),
    ]
