"""One-class models of rare classes: objects brought back, and images of unknown ones.

Letters: n regions, m of them or items or images, F features, P dimensions of the space, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms

from detbalance.data.arrays import Bool, Float32, Float64, Int64
from detbalance.repair.blend_scores import Items
from detbalance.repair.estimators import make_one_class
from detbalance.repair.region_features import (
    CHUNK,
    Progress,
    Samples,
    all_finite,
    image_folds,
    silent,
)
from detbalance.repair.second_classifier import MIN_BOXES, few_boxes, fitted_rows

_NOWHERE = np.zeros((0, 1))


def fit_pca(samples: Samples, rows: Int64, components: int = 64) -> Any:
    """Fit the space of one-class models: principal components of standardised features."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = np.asarray(samples.features[rows], np.float32)
    features = features[np.isfinite(features).all(axis=1)]
    components = min(components, *features.shape)
    return make_pipeline(StandardScaler(), PCA(components, random_state=0)).fit(features)


def embed(space: Any, samples: Samples, rows: Int64) -> NDArray[Any]:
    """Regions in the space, float [m, P], of some rows; those that are not finite are left out."""
    return np.concatenate([places for _, places in _embedded(space, samples, rows)] or [_NOWHERE])


def _embedded(space: Any, samples: Samples, rows: Int64) -> Iterator[tuple[Int64, NDArray[Any]]]:
    """Rows with finite features, and where they are in the space, a chunk at a time."""
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        features = np.asarray(samples.features[chunk], np.float32)
        finite = np.isfinite(features).all(axis=1)
        if finite.any():
            yield chunk[finite], np.asarray(space.transform(features[finite]))


