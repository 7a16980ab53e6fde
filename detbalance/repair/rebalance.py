"""Any sampler of imbalanced-learn on region features, and Gaussian ones in the manner of FASA.

Letters: n regions, F features, D outputs, K classes.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from detbalance.data.arrays import Float32, Int64
from detbalance.data.messages import needs
from detbalance.repair.region_features import FrozenLogits, Samples

logger = logging.getLogger(__name__)

_NO_IMAGE = -1  # of a region that no image shows
_HIDDEN = np.float32(2.0**-40)
"""What travels with the features is made this small, so that it is no part of any distance. A power
of two changes no digit."""

_NEIGHBOURS = ("k_neighbors", "n_neighbors", "m_neighbors", "n_neighbors_ver3")
Table = tuple[Float32, Int64]
"""Rows, and the label of each."""


def sampler_names() -> list[str]:
    """The samplers of the installed imbalanced-learn that take rows of numbers."""
    return list(_samplers())


def rebalance(
    samples: Samples,
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    target: int | None = None,
    most_background: int = 20_000,
    seed: int = 0,
) -> Samples:
    """Resample the objects' regions by a sampler of imbalanced-learn."""
    samplers, options = _samplers(), dict(options or {})
    if name not in samplers:
        raise ValueError(
            f'rebalance(): the sampler is "{name}". Known: {", ".join(samplers)}. Choose one of'
            " them."
        )
    sampler = samplers[name]
    seen, aside = _background_apart(samples, most_background, seed)
    counts = np.bincount(seen.labels)
    sizes = {int(c): int(counts[c]) for c in np.flatnonzero(counts) if c > 0}
    if not sizes:
        return samples
    kind = _kind(sampler)
    strategies = _strategies(kind, sizes, target)
    if "sampling_strategy" in options:
        strategies = [options.pop("sampling_strategy")]
    table = _hidden_behind_features(seen), seen.labels
    if kind == "both":
        # Both in one: too few for a neighbour are doubled before.
        alone = {label: 2 for label, size in sizes.items() if size == 1}
        if alone:
            table = _repeated(table, alone, seed)
            sizes.update(alone)
    before = table
    for strategy in filter(None, strategies):
        # Only an over-sampler looks at the regions of its class alone.
        one_class = kind == "over" and isinstance(strategy, dict)
        smallest = min(sizes.get(label, 1) for label in (strategy if one_class else sizes))
        if one_class and smallest == 1:
            table = _repeated(table, strategy, seed)
            continue
        arguments = _arguments(sampler, {**options, "sampling_strategy": strategy}, smallest, seed)
        try:
            table = sampler(**arguments).fit_resample(*table)[:2]
        except TypeError as error:
            raise ValueError(
                f"rebalance(): {name} does not take these options ({error}). Known:"
                f" {', '.join(inspect.signature(sampler).parameters)}. Correct them."
            ) from error
        except (ValueError, RuntimeError) as error:
            what = " ".join(str(error).split())
            if not one_class:
                raise ValueError(
                    f"rebalance(): {name} cannot work on these regions ({what[:300]}). Other"
                    " options, or another sampler, are expected. Change them."
                ) from error
            repeat = "%s cannot work on class %d (%s); its regions are repeated"
            logger.warning(repeat, name, *strategy, what[:150])
            table = _repeated(table, strategy, seed)
    lost = np.isin(before[1], np.setdiff1d(before[1], table[1]))
    if lost.any():
        labels = np.concatenate([table[1], before[1][lost]])
        table = np.concatenate([table[0], before[0][lost]]), labels
    return _read_table(*table, samples).join(aside)


def _strategies(kind: str, sizes: dict[int, int], target: int | None) -> list[Any]:
    """What a kind of sampler is asked for, one after the other, so that classes come to a size."""
    counts = list(sizes.values())
    goal = target or int(np.median(counts) if kind == "under" else max(counts))
    if kind == "over":
        return [{label: goal} for label, size in sizes.items() if size < goal]
    if kind == "under":
        return [{label: goal for label, size in sizes.items() if size > goal}]
    if kind == "clean":
        return [list(sizes)]
    return [{label: max(goal, size) for label, size in sizes.items()}]


def _hidden_behind_features(samples: Samples) -> Float32:
    """Features, and behind them what must not count in distances."""
    features = np.asarray(samples.features[:], np.float32)
    hidden = np.concatenate([samples.logits[:], samples.weights[:, None]], axis=1)
    return np.concatenate([features, hidden * _HIDDEN], axis=1)


