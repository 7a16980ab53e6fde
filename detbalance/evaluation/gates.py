"""Conditions on a comparison that end a build: "rare.recall < -0.01"."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from detbalance.evaluation.comparison import Comparison, Difference
from detbalance.evaluation.figures import WITH_INTERVALS
from detbalance.evaluation.report import GROUP_NAMES

Part: TypeAlias = Literal["baseline", "ours", "difference", "low", "high"]

PARTS = ("baseline", "ours", "difference", "low", "high")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_FORM = re.compile(
    rf"(?P<who>.+)\.(?P<figure>{'|'.join(WITH_INTERVALS)})(\.(?P<part>{'|'.join(PARTS)}))?"
    r"\s*(?P<sign><=|>=|<|>)\s*(?P<limit>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)",
    re.DOTALL,
)
_EXPECTED = (
    "GROUP_OR_CLASS.FIGURE < NUMBER is expected, with one of rare, common, frequent, all or the"
    f" name of a class, one of {', '.join(WITH_INTERVALS)}, and <, <=, > or >=; .low or .high"
    ' behind the figure for the ends of the interval. Write for example "rare.recall < -0.01".'
)


@dataclass(frozen=True)
class Gate:
    """A condition on one difference.

    Attributes:
        who: a group, or the name of a class, as it was written; "group:rare" and "class:rare" for
            one of the two where a class is called like a group.
        figure: AP, AP50, AR, recall or precision.
        part: the difference, an end of its interval, or one side.
        sign: <, <=, > or >=.
        limit: what the part is compared with.
    """

    who: str
    figure: str
    part: Part
    sign: str
    limit: float

    def check(self, classes: Collection[str], source: str) -> None:
        """Check that the condition is on something that there is.

        Args:
            classes: names of all classes.
            source: the annotation file, for the error.

        Raises:
            ValueError: if the condition is on neither a group nor a class, or on several.
        """
        self._target(classes, source)

    def _target(self, classes: Collection[str], source: str) -> tuple[str, str]:
        """("group" or "class", name): what has exactly the name, else but for spaces around it."""
        every = [("group", name) for name in (*GROUP_NAMES, "all")]
        every += [("class", name) for name in classes]
        spaceless = self.who.strip()
        fitting = (
            [one for one in every if one[1] == self.who],
            [one for one in every if one[1].strip() == spaceless],
            [one for one in every if f"{one[0]}:{one[1].strip()}" == spaceless],
        )
        found = next(filter(None, fitting), [])
        if len(found) == 1:
            return found[0]
        if found:
            listed = " and ".join(f'the {kind} "{name}"' for kind, name in found)
            raise ValueError(
                f'--fail-if: "{self.who}" may be {listed} of {source}. One is expected. Write'
                f' "group:NAME" or "class:NAME", or the name with its spaces.'
            )
        number = f"one of its {len(classes)} classes" if len(classes) > 1 else "its class"
        raise ValueError(
            f'--fail-if: "{self.who}" is neither a group nor a class of {source}. rare, common,'
            f" frequent, all or {number} is expected. Correct the name."
        )

    def find(self, comparison: Comparison) -> Difference:
        """Find what the condition is on.

        Args:
            comparison: of any two detectors.

        Returns:
            The difference of the group, or of the class.

        Raises:
            ValueError: as `check`, or if it has no such figure.
        """
        named = {row.name: row.figures for row in comparison.classes}
        kind, name = self._target(named, comparison.settings.annotations)
        rows = named if kind == "class" else {k: g.figures for k, g in comparison.groups.items()}
        found = rows[name][self.figure]
        if math.isnan(getattr(found, self.part)):
            raise ValueError(
                f"--fail-if: {self.who}.{self.figure} is undefined here: there are no boxes to"
                " find, no detections, or no training file that says which classes are rare. A"
                " figure of both sides is expected. Name another, or pass --train."
            )
        return found

    def fails(self, comparison: Comparison) -> bool:
        """Whether the condition is met, so that the build shall end.

        Args:
            comparison: of any two detectors.

        Returns:
            True where it is.

        Raises:
            ValueError: as `find`.
        """
        return _OPERATORS[self.sign](getattr(self.find(comparison), self.part), self.limit)

    def __str__(self) -> str:
        """The condition as it can be written."""
        part = "" if self.part == "difference" else f".{self.part}"
        return f"{self.who}.{self.figure}{part} {self.sign} {self.limit:g}"


def parse_gate(text: str) -> Gate:
    """Read a condition.

    Args:
        text: such as "rare.recall < -0.01", "copper.AP50.high < 0" or "all.AP.ours < 0.3".

    Returns:
        The condition.

    Raises:
        ValueError: if it is none.

    Example:
        >>> gate = parse_gate("rare.recall < -0.01")
        >>> gate.who, gate.figure, gate.part, gate.limit
        ('rare', 'recall', 'difference', -0.01)
    """
    match = _FORM.fullmatch(text.rstrip())
    if match is None or not math.isfinite(float(match["limit"])):
        raise ValueError(f'--fail-if: "{text}" is no condition. {_EXPECTED}')
    part = cast("Part", match["part"] or "difference")
    return Gate(match["who"], match["figure"], part, match["sign"], float(match["limit"]))
