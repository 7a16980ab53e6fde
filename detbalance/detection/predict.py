"""Detections of a model on a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from detbalance.data import Predictions
from detbalance.data.checks import check_number
from detbalance.detection.dataset import (
    DetectionDataset,
    batches_of,
    collate,
    worker_deaths,
    worker_init,
)


def predict(
    model: nn.Module,
    dataset: DetectionDataset,
    *,
    batch_size: int = 8,
    device: str | torch.device | None = None,
    autocast: bool = False,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Detect objects on every image of a data set.

    The model is left as it was found: in training or eval mode, and on its device. Which detections
    are kept is the model's: `score_threshold`, `nms_threshold` and `detections_per_image` of
    `build_detector`, `score_thresh` and so on in torchvision's own.

    Args:
        model: any detector that takes a list of images and, in eval mode, returns a list of dicts
            with `boxes` (xyxy), `labels` and `scores`, as torchvision's do.
        dataset: without augmentation.
        batch_size: images at a time.
        device: where to compute; None for where the model is.
        autocast: compute in bfloat16 (float16 on a GPU without it). Boxes and scores are still made
            in float32 by a model of `build_detector` or `set_classification_loss`.
        workers: processes that load images; 0 loads in this one.
        progress: called after every batch with the images done and the number of all.

    Returns:
        Predictions in the order of the images, and per image by descending score. `image_index` is
        the row in `dataset.annotations`.

    Raises:
        ValueError: if the data set has an augmentation, `batch_size` is below 1, or an image cannot
            be read.
    """
    if dataset.augmentation is not None:
        raise ValueError(
            "predict(): the data set has an augmentation, which would move its boxes. A data set"
            " without one is expected. Build another DetectionDataset."
        )
    check_number("predict()", "batch_size", batch_size, least=1, whole=True)
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=worker_init,
        # Without one of its own, a loader draws its workers' seed from torch's global state.
        generator=torch.Generator(),
    )
    parts: dict[str, list[Tensor]] = {"image": [], "boxes": [], "labels": [], "scores": []}
    done = 0
    with (
        worker_deaths(),
        batches_of(loader) as batches,
        _in_eval_mode(model, device) as where,
        torch.inference_mode(),
    ):
        for images, targets in batches:
            with torch.autocast(where.type, dtype=_half(where), enabled=autocast):
                outputs = model([image.to(where, non_blocking=True) for image in images])
            for output, target in zip(outputs, targets, strict=True):
                for name in ("boxes", "labels", "scores"):
                    parts[name].append(output[name])
                parts["image"].append(target["image_id"].expand(len(output["scores"])))
            done += len(images)
            if progress is not None:
                progress(done, len(dataset))
        joined = {name: _joined(tensors) for name, tensors in parts.items()}
    boxes = joined["boxes"].astype(np.float64).reshape(-1, 4)
    return Predictions(
        image_index=joined["image"].astype(np.int64),
        labels=joined["labels"].astype(np.int64),
        bbox=np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
        scores=joined["scores"].astype(np.float64),
    )


def _joined(tensors: list[Tensor]) -> NDArray[Any]:
    # NumPy has no bfloat16.
    tensors = [t.float() if t.is_floating_point() else t for t in tensors]
    return torch.cat(tensors).cpu().numpy() if tensors else np.zeros(0)


def _half(device: torch.device) -> torch.dtype:
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


@contextmanager
def _in_eval_mode(model: nn.Module, device: str | torch.device | None) -> Iterator[torch.device]:
    """The model in eval mode on a device, which is given, and afterwards as it was."""
    training = {module: module.training for module in model.modules()}
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    where = home if device is None else torch.device(device)
    try:
        model.eval()
        if where != home:
            model.to(where)
        yield where
    finally:
        # Not model.train(): parts of it may have been in eval mode on purpose.
        for module, mode in training.items():
            module.training = mode
        if where != home:
            model.to(home)
