"""Fits one-class models to rare classes, and finds from where on a region is typical of one.

Letters: n regions, m items, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detbalance.repair.class_space import fit_quietly, places_in, space_of, typicality
from detbalance.repair.estimators import MIN_BOXES, few_boxes, fitted_rows
from detbalance.repair.folds import image_folds
from detbalance.repair.named_estimators import make_one_class
from detbalance.repair.object_scores import Float64, Int64, Items
from detbalance.repair.one_class import ClassLift, OneClassOpinion
from detbalance.repair.samples import CHUNK, Samples

GATES = (0.1, 0.2, 0.35, 0.5, 0.7)
"""Lowest scores of a class that are lifted, as shares of the floor, to choose from."""


@dataclass(frozen=True)
class LiftFigures:
    """What lifting a class did on held-out images."""

    label: int
    boxes: int
    shown: int
    regained: int
    false_per_image: float
    by_score: int
    used: bool
    why: str = ""


def fit_lifts(
    samples: Samples,
    rows: Int64,
    scores: NDArray[np.float32],
    labels: Sequence[int],
    method: str,
    options: Mapping[str, Any] | None = None,
    *,
    shared: bool,
    max_fppi: float = 0.02,
    floor: float = 0.3,
    components: int = 64,
    folds: int = 3,
    max_background: int = 10_000,
    min_boxes: int = MIN_BOXES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[OneClassOpinion, list[LiftFigures]]:
    """Fit a model to each of some classes, and find from where on a region is typical."""
    options = dict(options or {})
    make_one_class(method, options, 10, seed)  # a wrong option, before any work
    num_classes = scores.shape[1]
    few = few_boxes(samples, rows, num_classes, min_boxes)
    wanted = [label for label in labels if label not in few]
    fold = image_folds(samples, folds, seed)
    items = Items.of(samples, rows)
    gates = [round(share * floor, 6) for share in GATES]

    def fit(inside: Int64) -> tuple[Any, dict[int, _Fitted]]:
        taught = fitted_rows(samples, inside, few, max_background, seed)
        space = space_of(samples, taught, components)
        found = {}
        for label in wanted:
            places = places_in(space, samples, inside[samples.labels[inside] == label])
            if len(places) >= 2:
                model = fit_quietly(make_one_class(method, options, len(places), seed), places)
                asked = (scores[:, label] >= gates[0]) & (scores[:, label] < floor)
                found[label] = _Fitted(model, _typical(space, model, samples, asked))
        return space, found

    def threshold(label: int, values: Float64, inside: Int64) -> float:
        images = np.unique(samples.images[inside])
        where = np.isin(items.images, images)
        wrong = items.labels[where] != label
        allowed = max_fppi * len(images)
        return lowest_threshold(items.highest(values)[where], wrong, items.weights[where], allowed)

    def above(values: Float64, least: NDArray[Any], gate: float) -> Float64:
        return np.where(least >= gate, values, np.nan)

    hidden = {c: items.highest(scores[:, c].astype(np.float64)) < floor for c in wanted}
    regained = {(c, gate): 0 for c in wanted for gate in [None, *gates]}
    false = dict.fromkeys(regained, 0.0)
    for number in range(folds):
        inside = np.flatnonzero(fold != number)
        outside = np.isin(items.images, np.unique(samples.images[fold == number]))
        _, found = fit(inside)
        for label in found:
            score = scores[:, label].astype(np.float64)
            ways: dict[float | None, Float64] = {
                gate: above(found[label].typical, score, gate) for gate in gates
            }
            ways[None] = np.where(score < floor, score, np.nan)
            for gate, values in ways.items():
                up = items.highest(values) > threshold(label, values, inside)
                own = items.labels == label
                regained[label, gate] += int((up & outside & own & hidden[label]).sum())
                false[label, gate] += float(items.weights[up & outside & ~own].sum())
        if progress is not None:
            progress(number + 1, folds + 1)
    best = {c: max(gates, key=lambda g: (regained[c, g], -false[c, g])) for c in wanted}
    images = max(1, len(np.unique(samples.images)))
    figures = []
    for label in labels:
        own = items.labels == label
        boxes, shown, back, wrong, by_score = int(own.sum()), 0, 0, 0.0, 0
        why = f"fewer than {min_boxes} boxes"
        if label in wanted:
            shown = boxes - int((own & hidden[label]).sum())
            back, by_score = regained[label, best[label]], regained[label, None]
            wrong = false[label, best[label]] / images
            why = "" if back else "no box came back on held-out images"
        figures.append(LiftFigures(label, boxes, shown, back, wrong, by_score, not why, why))
    used = [figure.label for figure in figures if figure.used]
    everything = np.arange(len(samples))
    space, found = fit(everything) if used else (None, {})
    lifts = []
    for label in used:
        score, gate = scores[:, label].astype(np.float64), best[label]
        values = above(found[label].typical, score, gate)
        lifts.append(
            ClassLift(label, found[label].model, gate, threshold(label, values, everything))
        )
    if progress is not None:
        progress(folds + 1, folds + 1)
    return OneClassOpinion(method, space, lifts, floor, num_classes, shared), figures


@dataclass(frozen=True)
class _Fitted:
    """A model, and float64 [n] how typical the regions are that it is asked about."""

    model: Any
    typical: Float64


def _typical(space: Any, model: Any, samples: Samples, asked: NDArray[np.bool_]) -> Float64:
    """Typicality of the regions that are asked about, float64 [n]; NaN for others."""
    found = np.full(len(samples), np.nan)
    rows = np.flatnonzero(asked)
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        features = np.asarray(samples.features[chunk], np.float32)
        good = np.isfinite(features).all(axis=1)
        if good.any():
            found[chunk[good]] = typicality(model, space.transform(features[good]))
    return found


def lowest_threshold(
    values: Float64, negative: NDArray[np.bool_], weights: Float64, allowed: float
) -> float:
    """Find the lowest value above which negative items weigh at most what is allowed."""
    order = np.flatnonzero(negative & np.isfinite(values))
    order = order[np.argsort(-values[order], kind="stable")]
    over = np.flatnonzero(weights[order].cumsum() > allowed)
    return float(values[order[over[0]]]) if len(over) else float(np.finfo(np.float64).min)
