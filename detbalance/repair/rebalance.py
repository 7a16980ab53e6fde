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
from numpy.typing import NDArray
from torch import Tensor

from detbalance.data.messages import needs
from detbalance.repair.region_features import FrozenLogits, Samples

logger = logging.getLogger(__name__)

MADE = -1
"""The image of a region that no image shows."""

_HIDDEN = 2.0**-40
"""What travels with the features is made this small, so that it is no part of any distance. A power
of two changes no digit."""

_NEIGHBOURS = ("k_neighbors", "n_neighbors", "m_neighbors", "n_neighbors_ver3")


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
    sampler, options = _sampler(name), dict(options or {})
    seen, aside = _background_apart(samples, most_background, seed)
    counts = np.bincount(seen.labels)
    sizes = {int(c): int(counts[c]) for c in np.flatnonzero(counts) if c > 0}
    if not sizes:
        return samples
    kind = _kind(sampler)
    strategies: list[Any]
    if "sampling_strategy" in options:
        strategies = [options.pop("sampling_strategy")]
    elif kind == "over":
        goal = target or max(sizes.values())
        strategies = [{label: goal} for label, size in sizes.items() if size < goal]
    elif kind == "under":
        goal = target or int(np.median(list(sizes.values())))
        strategies = [{label: goal for label, size in sizes.items() if size > goal}]
    elif kind == "clean":
        strategies = [list(sizes)]
    else:
        goal = target or max(sizes.values())
        strategies = [{label: max(goal, size) for label, size in sizes.items()}]
    table, labels = _table(seen), seen.labels
    if kind == "both":
        # Both in one: too few for a neighbour are doubled before.
        alone = {label: 2 for label, size in sizes.items() if size == 1}
        if alone:
            table, labels = _repeated(table, labels, alone, seed)
            sizes.update(alone)
    first_table, first_labels = table, labels
    for strategy in strategies:
        if strategy:
            # Only an over-sampler looks at the regions of its class alone.
            chosen = strategy if kind == "over" and isinstance(strategy, dict) else sizes
            smallest = min(sizes.get(label, 1) for label in chosen)
            table, labels = _resampled(table, labels, sampler, strategy, options, smallest, seed)
    lost = np.isin(first_labels, np.setdiff1d(first_labels, labels))
    if lost.any():
        table = np.concatenate([table, first_table[lost]])
        labels = np.concatenate([labels, first_labels[lost]])
    return _read_table(table, labels, samples).join(aside)


def _table(samples: Samples) -> NDArray[np.float32]:
    """Features, and behind them what must not count in distances."""
    features = np.asarray(samples.features[:], np.float32)
    hidden = np.concatenate([samples.logits[:], samples.weights[:, None]], axis=1)
    return np.concatenate([features, hidden * np.float32(_HIDDEN)], axis=1)


def _read_table(table: NDArray[np.float32], labels: NDArray[np.int64], before: Samples) -> Samples:
    width = before.features.shape[1]
    hidden = table[:, width:] / np.float32(_HIDDEN)
    weights = hidden[:, -1].copy()
    objects = labels > 0
    weights[objects] = before.weights[before.labels > 0].sum() / max(1, objects.sum())
    return Samples(
        features=table[:, :width],
        logits=np.ascontiguousarray(hidden[:, :-1]),
        labels=labels,
        weights=weights.astype(np.float32),
        images=np.full(len(labels), MADE),
        slots=np.zeros(len(labels), np.int64),
    )


def _resampled(
    table: NDArray[np.float32],
    labels: NDArray[np.int64],
    sampler: Any,
    strategy: Any,
    options: dict[str, Any],
    smallest: int,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    name = sampler.__name__
    one_class = _kind(sampler) == "over" and isinstance(strategy, dict)
    if one_class and smallest == 1:
        return _repeated(table, labels, strategy, seed)
    given = {**options, "sampling_strategy": strategy}
    known = inspect.signature(sampler).parameters
    if "random_state" in known:
        given.setdefault("random_state", seed)
    for key in _NEIGHBOURS:
        usual = known[key].default if key in known else None
        asked = given.get(key, usual)
        # A neighbour is another region of the class: one fewer than there are.
        if isinstance(asked, int) and asked > smallest - 1:
            given[key] = max(1, smallest - 1)
    if "smote" in known and "smote" not in given:
        given["smote"] = _samplers()["SMOTE"](
            sampling_strategy=strategy, k_neighbors=max(1, min(5, smallest - 1)), random_state=seed
        )
    try:
        found = sampler(**given).fit_resample(table, labels)
    except TypeError as error:
        raise ValueError(
            f"rebalance(): {name} does not take these options ({error}). Known:"
            f" {', '.join(known)}. Correct them."
        ) from error
    except (ValueError, RuntimeError) as error:
        if one_class:
            logger.warning(
                "%s cannot work on class %d (%s); its regions are repeated",
                name,
                *strategy,
                " ".join(str(error).split())[:150],
            )
            return _repeated(table, labels, strategy, seed)
        raise ValueError(
            f"rebalance(): {name} cannot work on these regions"
            f" ({' '.join(str(error).split())[:300]}). Other options, or another sampler, are"
            " expected. Change them."
        ) from error
    return found[0], found[1]


def _kind(sampler: Any) -> str:
    """Tell "over", "under", "clean", or "both" for those that over-sample and then clean."""
    if "smote" in inspect.signature(sampler).parameters:
        return "both"
    return str(sampler._sampling_type).removesuffix("-sampling")


def _repeated(
    table: NDArray[np.float32], labels: NDArray[np.int64], goals: dict[int, int], seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw further rows of some classes from their own, until they have as many as asked for."""
    generator = np.random.default_rng(seed)
    rows = [np.arange(len(labels))]
    for label, goal in goals.items():
        own = np.flatnonzero(labels == label)
        rows.append(own[generator.integers(len(own), size=max(0, goal - len(own)))])
    chosen = np.concatenate(rows)
    return table[chosen], labels[chosen]


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
        images = np.full(missing, MADE)
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
    found = {name: getattr(module, name) for module in modules for name in module.__all__}
    return {name: found[name] for name in sorted(found) if name not in without}


def _sampler(name: str) -> Any:
    known = _samplers()
    if name not in known:
        raise ValueError(
            f'rebalance(): the sampler is "{name}". Known: {", ".join(known)}. Choose one of them.'
        )
    return known[name]
