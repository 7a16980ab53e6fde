"""Words of messages: numbers with their nouns, and texts of others made harmless to show."""

from __future__ import annotations

import re

# C0 and C1 controls, line and paragraph separators, and what turns the direction of writing.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def counted(number: float, one: str, several: str | None = None) -> str:
    """Put a number before its noun.

    Args:
        number: how many; of less than ten a float has one decimal, unless that is 0.
        one: the noun for 1.
        several: the noun for all others; the usual plural of `one` if not given.

    Example:
        >>> counted(1, "box"), counted(2.5, "box"), counted(2500, "image"), counted(0, "category")
        ('1 box', '2.5 boxes', '2,500 images', '0 categories')
    """
    few = isinstance(number, float) and number < 10
    text = f"{number:.1f}".removesuffix(".0") if few else f"{number:,.0f}"
    plural = f"{one.removesuffix('y')}ies" if one.endswith("y") else f"{one}s"
    plural = f"{one}es" if one.endswith(("s", "x")) else plural
    return f"{text} {one if text == '1' else several or plural}"


def rounded(value: float) -> str:
    """Write a ratio with three digits, from 100 on as a whole number: 1e+03 is no way to say 1,000.

    Example:
        >>> rounded(2.34567), rounded(99.96), rounded(1234.5)
        ('2.35', '100', '1,234')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def printable(text: str, *, keep: str = "") -> str:
    r"""Write control characters, and those that turn the direction of writing, as escapes.

    Names and paths come from files of others: shown as they are, they could move the cursor, colour
    the terminal or forge a line.

    Args:
        text: any.
        keep: characters to leave as they are, such as a newline.

    Example:
        >>> printable("cat\x1b[2J")
        'cat\\x1b[2J'
    """

    def escape(found: re.Match[str]) -> str:
        char = found[0]
        return char if char in keep else char.encode("unicode_escape").decode()

    return _UNSHOWN.sub(escape, text)
