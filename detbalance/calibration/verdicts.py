"""Outcomes of cross-fitting in words."""

from __future__ import annotations

from detbalance.calibration.objectives import Objective
from detbalance.calibration.threshold_result import Judged
from detbalance.data.messages import counted

_PAID = {"recall": "precision", "precision": "recall"}


def verdict(
    objective: Objective,
    before: Judged,
    after: Judged,
    error: float,
    *,
    helps: bool,
    what: tuple[str, str],
    advice: str,
) -> str:
    """Say whether a change helps on held-out images, and what is done about it."""
    fitted, plain = what
    gain = after.worth - before.worth
    how = f"{gain:+.3f}, standard error {error:.3f}"
    if objective.is_floor:
        paid = _PAID[objective.kind]
        outcome = (
            f"{after.kept} of {counted(after.num_classes, 'class')} keep {objective} with"
            f" {fitted}, "
            f"{before.kept} with {plain}; mean {paid} {figure(getattr(after.means['all'], paid))} "
            f"against {figure(getattr(before.means['all'], paid))} ({paid} times how likely the "
            f"floor is kept: {how})"
        )
    else:
        name = str(objective).upper()
        outcome = (
            f"mean {name} is {figure(after.worth)} with {fitted}, {figure(before.worth)} with "
            f"{plain} ({how})"
        )
    opening = "On held-out images" if helps else f"No clear gain on held-out images by {fitted}:"
    return f"{opening} {outcome}. {advice}"


def figure(value: float) -> str:
    """Three decimals without the leading zero, "-" where undefined."""
    return "-" if value != value else f"{value:.3f}".removeprefix("0")
