"""One-class models of rare classes: objects brought back, and images of unknown ones.

Letters: n regions, F features, K classes.

Letters: n and m regions, F features, P dimensions of the space.

Letters: n regions, m items, K classes.

Letters: n regions, m images, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms

from detbalance.data.arrays import Float64, Int64
from detbalance.repair.blend_scores import Items
from detbalance.repair.estimators import make_one_class
from detbalance.repair.region_features import CHUNK, Samples, all_finite, image_folds
from detbalance.repair.second_classifier import MIN_BOXES, few_boxes, fitted_rows


def fit_pca(samples: Samples, rows: Int64, components: int = 64) -> Any:
    """Fit the space of one-class models: principal components of standardised features."""
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = finite(samples, rows)
    components = min(components, *features.shape)
    return make_pipeline(StandardScaler(), PCA(components, random_state=0)).fit(features)


def embed(space: Any, samples: Samples, rows: Int64) -> NDArray[Any]:
    """Regions in the space, float [m, P], of some rows; those that are not finite are left out."""
    found = [np.zeros((0, 1))]
    for start in range(0, len(rows), CHUNK):
        features = finite(samples, rows[start : start + CHUNK])
        if len(features):
            found.append(np.asarray(space.transform(features)))
    return np.concatenate(found[1:] or found)


def finite(samples: Samples, rows: Int64) -> NDArray[np.float32]:
    """Features of some regions, float32 [m, F], of those where all are finite."""
    features = np.asarray(samples.features[rows], np.float32)
    return features[np.isfinite(features).all(axis=1)]


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
    """What lifting a class did on held-out images."""

    label: int
    boxes: int
    shown: int
    regained: int
    false_per_image: float
    by_score: int
    used: bool
    why: str = ""


def fit_gates(
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
) -> tuple[OneClassModels, list[GateFigures]]:
    """Fit a model to each of some classes, and find from where on a region is typical."""
    options = dict(options or {})
    make_one_class(method, options, 10, seed)  # a wrong option, before any work
    num_classes = scores.shape[1]
    few = few_boxes(samples, rows, num_classes, min_boxes)
    wanted = [label for label in labels if label not in few]
    fold = image_folds(samples, folds, seed)
    items = Items.of(samples, rows)
    gates = [round(share * floor, 6) for share in GATE_QUANTILES]

    def fit(inside: Int64) -> tuple[Any, dict[int, _Fitted]]:
        taught = fitted_rows(samples, inside, few, max_background, seed)
        space = fit_pca(samples, taught, components)
        found = {}
        for label in wanted:
            places = embed(space, samples, inside[samples.labels[inside] == label])
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
        figures.append(GateFigures(label, boxes, shown, back, wrong, by_score, not why, why))
    used = [figure.label for figure in figures if figure.used]
    everything = np.arange(len(samples))
    space, found = fit(everything) if used else (None, {})
    found_gates = []
    for label in used:
        score, gate = scores[:, label].astype(np.float64), best[label]
        values = above(found[label].typical, score, gate)
        found_gates.append(
            ClassGate(label, found[label].model, gate, threshold(label, values, everything))
        )
    if progress is not None:
        progress(folds + 1, folds + 1)
    return OneClassModels(method, space, found_gates, floor, num_classes, shared), figures


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


_SPAN = 0.02
"""Lifted scores lie this near above the floor, below what the detector is surer of by itself."""


@dataclass(frozen=True)
class ClassGate:
    """The model of one class, and which regions it gates."""

    label: int
    model: Any
    gate: float
    threshold: float


@dataclass(frozen=True)
class OneClassModels:
    """Lifts scores of rare classes above the floor, where a region is typical of the class."""

    method: str
    space: Any
    gates: Sequence[ClassGate]
    floor: float
    num_classes: int
    shared: bool

    def __call__(self, features: Tensor, scores: Tensor) -> Tensor:
        """Give advice, see `detbalance.repair.second_classifier.Advice`."""
        own, seen = scores.double().cpu().numpy(), features.float().cpu().numpy()
        new = own.copy()
        good = np.isfinite(seen).all(axis=1)
        for lift in self.gates:
            score = new[:, lift.label]
            rows = np.flatnonzero(good & (score >= lift.gate) & (score < self.floor))
            if len(rows):
                high = typicality(lift.model, self.space.transform(seen[rows])) > lift.threshold
                found = rows[high]
                new[found] = recovered(new[found], lift.label, self.floor, self.shared)
        return scores if (new == own).all() else torch.from_numpy(new).to(scores)


def recovered(scores: Float64, label: int, floor: float, shared: bool) -> Float64:
    """Lift scores of a class just above the floor, in the order that they had."""
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
    """Images by the region that is least like any known class."""

    images: Int64
    ood_score: Float64
    boxes: NDArray[np.float32]
    rows: Int64


def novel_images(
    samples: Samples,
    rows: Int64,
    scores: NDArray[np.float32],
    boxes: NDArray[np.float32],
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
    found = np.full(len(samples), np.nan)
    for number in range(folds):
        inside = np.flatnonzero(fold != number)
        taught = fitted_rows(samples, inside, few, 10_000, seed)
        objects = taught[samples.labels[taught] > 0]
        asked = np.flatnonzero((fold == number) & high)
        if len(objects) < 2 or not len(asked):
            continue
        space = fit_pca(samples, taught)
        seen, labels = embed(space, samples, objects), samples.labels[objects]
        means = {c: seen[labels == c].mean(axis=0) for c in np.unique(labels).tolist()}
        inner = np.concatenate([seen[labels == c] - mean for c, mean in means.items()])
        shape = LedoitWolf(assume_centered=True).fit(inner)
        places = embed(space, samples, asked)
        away = [shape.mahalanobis(places - mean) for mean in means.values()]
        found[asked] = np.min(away, axis=0) / places.shape[1]
    asked = np.flatnonzero(np.isfinite(found))
    order = asked[np.argsort(-found[asked], kind="stable")]
    _, first = np.unique(samples.images[order], return_index=True)
    top = order[np.sort(first)]
    return NovelImages(samples.images[top], found[top], boxes[top], rows[top])


def _left_by_nms(
    rows: Int64, scores: NDArray[np.float32], boxes: NDArray[np.float32], images: Int64
) -> NDArray[np.bool_]:
    """Of some regions those that no better one of the same image overlaps, bool [n]."""
    given = (np.ascontiguousarray(boxes[rows]), scores[rows], images[rows])
    kept = batched_nms(*(torch.from_numpy(values) for values in given), _OVERLAP)
    found = np.zeros(len(scores), bool)
    found[rows[kept.numpy()]] = True
    return found
