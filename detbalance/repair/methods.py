"""Ways to refit a classifier.

To add one, write a function of this kind and name it at the foot of this file.

Letters: n regions, F features, D outputs, S slots, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from difflib import get_close_matches
from functools import partial

import numpy as np
import torch
from torch import Tensor

from detbalance.repair.classifier import output_classes
from detbalance.repair.columns import FrozenLogits
from detbalance.repair.fitting import Change, class_weights, fit_change
from detbalance.repair.means import mean_directions
from detbalance.repair.objective import Objective
from detbalance.repair.rebalance import gaussian_regions, rebalance, sampler_names
from detbalance.repair.samples import Samples
from detbalance.repair.task import Fit, Task

DECAYS = (1.0, 0.3, 0.1, 0.03, 0.01)
TAUS = (0.25, 0.5, 0.75, 1.0, 1.5)


def retrained(task: Task) -> Iterator[tuple[str, Fit]]:
    """Classifier retraining on class-balanced batches.

    Source: cRT, Kang et al., 2020, arXiv:1910.09217, sec. 4.2. Differs: it starts from the present
    classifier and is pulled to it, as an imbalanced detector's classifier knows the background,
    which few sampled regions cannot teach anew; background is as frequent as in the images.
    """
    balance = float(task.options.get("balance", 1.0))
    return _fits(task, lambda samples: samples, balance)


def scaled(task: Task) -> Iterator[tuple[str, Fit]]:
    """A factor and a shift for each class's logit, learned on class-balanced batches.

    Source: LWS, Kang et al., 2020, arXiv:1910.09217, sec. 4.4. Differs: a shift as well, as a
    detector's score is compared with a threshold.
    """
    balance = float(task.options.get("balance", 1.0))
    return _fits(task, lambda samples: samples, balance, free="scale")


def normalized(task: Task) -> Iterator[tuple[str, Fit]]:
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


def nearest_mean(task: Task) -> Iterator[tuple[str, Fit]]:
    """Each class's logit is how much nearer a region is to its mean than to the background's.

    Source: NCM, Kang et al., 2020, arXiv:1910.09217, sec. 4.2. Differs: distances are Euclidean, so
    that the classifier stays linear, and compared with the background's, as a detector must reject.
    """
    weight, bias = task.present
    class_of = output_classes(task.classifier)
    objective = Objective(task.classifier)

    def fit(samples: Samples, decay: float) -> Change:
        direction, offset, scale = mean_directions(samples, class_of)
        means = Change(direction, offset, scale)
        logits = FrozenLogits(samples.features, samples.slots, *means.apply(weight, bias))
        nearer = replace(samples, logits=logits)
        counts = class_weights(samples, task.classifier.num_classes, 1.0)
        learned = fit_change(
            nearer,
            counts,
            bias,
            objective,
            decay=decay,
            free="scale",
            settings=task.settings,
        )
        return Change(
            direction * learned.scale[:, None],
            offset * learned.scale + learned.bias,
            scale * learned.scale,
        )

    yield from ((f"decay {d:g}", partial(fit, decay=d)) for d in DECAYS)


def made_regions(task: Task) -> Iterator[tuple[str, Fit]]:
    """Retraining with regions that are drawn around the means of the rarer classes."""
    target = task.options.get("target")
    seed = task.settings.seed
    return _fits(
        task, lambda s: gaussian_regions(s, task.present, target=target, seed=seed), balance=0.0
    )


METHODS: dict[str, Callable[[Task], Iterator[tuple[str, Fit]]]] = {
    "crt": retrained,
    "lws": scaled,
    "tau": normalized,
    "ncm": nearest_mean,
    "fasa": made_regions,
}
"""By the name of the method. Names of imbalanced-learn's samplers stand for retraining on what they
make of the regions."""


def fits_of(method: str) -> Callable[[Task], Iterator[tuple[str, Fit]]]:
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


def _sampled(name: str) -> Callable[[Task], Iterator[tuple[str, Fit]]]:
    def candidates(task: Task) -> Iterator[tuple[str, Fit]]:
        options = dict(task.options)
        target = options.pop("target", None)
        return _fits(
            task,
            lambda s: rebalance(s, name, options, target=target, seed=task.settings.seed),
            balance=0.0,
        )

    return candidates


def _fits(
    task: Task, prepare: Callable[[Samples], Samples], balance: float, free: str = "all"
) -> Iterator[tuple[str, Fit]]:
    """A fit for each strength of the pull, all to the same prepared regions."""
    _, bias = task.present
    objective = Objective(task.classifier)
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
