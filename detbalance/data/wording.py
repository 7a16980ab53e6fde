"""Words of messages: numbers with their nouns, and texts of others made harmless to show."""

from __future__ import annotations

import re

# C0 and C1 controls, line and paragraph separators, and what turns the direction of writing.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def counted(number: float, one: str, several: str | None = None) -> str:
    """Put a number before its noun."""
    few = isinstance(number, float) and number < 10
    text = f"{number:.1f}".removesuffix(".0") if few else f"{number:,.0f}"
    plural = f"{one.removesuffix('y')}ies" if one.endswith("y") else f"{one}s"
    plural = f"{one}es" if one.endswith(("s", "x")) else plural
    return f"{text} {one if text == '1' else several or plural}"


def rounded(value: float) -> str:
    """Write a ratio with three digits, from 100 on as a whole number, never as 1e+03."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def printable(text: str, *, keep: str = "") -> str:
    r"""Write control characters, and those that turn the direction of writing, as escapes."""

    def escape(found: re.Match[str]) -> str:
        char = found[0]
        return char if char in keep else char.encode("unicode_escape").decode()

    return _UNSHOWN.sub(escape, text)
