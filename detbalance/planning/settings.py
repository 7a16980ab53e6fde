"""The ways of sampling that a plan compares: what each shows, and what it costs.

Letters: M images, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from detbalance.data.frequency import Groups
from detbalance.planning.plan import Setting
from detbalance.sampling import (
    FACTORS,
    ImageLabels,
    class_exposure,
    exposure_ratio,
    repeat_factors,
    threshold_for_target_length,
)
from detbalance.sampling.labels import Float64
from detbalance.sampling.thresholds import image_share

LVIS_THRESHOLD = 0.001
# Shown more often an epoch, an image is learnt by heart rather than its class.
LARGEST_REPEAT = 10.0
# Epochs are at most this many times as long as the file has images.
LONGEST = 2.0
_DIGITS = 3  # of a threshold

LVIS_DEFAULT = "repeat_factor (LVIS)"
# Settings that are fitted to one epoch length, the simplest first.
SOLVE_HALF = "balanced_exposure (half)"
FITTED = ("repeat_factor", "instance_aware", "class_aware", SOLVE_HALF, "balanced_exposure")


def fitted_length(held: ImageLabels) -> int:
    """Choose an epoch length from the data."""
    if not len(held.labels):
        return held.num_images
    share = held.image_counts.max() / held.num_images
    length = repeat_factors(held, threshold=share, cap=LARGEST_REPEAT).sum()
    return int(min(length, LONGEST * held.num_images))


def compare_settings(
    held: ImageLabels,
    groups: Groups,
    order: Sequence[int],
    *,
    target_length: float,
    images_per_second: float | None = None,
) -> tuple[tuple[Setting, ...], tuple[str, ...]]:
    """Compute what every setting shows."""
    settings, impossible = [], []
    for name in ("none", LVIS_DEFAULT, *FITTED):
        try:
            config = _config(name, held, target_length)
            factors = _factors(held, config)
        except ValueError as error:
            impossible.append(f"{name} cannot be had at this epoch length. {error}")
            continue
        settings.append(_setting(name, config, held, factors, groups, order, images_per_second))
    return tuple(settings), tuple(impossible)


def _config(name: str, held: ImageLabels, target_length: float) -> dict[str, Any]:
    """The `sampling` section of a setting."""
    if name == "none":
        return {"method": "none"}
    if name == LVIS_DEFAULT:
        return {"method": "repeat_factor", "threshold": LVIS_THRESHOLD}
    limits: dict[str, Any] = {} if name == "class_aware" else {"cap": LARGEST_REPEAT}
    if name == "repeat_factor":
        # A threshold also fits the file after some images more; a length does not.
        threshold = threshold_for_target_length(held, target_length=target_length, **limits)
        return {"method": name, "threshold": float(f"{threshold:.{_DIGITS}g}"), **limits}
    if name == SOLVE_HALF:  # to the square root of the imbalance, as far as repeat factors aim
        return {
            "method": "balanced_exposure",
            "strength": 0.5,
            "target_length": target_length,
            **limits,
        }
    return {"method": name, "target_length": target_length, **limits}


def _factors(held: ImageLabels, config: dict[str, Any]) -> Float64:
    """The factors that training would compute from the section."""
    options = dict(config)
    method = options.pop("method")
    # LVIS's threshold is compared even where it does nothing, which the plan says in its own words.
    shown = image_share(held)[held.image_counts > 0]
    idle = method == "repeat_factor" and options["threshold"] <= shown.min(initial=1.0)
    return np.ones(len(held)) if method == "none" or idle else FACTORS[method](held, **options)


def _least(exposure: Float64) -> float:
    shown = exposure[1:][~np.isnan(exposure[1:])]
    return float(shown.min()) if len(shown) else math.nan


def _setting(
    name: str,
    config: dict[str, Any],
    held: ImageLabels,
    factors: Float64,
    groups: Groups,
    order: Sequence[int],
    images_per_second: float | None,
) -> Setting:
    exposure = class_exposure(held, factors)
    length = float(factors.sum())
    return Setting(
        name=name,
        config=config,
        epoch_length=length,
        relative_length=length / len(held),
        exposure=tuple(exposure[list(order)].tolist()),
        max_min=exposure_ratio(exposure),
        least_boxes=_least(exposure) * len(held) / length,
        group_exposure={
            group: float(np.nansum(exposure[groups.of_class == i]))
            for i, group in enumerate(groups.names)
        },
        largest_repeat=float(factors.max()),
        seldom_images=int((factors < 0.5).sum()),
        never_images=int((factors <= 0).sum()),
        effective_images=length * length / float((factors * factors).sum()),
        seconds=math.nan if images_per_second is None else length / images_per_second,
    )
