"""A whole training configuration from the data: what is chosen, why, and its text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detbalance.data.messages import counted
from detbalance.planning.detector_choice import Anchors, InputSize

if TYPE_CHECKING:
    from detbalance.data import Annotations
    from detbalance.planning.plan import Plan

# Epochs that a detector takes to learn: from loaded weights, and from none.
EPOCHS, EPOCHS_FROM_NONE = 12, 40
# With few images or many classes an epoch teaches little.
LEAST_DRAWS, DRAWS_PER_CLASS = 3000, 150
EVALUATIONS, LEAST_EVALUATIONS = 8, 3
# Of the time that is given; with a large val there are fewer evaluations.
MOST_OF_EVALUATIONS = 0.4
# With fewer epochs than this a figure says more of the time than of the data.
FEW_EPOCHS = 4
_NUMBERS = set(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
# The longest side of an image by that of another.
VERY_DIFFERENT = 4


@dataclass(frozen=True)
class Start:
    """What a training starts from, and on what it runs.

    Attributes:
        detector: "retinanet", ...
        backbone: its name.
        weights: "default", "offline" or "none".
        reason: why these weights, in a sentence.
        whole: whether the weights are of a whole detector, not of a backbone alone.
        has_gpu: whether a GPU trains.
    """

    detector: str
    backbone: str
    weights: str
    reason: str
    whole: bool
    has_gpu: bool

    @property
    def batch_size(self) -> int:
        """Images a step."""
        return 16 if self.has_gpu or self.backbone == "tiny" else 4

    @property
    def learning_rate(self) -> float:
        """Of AdamW for the batch size: what the shipped configurations were measured with."""
        if self.whole:
            return 2e-4
        if self.weights == "none":
            return 3e-3
        return 2e-3 if self.has_gpu else 1e-3


@dataclass(frozen=True)
class Schedule:
    """How long a training is.

    Attributes:
        iterations: optimizer steps.
        batch_size: images a step.
        epochs: how often an image of average frequency is drawn.
        minutes: that it will take; NaN where nothing was timed.
        limit: "epochs", or "time" where that was shorter.
        evaluations: in the training, for a curve of so many points.
    """

    iterations: int
    batch_size: int
    epochs: float
    minutes: float
    limit: str
    evaluations: int

    @property
    def evaluate_every(self) -> int:
        """Iterations between evaluations."""
        return max(1, math.ceil(self.iterations / self.evaluations))

    @property
    def ema_decay(self) -> float:
        """Of the averaged weights: about the last twentieth of the run."""
        return round(min(0.999, max(0.9, 1 - 20 / self.iterations)), 4)


def choose_schedule(
    start: Start,
    num_images: int,
    num_classes: int,
    *,
    step_seconds: float = math.nan,
    evaluation_seconds: float = 0.0,
    minutes: float | None = None,
) -> Schedule:
    """Choose how many iterations a training has.

    Args:
        start: what it starts from.
        num_images: of the training file.
        num_classes: without background.
        step_seconds: of one iteration on this machine.
        evaluation_seconds: of one evaluation on val.
        minutes: that the training may take at most.

    Returns:
        The schedule.
    """
    batch = min(start.batch_size, num_images)
    epochs = EPOCHS_FROM_NONE if start.weights == "none" else EPOCHS
    draws = max(epochs * num_images, LEAST_DRAWS, DRAWS_PER_CLASS * num_classes)
    iterations, limit = math.ceil(draws / batch), "epochs"
    evaluations = EVALUATIONS
    if minutes is not None and not math.isnan(step_seconds):
        affordable = MOST_OF_EVALUATIONS * 60 * minutes / max(evaluation_seconds, 1e-6)
        evaluations = int(min(EVALUATIONS, max(LEAST_EVALUATIONS, affordable)))
        fitting = int((60 * minutes - evaluations * evaluation_seconds) / step_seconds)
        if fitting < iterations:
            iterations, limit = max(fitting, LEAST_EVALUATIONS), "time"
            evaluations = min(evaluations, iterations)
    return Schedule(
        iterations,
        batch,
        iterations * batch / num_images,
        (iterations * step_seconds + evaluations * evaluation_seconds) / 60,
        limit,
        evaluations,
    )


def mirrors(names: Sequence[str]) -> bool:
    """Whether a mirrored image still shows what its labels say, as far as their names tell."""
    words = [set(re.split(r"[^a-z0-9]+", name.lower())) for name in names]
    sided = any(own & {"left", "right", "clockwise", "text", "letter", "digit"} for own in words)
    signs = sum(len(name.strip()) == 1 or name.strip().isdigit() for name in names)
    signs += sum(bool(own & _NUMBERS) for own in words)
    return not sided and signs < max(1, len(names) / 2)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """All choices of `detbalance init`.

    Attributes:
        output: folder of the run.
        data: the section: train, train_images, val, val_images.
        start: detector and weights.
        size: of the input.
        anchors: fitted ones, and the usual ones beside them.
        schedule: of the training.
        plan: of the training file.
        can_mirror: whether images are mirrored.
    """

    output: str
    data: dict[str, Any]
    start: Start
    size: InputSize
    anchors: tuple[Anchors, Anchors]
    schedule: Schedule
    plan: Plan
    can_mirror: bool

    @classmethod
    def of(cls, train: Annotations, **choices: Any) -> Configuration:
        """With what the names of the classes say."""
        return cls(can_mirror=mirrors(train.categories.names), **choices)

    def sections(self) -> dict[str, tuple[list[str], dict[str, Any]]]:
        """Each section: comments, then values."""
        advice = self.plan.recommendation
        return {
            "data": ([], dict(self.data)),
            "model": ([f"{k}: {v}" for k, v in self._about_model().items()], self._model()),
            "loss": ([], {"name": "focal"}),
            "sampling": ([advice.reason], advice.config["sampling"]),
            "augmentation": (self._about_mirroring(), self._augmentation()),
            "train": ([*self._about_length(), *self._about_rates()], self._train()),
        }

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values."""
        sections = {name: values for name, (_, values) in self.sections().items()}
        return {"output": self.output, **sections}

    def to_yaml(self) -> str:
        """The text of the configuration, with a comment for each choice."""
        train = self.plan.train
        what = f"{counted(train.images, 'image')}, {counted(train.categories, 'class')}"
        about = (
            f"Written by detbalance init for {train.source}: {what}, {counted(train.boxes, 'box')}."
        )
        lines = [f"# {line}" for line in _wrapped(about)]
        lines.append(_yaml({"output": self.output}).strip())
        for name, (comments, values) in self.sections().items():
            lines.append(f"{name}:")
            for comment in comments:
                lines += [f"  # {line}" for line in _wrapped(comment)]
            lines += [f"  {line}" for line in _yaml(values).splitlines()]
        return "\n".join(lines) + "\n"

    def _model(self) -> dict[str, Any]:
        fitted, _ = self.anchors
        own = {
            "min_size": self.size.min_size,
            "max_size": self.size.max_size,
            "extra_levels": len(fitted.strides) - (2 if self.start.backbone == "tiny" else 3),
            "anchor_sizes": [list(level) for level in fitted.sizes],
            "anchor_ratios": list(fitted.ratios),
        }
        light = {} if self.start.has_gpu else {"fpn_channels": 64, "head_convs": 2}
        return {
            "detector": self.start.detector,
            "backbone": self.start.backbone,
            "weights": self.start.weights,
            **own,
            **({} if self.start.backbone == "tiny" else light),
        }

    def _about_model(self) -> dict[str, str]:
        size, (fitted, usual) = self.size, self.anchors
        why = {
            "boxes": "the smallest size at which nearly all boxes are large enough to be found",
            "images": "the images hold no more",
            "cost": "larger ones would take too long here",
        }[size.limit]
        return {
            "Weights": self.start.reason,
            "Input": f"{size.max_size} x {size.min_size} pixels ({why}): the median box has"
            f" {size.median:.0f} pixels, {size.small:.1%} of the boxes are below"
            f" {32 if self.start.has_gpu else 16}, {size.tiny:.1%} below 8.",
            "Anchors": f"fitted to the boxes. Best-possible recall {fitted.recall:.3f}, mean"
            f" overlap {fitted.overlap:.2f} (torchvision's anchors: {usual.recall:.3f},"
            f" {usual.overlap:.2f}).",
        }

    def _augmentation(self) -> dict[str, Any]:
        advised = self.plan.recommendation.config.get("augmentation", {})
        return {**advised, "standard": {"horizontal_flip": 0.5 if self.can_mirror else 0.0}}

    def _about_mirroring(self) -> list[str]:
        if self.can_mirror:
            return ["Images are mirrored: set horizontal_flip to 0 where left is not like right."]
        return ["Not mirrored: the names of the classes say that left is not like right."]

    def _train(self) -> dict[str, Any]:
        schedule, start = self.schedule, self.start
        rate = {} if start.weights == "none" else {"backbone_rate": 0.1}
        precision = {"mixed_precision": "bf16"} if start.has_gpu else {}
        return {
            "iterations": schedule.iterations,
            "batch_size": schedule.batch_size,
            "learning_rate": start.learning_rate,
            **rate,
            "warmup": min(100, max(1, schedule.iterations // 10)),
            "ema_decay": schedule.ema_decay,
            "evaluate_every": schedule.evaluate_every,
            "checkpoint_every": schedule.evaluate_every,
            **precision,
        }

    def _about_length(self) -> list[str]:
        schedule = self.schedule
        lines = [f"{schedule.epochs:.1f} epochs of {counted(self.plan.train.images, 'image')}."]
        if schedule.limit == "time":
            lines[0] += " More would not fit into the minutes that were given."
        if not math.isnan(schedule.minutes):
            lines.append(f"About {_duration(schedule.minutes)} on this machine, by a few steps.")
        return lines

    def _about_rates(self) -> list[str]:
        loaded = (
            []
            if self.start.weights == "none"
            else [
                "The backbone learns at a tenth of the rate: its weights would be lost at the full."
            ]
        )
        return [
            *loaded,
            "What is evaluated and kept as best.pt is an average of the weights (ema_decay), of"
            " about the last twentieth of the run.",
        ]

    @property
    def summary(self) -> dict[str, str]:
        """What was chosen, by what it is about."""
        start, advice, schedule = self.start, self.plan.recommendation, self.schedule
        length = f"{schedule.iterations:,} iterations of {counted(schedule.batch_size, 'image')}"
        return {
            "Detector": f"{start.detector} on {start.backbone}.",
            **self._about_model(),
            "Sampling": f"{advice.setting}. {advice.reason}",
            "Length": f"{length}, {' '.join(self._about_length())}",
        }

    @property
    def warnings(self) -> list[str]:
        """What a reader of the figures should know before training."""
        lines = []
        if self.start.weights == "none":
            lines.append(
                f"No pretrained weights: {self.start.reason} Training from scratch takes several"
                " times as long, and finds less where images are few."
            )
        if self.size.tiny > 0.03:
            lines.append(
                f"{self.size.tiny:.0%} of the boxes are below 8 pixels at this input size and will"
                " hardly be found. A larger size (model.max_size), or training on crops"
                " (augmentation.crop), helps."
            )
        least, most = self.size.smallest_image, self.size.largest_image
        if most > VERY_DIFFERENT * least:
            lines.append(
                f"The longer sides of the images are {least} to {most} pixels: all are scaled to"
                " the same size. If what they show is not larger in the larger ones, cut those"
                " into tiles first."
            )
        if self.schedule.epochs < FEW_EPOCHS:
            lines.append(
                f"{self.schedule.epochs:.1f} epochs are few: the detector will not have learnt what"
                " it can. Give it more time, or a GPU."
            )
        return lines


def _duration(minutes: float) -> str:
    if minutes < 1.5:
        return f"{max(1, round(60 * minutes))} seconds"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _wrapped(text: str, width: int = 96) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _yaml(values: dict[str, Any]) -> str:
    """In the order of the values; lists of numbers in one line."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def row(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
        flow = not any(isinstance(item, (str, dict)) for item in items)
        return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flow)

    Dumper.add_representer(list, row)
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)
