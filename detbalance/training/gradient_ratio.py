"""Positive and negative gradient of each class, and how much the settings make its boxes count.

Arrays by class are float64 [K + 1]; index 0 is background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detbalance.augmentation import Mixup, Mosaic, RarePaste
from detbalance.data import Annotations, Categories
from detbalance.data.arrays import Float64
from detbalance.data.frequency import class_frequency
from detbalance.data.messages import rounded
from detbalance.losses import ClassificationLoss
from detbalance.losses.sigmoid import SigmoidLoss
from detbalance.losses.statistics import accumulation_dtype, sum_over_ranks
from detbalance.sampling.balanced_exposure import class_exposure

_SHOWN = 5  # classes that the warning names


class GradientTotals:
    """Positive and negative gradient per class of a run, read off the gauge of a sigmoid loss."""

    def __init__(self, loss: ClassificationLoss | None, num_classes: int) -> None:
        self._gauge = loss.gauge if isinstance(loss, SigmoidLoss) else None
        self._run = torch.zeros(2, num_classes, dtype=torch.float64)
        self._recent = torch.zeros_like(self._run)

    def collect(self, device: torch.device) -> None:
        """Take in what the gauges hold; all processes must call it."""
        if self._gauge is None:
            return
        sums = torch.from_numpy(self._gauge.take()).to(device, accumulation_dtype(device))
        total = sum_over_ranks(sums).cpu().double()
        self._run += total
        self._recent += total

    def record(self, categories: Categories) -> dict[str, dict[str, float]]:
        """Give the shares since the last call, for the log."""
        whole = float(self._recent.sum())
        if not whole:
            return {}
        shares = (self._recent / whole).tolist()
        self._recent.zero_()
        return {
            key: {name: float(f"{row[c]:.6g}") for c, name in enumerate(categories.names, start=1)}
            for key, row in zip(("positive_gradient", "negative_gradient"), shares, strict=True)
        }

    def positive_share(self) -> Float64:
        """Give the positive part of each class's own gradient over the whole run."""
        return positive_share(self._run)

    def state_dict(self) -> dict[str, Tensor]:
        """Give the sums, float64 [2, K + 1] each; `collect` before."""
        return {"run": self._run.clone(), "recent": self._recent.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from saved sums."""
        self._run.copy_(state["run"])
        self._recent.copy_(state["recent"])


def positive_share(sums: Tensor) -> Float64:
    """Give the positive part of the gradient of each class."""
    shares: Float64 = (sums[0] / sums.sum(dim=0)).numpy()
    return shares


def by_label(shares: Float64, labels: npt.NDArray[np.int64], truth: Annotations) -> Float64:
    """Give the values of a detector's classes [K + 1] by the labels of a file, NaN elsewhere."""
    values = np.full(truth.categories.num_classes, np.nan)
    values[labels] = shares
    values[0] = np.nan
    return values


@dataclass(frozen=True, eq=False)
class SettingsGradientRatio:
    """How much more a box of each class counts by the settings than one of the most frequent."""

    sampling: Float64
    loss: Float64
    paste: Float64
    reference: int

    @property
    def product(self) -> Float64:
        """All three together."""
        return self.sampling * self.loss * self.paste

    def record(self, categories: Categories) -> dict[str, dict[str, float]]:
        """Give the three factors by class name, for the log."""
        return {
            f"{key}_factor": {
                name: float(f"{factors[c]:.6g}")
                for c, name in enumerate(categories.names, start=1)
                if np.isfinite(factors[c])
            }
            for key, factors in (
                ("sampling", self.sampling),
                ("loss", self.loss),
                ("paste", self.paste),
            )
        }

    def warning(self, categories: Categories, limit: float) -> str | None:
        """Say in one line which classes count more than `limit` times as much; None for none."""
        product = self.product
        beyond = np.flatnonzero(product > limit)
        if not len(beyond):
            return None
        worst = beyond[np.argsort(-product[beyond], kind="stable")]
        named = [
            f"{categories.name(c)} {rounded(self.sampling[c])} x {rounded(self.loss[c])} x"
            f" {rounded(self.paste[c])} = {rounded(product[c])}"
            for c in worst[:_SHOWN].tolist()
        ]
        return (
            f"train.gradient_ratio_limit: sampling, loss weights, paste make a box of {len(beyond)}"
            f" {'classes' if len(beyond) > 1 else 'class'} count more than {limit:g} times as much"
            f" as one of {categories.name(self.reference)}: {', '.join(named)}"
            f"{', ...' if len(worst) > _SHOWN else ''}. Classes that count so much are found where"
            " they are not. Weaken one of the three, or raise train.gradient_ratio_limit."
        )


def settings_gradient_ratio(
    annotations: Annotations,
    factors: Float64,
    *,
    loss: ClassificationLoss | None = None,
    paste: RarePaste | None = None,
    mixing: Sequence[Mosaic | Mixup] = (),
) -> SettingsGradientRatio:
    """Compute what sampling, loss weights and paste each make a box of a class count."""
    boxes = class_frequency(annotations).instance_counts.astype(np.float64)
    shown = class_exposure(annotations, factors)
    # Partners follow the factors, so that mixing shows more boxes of all classes alike. A paste is
    # the less beside them.
    counts = np.bincount(
        annotations.image_index[~annotations.is_crowd], minlength=annotations.num_images
    )
    more = sum((part.boxes_shown(counts) - 1 for part in mixing), np.ones(len(counts)))
    beside = class_exposure(annotations, factors * more)
    pasted = np.zeros(len(boxes))
    if paste is not None:
        per_image = paste.probability * (paste.max_pastes + 1) / 2 if paste.max_pastes else 0.0
        pasted = factors.sum() * per_image * paste.donors.probabilities
    weights = np.ones(len(boxes)) if loss is None else loss.positive_weights()
    reference = int(boxes.argmax())

    def relative(values: Float64) -> Float64:
        return np.where(boxes > 0, values / values[reference], 1.0)

    # A class whose images are never drawn, or that weighs nothing, may leave 0 / 0.
    with np.errstate(divide="ignore", invalid="ignore"):
        return SettingsGradientRatio(
            sampling=relative(shown / boxes),
            loss=relative(weights),
            paste=relative(1.0 + pasted / beside),
            reference=reference,
        )
