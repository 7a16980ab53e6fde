"""What choosing how to fuse gave, with the held-out figures beside it.

Letters: J members, K categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from detbalance.calibration.fusion import Options, fuse
from detbalance.calibration.fusion_members import (
    ScoreCalibration,
    Setting,
)
from detbalance.calibration.threshold_result import figure
from detbalance.data import Predictions
from detbalance.data.arrays import Float64

if TYPE_CHECKING:
    pass


Way: TypeAlias = Literal["as they are", "equal", "chosen"]


_SEEN = 0.0005  # a difference in the third decimal


HARM = 0.01  # AP50 that a group may lose against the best member before it is said


@dataclass(frozen=True)
class WayFigures:
    """AP50 of a member, or of a way to fuse, on images that nothing was chosen on."""

    name: str
    mean: float
    groups: dict[str, float]


@dataclass(frozen=True)
class FusedClass:
    """AP50 of one class on held-out images; NaN without boxes."""

    name: str
    group: str | None
    train_boxes: int | None
    boxes: int
    members: tuple[float, ...]
    equal: float
    used: float
    weights: tuple[float, ...]


@dataclass(frozen=True)
class FusionSettings:
    """What was chosen on, and how."""

    annotations: str
    members: tuple[str, ...]
    method: str
    frequency_source: str | None
    group_rule: str | None
    rules: str
    folds: int
    seed: int


@dataclass(frozen=True, eq=False)
class FusionChoice:
    """How to fuse the members, and what it gives.

    Attributes:
        used: "as they are" for equal weights and the members' own scores, "equal" for equal weights
            and calibrated scores, "chosen" for weights by skill.
        setting: in use; equal weights unless others are better by more than a standard error.
        best_setting: the one with the highest held-out AP50, whether or not the gain is clear.
        weights: float64 [J, K + 1], to use.
        calibrations: of each member, fitted on all images; None where scores stay.
        options: with the chosen IoU threshold.
        alone: held-out figures of each member.
        ways: of the ways to fuse.
        gain: mean AP50 of the chosen weights less that of equal ones.
        standard_error: of the gain.
        over_best: mean AP50 of the way in use less that of the best member.
        over_best_error: standard error of it.
        classes: rarest first.
        held_out: the calibration images' detections, each image fused by what the other folds say.
        verdict: the outcome in words.
        warnings: what is worse than before, in words.
        notes: what to know before using it.
        settings: what it was chosen on.
    """

    used: Way
    setting: Setting
    best_setting: Setting
    weights: Float64
    calibrations: tuple[ScoreCalibration, ...] | None
    options: Options
    alone: tuple[WayFigures, ...]
    ways: dict[Way, WayFigures]
    gain: float
    standard_error: float
    over_best: float
    over_best_error: float
    classes: tuple[FusedClass, ...]
    held_out: Predictions
    verdict: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    settings: FusionSettings

    def fuse(self, members: Sequence[Predictions]) -> Predictions:
        """Fuse detections of the same members on other images.

        Args:
            members: in the order of the calibration.

        Returns:
            The fused detections.
        """
        if self.calibrations is not None:
            members = [c.apply(m) for c, m in zip(self.calibrations, members, strict=True)]
        return fuse(members, self.settings.method, weights=self.weights, options=self.options)


def with_setting(options: Options, setting: Setting) -> Options:
    """Options with the IoU threshold of a setting."""
    return replace(options, iou_threshold=setting.iou_threshold)


def fusion_verdict(
    ways: dict[Way, WayFigures], error: float, *, used: Way, best: Setting | None
) -> str:
    """Say what calibrated scores and chosen weights are utility, and what is used."""
    own, equal, chosen = (ways[way].mean for way in ("as they are", "equal", "chosen"))
    text = (
        f"On held-out images mean AP50 is {figure(equal)} with equal weights and calibrated "
        f"scores, {figure(own)} with the scores as the members gave them. "
    )
    if best is not None:
        text += "" if used == "chosen" else "No clear gain by other weights: "
        text += (
            f"{figure(chosen)} with the setting that was chosen on the other folds "
            f"({chosen - equal:+.3f} to equal weights, standard error {error:.3f}). "
        )
    if used == "chosen":
        return f"{text}Used: {best}."
    scores = "calibrated scores" if used == "equal" else "scores as the members gave them"
    return f"{text}Used: equal weights, {scores}."


def harm_warnings(
    used: WayFigures, best: WayFigures, over_best: float, error: float
) -> tuple[str, ...]:
    """Say plainly where fusing does worse than the best member alone."""
    warnings = []
    if over_best < -_SEEN:
        doubt = "" if -over_best > error else "; that can be chance"
        warnings.append(
            f"Fusion is worse than {best.name} alone on held-out images: mean AP50 "
            f"{figure(used.mean)} against {figure(best.mean)} ({over_best:+.3f}, standard error "
            f"{error:.3f}{doubt})."
        )
    for group, value in used.groups.items():
        loss = value - best.groups[group]
        if loss < -HARM:
            warnings.append(
                f"Fusion costs the {group} classes {-loss:.3f} of mean AP50 on held-out images: "
                f"{figure(value)} against {figure(best.groups[group])} of {best.name} alone."
            )
    return tuple(warnings)
