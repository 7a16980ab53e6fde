"""Data, model and optimizer, built from a checked configuration."""

from __future__ import annotations

import difflib
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from detbalance.augmentation import (
    AUGMENTATIONS,
    PREPARED,
    Augmentation,
    Compose,
    Mixup,
    Mosaic,
    RarePaste,
)
from detbalance.data import Annotations, Categories, load_annotations
from detbalance.data.categories import shorten
from detbalance.data.frequency import Frequency, class_frequency
from detbalance.data.images import usable_images
from detbalance.detection.dataset import DetectionDataset
from detbalance.detection.defaults import BUILT_IN
from detbalance.detection.heads import set_classification_loss
from detbalance.detection.models import build_detector
from detbalance.detection.weights import load_file
from detbalance.losses import LOSSES, ClassificationLoss
from detbalance.losses.class_counts import CountsLike
from detbalance.sampling import FACTORS, ImageLabels
from detbalance.sampling.balanced_exposure import class_exposure
from detbalance.training.config import Config, Section, TrainSection

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Data:
    """What a run reads: checked annotations, class counts, draw factors and the two data sets."""

    train: Annotations
    val: Annotations
    frequency: Frequency
    factors: NDArray[np.float64]
    train_dataset: DetectionDataset
    val_dataset: DetectionDataset
    val_labels: NDArray[np.int64]
    paste: RarePaste | None = None
    mixing: tuple[Mosaic | Mixup, ...] = ()


def load_data(config: Config) -> Data:
    """Read and check everything that a run will read, before anything is trained."""
    train, val = _load(config, "train"), _load(config, "val")
    val_labels = labels_in(val, train.categories, train.source)
    frequency = class_frequency(train)
    if frequency.instance_counts.sum() == 0:
        raise ValueError(
            f"{train.source}: has no box to learn from. At least one annotation that is not crowd"
            " is expected. Check the file."
        )
    factors = image_factors(config.sampling, train)
    augmentation = build_augmentation(config, train, factors)
    parts = augmentation.augmentations if augmentation else ()
    paste = next((part for part in parts if isinstance(part, RarePaste)), None)
    mixing = tuple(part for part in parts if isinstance(part, (Mosaic, Mixup)))
    dataset = DetectionDataset(
        train, config.data.path("train_images"), augmentation=augmentation, seed=config.seed
    )
    val_dataset = DetectionDataset(val, config.data.path("val_images"))
    return Data(train, val, frequency, factors, dataset, val_dataset, val_labels, paste, mixing)


def image_factors(section: Section, train: Annotations) -> NDArray[np.float64]:
    """How often each training image is drawn in an epoch, in expectation."""
    options = section.model_dump()
    methods = [options, *options.pop("also", ())]
    image_labels = ImageLabels(train)
    factors = np.ones(len(image_labels))
    # Background last: its share of the draws depends on the factors of all other images.
    for method in sorted(methods, key=lambda part: part["method"] == "background"):
        name = method.pop("method")
        if name == "background":
            method["factors"] = factors
        if name != "none":
            factors = factors * FACTORS[name](image_labels, **method)
    return factors


def labels_in(truth: Annotations, categories: Categories, source: str) -> NDArray[np.int64]:
    """Find the classes of a detector in a file by their names; ids may differ."""
    names = truth.categories.names
    boxes = np.bincount(truth.labels, minlength=len(names) + 1)[1:]
    counts = dict(zip(names, boxes.tolist(), strict=True))
    unknown = {name: n for name, n in counts.items() if n and name not in categories.names}
    if count := sum(unknown.values()):
        shown = next(iter(unknown))
        near = difflib.get_close_matches(shown, categories.names, n=1)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise ValueError(
            f"{truth.source}: its classes are not those of {source}: {count}"
            f" {'boxes are' if count > 1 else 'box is'} of classes unknown there"
            f' (first: "{shown}"). The same names are expected; ids may differ. Correct the names,'
            f" or leave these boxes out.{hint}"
        )
    order = {name: label for label, name in enumerate(names, start=1)}
    labels = np.array([0, *(order.get(name, 0) for name in categories.names)], dtype=np.int64)
    if missing := [name for name in categories.names if name not in order]:
        what = "%s: does not list %s of %s; what is detected of that is not judged"
        logger.info(what, truth.source, shorten(missing), source)
    both = set(names) & set(categories.names)
    ids, known = (dict(zip(c.names, c.ids, strict=True)) for c in (truth.categories, categories))
    if any(ids[name] != known[name] for name in both):
        what = "%s: its category ids are not those of %s; classes are matched by their names"
        logger.info(what, truth.source, source)
    return labels


