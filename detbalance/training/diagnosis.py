"""Whether a run has learnt, by what it logged: what is wrong, and what to look at, in order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

Record = Mapping[str, Any]

# AP50 of a detector that has begun to learn; gain of a last quarter that another would bring too.
LEARNT, IMPROVING = 0.05, 0.01
# A loss that fell by less than this part of it is flat; a model that waits longer is starved.
FLAT, STARVED = 0.03, 0.3
_LEAST_RECORDS, _LEAST_EVALUATIONS = 9, 4


@dataclass(frozen=True)
class Circumstances:
    """What the records do not say of a run.

    Attributes:
        loads_weights: whether it starts from trained weights.
        workers: processes that load images.
        score_threshold: of recall and precision.
        config_file: to be named in the advice.
    """

    loads_weights: bool
    workers: int
    score_threshold: float
    config_file: str = "the configuration"


@dataclass(frozen=True)
class RunFinding:
    """What a run should be known for: "not learnt", "flat loss", "no score", ...; and in words."""

    kind: str
    text: str


def diagnose(records: Sequence[Record], about: Circumstances) -> list[RunFinding]:
    """Judge a run by its log.

    Args:
        records: of metrics.jsonl, see `read_metrics`.
        about: the run.

    Returns:
        The findings, the gravest first; none for a run that is as it should be.

    Example:
        >>> records = [{"iteration": 500, "val": {"AP50": 0.01, "highest_score": 0.04}}]
        >>> [finding.kind for finding in diagnose(records, Circumstances(True, 0, 0.3))]
        ['not learnt', 'no score']
    """
    evaluations = [record for record in records if "val" in record]
    losses = [float(record["loss"]) for record in records if "loss" in record]
    last = evaluations[-1] if evaluations else {"val": {}}
    found = [
        _not_learnt(last, about),
        _flat(losses, about),
        _no_score(last["val"], about),
        _still_improving(records, about),
        _starved(records, about),
    ]
    return [finding for finding in found if finding is not None]


def _not_learnt(last: Record, about: Circumstances) -> RunFinding | None:
    ap50, epochs = last["val"].get("AP50"), last.get("epoch", math.inf)
    if ap50 is None or not ap50 < LEARNT:
        return None
    causes = ["boxes that do not fit their images (look with detbalance preview)"]
    if not about.loads_weights:
        causes.append("no pretrained weights (model.weights)")
    if epochs < 10:
        causes.append(f"only {epochs:.1f} epochs (train.iterations)")
    causes += [
        "boxes of a few pixels at the input size, or anchors that do not fit them (detbalance init"
        " chooses both)",
        "a learning rate that is too low or too high (train.learning_rate)",
    ]
    text = (
        f"AP50 is {ap50:.3f} at the end: the detector has not begun to learn, and its figures say"
        f" nothing of the method. What to look at, in this order: {'; '.join(causes)}."
    )
    return RunFinding("not learnt", text)


def _flat(losses: Sequence[float], about: Circumstances) -> RunFinding | None:
    if len(losses) < _LEAST_RECORDS:
        return None
    third = len(losses) // 3
    # The very first losses are those of the bias that a head starts from.
    before, after = mean(losses[third : 2 * third]), mean(losses[-third:])
    first = mean(losses[: max(1, third // 3)])
    if after < (1 - FLAT) * min(first, before) or after < 0.5 * first:
        return None
    text = (
        f"The loss is flat: {first:.3g} at first, {after:.3g} in the last third. Learning stands"
        f" still: raise or lower train.learning_rate in {about.config_file} by a factor of 3."
    )
    return RunFinding("flat loss", text)


def _no_score(last: Record, about: Circumstances) -> RunFinding | None:
    highest = last.get("highest_score")
    if highest is None or highest >= about.score_threshold:
        return None
    text = (
        f"No score reaches the threshold {about.score_threshold:g} (the highest is {highest:.2g}),"
        " so recall is .000 everywhere. A longer training raises scores; evaluation.score_threshold"
        " or detbalance thresholds lowers what they are held against."
    )
    return RunFinding("no score", text)


def _still_improving(records: Sequence[Record], about: Circumstances) -> RunFinding | None:
    curve = [
        (record["iteration"], record["val"]["AP50"])
        for record in records
        if "val" in record and record["val"].get("AP50") is not None
    ]
    if len(curve) < _LEAST_EVALUATIONS:
        return None
    end, ap50 = curve[-1]
    earlier = [value for iteration, value in curve if iteration <= 0.8 * end]
    if not earlier or ap50 < max(value for _, value in curve):
        return None
    gain = ap50 - max(earlier)
    if not gain > IMPROVING:
        return None
    text = (
        f"AP50 was still rising: by {gain:.3f} in the last part of the run. Train longer:"
        f" detbalance train --config {about.config_file} --resume --set"
        f" train.iterations={2 * end}."
    )
    return RunFinding("still improving", text)


def _starved(records: Sequence[Record], about: Circumstances) -> RunFinding | None:
    shares = [float(record["waiting"]) for record in records if "waiting" in record]
    share = mean(shares) if shares else math.nan
    if not share > STARVED:
        return None
    text = (
        f"The model waited for images {share:.0%} of the time. Raise train.workers (now"
        f" {about.workers}), or make the images smaller on disk."
    )
    return RunFinding("starved", text)