def fit_quietly(model: Any, places: NDArray[Any]) -> Any:
    """Fit a model to regions in the space; what its library warns of shows in held-out figures."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="sklearn")
        return model.fit(places)


def typicality(model: Any, places: NDArray[Any]) -> Float64:
    """How typical regions are of what a model was fitted to; more is more."""
    if hasattr(model, "score_samples"):
        return np.asarray(model.score_samples(places), np.float64)
    return -np.asarray(model.mahalanobis(places), np.float64)


GATE_QUANTILES = (0.1, 0.2, 0.35, 0.5, 0.7)
"""Lowest scores of a class that are recovered, as shares of the floor, to choose from."""


@dataclass(frozen=True)
class GateFigures:
    """What recovering a class did on held-out images."""

    label: int
    boxes: int
    shown: int  # boxes above the floor before
    regained: int  # boxes that come above it
    false_per_image: float
    by_score: int  # boxes that a lower threshold alone brings back at the same rate
    used: bool
    why: str = ""  # it is not used


def fit_gates(
    samples: Samples,
    rows: Int64,
    scores: Float32,
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
    progress: Progress = silent,
) -> tuple[OneClassModels, list[GateFigures]]:
    """Fit a model to each of some classes, and find from where on a region is typical."""
    options = dict(options or {})
    make_one_class(method, options, 10, seed)  # a wrong option, before any work
    num_classes = scores.shape[1]
    few = few_boxes(samples, rows, num_classes, min_boxes)
    taught = [label for label in labels if label not in few]
    fold = image_folds(samples, folds, seed)
    items = Items.of(samples, rows)
    gates = [round(share * floor, 6) for share in GATE_QUANTILES]
    score = {c: scores[:, c].astype(np.float64) for c in taught}

    def fit(inside: Int64) -> tuple[Any, dict[int, tuple[Any, Float64]]]:
        """The space, and of each class the model and how typical regions below the floor are."""
        space = fit_pca(
            samples, fitted_rows(samples, inside, few, max_background, seed), components
        )
        models = {}
        for label in taught:
            places = embed(space, samples, inside[samples.labels[inside] == label])
            if len(places) >= 2:
                model = fit_quietly(make_one_class(method, options, len(places), seed), places)
                below = np.flatnonzero((scores[:, label] >= gates[0]) & (scores[:, label] < floor))
                typical = np.full(len(samples), np.nan)
                for chunk, places in _embedded(space, samples, below):
                    typical[chunk] = typicality(model, places)
                models[label] = model, typical
        return space, models

    def threshold(label: int, values: Float64, inside: Int64) -> float:
        images = np.unique(samples.images[inside])
        where = np.isin(items.images, images)
        wrong = items.labels[where] != label
        allowed = max_fppi * len(images)
        return lowest_threshold(items.highest(values)[where], wrong, items.weights[where], allowed)

    hidden = {c: items.highest(score[c]) < floor for c in taught}
    # By class and gate; without a gate by the score alone, for comparison.
    regained = {(c, gate): 0 for c in taught for gate in [None, *gates]}
    false = dict.fromkeys(regained, 0.0)
    for number in range(folds):
        inside = np.flatnonzero(fold != number)
        outside = np.isin(items.images, np.unique(samples.images[fold == number]))
        for label, (_, typical) in fit(inside)[1].items():
            own = items.labels == label
            for gate in [*gates, None]:
                if gate is None:
                    values = np.where(score[label] < floor, score[label], np.nan)
                else:
                    values = np.where(score[label] >= gate, typical, np.nan)
                up = items.highest(values) > threshold(label, values, inside)
                regained[label, gate] += int((up & outside & own & hidden[label]).sum())
                false[label, gate] += float(items.weights[up & outside & ~own].sum())
        progress(number + 1, folds + 1)
    best = {c: max(gates, key=lambda g: (regained[c, g], -false[c, g])) for c in taught}
    images = max(1, len(np.unique(samples.images)))
    figures = []
    for label in labels:
        boxes, shown, back, wrong, by_score = int((items.labels == label).sum()), 0, 0, 0.0, 0
        why = f"fewer than {min_boxes} boxes"
        if label in taught:
            shown = boxes - int((hidden[label] & (items.labels == label)).sum())
            back, by_score = regained[label, best[label]], regained[label, None]
            wrong = false[label, best[label]] / images
            why = "" if back else "no box came back on held-out images"
        figures.append(GateFigures(label, boxes, shown, back, wrong, by_score, not why, why))
    used = [figure.label for figure in figures if figure.used]
    everything = np.arange(len(samples))
    space, models = fit(everything) if used else (None, {})
    class_gates = []
    for label in used:
        model, typical = models[label]
        values = np.where(score[label] >= best[label], typical, np.nan)
        least = threshold(label, values, everything)
        class_gates.append(ClassGate(label, model, best[label], least))
    progress(folds + 1, folds + 1)
    return OneClassModels(method, space, class_gates, floor, num_classes, shared), figures


def lowest_threshold(values: Float64, negative: Bool, weights: Float64, allowed: float) -> float:
    """Find the lowest value above which negative items weigh at most what is allowed."""
    order = np.flatnonzero(negative & np.isfinite(values))
    order = order[np.argsort(-values[order], kind="stable")]
    over = np.flatnonzero(weights[order].cumsum() > allowed)
    return float(values[order[over[0]]]) if len(over) else float(np.finfo(np.float64).min)


_SPAN = 0.02
"""Recovered scores lie this near above the floor, below what the detector is surer of by itself."""


@dataclass(frozen=True)
class ClassGate:
    """The model of one class, and which regions it recovers."""

    label: int
    model: Any
    gate: float  # the lowest score of the class
    threshold: float  # of typicality


@dataclass(frozen=True)
class OneClassModels:
    """Raises scores of rare classes above the floor, where a region is typical of the class."""

    method: str
    space: Any
    gates: Sequence[ClassGate]
    floor: float  # score from which a detection is shown
    num_classes: int
    shared: bool  # whether the scores are of one softmax

    def __call__(self, features: Tensor, scores: Tensor) -> Tensor:
        """Give advice, see `detbalance.repair.second_classifier.Advice`."""
        own, values = scores.double().cpu().numpy(), features.float().cpu().numpy()
        new = own.copy()
        finite = np.isfinite(values).all(axis=1)
        for gate in self.gates:
            score = new[:, gate.label]
            rows = np.flatnonzero(finite & (score >= gate.gate) & (score < self.floor))
            if len(rows):
                typical = typicality(gate.model, self.space.transform(values[rows]))
                rows = rows[typical > gate.threshold]
                new[rows] = recovered(new[rows], gate.label, self.floor, self.shared)
        return scores if (new == own).all() else torch.from_numpy(new).to(scores)


def recovered(scores: Float64, label: int, floor: float, shared: bool) -> Float64:
    """Raise scores of a class to just above the floor, in the order that they had."""
    new: Float64 = scores.copy()
    share = _SPAN * (1.0 - floor)
    new[:, label] = floor + share * (0.5 + scores[:, label]) / (0.5 + floor)
    if shared:
        total = np.maximum(scores.sum(axis=1), new[:, label])
        rest = np.maximum(total - scores[:, label], 1e-12)
        others = np.arange(scores.shape[1]) != label
        new[:, others] *= ((total - new[:, label]) / rest)[:, None]
    return new


_OVERLAP = 0.3
"""IoU from which two regions show the same object."""


@dataclass(frozen=True)
class NovelImages:
    """Images by the region that is least like any known class, the strangest first."""

    images: Int64
    ood_score: Float64  # squared distance to the nearest class, about 1 for usual objects
    boxes: Float32  # [m, 4]
    rows: Int64  # of the annotations, -1 where the region shows none


def novel_images(
    samples: Samples,
    rows: Int64,
    scores: Float32,
    boxes: Float32,
    *,
    floor: float = 0.3,
    folds: int = 3,
    min_boxes: int = MIN_BOXES,
    seed: int = 0,
) -> NovelImages:
    """Rank images by the region that the detector takes for an object and no class is near to.

    Source: Lee et al., 2018, arXiv:1807.03888, eq. 2 (classes share one covariance). Differs: it is
    shrunk as Ledoit and Wolf, 2004, in the space of 64 principal components; one layer.
    """
    from sklearn.covariance import LedoitWolf

    few = few_boxes(samples, rows, scores.shape[1], min_boxes)
    fold = image_folds(samples, folds, seed)
    best = scores[:, 1:].max(axis=1, initial=0.0)
    shown = np.flatnonzero(best >= floor)
    shown = shown[all_finite(samples, shown)]
    high = _left_by_nms(shown, best, boxes, samples.images)
    distance = np.full(len(samples), np.nan)
    for number in range(folds):
        taught = fitted_rows(samples, np.flatnonzero(fold != number), few, 10_000, seed)
        objects = taught[samples.labels[taught] > 0]
        objects = objects[all_finite(samples, objects)]
        asked = np.flatnonzero((fold == number) & high)
        if len(objects) < 2 or not len(asked):
            continue
        space = fit_pca(samples, taught)
        places, labels = embed(space, samples, objects), samples.labels[objects]
        means = {c: places[labels == c].mean(axis=0) for c in np.unique(labels).tolist()}
        inner = np.concatenate([places[labels == c] - mean for c, mean in means.items()])
        shape = LedoitWolf(assume_centered=True).fit(inner)
        places = embed(space, samples, asked)
        away = [shape.mahalanobis(places - mean) for mean in means.values()]
        distance[asked] = np.min(away, axis=0) / places.shape[1]
    ranked = np.flatnonzero(np.isfinite(distance))
    ranked = ranked[np.argsort(-distance[ranked], kind="stable")]
    _, first = np.unique(samples.images[ranked], return_index=True)
    top = ranked[np.sort(first)]
    return NovelImages(samples.images[top], distance[top], boxes[top], rows[top])


def _left_by_nms(rows: Int64, scores: Float32, boxes: Float32, images: Int64) -> Bool:
    """Of some regions those that no better one of the same image overlaps, bool [n]."""
    arrays = (np.ascontiguousarray(boxes[rows]), scores[rows], images[rows])
    kept = batched_nms(*(torch.from_numpy(values) for values in arrays), _OVERLAP)
    left = np.zeros(len(scores), bool)
    left[rows[kept.numpy()]] = True
    return left
