"""Refit the classifier of a frozen detector, by one of the methods.

To add one, write a function like those below and name it in `METHODS`.

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
from torch import Tensor

from detbalance.data.arrays import Int64
from detbalance.repair.classifier import Classifier, output_classes
from detbalance.repair.fitting import (
    Change,
    FitSettings,
    RegionLoss,
    class_weights,
    fit_change,
    mean_loss,
)
from detbalance.repair.rebalance import gaussian_regions, rebalance, sampler_names
from detbalance.repair.region_features import Progress, Samples, image_folds, silent


@dataclass(frozen=True)
class RefitContext:
    """A classifier, its data, and how to go about it."""

    classifier: Classifier
    samples: Samples
    settings: FitSettings = field(default_factory=FitSettings)
    options: Mapping[str, Any] = field(default_factory=dict)
    folds: int = 3
    progress: Progress = silent

    @property
    def present(self) -> tuple[Tensor, Tensor]:
        """The classifier as it is: weight float32 [S, D, F] and bias float32 [S, D]."""
        weight, bias = self.classifier.weights()
        return weight.float().cpu(), bias.float().cpu()


Fit = Callable[[Samples], Change]
"""Learns a change of the classifier from some regions."""


DECAYS = (1.0, 0.3, 0.1, 0.03, 0.01)
TAUS = (0.25, 0.5, 0.75, 1.0, 1.5)


def retrained(context: RefitContext) -> Iterator[tuple[str, Fit]]:
    """Classifier retraining on class-balanced batches.

    Source: cRT, Kang et al., 2020, arXiv:1910.09217, sec. 4.2. Differs: it starts from the present
    classifier and is pulled to it, as an imbalanced detector's classifier knows the background,
    which few sampled regions cannot teach anew; background is as frequent as in the images.
    """
    return _fits(context, lambda samples: samples, float(context.options.get("balance", 1.0)))


def scaled(context: RefitContext) -> Iterator[tuple[str, Fit]]:
    """A factor and a shift for each class's logit, learned on class-balanced batches.

    Source: LWS, Kang et al., 2020, arXiv:1910.09217, sec. 4.4. Differs: a shift as well, as a
    detector's score is compared with a threshold.
    """
    balance = float(context.options.get("balance", 1.0))
    return _fits(context, lambda samples: samples, balance, free="scale")


def normalized(context: RefitContext) -> Iterator[tuple[str, Fit]]:
    """The weights of each class brought to the same length, as far as tau says.

    Source: tau-normalisation, Kang et al., 2020, arXiv:1910.09217, sec. 4.3. Differs: lengths are
    divided by their geometric mean, the background output and all biases stay, so that tau 0 is the
    classifier as it is; rows of length 0 stay.
    """
    weight, _ = context.present
    lengths = weight.norm(dim=2).mean(dim=0)
    outputs = torch.from_numpy(np.flatnonzero(output_classes(context.classifier)))

    def fit(samples: Samples, tau: float) -> Change:
        scale = torch.ones_like(lengths)
        scale[outputs] = tau_scale(lengths[outputs], tau)
        return Change(torch.zeros_like(weight[0]), torch.zeros_like(lengths), scale)

    for tau in TAUS:
        yield f"tau {tau:g}", partial(fit, tau=tau)


def tau_scale(lengths: Tensor, tau: float) -> Tensor:
    """What weights are multiplied by, from their lengths."""
    used = lengths > 0
    logs = lengths[used].log()
    scale = torch.ones_like(lengths)
    scale[used] = torch.exp(-tau * (logs - logs.mean()))
    return scale


def made_regions(context: RefitContext) -> Iterator[tuple[str, Fit]]:
    """Retraining with regions that are drawn around the means of the rarer classes."""
    target, seed = context.options.get("target"), context.settings.seed
    add = partial(gaussian_regions, classifier=context.present, target=target, seed=seed)
    return _fits(context, add, balance=0.0)


Method = Callable[[RefitContext], Iterator[tuple[str, Fit]]]

METHODS: dict[str, Method] = {
    "crt": retrained,
    "lws": scaled,
    "tau": normalized,
    "fasa": made_regions,
}
"""By the name of the method. Names of imbalanced-learn's samplers stand for retraining on what they
make of the regions."""


def fits_of(method: str) -> Method:
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
    return partial(_resampled, method)


def _resampled(name: str, context: RefitContext) -> Iterator[tuple[str, Fit]]:
    """Retraining on what a sampler of imbalanced-learn makes of the regions."""
    options = dict(context.options)
    target, seed = options.pop("target", None), context.settings.seed
    sample = partial(rebalance, name=name, options=options, target=target, seed=seed)
    return _fits(context, sample, balance=0.0)


def _fits(
    context: RefitContext, prepare: Callable[[Samples], Samples], balance: float, free: str = "all"
) -> Iterator[tuple[str, Fit]]:
    """A fit for each strength of the pull, all to the same prepared regions."""
    _, bias = context.present
    objective = RegionLoss(context.classifier)
    last: dict[str, Samples] = {}

    def fit(samples: Samples, decay: float) -> Change:
        if last.get("given") is not samples:
            last.update(given=samples, prepared=prepare(samples))
        prepared = last["prepared"]
        return fit_change(
            prepared,
            class_weights(prepared, context.classifier.num_classes, balance),
            bias,
            objective,
            decay=decay,
            free=free,
            settings=context.settings,
        )

    return ((f"decay {d:g}", partial(fit, decay=d)) for d in DECAYS)


@dataclass(frozen=True)
class Refit:
    """What came of a refit."""

    weight: Tensor  # float32 [S, D, F]
    bias: Tensor  # float32 [S, D]
    chosen: str | None  # the setting; None where the classifier stays as it was
    held_out: dict[str, float]  # loss per object by setting, on images that it was not fitted to
    regions: Int64  # [K + 1], of each class


def refit(context: RefitContext, method: str) -> Refit:
    """Refit a classifier; the detector itself is not changed.

    Every method has settings that pull it more or less to the present classifier. Which one is
    taken is decided by cross-fitting: on images that the fit has not seen, each class counting the
    same. If none is better than the classifier as it is, that stays.

    Args:
        context: what to refit.
        method: one of `METHODS`, or the name of a sampler of imbalanced-learn.

    Raises:
        ValueError: if there is no such method, there are no objects, or options do not fit.
    """
    weight, bias = context.present
    candidates = dict(fits_of(method)(context))
    objective = RegionLoss(context.classifier)
    if not (context.samples.labels > 0).any():
        raise ValueError(
            "refit(): the region features show no object. Regions of annotated boxes are expected."
            " Take the features out of images with annotations."
        )
    samples, num_classes = context.samples, context.classifier.num_classes
    fold = image_folds(samples, context.folds, context.settings.seed)
    losses = {"as it was": 0.0, **dict.fromkeys(candidates, 0.0)}
    done, fits = 0, context.folds * len(candidates) + 1
    for number in range(context.folds):
        outside = fold == number
        seen = samples.take(np.flatnonzero(~outside))
        held_out = samples.take(np.flatnonzero(outside))
        counts = class_weights(held_out, num_classes, 1.0)
        share = len(held_out) / len(fold)
        losses["as it was"] += share * mean_loss(held_out, counts, bias, objective, None)
        for name, fit in candidates.items():
            losses[name] += share * mean_loss(held_out, counts, bias, objective, fit(seen))
            done += 1
            context.progress(done, fits)
    best = min(losses, key=lambda name: losses[name])
    regions = np.bincount(samples.labels, minlength=num_classes)
    if best == "as it was":
        return Refit(weight, bias, None, losses, regions)
    new = candidates[best](samples).apply(weight, bias)
    context.progress(fits, fits)
    return Refit(*new, best, losses, regions)
