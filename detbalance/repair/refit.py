"""Refit the classifier of a frozen detector, by one of the methods.

Letters: S slots, D outputs, F features, K classes.

To add one, write a function of this kind and name it at the foot of this file.

Letters: n regions, F features, D outputs, S slots, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detbalance.repair.classifier import Classifier, output_classes
from detbalance.repair.fitting import (
    Change,
    FitSettings,
    RegionLoss,
    class_weights,
    fit_change,
    mean_loss,
)
from detbalance.repair.folds import image_folds
from detbalance.repair.rebalance import gaussian_regions, rebalance, sampler_names
from detbalance.repair.region_features import Samples


@dataclass(frozen=True)
class RefitContext:
    """A classifier, its data, and how to go about it."""

    classifier: Classifier
    samples: Samples
    settings: FitSettings = field(default_factory=FitSettings)
    options: Mapping[str, Any] = field(default_factory=dict)
    folds: int = 3
    progress: Callable[[int, int], None] | None = None

    @property
    def present(self) -> tuple[Tensor, Tensor]:
        """The classifier as it is: weight float32 [S, D, F] and bias float32 [S, D]."""
        weight, bias = self.classifier.weights()
        return weight.float().cpu(), bias.float().cpu()


Fit = Callable[[Samples], Change]
"""Learns a change of the classifier from some regions."""


DECAYS = (1.0, 0.3, 0.1, 0.03, 0.01)
TAUS = (0.25, 0.5, 0.75, 1.0, 1.5)


def retrained(task: RefitContext) -> Iterator[tuple[str, Fit]]:
    """Classifier retraining on class-balanced batches.

    Source: cRT, Kang et al., 2020, arXiv:1910.09217, sec. 4.2. Differs: it starts from the present
    classifier and is pulled to it, as an imbalanced detector's classifier knows the background,
    which few sampled regions cannot teach anew; background is as frequent as in the images.
    """
    balance = float(task.options.get("balance", 1.0))
    return _fits(task, lambda samples: samples, balance)


def scaled(task: RefitContext) -> Iterator[tuple[str, Fit]]:
    """A factor and a shift for each class's logit, learned on class-balanced batches.

    Source: LWS, Kang et al., 2020, arXiv:1910.09217, sec. 4.4. Differs: a shift as well, as a
    detector's score is compared with a threshold.
    """
    balance = float(task.options.get("balance", 1.0))
    return _fits(task, lambda samples: samples, balance, free="scale")


def normalized(task: RefitContext) -> Iterator[tuple[str, Fit]]:
    """The weights of each class brought to the same length, as far as tau says.

    Source: tau-normalisation, Kang et al., 2020, arXiv:1910.09217, sec. 4.3. Differs: lengths are
    divided by their geometric mean, the background output and all biases stay, so that tau 0 is the
    classifier as it is; rows of length 0 stay.
    """
    weight, _ = task.present
    lengths = weight.norm(dim=2).mean(dim=0)
    outputs = torch.from_numpy(np.flatnonzero(output_classes(task.classifier)))

    def change(tau: float) -> Change:
        scale = torch.ones_like(lengths)
        scale[outputs] = tau_scale(lengths[outputs], tau)
        return Change(torch.zeros_like(weight[0]), torch.zeros_like(lengths), scale)

    for tau in TAUS:
        yield f"tau {tau:g}", partial(_fixed, change(tau))


def _fixed(change: Change, samples: Samples) -> Change:
    return change


def tau_scale(lengths: Tensor, tau: float) -> Tensor:
    """What weights are multiplied by, from their lengths."""
    used = lengths > 0
    logs = lengths[used].log()
    scale = torch.ones_like(lengths)
    scale[used] = torch.exp(-tau * (logs - logs.mean()))
    return scale


def made_regions(task: RefitContext) -> Iterator[tuple[str, Fit]]:
    """Retraining with regions that are drawn around the means of the rarer classes."""
    target = task.options.get("target")
    seed = task.settings.seed
    return _fits(
        task, lambda s: gaussian_regions(s, task.present, target=target, seed=seed), balance=0.0
    )


METHODS: dict[str, Callable[[RefitContext], Iterator[tuple[str, Fit]]]] = {
    "crt": retrained,
    "lws": scaled,
    "tau": normalized,
    "fasa": made_regions,
}
"""By the name of the method. Names of imbalanced-learn's samplers stand for retraining on what they
make of the regions."""


def fits_of(method: str) -> Callable[[RefitContext], Iterator[tuple[str, Fit]]]:
    """The fits that a method chooses from, by the name of each setting."""
    if method in METHODS:
        return METHODS[method]
    known = [*METHODS, *sampler_names()]
    if method not in known:
        lower = {name.lower(): name for name in known}
        close = get_close_matches(method.lower(), lower, 1, cutoff=0.5)
        hint = f' Did you mean "{lower[close[0]]}"?' if close else ""
        raise ValueError(
            f'refit: the method is "{method}". Known: {", ".join(known)}. Choose one of them.{hint}'
        )
    return _sampled(method)


def _sampled(name: str) -> Callable[[RefitContext], Iterator[tuple[str, Fit]]]:
    def candidates(task: RefitContext) -> Iterator[tuple[str, Fit]]:
        options = dict(task.options)
        target = options.pop("target", None)
        return _fits(
            task,
            lambda s: rebalance(s, name, options, target=target, seed=task.settings.seed),
            balance=0.0,
        )

    return candidates


def _fits(
    task: RefitContext, prepare: Callable[[Samples], Samples], balance: float, free: str = "all"
) -> Iterator[tuple[str, Fit]]:
    """A fit for each strength of the pull, all to the same prepared regions."""
    _, bias = task.present
    objective = RegionLoss(task.classifier)
    last: list[tuple[Samples, Samples]] = []

    def fit(samples: Samples, decay: float) -> Change:
        if not last or last[0][0] is not samples:
            last[:] = [(samples, prepare(samples))]
        prepared = last[0][1]
        return fit_change(
            prepared,
            class_weights(prepared, task.classifier.num_classes, balance),
            bias,
            objective,
            decay=decay,
            free=free,
            settings=task.settings,
        )

    return ((f"decay {d:g}", partial(fit, decay=d)) for d in DECAYS)


@dataclass(frozen=True)
class Refit:
    """What came of a refit."""

    weight: Tensor
    bias: Tensor
    chosen: str | None
    held_out: dict[str, float]
    regions: NDArray[np.int64]


def refit(task: RefitContext, method: str) -> Refit:
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
    objective = RegionLoss(task.classifier)
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
