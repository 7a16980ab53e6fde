"""Numbers of a caller, checked once where they enter."""

from __future__ import annotations

import math
from numbers import Integral, Real


def check_number(
    where: str,
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    whole: bool = False,
    advice: str = "",
) -> None:
    """Refuse what is no finite number of a range: `above` and `below` are no part of it.

    >>> check_number("paste", "share", 2, above=0, most=1, advice="Usual is 0.5.")
    Traceback (most recent call last):
    ValueError: paste: share is 2. Expected a number > 0 and <= 1. Usual is 0.5.
    """
    if isinstance(value, Integral if whole else Real) and not isinstance(value, bool):
        number = float(value)
        if math.isfinite(number) and above < number < below and least <= number <= most:
            return
    limits = {">": above, ">=": least, "<": below, "<=": most}
    text = " and ".join(f"{sign} {end:,.12g}" for sign, end in limits.items() if math.isfinite(end))
    expected = f"Expected a {'whole' if whole else 'finite' if not text else ''} number {text}"
    told = f"{where}: {name} is {value!r}. {' '.join(expected.split())}. {advice}"
    raise ValueError(told.rstrip())
