"""Everything that is measured per class, from annotations and predictions.

One matching pass and one grid feed all of it. Arrays by class have length K + 1; index 0
(background) is NaN, or 0 for counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from detbalance.data.arrays import Float64, Int64
from detbalance.data.checks import check_number
from detbalance.data.frequency import class_counts
from detbalance.data.intervals import wilson_interval
from detbalance.data.messages import counted
from detbalance.evaluation.accumulate import (
    class_figures,
    compute_grid,
    curves_at_half,
    of_all_classes,
    summarize,
)
from detbalance.evaluation.bootstrap import BootstrapFigures, bootstrap
from detbalance.evaluation.errors import Confusion, ErrorCounts, confusion, error_kinds
from detbalance.evaluation.figures import (
    FIGURES,
    RECALL_IOU_THRESHOLD,
    WITH_INTERVALS,
    Measured,
    figure_of,
    shifted,
)
from detbalance.evaluation.matching import Matches, match, overlaps
from detbalance.evaluation.rules import AREA_RANGES, RulesChoice, choose_rules
from detbalance.evaluation.sanity_checks import cautions
from detbalance.evaluation.settings import Backend, EvaluationSettings

if TYPE_CHECKING:
    from detbalance.data import Annotations, Predictions


# Overlap from which a detection is near a box at all, for the kinds of errors.
_BACKGROUND_IOU = 0.1


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of one set of predictions; NaN where a figure is undefined.

    Each figure of `FIGURES` is an attribute too: `evaluation.recall` is `figures["recall"]`.

    Attributes:
        figures: by the names of `detbalance.evaluation.figures.FIGURES`, float64 [K+1] each.
        true_positives: int64 [K+1], right detections at or above the score threshold.
        false_positives: int64 [K+1], wrong ones; detections on crowd regions are neither.
        val_boxes: int64 [K+1], boxes to find, crowd regions excluded.
        val_images: int64 [K+1], images with such boxes.
        score_thresholds: float64 [K+1], the score threshold of each class.
        intervals: for each figure that has them the lower and upper ends, float64 [K+1] each.
        errors: counts and costs by kind of error.
        confusion: which classes are taken for which.
        curves: precision and score at IoU .50 over recall 0, .01, ... 1, float64 [101, K+1] each.
        summary: the twelve COCO numbers by their usual names, AP to ARl; the AR of the largest
            cap is AR100 by COCO's rules and AR300 by LVIS's.
        cautions: what makes the figures doubtful, in sentences.
        settings: what the figures were computed with.
        matches: which annotation each detection found, behind all of it.
        bootstrap: the figures on every draw of images, None without a bootstrap.
    """

    figures: dict[str, Float64]
    true_positives: Int64
    false_positives: Int64
    val_boxes: Int64
    val_images: Int64
    score_thresholds: Float64
    intervals: dict[str, tuple[Float64, Float64]]
    errors: dict[str, ErrorCounts]
    confusion: Confusion
    curves: tuple[Float64, Float64]
    summary: dict[str, float]
    cautions: tuple[str, ...]
    settings: EvaluationSettings
    matches: Matches = field(repr=False)
    bootstrap: BootstrapFigures | None = field(default=None, repr=False)

    def __getattr__(self, name: str) -> Float64:
        """Give a figure by its name."""
        figure: Float64 = figure_of(self, name)
        return figure


