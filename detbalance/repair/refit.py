"""Refit the classifier of a frozen detector by one of the methods.

Letters: S slots, D outputs, F features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from detbalance.repair.fitting import class_weights, mean_loss
from detbalance.repair.folds import image_folds
from detbalance.repair.methods import fits_of
from detbalance.repair.objective import Objective
from detbalance.repair.task import Task


@dataclass(frozen=True)
class Refit:
    """What came of a refit."""

    weight: Tensor
    bias: Tensor
    chosen: str | None
    held_out: dict[str, float]
    regions: NDArray[np.int64]


def refit(task: Task, method: str) -> Refit:
    """Refit a classifier; the detector itself is not changed.

    Every method has settings that pull it more or less to the present classifier. Which one is
    taken is decided by cross-fitting: on images that the fit has not seen, each class counting the
    same. If none is better than the classifier as it is, that stays.

    Args:
        task: what to refit.
        method: one of `METHODS`, or the name of a sampler of imbalanced-learn.

    Raises:
        ValueError: if there is no such method, there are no objects, or options do not fit.
    """
    weight, bias = task.present
    candidates = dict(fits_of(method)(task))
    objective = Objective(task.classifier)
    if not (task.samples.labels > 0).any():
        raise ValueError(
            "refit(): the region features show no object. Regions of annotated boxes are expected."
            " Take the features out of images with annotations."
        )
    fold = image_folds(task.samples, task.folds, task.settings.seed)
    losses = {"as it was": 0.0, **dict.fromkeys(candidates, 0.0)}
    done, fits = 0, task.folds * len(candidates) + 1
    for number in range(task.folds):
        inside, outside = (np.flatnonzero(side) for side in (fold != number, fold == number))
        seen, held = task.samples.take(inside), task.samples.take(outside)
        counts = class_weights(held, task.classifier.num_classes, 1.0)
        share = len(outside) / len(fold)
        losses["as it was"] += share * mean_loss(held, counts, bias, objective, None)
        for name, fit in candidates.items():
            losses[name] += share * mean_loss(held, counts, bias, objective, fit(seen))
            done += 1
            if task.progress is not None:
                task.progress(done, fits)
    best = min(losses, key=lambda name: losses[name])
    regions = np.bincount(task.samples.labels, minlength=task.classifier.num_classes)
    if best == "as it was":
        return Refit(weight, bias, None, losses, regions)
    new = candidates[best](task.samples).apply(weight, bias)
    if task.progress is not None:
        task.progress(fits, fits)
    return Refit(*new, best, losses, regions)
