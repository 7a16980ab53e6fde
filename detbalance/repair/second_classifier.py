"""A second classifier on a detector's regions: fitted, weighed, heard before boxes are made.

Letters: n regions, F features, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detbalance.data.arrays import Float32, Float64, Int64
from detbalance.detection.adapter import Mixin, adapt
from detbalance.repair.blend_scores import (
    Items,
    best_power,
    blend_scores,
    class_precision,
    share_shown,
    temperature_scaled,
)
from detbalance.repair.classifier import Classifier, OneStageClassifier, patches
from detbalance.repair.collecting import cap_per_class
from detbalance.repair.estimators import make_classifier
from detbalance.repair.region_features import CHUNK, Progress, Samples, image_folds, silent

Advice = Callable[[Tensor, Tensor], Tensor]
"""From features float32 [n, F] and scores float32 [n, K + 1] of regions to new scores."""

WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Weights of the second classifier that are tried; 0 is the detector alone."""

MOST_HIDDEN = 0.05
"""Share of a class's boxes, on average over classes, that a second classifier may push below the
floor."""

MIN_BOXES = 3
"""Boxes of a class from which on something is learned of it."""

MOST_OBJECTS = 50_000
"""Regions with an object that a classifier or a space is fitted to."""


@contextmanager
def advised(classifier: Classifier, advice: Advice, *, candidates: int = 300) -> Iterator[None]:
    """Let a detector hear advice in eval mode, as long as the block lasts."""
    model: Any = classifier.model
    head = classifier.head
    if isinstance(classifier, OneStageClassifier):
        towers: list[Tensor] = []
        hooks = [
            head.conv.register_forward_hook(lambda module, args, out: towers.append(out)),
            head.register_forward_hook(
                lambda module, args, out: _one_stage(out, towers, classifier, advice, candidates)
            ),
        ]
    else:
        head = adapt(model.roi_heads, _AdvisedRoIHeads)
        head.advice = (classifier, advice, candidates)
        hooks = [
            head.box_head.register_forward_hook(
                lambda module, args, out: setattr(head, "features", out)
            )
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        if not isinstance(classifier, OneStageClassifier):
            model.roi_heads.__class__ = type(model.roi_heads).__bases__[1]


def _one_stage(
    logits: Tensor,
    towers: list[Tensor],
    classifier: OneStageClassifier,
    advice: Advice,
    candidates: int,
) -> Tensor:
    """New logits of the classes float [N, A, K + 1] whose sigmoid is what the advice says."""
    if classifier.model.training:
        towers.clear()
        return logits
    new = logits.clone()
    for i in range(len(logits)):
        scores = torch.sigmoid(logits[i])
        scores[:, 0] = 0.0
        rows = scores.amax(dim=1).topk(min(candidates, len(scores))).indices
        features = patches([tower[i] for tower in towers], classifier.slots, rows).float()
        advised_scores = advice(features, scores[rows])
        new[i, rows, 1:] = torch.logit(advised_scores[:, 1:].to(new))
    towers.clear()
    return new


class _AdvisedRoIHeads(Mixin):
    """A second stage that asks for advice on its scores."""

    advice: tuple[Classifier, Advice, int]
    features: Tensor  # of all proposals of the batch
    classification_loss: nn.Module | None

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        classifier, advice, candidates = self.advice
        scores = classifier.scores(class_logits).clone()
        start = 0
        for boxes in proposals:
            part = scores[start : start + len(boxes)]
            rows = part[:, 1:].amax(dim=1).topk(min(candidates, len(part))).indices
            features = self.features[start : start + len(boxes)][rows]
            part[rows] = advice(features.float(), part[rows])
            start += len(boxes)
        own = self.classification_loss
        self.classification_loss = _FixedScores(scores)
        try:
            return super().postprocess_detections(  # type: ignore[no-any-return]
                class_logits, box_regression, proposals, image_shapes
            )
        finally:
            self.classification_loss = own


class _FixedScores(nn.Module):
    """Stands in for a loss: its scores are there already."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self._scores = scores

    def scores(self, logits: Tensor) -> Tensor:
        return self._scores


@dataclass(frozen=True)
class SecondClassifier:
    """A classifier's probabilities, blended with the detector's scores."""

    method: str
    estimator: Any
    weight: float  # 0..1, of the classifier
    num_classes: int
    shared: bool  # whether the detector's scores are of one softmax
    power: float = 1.0  # of the probabilities, see `temperature_scaled`

    def __call__(self, features: Tensor, scores: Tensor) -> Tensor:
        """Give advice, see `detbalance.repair.second_classifier.Advice`."""
        if not self.weight:
            return scores
        second = probabilities(self.estimator, features.cpu().numpy(), self.num_classes)
        second = temperature_scaled(second, self.power)
        new = blend_scores(scores.double().cpu().numpy(), second, self.weight, self.shared)
        return torch.from_numpy(new).to(scores)


@dataclass(frozen=True)
class Weighing:
    """How the weight of a second classifier was chosen."""

    weight: float
    power: float
    precision: dict[float, Float64]  # [K + 1] by weight, on held-out images
    shown: dict[float, float]  # share of the boxes by weight
    few: list[int]  # labels of the classes that are not taught


def fit_second_classifier(
    samples: Samples,
    rows: Int64,
    scores: Float32,
    method: str,
    options: Mapping[str, Any] | None = None,
    *,
    shared: bool,
    floor: float = 0.3,
    folds: int = 3,
    max_background: int = 10_000,
    min_boxes: int = MIN_BOXES,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[SecondClassifier, Weighing]:
    """Fit a classifier to regions, and choose how much it counts beside the detector.

    The weight is chosen by cross-fitting: each region is judged by a classifier that has not seen
    its image, and the weight with the highest mean average precision over classes is taken, each
    class counting the same (see `class_precision`). That is what a report shows of detections; a
    log loss would reward well-placed probabilities, which thresholds and calibration bring about
    later. Of equal weights the smallest is taken: 0, the detector alone, where nothing helps.

    A second classifier that is never sure draws all scores down, which no ranking shows: a weight
    that hides more than `MOST_HIDDEN` of the boxes, each class counting the same, is not taken.

    Before, the second classifier is made as sure as serves it best on the same held-out regions,
    see `best_power`.

    The detector itself has seen all of these images, and so its part of the mean is on the high
    side: weights chosen here are rather too small than too large.

    Args:
        samples: of the training data.
        rows: int64 [n], row of each region's object in the annotations, -1 for none.
        scores: float32 [n, K + 1], of the detector.
        method: see `make_classifier`.
        options: of its constructor.
        shared: see `SecondClassifier`.
        floor: score from which a detection is shown, 0..1.
        folds: of images; >= 2.
        max_background: background regions that it is fitted to, at most; >= 1.
        min_boxes: classes with fewer boxes are not taught; >= 1.
        seed: of all draws.
        progress: called with the fits done and the number of all.

    Raises:
        ValueError: if there is no such method, or nothing that it can learn.
    """
    num_classes = scores.shape[1]
    few = few_boxes(samples, rows, num_classes, min_boxes)
    options = dict(options or {})

    def fit(inside: Int64) -> Any:
        estimator = make_classifier(method, options, seed)
        chosen = fitted_rows(samples, inside, few, max_background, seed)
        return fit_to(estimator, samples, chosen, method)

    fold = image_folds(samples, folds, seed)
    held_out = out_of_fold(samples, fold, fit, num_classes, folds, progress)
    power = best_power(held_out, samples.labels)
    held_out = temperature_scaled(held_out, power)
    items = Items.of(samples, rows)
    own = scores.astype(np.float64)
    precision, shown = {}, {}
    for weight in WEIGHTS:
        together = blend_scores(own, held_out, weight, shared)
        precision[weight] = class_precision(together, items)
        shown[weight] = share_shown(together, items, floor)
    # A thousandth is noise, and no reason to hear anybody.
    means = {weight: round(float(np.nanmean(p)), 3) for weight, p in precision.items()}
    allowed = [weight for weight in WEIGHTS if shown[weight] >= shown[0.0] - MOST_HIDDEN]
    weight = max(allowed, key=lambda w: (means[w], -w))
    estimator = fit(np.arange(len(samples))) if weight else None
    progress(folds + 1, folds + 1)
    second = SecondClassifier(method, estimator, weight, num_classes, shared, power)
    return second, Weighing(weight, power, precision, shown, few)


def out_of_fold(
    samples: Samples,
    fold: Int64,
    fit: Callable[[Int64], Any],
    num_classes: int,
    folds: int,
    progress: Progress = silent,
) -> Float64:
    """Probabilities of every region by a classifier that has not seen its image, [n, K + 1]."""
    held_out = np.full((len(samples), num_classes), np.nan)
    for number in range(folds):
        estimator = fit(np.flatnonzero(fold != number))
        outside = np.flatnonzero(fold == number)
        for start in range(0, len(outside), CHUNK):
            chunk = outside[start : start + CHUNK]
            held_out[chunk] = probabilities(estimator, samples.features[chunk], num_classes)
        progress(number + 1, folds + 1)
    return held_out


def probabilities(estimator: Any, features: NDArray[Any], num_classes: int) -> Float64:
    """Probabilities [n, K + 1]; NaN for classes it does not know and features not finite."""
    features = np.asarray(features, np.float32)
    table = np.full((len(features), num_classes), np.nan)
    good = np.flatnonzero(np.isfinite(features).all(axis=1))
    if len(good):
        table[np.ix_(good, estimator.classes_)] = estimator.predict_proba(features[good])
    return table


def few_boxes(samples: Samples, rows: Int64, num_classes: int, least: int) -> list[int]:
    """Labels of the classes with fewer than `least` annotated boxes among the regions."""
    real = (samples.labels > 0) & (rows >= 0)
    _, first = np.unique(rows[real], return_index=True)
    boxes = np.bincount(samples.labels[real][first], minlength=num_classes)
    return [label for label in range(1, num_classes) if boxes[label] < least]


def fitted_rows(
    samples: Samples, inside: Int64, few: list[int], max_background: int, seed: int
) -> Int64:
    """The regions that something is fitted to: objects of taught classes, some background."""
    labels = samples.labels[inside]
    generator = np.random.default_rng(seed)
    background = generator.permutation(inside[labels == 0])[:max_background]
    objects = thinned(samples, inside[(labels > 0) & ~np.isin(labels, few)], generator)
    return np.sort(np.concatenate([objects, background]))


def thinned(samples: Samples, rows: Int64, generator: np.random.Generator) -> Int64:
    """Some of the rows where there are more than `MOST_OBJECTS`: fewer of the largest classes."""
    counts = np.bincount(samples.labels[rows])
    most = cap_per_class(counts, MOST_OBJECTS)
    if most == np.inf:
        return rows
    chance = np.minimum(1.0, most / np.maximum(counts, 1))[samples.labels[rows]]
    return rows[generator.random(len(rows)) < chance]


def fit_to(estimator: Any, samples: Samples, rows: Int64, method: str) -> Any:
    """Fit a classifier to some of the regions, without those whose features are not finite."""
    features = np.asarray(samples.features[rows], np.float32)
    good = np.isfinite(features).all(axis=1)
    labels = samples.labels[rows][good]
    if len(np.unique(labels)) < 2:
        raise ValueError(
            f"{method}: there are regions of {len(np.unique(labels))} classes to learn from,"
            " background included. At least two are expected. Take the features out of images with"
            " more annotated boxes."
        )
    with warnings.catch_warnings():
        # Too few steps show in the held-out figures, and so in the weight.
        warnings.filterwarnings("ignore", module="sklearn|imblearn")
        warnings.filterwarnings("ignore", message=".*(converge|CONVERGENCE).*")
        try:
            return estimator.fit(features[good], labels)
        except ValueError as error:
            raise ValueError(
                f"{method}: cannot be fitted ({' '.join(str(error).split())[:200]}). Options that"
                " suit the data are expected. Change --param or --method."
            ) from error
