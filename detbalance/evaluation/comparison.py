"""The comparison of two detectors, and its file format.

`comparison.json`, schema "detbalance.comparison/2". A later version 2 file may have more keys,
never fewer. Undefined numbers are null.

    schema    "detbalance.comparison/2"
    verdict   the comparison in words
    classes   list, rarest first, as in report.json. Each entry:
        name, category_id, group, train_images, train_boxes, val_images, val_boxes
                                     as in report.json
        figures                      object by figure (AP, AP50, AR, recall, precision):
            baseline, ours           means over the runs of each side
            difference               ours less baseline
            low, high                its interval at settings.confidence
            p                        the smallest 1 - confidence whose interval leaves 0 out
            p_adjusted               the same for all classes together (Benjamini and Hochberg); of
                                     a group for all groups (Holm)
    groups    object with "rare", "common", "frequent", "all"; each entry:
        num_categories               classes of the group
        num_evaluated                those of them with boxes to find
        train_boxes, val_boxes       sums
        figures                      as above; means over the classes where both sides have the
                                     figure
    settings  annotations, baseline and ours (lists of files; null: from memory), rules,
              score_threshold, thresholds, iou_thresholds, recall_iou_threshold, max_detections,
              figure (that the verdict is of), confidence, num_bootstrap, seed, frequency_source,
              group_rule
    notes     list of sentences about what a reader could not see from the figures
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detbalance.data.json_nan import nan_to_null
from detbalance.evaluation.rules import RulesName

# Smaller differences are none: nobody would choose a detector for them.
MARGIN = 0.02
_NOISE = 1e-9  # of rounding


def verdict(groups: Mapping[str, GroupDifferences], figure: str, *, level: float = 0.05) -> str:
    """Say in one sentence what differs."""
    known = {
        name: row.figures[figure]
        for name, row in groups.items()
        if not math.isnan(row.figures[figure].difference)
    }
    tail_to_head = [name for name in ("rare", "common", "frequent") if name in known]
    if not known:
        return f"{figure}: nothing can be compared, there are no boxes to find."
    if len(tail_to_head) < 2:
        return f"{figure}: {_written('all classes', known['all'])}: {_single(known['all'], level)}."
    listed = "; ".join(_written(name, known[name]) for name in tail_to_head)
    tail, head = known[tail_to_head[0]], known[tail_to_head[-1]]
    moves = {name: _moved(known[name], level) for name in tail_to_head}
    if len(set(moves.values())) == 1:
        every = tuple(known[name] for name in tail_to_head)
        moved = moves[tail_to_head[0]]
        words = f"all groups {moved}" if moved else _undecided(every)
    else:
        words = _pair(tail, head, level)
        if len(tail_to_head) == 3 and moves["common"]:
            if words.startswith("no difference"):
                words += " for rare and frequent classes"
            words += f"; common classes {moves['common']}"
    return f"{figure}: {listed}: {words}."


def digits_for(*values: float, least: int = 2) -> int:
    """How many decimals it takes that none of the values looks like 0 but 0 itself."""
    smallest = min((abs(value) for value in values if abs(value) > _NOISE), default=1.0)
    digits = least
    while not round(smallest, digits):
        digits += 1
    return digits


def decimals(value: float, digits: int) -> str:
    """So many decimals without the leading zero; 0 has no sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("0.", ".", 1)


def signed(value: float) -> str:
    """A difference with its sign, two decimals, more where it is small."""
    text = _short(value)
    return text if text.startswith("-") or text == "0" else f"+{text}"


def _short(value: float) -> str:
    text = decimals(value, digits_for(value, least=3 if abs(value) < 0.0095 else 2))
    return text if float(text) else "0"


def _written(name: str, one: Difference) -> str:
    return f"{name} {signed(one.difference)} [{_short(one.low)}, {_short(one.high)}]"


def _moved(one: Difference, level: float) -> str:
    """What a side did: "gained" or "lost"; "" where neither can be told."""
    if not one.p_adjusted < level:
        return ""
    return "gained" if one.difference > 0 else "lost"


def _unmoved(one: Difference, who: str, mover: Difference) -> str:
    """What is to be said of a side that did not measurably move beside one that gained."""
    if one.difference >= min(MARGIN, mover.difference):
        risk = "" if one.low > -MARGIN else f" or lost up to {_short(-one.low)}"
        return f"; whether the {who} gained too{risk} cannot be told"
    if one.low <= -MARGIN or one.high < 0:
        return f"; a cost to the {who} of up to {_short(-one.low)} is not ruled out"
    return f" at no measurable cost to the {who}"


def _pair(tail: Difference, head: Difference, level: float) -> str:
    moved = _moved(tail, level), _moved(head, level)
    fixed = {
        ("gained", "gained"): "tail and head gained",
        ("gained", "lost"): "the tail gained, the head paid for it",
        ("lost", "gained"): "the head gained, the tail paid for it",
        ("lost", "lost"): "tail and head lost",
        ("lost", ""): "the tail lost, and no gain of the head can be told",
        ("", "lost"): "the head lost, and no gain of the tail can be told",
    }
    if moved in fixed:
        return fixed[moved]
    if moved == ("gained", ""):
        return f"the tail gained{_unmoved(head, 'head', tail)}"
    if moved == ("", "gained"):
        return f"the head gained{_unmoved(tail, 'tail', head)}"
    return _undecided((tail, head))


def _single(one: Difference, level: float) -> str:
    moved = _moved(one, level)
    if moved:
        return "ours is better" if moved == "gained" else "the baseline is better"
    return _undecided((one,))


def _undecided(differences: Sequence[Difference]) -> str:
    if all(max(-one.low, one.high) < MARGIN for one in differences):
        return f"no difference of {_short(MARGIN)} or more"
    return "no difference can be told on these images"


SCHEMA = "detbalance.comparison/2"


@dataclass(frozen=True)
class Difference:
    """One figure of two sides; the fields are those of the file format, NaN where undefined."""

    baseline: float
    ours: float
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float


@dataclass(frozen=True, kw_only=True)
class ClassDifferences:
    """One class; the fields are those of the file format."""

    name: str
    category_id: int
    group: str | None
    train_images: int | None
    train_boxes: int | None
    val_images: int
    val_boxes: int
    figures: dict[str, Difference]


@dataclass(frozen=True, kw_only=True)
class GroupDifferences:
    """Means over the classes of one group; the fields are those of the file format."""

    num_categories: int
    num_evaluated: int
    train_boxes: int | None
    val_boxes: int
    figures: dict[str, Difference]


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """What was compared, and how; the fields are those of the file format."""

    annotations: str
    baseline: tuple[str | None, ...]
    ours: tuple[str | None, ...]
    rules: RulesName
    score_threshold: float
    thresholds: str | None
    iou_thresholds: tuple[float, ...]
    recall_iou_threshold: float
    max_detections: tuple[int, ...]
    figure: str
    confidence: float
    num_bootstrap: int
    seed: int
    frequency_source: str | None
    group_rule: str | None


@dataclass(frozen=True)
class Comparison:
    """Two detectors on the same images; see the module's text for every field.

    Attributes:
        verdict: the comparison in words.
        classes: one row per class, rarest first.
        groups: rows "rare", "common", "frequent" and "all".
        settings: what was compared, and how.
        notes: sentences for the reader.
    """

    verdict: str
    classes: tuple[ClassDifferences, ...]
    groups: dict[str, GroupDifferences]
    settings: ComparisonSettings
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give the content of comparison.json: plain JSON values, None for undefined."""
        return {"schema": SCHEMA, **nan_to_null(self)}