def _read_table(rows: Float32, labels: Int64, before: Samples) -> Samples:
    width, objects = before.features.shape[1], labels > 0
    hidden = rows[:, width:] / _HIDDEN
    weights = hidden[:, -1].copy()
    weights[objects] = before.weights[before.labels > 0].sum() / max(1, objects.sum())
    return Samples(
        features=rows[:, :width],
        logits=np.ascontiguousarray(hidden[:, :-1]),
        labels=labels,
        weights=weights.astype(np.float32),
        images=np.full(len(labels), _NO_IMAGE),
        slots=np.zeros(len(labels), np.int64),
    )


def _arguments(sampler: Any, options: dict[str, Any], smallest: int, seed: int) -> dict[str, Any]:
    """The options, a seed, and no more neighbours than the smallest class has."""
    known = inspect.signature(sampler).parameters
    if "random_state" in known:
        options.setdefault("random_state", seed)
    for key in _NEIGHBOURS:
        number = options.get(key, known[key].default if key in known else None)
        # A neighbour is another region of the class: one fewer than there are.
        if isinstance(number, int) and number > smallest - 1:
            options[key] = max(1, smallest - 1)
    if "smote" in known and "smote" not in options:
        options["smote"] = _samplers()["SMOTE"](
            sampling_strategy=options["sampling_strategy"],
            k_neighbors=max(1, min(5, smallest - 1)),
            random_state=seed,
        )
    return options


def _kind(sampler: Any) -> str:
    """Tell "over", "under", "clean", or "both" for those that over-sample and then clean."""
    if "smote" in inspect.signature(sampler).parameters:
        return "both"
    return str(sampler._sampling_type).removesuffix("-sampling")


def _repeated(table: Table, goals: dict[int, int], seed: int) -> Table:
    """Draw further rows of some classes from their own, until they have as many as asked for."""
    generator, labels = np.random.default_rng(seed), table[1]
    rows = [np.arange(len(labels))]
    for label, goal in goals.items():
        own = np.flatnonzero(labels == label)
        rows.append(own[generator.integers(len(own), size=max(0, goal - len(own)))])
    chosen = np.concatenate(rows)
    return table[0][chosen], labels[chosen]


def _background_apart(samples: Samples, most: int, seed: int) -> tuple[Samples, Samples]:
    """All objects with some of the background, and the rest of it."""
    background = np.flatnonzero(samples.labels == 0)
    some = np.random.default_rng(seed).permutation(background)[:most]
    seen = np.sort(np.concatenate([np.flatnonzero(samples.labels > 0), some]))
    return samples.take(seen), samples.take(np.setdiff1d(background, some))


def gaussian_regions(
    samples: Samples,
    classifier: tuple[Tensor, Tensor],
    *,
    target: int | None = None,
    seed: int = 0,
) -> Samples:
    """Add made regions of the rarer classes, drawn feature by feature around the class's mean.

    Source: FASA, Zang et al., 2021, arXiv:2102.12867, sec. 3.2. Differs: mean and deviation of all
    kept regions, not running ones; as many as balance the classes, not a number that follows the
    loss on a validation set.
    """
    generator = np.random.default_rng(seed)
    counts = np.bincount(samples.labels, minlength=1)
    target = target or int(counts[1:].max(initial=0))
    for label in np.flatnonzero(counts):
        rows, missing = np.flatnonzero(samples.labels == label), target - int(counts[label])
        if label == 0 or missing <= 0 or len(rows) < 2:
            continue
        own = np.asarray(samples.features[rows], np.float32)
        drawn = samples.take(rows[generator.integers(len(rows), size=missing)])
        noise = generator.standard_normal(drawn.features.shape, np.float32)
        features = np.maximum(own.mean(axis=0) + own.std(axis=0) * noise, own.min(axis=0))
        weight, bias = (values.float().cpu() for values in classifier)
        logits = FrozenLogits(features, drawn.slots, weight, bias)[:]
        images = np.full(missing, _NO_IMAGE)
        made = replace(drawn, features=features, logits=logits, images=images)
        samples = samples.join(made)
    return samples


def _samplers() -> dict[str, Any]:
    try:
        from imblearn import combine, over_sampling, under_sampling
    except ImportError as error:
        raise needs("rebalancing region features", "imbalanced-learn", "refit") from error
    # Those for categories need to know which columns are some; there are none here.
    without = ("SMOTEN", "SMOTENC")
    modules = (combine, over_sampling, under_sampling)
    every = {name: getattr(module, name) for module in modules for name in module.__all__}
    return {name: every[name] for name in sorted(every) if name not in without}
