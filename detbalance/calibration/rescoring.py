"""Scores of a trained detector, rebalanced by how often it saw each class.

A classifier that saw a class often gives it too readily: its scores hold the class frequencies of
training. These functions take them out again, without training, by a strength that
`choose_strength` picks on held-out data.

Which one to use:

- The results file of any detector has one score a detection: `rescore`.
- Logits or probabilities of all classes and background, for every region, from a softmax head:
  `norcal`, before the detections are cut and suppressed; it can then change which class a region is
  given to, which `rescore` cannot.
- A torch model in this package: the option `posthoc_tau` of the loss `cross_entropy`, or
  `detbalance.losses.adjust_logits`, correct logits inside the model.

Letters: R regions, K categories, D detections.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from detbalance.data import Predictions
from detbalance.data.arrays import Float64, Int64
from detbalance.data.checks import check_number
from detbalance.evaluation.sanity_checks import odd_scores


def norcal(
    logits: npt.ArrayLike,
    class_counts: npt.ArrayLike,
    *,
    gamma: float = 0.6,
    weights: Literal["power", "effective_number"] = "power",
    on: Literal["probabilities", "logits"] = "probabilities",
    normalized: bool = True,
) -> Float64:
    """Divide the probability of each class by a power of its count, and normalise again.

    With p = softmax(logits) the score of class c is p_c / n_c^gamma, that of background p_0, and
    each row is divided by its sum. Background takes part in the sum only: it is not rebalanced,
    since how often it was seen says nothing of it.

    Args:
        logits: float [R, K + 1], background in column 0. Of probabilities, pass the logarithm.
        class_counts: [K + 1] training images of each class; index 0 is not used. A class without
            any counts as one with one.
        gamma: 0 changes nothing; 1 is the full correction. For "effective_number" it is that
            method's beta, in [0, 1).
        weights: "power" for n^-gamma, "effective_number" for (1 - gamma) / (1 - gamma^n).
        on: "logits" multiplies the logits of classes by the weights instead, ahead of softmax.
        normalized: False leaves rows as they are after the division.

    Returns:
        float64 [R, K + 1], in [0, 1].

    Raises:
        ValueError: if shapes do not fit, gamma is out of range, or an option is unknown.

    Example:
        >>> norcal(np.log([[0.5, 0.45, 0.05]]), [0, 100, 1], gamma=0.5).round(3)
        array([[0.84 , 0.076, 0.084]])

    Source: Pan et al., On Model Calibration for Long-Tailed Object Detection and Instance
    Segmentation, 2021, arXiv:2107.02170, section 4.2, and the variants of the authors' code.
    Differs: exponentials are taken after the largest logit is subtracted, without which logits of
    100 overflow in float32 there; the input is not changed; no gamma is 0 by default. Exponentials
    that are divided and not normalised are not offered: they are these values with
    `normalized=False` times a number of each row.
    """
    values, counts = np.array(logits, dtype=np.float64), _counts("norcal", class_counts)
    if values.ndim != 2 or values.shape[1] != len(counts):
        raise ValueError(
            f"norcal(): logits are {list(values.shape)}. Expected [regions, {len(counts)}] for "
            f"{len(counts)} classes with background. Put background in column 0."
        )
    factors = np.ones(len(counts))
    if weights == "power":
        _check_gamma("norcal", gamma)
        factors[1:] = np.exp(-gamma * np.log(counts[1:]))
    elif weights == "effective_number":
        advice = "It is beta of the effective number. Pass for example 0.99."
        check_number("norcal()", "gamma", gamma, least=0, below=1, advice=advice)
        factors[1:] = (1 - gamma) / (1 - gamma ** counts[1:])
    else:
        raise ValueError(
            f'norcal(): weights is "{weights}". Known: power, effective_number. Choose one.'
        )
    if on == "logits":
        return _softmax(values * factors)
    if on != "probabilities":
        raise ValueError(f'norcal(): on is "{on}". Known: probabilities, logits. Choose one.')
    divided: Float64 = _softmax(values) * factors
    return np.asarray(divided / divided.sum(axis=1, keepdims=True)) if normalized else divided


def rescore(predictions: Predictions, class_counts: npt.ArrayLike, *, gamma: float) -> Predictions:
    """Rebalance single scores, as results files have them: rare classes rise, the rest keep theirs.

    The new score is sigmoid(logit(s) + gamma * log(n_max / n_c)), for n_max the count of the most
    frequent class, whose scores stay.

    Why: a sigmoid score is the odds of "class c" against "not c", s / (1 - s), and by Bayes's rule
    these hold n_c / (n - n_c), in a detector with far more background than boxes n_c over a number
    that all classes share. NorCal gives the same for the two entries (class, background) of its
    softmax: p / n^gamma against 1 - p. n_max instead of that number moves all classes alike, and
    is another score threshold, no more.

    What it keeps: the order within each class, ties included, so that AP, AR and recall at a fixed
    precision of each class stay what they were, and Fixed AP with them. What it changes: what one
    threshold for all classes shows, and which detections a cap over all classes of an image keeps.
    So it helps where scores of different classes are compared, and LVIS AP only by way of its cap.

    Args:
        predictions: detections with scores in [0, 1].
        class_counts: [K + 1] training images of each class; index 0 is not used. A class without
            any counts as one with one.
        gamma: >= 0; 0 changes nothing, 1 is the full correction.

    Returns:
        The detections with new scores in [0, 1].

    Raises:
        ValueError: if a score is outside [0, 1], a label has no count, or gamma is negative.

    Example:
        >>> two = Predictions([0, 0], [1, 2], [[0, 0, 9, 9]] * 2, [0.5, 0.5])
        >>> rescore(two, [0, 400, 4], gamma=0.5).scores.round(2)
        array([0.5 , 0.91])

    Source: derived here from Pan et al., arXiv:2107.02170, and Menon et al., arXiv:2007.07314,
    which treat softmax scores.
    """
    counts = _counts("rescore", class_counts)
    _check_gamma("rescore", gamma)
    labels, scores = predictions.labels, predictions.scores
    if odd := odd_scores(predictions):
        raise ValueError(f"rescore(): {odd}. Expected probabilities. Turn logits into them first.")
    unknown = labels[(labels < 1) | (labels >= len(counts))]
    if len(unknown):
        raise ValueError(
            f"rescore(): label {unknown[0]} has no count. Labels are 1 to {len(counts) - 1}. Count "
            "the training file that the detector learned from."
        )
    if gamma == 0 or not len(scores):
        return predictions
    # Odds are divided by `factor`, at most 1: no score falls, and none is pressed to 0.
    factor = np.exp(gamma * np.log(counts[1:] / counts[1:].max()))
    factor = np.concatenate([[1.0], factor])[labels]
    raised = scores / (scores + (1 - scores) * factor)
    return replace(predictions, scores=_in_order(labels, scores, np.clip(raised, scores, 1.0)))


def _in_order(labels: Int64, before: Float64, after: Float64) -> Float64:
    """Undo what rounding did to the order within a class: swapped or merged neighbours."""
    order = np.lexsort((before, labels))
    starts = np.flatnonzero(
        (np.diff(labels[order], prepend=-1) != 0) | (np.diff(before[order], prepend=-1) != 0)
    )
    level = np.cumsum(np.bincount(starts, minlength=len(order))) - 1  # equal scores stay equal
    values, of_class = after[order[starts]], labels[order[starts]]
    same = of_class[1:] == of_class[:-1]
    # From the highest score down, each one at most the next float below its upper neighbour. That
    # room is there: no score is below what it was.
    for i in np.flatnonzero(same & (values[1:] <= values[:-1]))[::-1]:
        while i >= 0 and of_class[i] == of_class[i + 1] and values[i] >= values[i + 1]:
            values[i] = np.nextafter(values[i + 1], -np.inf)
            i -= 1
    result = np.empty(len(after))
    result[order] = values[level]
    return result


def _softmax(values: Float64) -> Float64:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _counts(where: str, class_counts: npt.ArrayLike) -> Float64:
    """Float64 [K + 1], at least 1 each."""
    counts = np.asarray(class_counts, dtype=np.float64)
    if counts.ndim != 1 or len(counts) < 2 or not (np.isfinite(counts) & (counts >= 0))[1:].all():
        raise ValueError(
            f"{where}(): class_counts is {np.array2string(counts, threshold=8)}. Expected a number "
            "of 0 or more for background and each class. Count the training file."
        )
    return np.maximum(counts, 1.0)


def _check_gamma(where: str, gamma: float) -> None:
    advice = "0 changes nothing, 1 is the full correction."
    check_number(f"{where}()", "gamma", gamma, least=0, advice=advice)
