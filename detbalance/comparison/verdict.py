"""A comparison in words: what the tail gained, and what the head paid for it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from detbalance.comparison.result import Difference, GroupDifferences

# Smaller differences are none: nobody would choose a detector for them.
MARGIN = 0.02


def verdict(groups: Mapping[str, GroupDifferences], figure: str, *, level: float = 0.05) -> str:
    """Say in one sentence what differs.

    A group gained or lost where its adjusted p-value is below the level. A cost is not measurable
    where its interval ends within 0.02 of none.

    Args:
        groups: rows of a comparison: rare, common, frequent, all.
        figure: which figure to speak of.
        level: probability of naming a difference that is none.

    Returns:
        A sentence such as "AP: rare +.18 [.11, .25]; frequent -.004 [-.01, .003]: the tail gained
        at no measurable cost to the head."
    """
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
    words = _pair(tail, head, level)
    moves = {_moved(known[name], level) for name in tail_to_head}
    if len(moves) == 1 and moves != {""}:
        words = f"all groups {moves.pop()}"
    elif len(tail_to_head) == 3 and (moved := _moved(known["common"], level)):
        if words.startswith("no difference"):
            words += " for rare and frequent classes"
        words += f"; common classes {moved}"
    return f"{figure}: {listed}: {words}."


def signed(value: float) -> str:
    """A difference with its sign, two decimals, three where it is small.

    Example:
        >>> signed(0.176), signed(-0.0042), signed(0.0), signed(-1.0)
        ('+.18', '-.004', '0', '-1.00')
    """
    text = _short(value)
    return text if text.startswith("-") or text == "0" else f"+{text}"


def _short(value: float) -> str:
    text = f"{value:.3f}" if abs(value) < 0.0095 else f"{value:.2f}"
    return "0" if float(text) == 0 else text.replace("0.", ".", 1)


def _written(name: str, one: Difference) -> str:
    return f"{name} {signed(one.difference)} [{_short(one.low)}, {_short(one.high)}]"


def _moved(one: Difference, level: float) -> str:
    """What a side did: "gained" or "lost"; "" where neither can be told."""
    if not one.p_adjusted < level:
        return ""
    return "gained" if one.difference > 0 else "lost"


def _cost(one: Difference, who: str) -> str:
    """What a side that did not measurably move may have lost."""
    if one.low > -MARGIN:
        return f" at no measurable cost to the {who}"
    return f"; a cost to the {who} of up to {_short(-one.low)} is not ruled out"


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
        return f"the tail gained{_cost(head, 'head')}"
    if moved == ("", "gained"):
        return f"the head gained{_cost(tail, 'tail')}"
    return _undecided((tail, head))


def _single(one: Difference, level: float) -> str:
    moved = _moved(one, level)
    if moved:
        return "ours is better" if moved == "gained" else "the baseline is better"
    return _undecided((one,))


def _undecided(differences: tuple[Difference, ...]) -> str:
    if all(max(-one.low, one.high) < MARGIN for one in differences):
        return f"no difference of {_short(MARGIN)} or more"
    return "no difference can be told on these images"