def _load(config: Config, part: str) -> Annotations:
    """One of the two files, without the images that cannot be read if the configuration says so."""
    paste = config.augmentation.paste
    annotations = load_annotations(
        config.data.path(part),
        drop_invalid=config.data.drop_invalid,
        # Pasted objects may be cut out along them.
        segmentations=part == "train" and paste is not None and paste.model_dump()["masks"],
    )
    folder = config.data.path(f"{part}_images")
    return usable_images(annotations, folder, skip=config.data.skip_missing)


def build_augmentation(
    config: Config, train: Annotations, factors: NDArray[np.float64]
) -> Compose | None:
    """All parts of the augmentation of a configuration, in their order.

    A constructor gets what it names: `annotations` and `image_dir` of the training data, `load` for
    the image and target of a row, `factors` [M] of the images, `exposure` of the classes by them,
    and what `PREPARED` makes from settings of its section.
    """
    folder = config.data.path("train_images")
    context = {
        "annotations": train,
        "image_dir": folder,
        "load": DetectionDataset(train, folder).load,
        "factors": factors,
        "exposure": class_exposure(train, factors),
    }
    parts: list[Augmentation] = []
    for name, constructor in AUGMENTATIONS.items():
        section = getattr(config.augmentation, name)
        if section is not None:
            known = context | section.model_dump()
            known |= {
                key: _call(PREPARED[key], known)
                for key in PREPARED
                if key in signature(constructor).parameters
            }
            parts.append(_call(constructor, known))
    return Compose(parts) if parts else None


def _call(constructor: Callable[..., Any], known: Mapping[str, Any]) -> Any:
    """Call with those of the known arguments that it takes."""
    names = signature(constructor).parameters
    return constructor(**{name: known[name] for name in names if name in known})


def build_model(
    config: Config, categories: Categories, class_counts: CountsLike, *, pretrained: bool = True
) -> nn.Module:
    """The detector of a configuration with its classification loss in place."""
    options = config.model.model_dump()
    weights = options["weights"]
    from_file = pretrained and weights not in BUILT_IN
    model = build_detector(
        categories.num_classes, **options, load_weights=pretrained and not from_file
    )
    options = config.loss.model_dump()
    name, normalizer = options.pop("name"), options.pop("normalizer")
    loss = None if name == "torchvision" else LOSSES[name](class_counts, **options)
    if loss is not None:
        loss.accumulation = config.train.accumulation
    set_classification_loss(model, loss, normalizer=normalizer)
    if from_file:
        # Now that the loss is in place, the last layer of a model with the same one can stay.
        load_file(model, weights, categories.names)
    return model


def classification_loss(model: nn.Module) -> ClassificationLoss | None:
    """The loss that was put into a detector; None where torchvision's own is in place."""
    return next((m for m in model.modules() if isinstance(m, ClassificationLoss)), None)


def loader_workers(workers: int | None) -> int:
    """How many processes load images for this one; None for what suits the machine."""
    if workers is not None:
        return workers
    if not torch.accelerator.is_available():
        return 0
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(8, max(1, cores))


def build_optimizer(options: TrainSection, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD; norms and biases without weight decay, the backbone at its own rate."""
    rate = 1.0 if options.backbone_rate is None else options.backbone_rate
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # The FPN is part of torchvision's `backbone`, but is never pretrained on ImageNet.
            key = (name.startswith("backbone.body"), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    parameters = [
        {
            "params": members,
            "lr": options.learning_rate * (rate if backbone else 1.0),
            "weight_decay": options.weight_decay if decays else 0.0,
        }
        for (backbone, decays), members in groups.items()
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=options.learning_rate, momentum=options.momentum, fused=True
        )
    return torch.optim.AdamW(parameters, lr=options.learning_rate, fused=True)


def build_schedule(
    options: TrainSection, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LambdaLR:
    """A linear warm-up, then the configured schedule, as a function of the iteration alone."""

    def factor(iteration: int) -> float:
        if iteration < options.warmup:
            return (iteration + 1) / options.warmup
        done = iteration / options.iterations
        if options.schedule == "step":
            return float(0.1 ** sum(done >= step for step in options.steps))
        if options.schedule == "cosine":
            left = max(1, options.iterations - options.warmup)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (iteration - options.warmup) / left)))
        return 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
