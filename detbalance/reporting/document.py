"""What is shown of a result, once for all formats: a document of blocks.

A document begins with its answer and ends with what its figures are of. `console.py` and
`markdown.py` render any document; numbers stay numbers until then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

GROUP_STYLES = {"rare": "bold magenta", "common": "cyan", "frequent": "blue"}
CHOSEN = "bold green"
# Of more classes than this a console lists the rarest of those that have figures.
MANY_CLASSES = 60
KEPT_OF_MANY = 40


@dataclass(frozen=True)
class Cell:
    """A text in a table, with the style of the console; `name` may be cut short."""

    text: str
    style: str = ""
    name: bool = False


@dataclass(frozen=True)
class Number:
    """A figure in a table: "-" where undefined; with its interval, and a remark behind it."""

    value: float
    interval: tuple[float, float] | None = None
    remark: str = ""
    style: str = ""
    digits: int = 3


@dataclass(frozen=True)
class Change:
    """Both sides of a figure and their difference, with its interval."""

    before: float
    after: float
    difference: float
    low: float
    high: float
    real: bool
    sides: bool = True  # whether a console shows them


AnyCell: TypeAlias = Cell | Number | Change


@dataclass(frozen=True)
class Column:
    """A column; a console never has `roomy` ones, and `spare` ones only where there is room."""

    title: str
    numeric: bool = True
    roomy: bool = False
    spare: bool = False
    interval: bool = False
    style: str = ""


@dataclass(frozen=True)
class Table:
    """Rows below titles: first those of groups, then those of classes.

    Attributes:
        columns: of all rows.
        rows: of classes, or all there are.
        head: of groups, which come first.
        ends: rows below which a line goes on a console.
        few: the rows that a console shows of very many, None for all.
        gap: what a console says in place of rows that are left out between others.
        left_out: what a console says below the table of rows that are left out.
        fold: heading under which Markdown folds the rows, "" to show them.
        styles: of whole rows on a console.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[AnyCell]]
    head: Sequence[Sequence[AnyCell]] = ()
    ends: frozenset[int] = frozenset()
    few: Sequence[int] | None = None
    gap: str = ""
    left_out: str = ""
    fold: str = ""
    styles: Mapping[int, str] | None = None


@dataclass(frozen=True)
class Facts:
    """What figures are of: a text by each name; names without a text are left out."""

    values: Mapping[str, str | None]


Kind = Literal["verdict", "sentence", "title", "legend", "note", "remark", "fault", "code"]


@dataclass(frozen=True)
class Lines:
    """Sentences of one kind; `lead` is what a title begins with."""

    kind: Kind
    texts: Sequence[str]
    lead: str = ""


Block: TypeAlias = Facts | Lines | Table


@dataclass(frozen=True)
class Document:
    """Blocks in the order in which they are shown."""

    title: str
    blocks: Sequence[Block]


def lines(kind: Kind, *texts: str | None, lead: str = "") -> list[Block]:
    """A block of the texts that there are; none for none."""
    known = [text for text in texts if text]
    return [Lines(kind, known, lead)] if known else []


def title(lead: str, rest: str = "") -> Lines:
    """A heading: what it begins with is bold on a console."""
    return Lines("title", [rest], lead)


class GroupedRow(Protocol):
    """What rows of classes have in common."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def group(self) -> str | None: ...  # noqa: D102
    @property
    def train_boxes(self) -> int | None: ...  # noqa: D102
    @property
    def val_boxes(self) -> int: ...  # noqa: D102


class Means(Protocol):
    """What rows of groups have in common."""

    @property
    def num_categories(self) -> int: ...  # noqa: D102
    @property
    def num_evaluated(self) -> int: ...  # noqa: D102
    @property
    def train_boxes(self) -> int | None: ...  # noqa: D102
    @property
    def val_boxes(self) -> int: ...  # noqa: D102


def count(number: int | None) -> Cell:
    """A whole number; "-" for None."""
    return Cell("-", "dim") if number is None else Cell(str(number))


def group_cell(group: str | None) -> Cell:
    """The group of a class."""
    return Cell(group or "-", GROUP_STYLES.get(group or "", "dim"))


CLASS_COLUMNS = (
    Column("class", numeric=False),
    Column("group", numeric=False, spare=True),
    Column("train\nboxes", spare=True),
    Column("val\nboxes"),
)


def class_cells(row: GroupedRow) -> list[AnyCell]:
    """Name, group, train boxes, val boxes of a class."""
    name = Cell(row.name, name=True)
    return [name, group_cell(row.group), count(row.train_boxes), count(row.val_boxes)]


def group_cells(name: str, means: Means) -> list[AnyCell]:
    """The same cells of a group of classes."""
    label = Cell(f"{name}, mean of {means.num_evaluated}", GROUP_STYLES.get(name, "bold"))
    return [label, Cell(""), count(means.train_boxes), count(means.val_boxes)]


def ends_of_groups(rows: Sequence[GroupedRow]) -> frozenset[int]:
    """The rows below which a line goes: where the group changes, and the last."""
    last = len(rows) - 1
    return frozenset(i for i, row in enumerate(rows) if i == last or rows[i + 1].group != row.group)