def evaluate(
    annotations: Annotations,
    predictions: Predictions,
    *,
    score_threshold: float | Float64 = 0.3,
    rules: RulesChoice = "auto",
    beta: float = 1.0,
    min_precision: float = 0.9,
    max_fppi: float = 0.1,
    num_bootstrap: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    backend: Backend = "auto",
    predictions_file: str | None = None,
    thresholds_file: str | None = None,
) -> Evaluation:
    """Evaluate predictions per class, by COCO's or LVIS's rules.

    AP and AR look at detections of every score; recall and precision only at those that a user
    would see, with a score of at least `score_threshold`.

    Args:
        annotations: the ground truth, with its crowd regions.
        predictions: detections on the same images; none at all is fine.
        score_threshold: smallest score that recall and precision count; float64 [K + 1] for one of
            each class.
        rules: "coco" or "lvis"; "auto" takes LVIS's where the file has its lists of classes that
            were looked for in each image.
        beta: how many times recall weighs as much as precision in F-beta.
        min_precision: what `recall_at_precision` holds, in [0, 1].
        max_fppi: false positives of a class per image that `recall_at_fppi` allows, >= 0.
        num_bootstrap: draws of images that intervals come from, AP's too; 0 for Wilson's intervals
            of recall and precision from the number of boxes; 1000 give steady ends.
        confidence: of all intervals, in (0, 1).
        seed: of the draws.
        backend: "hotcoco" or "numpy", our own; "auto" takes hotcoco where it is installed. The
            figures are the same.
        predictions_file: where the predictions came from, for the record.
        thresholds_file: where a `score_threshold` of each class came from, for the record.

    Returns:
        Evaluation with arrays by class and the COCO summary.

    Raises:
        ValueError: if a number is out of range, the file does not allow the rules, or a detection
            has a label, an image row, a box or a score that cannot be.
        ImportError: if hotcoco is asked for and not installed.

    Source: Lin et al., Microsoft COCO, 2014, arXiv:1405.0312, and its reference code pycocotools;
    Gupta et al., LVIS, 2019, arXiv:1908.03195, and lvis-api. Differs: undefined figures are NaN
    instead of -1; every class has its own row; all else is counted from one matching pass.
    """
    check_number("evaluate()", "beta", beta, above=0)
    check_number("evaluate()", "min_precision", min_precision, least=0, most=1)
    check_number("evaluate()", "max_fppi", max_fppi, least=0)
    check_number("evaluate()", "confidence", confidence, above=0, below=1, advice="Usual is 0.95.")
    chosen = choose_rules(annotations, rules)
    floors = _floors(score_threshold, annotations)
    # A file may list very many classes; those of which nothing is there have no figures.
    labels = np.union1d(annotations.labels, predictions.labels)
    grid = compute_grid(annotations, predictions, rules=chosen, backend=backend, labels=labels)

    def by_class(values: Float64) -> Float64:
        return of_all_classes(values, labels, annotations.categories.num_classes)

    averages: dict[str, Any] = {k: by_class(values) for k, values in class_figures(grid).items()}
    precision, scores = curves_at_half(grid)
    curves, summary = (by_class(precision), by_class(scores)), summarize(grid)
    engine, caps = grid.backend, grid.max_detections
    del grid  # hundreds of megabytes on LVIS, before the matching needs its own
    pairs = overlaps(annotations, predictions, floor=_BACKGROUND_IOU, rules=chosen)
    matches = match(annotations, predictions, rules=chosen, pairs=pairs)
    settings = EvaluationSettings(
        annotations=str(annotations.source),
        predictions=predictions_file,
        backend=engine,
        iou_thresholds=chosen.iou_thresholds,
        recall_iou_threshold=RECALL_IOU_THRESHOLD,
        score_threshold=float(score_threshold) if np.ndim(score_threshold) == 0 else math.nan,
        max_detections=caps,
        area_ranges=dict(AREA_RANGES),
        rules=chosen.name,
        confidence=confidence,
        beta=beta,
        min_precision=min_precision,
        max_fppi=max_fppi,
        thresholds=thresholds_file,
    )
    measured = Measured(averages, matches, pairs, floors, settings)
    counts = measured.at_half
    shown = counts.true_positives + counts.false_positives
    result = Evaluation(
        figures={name: one.compute(measured) for name, one in FIGURES.items() if one.compute},
        true_positives=counts.true_positives,
        false_positives=counts.false_positives,
        val_boxes=matches.num_positive,
        val_images=class_counts(
            image_index=annotations.image_index[matches.positive],
            labels=annotations.labels[matches.positive],
            num_classes=len(matches.num_positive),
        )[0],
        score_thresholds=floors,
        intervals={
            "recall": wilson_interval(
                counts.true_positives, counts.num_positive, confidence=confidence
            ),
            "precision": wilson_interval(counts.true_positives, shown, confidence=confidence),
        },
        errors=error_kinds(matches, pairs, background_iou=_BACKGROUND_IOU, score_threshold=floors),
        confusion=confusion(matches, pairs, score_threshold=floors),
        curves=curves,
        summary=summary,
        cautions=cautions(matches, pairs),
        settings=settings,
        matches=matches,
    )
    return with_bootstrap(result, num_bootstrap, seed=seed) if num_bootstrap else result


def with_bootstrap(evaluation: Evaluation, num_bootstrap: int, *, seed: int = 0) -> Evaluation:
    """Take all intervals from a bootstrap over images, those of AP, AP50 and AR too.

    Unlike the boxes' number alone it knows that boxes of one image are found or missed together.

    Args:
        evaluation: of `evaluate`.
        num_bootstrap: draws of images, 2 or more.
        seed: of the draws.

    Returns:
        The same evaluation with other intervals, and the figures on every draw.

    Raises:
        ValueError: if there are fewer than two draws.
    """
    settings = replace(evaluation.settings, num_bootstrap=num_bootstrap, seed=seed)
    matches = shifted(evaluation.matches, evaluation.score_thresholds)
    drawn = bootstrap([matches], num_bootstrap=num_bootstrap, seed=seed, score_threshold=0.0)
    ends = {
        figure: drawn.interval(figure, confidence=settings.confidence) for figure in WITH_INTERVALS
    }
    return replace(evaluation, intervals=ends, settings=settings, bootstrap=drawn)


def _floors(score_threshold: float | Float64, annotations: Annotations) -> Float64:
    """float64 [K + 1], the floor of each class, NaN for background."""
    num_classes = annotations.categories.num_classes
    if np.ndim(score_threshold) and np.shape(score_threshold) != (num_classes,):
        raise ValueError(
            f"evaluate(): score_threshold is {list(np.shape(score_threshold))},"
            f" {annotations.source} has {counted(num_classes - 1, 'class')}. Expected one number,"
            " or one per class with background in front. Order them as the annotations do."
        )
    floors = np.full(num_classes, score_threshold, dtype=np.float64)
    for floor in floors[1:].tolist():
        check_number("evaluate()", "score_threshold", floor, advice="Usual are 0 to 1.")
    floors[0] = np.nan
    return floors
