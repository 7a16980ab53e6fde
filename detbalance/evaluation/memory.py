"""What a computation would take, before it is begun: no evaluator may abort the process."""

from __future__ import annotations

import os

_UNKNOWN = 16e9  # where the system does not tell


def check_memory(what: str, needed: float, advice: str) -> None:
    """Refuse what does not fit into the memory of the machine."""
    there_is = memory()
    if needed > there_is:
        raise ValueError(
            f"{what} would take about {needed / 1e9:,.1f} GB of memory, and the machine has"
            f" {there_is / 1e9:,.1f} GB. It has to fit. {advice}."
        )


def memory() -> float:
    """Bytes of physical memory."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return _UNKNOWN
